"""Every command of the README, read out of it and run as it is typed, in its order.

They run in one bare shell, in a fresh copy of what is under version control.  Only set-up is
replaced, by links to the environment that is there, and fewer launches are made.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import CHAOS
from ipykernel.kernelapp import IPKernelApp
from programs import BIN, PATIENCE_S

from spotlib.__main__ import main
from spotlib.record.tables import load_batches, load_launches
from spotlib.sandbox.history import write_archive

pytestmark = pytest.mark.usefixtures("_programs_end_with_the_test")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^ *```(sh|python|cron)\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
INSTALLS = ("conda env create", "pip install .")  # from the network
AWS = "endpoint aws"
# Instead of port 5000, on which anything may listen on somebody's machine.
with socket.socket() as _free:
    _free.bind(("127.0.0.1", 0))
    PORT = str(_free.getsockname()[1])
# The real programs, but: one round of one target (or the four named), or in the study two of three,
# the fewest to forecast from, and a word more often than every 5 s.  Outside of make chaos only the
# batches of the study and of the four targets and the loop's first are executed; other notebooks,
# which their own tests execute, are written with their parameters.
PREPARE = "" if CHAOS else "--prepare-only"
STAND_INS = {
    "bin/papermill": f"""case "$*" in
          *02_collect*study*) set -- "$@" -p rounds 2 -p top 3;;
          *02_collect*four*) set -- "$@" -p rounds 1;;
          *collect-n1.ipynb*|*first.ipynb*) set -- "$@" -p rounds 1 -p top 1;;
          *02_collect*) set -- "$@" -p rounds 1 -p top 1 {PREPARE};;
          *) set -- "$@" {PREPARE};;
        esac
        exec '{BIN}/papermill' "$@" --start-timeout {PATIENCE_S:.0f}""",
    "bin/spotlib": f"exec '{BIN}/python' -m spotlib \"$@\"",
    # The progress of make sleeps 5 s; anything else waits until the server listens.
    "../../sleep": f"""[ "$1" = 5 ] && exec /bin/sleep 0.5
        for _ in $(seq 300); do
          bash -c ': < /dev/tcp/127.0.0.1/{PORT}' 2> /dev/null && exit 0
          /bin/sleep 0.2
        done
        exit 1""",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of all that git knows, with an environment that is already set up."""
    folder = tmp_path_factory.mktemp("readme") / "spot-launch-times"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not (BIN / "activate").exists():
        pytest.skip("not a git checkout and a virtual environment")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for rest in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *rest], cwd=folder, check=True, timeout=PATIENCE_S)
    set_up(folder / ".venv")
    write_archive(folder / "spot_dataset/sandbox/fitted/aws-2024-08", days=[1, 2])
    return folder


def set_up(venv):
    (venv / "bin").mkdir(parents=True)
    links = [*(BIN.parent / name for name in ("lib", "share", "pyvenv.cfg")), *BIN.iterdir()]
    for path in links:
        (venv / path.relative_to(BIN.parent)).symlink_to(path)
    activate = (BIN / "activate").read_text().replace(str(BIN.parent), str(venv))
    for name, text in ({"bin/activate": activate} | STAND_INS).items():
        (venv / name).unlink(missing_ok=True)
        (venv / name).write_text(f"#!/bin/sh\n{text}\n")
        (venv / name).chmod(0o755)
    (venv / "ready").touch()


