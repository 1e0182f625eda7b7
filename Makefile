# make study | make test | make lab: each sets up first.  Needs Python 3.11+; uses uv if present.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY := results/study
READY := $(VENV)/ready
# With a poll every 8 s, the study takes about a minute.

.PHONY: study report test chaos lab setup constraints clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "spotlib needs Python 3.11 or newer, this is %d.%d: make PYTHON=/path/to/python3.11 ..." % v[:2])'
	@if command -v uv > /dev/null; then \
	  test -x $(BIN)/python || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[test]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'; \
	fi
	@# Without this, JupyterLab's news pop-up is the first thing that a newcomer sees.
	@$(BIN)/jupyter labextension disable --level=sys_prefix \
	  "@jupyterlab/apputils-extension:announcements" > /dev/null 2>&1 || true
	@# The kernel warns at each start that it is not encrypted; it listens on this machine only.
	@mkdir -p $(VENV)/etc/ipython
	@echo "c.IPKernelApp.log_level = 'ERROR'" > $(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@

RUN := $(BIN)/papermill --no-progress-bar --log-level ERROR

study: setup
	@mkdir -p $(STUDY)/notebooks
	@echo "01 select: the targets whose spot market moved (simulated archive)"
	@$(RUN) notebooks/01_select.ipynb $(STUDY)/notebooks/01_select.ipynb \
	  -p results $(STUDY) -p dataset sandbox
	@echo "02 collect: request, watch, clean up; 8 targets, once per hour for 20 hours (simulated)"
	@$(RUN) notebooks/02_collect.ipynb $(STUDY)/notebooks/02_collect.ipynb \
	  -p results $(STUDY) -p n 5 -p top 8 -p rounds 20 -p every_s 3600 -p seed 1 \
	  -p poll_s 8 -p timeout_s 360
	@echo "03 analyze: how many are ready after t seconds"
	@$(RUN) notebooks/03_analyze.ipynb $(STUDY)/notebooks/03_analyze.ipynb -p results $(STUDY)
	@$(BIN)/jupyter nbconvert --to html --log-level ERROR $(STUDY)/notebooks/*.ipynb
	@echo "Done; all data are simulated. Open first: $(STUDY)/notebooks/03_analyze.html"
	@echo "The logs are in $(STUDY)/launches, the figures in $(STUDY)/figures."

# The analysis of what you recorded in results/launches, as one HTML page.
report: setup
	@mkdir -p results/notebooks
	@$(RUN) notebooks/03_analyze.ipynb results/notebooks/03_analyze.ipynb
	@$(BIN)/jupyter nbconvert --to html --no-input --log-level ERROR results/notebooks/03_analyze.ipynb
	@echo "Open results/notebooks/03_analyze.html"

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# All crash points, all faults at all calls, all ways to stop a program; make test runs a sample.
chaos: setup
	SPOTLIB_CHAOS=1 $(BIN)/pytest tests/record tests/cleanup tests/collect tests/select \
	  tests/test_export.py tests/test_public.py

lab: setup
	$(BIN)/jupyter lab --notebook-dir=. notebooks/02_collect.ipynb

constraints: setup
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf $(VENV) $(STUDY)
