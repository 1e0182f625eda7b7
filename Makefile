# make study | make report | make test | make lab: each sets up first.  Needs Python 3.11 or newer;
# uses uv if present, or the activated conda environment of environment.yml.
PYTHON ?= python3
CONDA := $(if $(CONDA_PREFIX),$(wildcard $(CONDA_PREFIX)/bin/spotlib))
VENV := $(if $(CONDA),$(CONDA_PREFIX),.venv)
BIN := $(VENV)/bin
RESULTS := results
STUDY := results/study
RUN := $(BIN)/papermill --no-progress-bar --log-level ERROR

LOG := $(VENV)/install.log
# $(call install,WHAT): conda has installed its own versions, which pins would change.
PINS := $(if $(CONDA),,-c constraints.txt)
install = if command -v uv > /dev/null; then \
	    uv pip install --quiet --python $(BIN)/python $(PINS) -e '$(1)'; \
	  else \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --log $(LOG) \
	      $(PINS) -e '$(1)'; \
	  fi

# $(call every_5_s,WORDS): print them beside the command that follows, for as long as it runs.
# A notebook that is just being written holds no cell.
every_5_s = (while sleep 5 && kill -0 $$$$ 2> /dev/null; do \
	  words="$(1)"; case "$$words" in "cell 0 "*) ;; *) echo "   $$words";; esac; done) &
packages = $$(ls $(VENV)/lib/python3*/site-packages | grep -c dist-info) packages installed$$( \
	  sed -n 's/.* Collecting \([A-Za-z0-9_.-]*\).*/, last found: \1/p' $(LOG) 2> /dev/null | tail -n 1)
days = $$(find spot_dataset/sandbox/fitted -type d -name '[0-3][0-9]' 2> /dev/null | wc -l) of 31 days \
	simulated, $$(find $(STUDY)/counts -type f 2> /dev/null | wc -l) counted
round = $$(($$(find $(STUDY)/launches -name '*.jsonl' -newer $(STUDY)/notebooks/01_select.ipynb -exec \
	  sed -n 's/.*"round":\([0-9]*\).*/\1/p' {} + 2> /dev/null | tail -n 1) + 1))
cells = cell $$(cat $(1)/notebooks/$(2).ipynb 2> /dev/null | grep -c '"execution_count": [0-9]') of \
	$$(($$(grep -c '"execution_count":' notebooks/$(2).ipynb) + 1))

.PHONY: study report test chaos mutants lab setup test-setup constraints clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "spotlib needs Python 3.11 or newer, this is %d.%d: make PYTHON=/path/to/python3.11 ..." % v[:2])'
ifndef CONDA
	@echo "Installing into .venv, once: 1 to 3 minutes, about 1 GB."
	@test -x $(BIN)/python || if command -v uv > /dev/null; then \
	  uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); else $(PYTHON) -m venv $(VENV); fi
	@$(call every_5_s,installing: $(packages)) $(call install,.)