def bash(script, folder, *, check=True, **more):
    """Run a script in a shell that has no settings of a person."""
    environment = {
        "HOME": str(folder.parent),
        "PATH": f"{folder.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(folder),  # the environment may hold another checkout
        "SPOTLIB_TEST": os.environ["SPOTLIB_TEST"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-ec", script],
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment | more,
        timeout=4 * PATIENCE_S,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def as_typed(kind, text, folder):
    """The lines that a shell runs for a block."""
    if kind == "python":
        return f"python - <<'END'\n{text}END\n"
    if kind == "cron":  # it runs what follows its five fields
        line = text.strip().split(maxsplit=5)[5].replace("\\%", "%")
        return f"(cd / && {line.replace('/path/to/workspace', shlex.quote(str(folder)))})\n"
    if "&\n" in text:  # a server, which says on stderr what it is asked
        text = text.replace("&\n", "2> /dev/null &\ntrap 'kill $!' EXIT\n", 1)
        return f"{text}kill $!\ntrap - EXIT\n".replace("5000", PORT)
    return text


def test_each_command_of_the_readme_works_as_typed_in_a_fresh_clone(clone):
    here = [(k, text) for k, text in BLOCKS if not any(word in text for word in (*INSTALLS, AWS))]
    script = f"cd {clone}\n" + "".join(as_typed(kind, text, clone) for kind, text in here)
    assert BLOCKS[0][1].startswith("make study")

    done = bash(script, clone)

    said = done.stdout + done.stderr
    assert not re.search(r"error|warning|traceback", done.stderr, re.IGNORECASE), done.stderr
    assert "Open this page: results/study/report.html" in said
    assert re.search(r"of 31 days simulated, \d+ counted; cell \d+ of \d+", said)
    assert "round 1 of 20" in said
    assert len(load_launches(clone / "results/study/launches")) == 30
    recorded = load_launches(clone / "results/launches").groupby("wanted")["batch_id"]
    counts = recorded.value_counts()
    assert sorted(counts["ready"]) == ([1, 5, 5, 10] if CHAOS else [1])
    assert counts["granted"].tolist() == [2 * 5 * 3]
    four = load_launches(clone / "results/four/launches")
    assert four.groupby(["batch_id", "round", "instance_type"]).size().tolist() == [5, 5, 5, 5]
    for n in (1, 5, 10):
        book = clone / f"results/notebooks/collect-n{n}.ipynb"
        assert f'"n = {n}\\n"' in book.read_text()
    assert load_batches(clone / "results/launches")["clean"].all()
    state = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert state.stdout == ""
    for page in ("results/report.html", "results/study/report.html", "results/four/report.html"):
        require_whole_page((clone / page).read_text())


def require_whole_page(page):
    """It shows what was run, no code, and loads nothing."""
    assert ('src="data:image/png;base64' in page) is CHAOS
    assert "How many of the requested instances are ready, and when?" in page
    assert not re.search(r"""<(script|link|img|iframe)[^>]*(src|href)=["'](?!data:)""", page)
    assert "import pandas" not in page


def test_the_commands_of_the_readme_for_aws_are_refused_without_its_profile(clone):
    found = [text for _, text in BLOCKS if AWS in text]
    assert len(found) == 2
    for text in found:
        done = bash(f"cd {clone}\nsource .venv/bin/activate\n{text}", clone, check=False)

        assert done.returncode != 0
        assert "profile 'research' is not configured" in done.stderr


def test_each_spotlib_command_of_the_readme_and_of_its_help_is_one(capsys, monkeypatch):
    for name in ("_check", "_sweep", "_status"):
        monkeypatch.setattr(f"spotlib.__main__.{name}", lambda _given: 0)
    monkeypatch.setattr("spotlib.__main__._run_module", lambda *_: 0)
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    examples = re.findall(r"^  spotlib (.*?)(?:  .*)?$", shown, re.MULTILINE)
    examples += re.findall(r"`spotlib ([a-z].*?)`", README)

    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80
    assert len(examples) > 8
    for each in examples:
        assert main(each.split()) == 0


def test_make_installs_for_the_study_no_test_tools(clone, tmp_path):
    wanted = {}
    for target in ("study", "test"):
        wanted[target] = bash(f"cd {clone} && make -n {target} VENV={tmp_path}", clone).stdout

    assert "-e '.'" in wanted["study"]
    assert "1 to 3 minutes" in wanted["study"]
    assert "[test]" not in wanted["study"]
    assert "-e '.[test]'" in wanted["test"]


def test_make_uses_an_activated_conda_environment_and_installs_nothing(clone, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "spotlib").touch()

    wanted = bash(f"cd {clone} && make -n study", clone, CONDA_PREFIX=str(tmp_path)).stdout
    base = bash(f"cd {clone} && make -n study", clone, CONDA_PREFIX="/nowhere").stdout

    assert f"{tmp_path}/bin/papermill" in wanted
    assert "pip install" not in wanted
    assert ".venv" not in wanted
    assert f"{tmp_path}/bin" not in base


def test_the_kernel_is_set_up_to_report_its_errors_but_not_that_it_is_to_end(
    clone, tmp_path, capfd
):
    """jupyter_client interrupts a kernel when it shuts it down."""
    made = bash(f"cd {clone} && make -n setup CONDA= VENV={tmp_path}", clone).stdout
    [command] = re.findall(r"^printf .*?ipython_kernel_config\.py$", made, re.MULTILINE | re.DOTALL)
    (tmp_path / "etc/ipython").mkdir(parents=True)
    bash(f"cd {clone} && {command}", clone)
    kernel = IPKernelApp(config_file_paths=[str(tmp_path / "etc/ipython")])
    kernel.load_config_file()

    log = kernel.log
    log.error("KeyboardInterrupt caught in kernel.")
    log.warning("not encrypted")
    log.error("Exception in message handler:")

    assert capfd.readouterr().err.splitlines() == [
        "[IPKernelApp] ERROR | Exception in message handler:"
    ]


def test_a_report_of_nothing_names_the_report_of_the_study(clone):
    done = bash(f"cd {clone} && make report RESULTS=results/none", clone, check=False)

    assert done.returncode != 0
    assert "There is no launch in results/none/launches" in done.stderr
    assert "make report RESULTS=results/study" in done.stderr