endif
	@# Without this, JupyterLab's news pop-up is the first thing that a newcomer sees.
	@$(BIN)/jupyter labextension disable --level=sys_prefix \
	  "@jupyterlab/apputils-extension:announcements" > /dev/null 2>&1 || true
	@# The kernel warns at each start that it is not encrypted; it listens on this machine only.
	@# jupyter_client interrupts it when it is to end, which it would report as an error.
	@mkdir -p $(VENV)/etc/ipython
	@printf '%s\n' "c.IPKernelApp.log_level = 'ERROR'" "c.IPKernelApp.logging_config = {" \
	  "    'filters': {'ended': {'()': lambda: lambda each: 'KeyboardInterrupt' not in str(each.msg)}}," \
	  "    'handlers': {'console': {'filters': ['ended']}}}" \
	  > $(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@

# What only the tests need.
test-setup: $(VENV)/ready-to-test

$(VENV)/ready-to-test: $(VENV)/ready
	@echo "Installing what the tests need, once: about a minute, 600 MB."
	@$(call every_5_s,installing: $(packages)) $(call install,.[test])
	@touch $@

study: setup
	@mkdir -p $(STUDY)/notebooks
	@echo "The study, in three steps: about two minutes.  All data are simulated."
	@rm -f $(STUDY)/notebooks/01_select.ipynb  # whose cells are counted
	@echo "01 select: the targets whose spot market moved"
	@$(call every_5_s,$(days); $(call cells,$(STUDY),01_select)) \
	  $(RUN) notebooks/01_select.ipynb $(STUDY)/notebooks/01_select.ipynb \
	  -p results $(STUDY) -p dataset sandbox
	@echo "02 collect: request, watch, clean up; 8 targets, once per hour for 20 hours"
	@$(call every_5_s,round $(round) of 20) \
	  $(RUN) notebooks/02_collect.ipynb $(STUDY)/notebooks/02_collect.ipynb \
	  -p results $(STUDY) -p n 5 -p top 8 -p rounds 20 -p every_s 3600 -p seed 1 \
	  -p poll_s 12 -p timeout_s 360 -p t3 True -p usable True
	@$(MAKE) --no-print-directory report RESULTS=$(STUDY)
	@echo "The logs are in $(STUDY)/launches, the tables in $(STUDY)/tables."

# The analysis of what is recorded in RESULTS/launches, as one page that holds all it shows.
report: setup
	@ls '$(RESULTS)'/launches/*.jsonl > /dev/null 2>&1 || { echo "There is no launch in \
	$(RESULTS)/launches: run notebooks/02_collect.ipynb.  The study's page: make study, then \
	make report RESULTS=$(STUDY)" >&2; exit 1; }
	@mkdir -p '$(RESULTS)/notebooks'
	@rm -f '$(RESULTS)/notebooks/03_analyze.ipynb'
	@echo "03 analyze: how many of the requested instances are ready, and when"
	@$(call every_5_s,$(call cells,$(RESULTS),03_analyze)) \
	  $(RUN) notebooks/03_analyze.ipynb '$(RESULTS)/notebooks/03_analyze.ipynb' -p results '$(RESULTS)'
	@$(BIN)/jupyter nbconvert --to html --no-input --embed-images --log-level ERROR \
	  --template-file docs/report.html.j2 --output-dir '$(RESULTS)' --output report \
	  '$(RESULTS)/notebooks/03_analyze.ipynb'
	@echo "Open this page: $(RESULTS)/report.html"

# The tests' processes share the processors: threads of each would only wait for one another.
test chaos: export OMP_NUM_THREADS := 1

test: test-setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# All crash points, all faults at all calls, all ways to stop a program; make test runs a sample.
# Of the launch methods beside the default one, each meets every fourth point.
chaos: test-setup
	SPOTLIB_CHAOS=1 $(BIN)/pytest tests/record tests/cleanup tests/collect tests/select \
	  tests/analyze/test_arms_on_the_sandbox.py tests/analyze/test_compare.py \
	  tests/analyze/test_competing_outcomes.py tests/analyze/test_intervals.py \
	  tests/analyze/test_nothing_came.py tests/analyze/test_turnbull.py \
	  tests/forecast/test_forecast.py tests/forecast/test_history.py tests/forecast/test_models.py \
	  tests/forecast/test_score.py tests/forecast/test_unknown.py tests/sandbox/test_agreement.py \
	  tests/sandbox/test_methods_alike.py tests/sandbox/test_server.py tests/test_addresses.py \
	  tests/test_export.py \
	  tests/test_model.py tests/test_programs.py tests/test_public.py tests/test_readme.py \
	  tests/test_stamp.py tests/test_track.py

# Small changes of the core, drawn by chance, that a test must notice: make mutants COUNT=300
COUNT := 100
MINUTES := 30
mutants: test-setup
	@$(call install,.[mutants])
	$(BIN)/python tests/mutants.py --count $(COUNT) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lab: setup
	$(BIN)/jupyter lab --notebook-dir=. notebooks/02_collect.ipynb

constraints: test-setup
	@$(call install,.[mutants])
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf .venv $(STUDY)
