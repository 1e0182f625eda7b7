"""However a person stops a run in the middle, nothing is left and nothing is lost.

papermill, a kernel and JupyterLab's server run ``02_collect`` against a sandbox that outlives
them, and are stopped while both instances are alive.  Afterwards the market holds nothing, the
log is whole and says so, and every request has exactly one outcome.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import contextmanager, suppress

import papermill.iorw
import papermill.parameterize
import pytest
from conftest import JUPYTER_FOLDERS, NANO, plan_for, read_events
from crashing import DEFAULT, OTHERS
from jupyter_client import BlockingKernelClient, KernelManager
from programs import (
    BIN,
    KERNEL_DIED,
    PATIENCE_S,
    ask,
    chaos,
    end_all,
    lab,
    leftovers,
    processes,
    processes_of,
    run,
    served,
    until,
)

from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect
from spotlib.model import Stage, plan_launches
from spotlib.record.tables import load_batches
from spotlib.sandbox.world import ScaledTime, World

WHAT = {"n": 2, "instance_type": "t3.nano", "region": "sa-east-1"}
NOTHING = {"requests": [], "instances": []}

pytestmark = pytest.mark.usefixtures("_programs_end_with_the_test")


@pytest.fixture(autouse=True)
def _folders(monkeypatch, tmp_path):
    """Jupyter's own files lie in the test's folder: a process is known by that name."""
    for name in JUPYTER_FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a kernel of papermill names it, too


@pytest.fixture
def market(request):
    """A market of this process, which no notebook ends.

    Its speed decides how long the middle of a run lasts in real time, and the clean-up: at 10,
    instances are ready after twenty seconds, and a batch is clean after three.
    """
    speed = getattr(request, "param", 10)
    return served(World(clock=ScaledTime(speed)), idle_s=2 * PATIENCE_S)


def parameters(market, tmp_path):
    return {**WHAT, "results": str(tmp_path), "endpoint": market}


def until_launched(market, *, by=None):
    """The middle: from here on a stop would leak both instances."""
    until(lambda: len(leftovers(market)["instances"]) == WHAT["n"], by=by)


def log_in(folder):
    [log] = (folder / "launches").glob("*.jsonl")
    return log


def until_closed(market, log):
    """Return the log's events once it says that all is clean; and it is."""
    until(lambda: load_batches(log)["clean"].fillna(False).all())
    events, torn = read_events(log)
    requested = [name for each in events for name in each.get("request_ids", ())]
    ended = Counter(each["request_id"] for each in events if each["event"] == "outcome")

    assert leftovers(market) == NOTHING
    assert not torn
    assert len(requested) == WHAT["n"]
    assert ended == dict.fromkeys(requested, 1)
    return events


def status(folder):
    return run(sys.executable, "-m", "spotlib", "status", "--results", folder).stdout


# papermill


def start_papermill(repository, market, tmp_path, *options):
    """In a process group of its own, as a shell would start it."""
    command = [BIN / "papermill", repository / "notebooks/02_collect.ipynb", tmp_path / "o.ipynb"]
    given = [part for pair in parameters(market, tmp_path).items() for part in ("-p", *pair)]
    return subprocess.Popen(
        [str(part) for part in (*command, *given, *options)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("signals", "market"),
    [
        pytest.param(["SIGINT"], 5, marks=chaos),  # slow: the kernel's time is then too short
        (["SIGINT", "SIGINT"], 10),
        pytest.param(["SIGTERM"], 10, marks=chaos),
        pytest.param(["SIGHUP"], 10, marks=chaos),
        pytest.param(["SIGKILL"], 10, marks=chaos),
    ],
    indirect=["market"],
)
def test_papermill_stopped_in_the_middle_leaves_nothing(repository, tmp_path, market, signals):
    """The kernel dies with it, most often without a word; the guard does not."""
    started = start_papermill(repository, market, tmp_path)
    until_launched(market, by=started)

    for name in signals:
        with suppress(ProcessLookupError):  # it may have ended at the first
            os.killpg(started.pid, signal.Signals[name])
        with suppress(subprocess.TimeoutExpired):
            started.wait(timeout=0.5)  # most often it is ending its kernel when the second arrives
    started.wait(timeout=PATIENCE_S)

    until_closed(market, log_in(tmp_path))


@chaos
def test_a_whole_tree_of_processes_killed_leaves_nothing(repository, tmp_path, market):
    """So editors end a run: with each process that descends from it.  The guard does not."""
    started = start_papermill(repository, market, tmp_path)
    until_launched(market, by=started)

    tree = descendants(started.pid)
    end_all(tree)
    started.wait(timeout=PATIENCE_S)

    assert len(tree) >= 2, "papermill and its kernel"
    until_closed(market, log_in(tmp_path))


def descendants(root):
    """The ids of a process and of all that descend from it."""
    found = [root]
    parents = {number: parent for number, parent, _ in processes()}
    for each in found:
        found += [number for number, parent in parents.items() if parent == each]
    return found


@chaos
def test_every_process_asked_to_end_at_once_leaves_nothing(repository, tmp_path, market):
    """So does a service manager or a job scheduler, some time before it kills them all."""
    started = start_papermill(repository, market, tmp_path)
    until_launched(market, by=started)

    asked = processes_of(tmp_path)
    end_all(asked, signal.SIGTERM)
    started.wait(timeout=PATIENCE_S)

    assert len(asked) >= 3, "papermill, its kernel and the guard"
    until_closed(market, log_in(tmp_path))


@chaos
@pytest.mark.parametrize("market", [5], indirect=True)
def test_a_cell_that_papermill_gives_too_little_time_leaves_nothing(repository, tmp_path, market):
    """The time is each cell's; at a quarter of the speed only the collection needs so long."""
    started = start_papermill(repository, market, tmp_path, "--execution-timeout", "20")
    until_launched(market, by=started)

    assert started.wait(timeout=PATIENCE_S) != 0

    until_closed(market, log_in(tmp_path))


# a kernel


def cells(repository, market, tmp_path):
    """The notebook's code: the cells before the collection, and the collection."""
    book = papermill.iorw.load_notebook_node(str(repository / "notebooks/02_collect.ipynb"))
    book = papermill.parameterize.parameterize_notebook(book, parameters(market, tmp_path))
    code = [each.source for each in book.cells if each.cell_type == "code"]
    [middle] = [i for i, each in enumerate(code) if "summary = collect_batch(" in each]
    return code[:middle], code[middle]


def execute(client, code, **expressions):
    """Run code to its end; return the values of the expressions after it."""
    given = {"user_expressions": expressions, "timeout": PATIENCE_S}
    reply = client.execute(code, reply=True, **given)["content"]
    assert reply["status"] == "ok", reply
    return {name: each["data"]["text/plain"] for name, each in reply["user_expressions"].items()}


def collect_in(client, repository, market, tmp_path):
    """Begin the collection in a kernel and return in the middle of it."""
    before, collection = cells(repository, market, tmp_path)
    for code in before:
        execute(client, code)
    client.execute(collection)
    until_launched(market)


def start_kernel():
    """The manager of a kernel that answers."""
    manager = KernelManager()
    manager.start_kernel()
    with ready(manager.client()):
        return manager


@pytest.fixture
def kernel():
    try:
        manager = start_kernel()
    except RuntimeError as error:
        if KERNEL_DIED not in str(error):
            raise
        manager = start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@contextmanager
def ready(client):
    """A client of a kernel, once it answers."""
    client.start_channels(stdin=False, hb=False)
    try:
        client.wait_for_ready(timeout=PATIENCE_S)
        yield client
    finally:
        client.stop_channels()


@pytest.mark.parametrize("market", [5], indirect=True)  # the clean-up takes six seconds
@pytest.mark.parametrize("interrupts", [pytest.param(1, marks=chaos), 3])
def test_an_interrupted_kernel_ends_its_batch_in_order_and_stays_usable(
    repository, tmp_path, market, kernel, interrupts
):
    """Impatience changes nothing: further interrupts do not stop the clean-up."""
    with ready(kernel.client()) as client:
        collect_in(client, repository, market, tmp_path)
        log = log_in(tmp_path)

        kernel.interrupt_kernel()
        for _ in range(interrupts - 1):
            until(lambda: any(each["event"] == "release" for each in read_events(log)[0]))
            kernel.interrupt_kernel()
        shown = execute(client, "", problems="summary.problems", line="summary.last_line()")

    events = until_closed(market, log_in(tmp_path))
    assert "recovered" not in {each["event"] for each in events}
    assert events[-1]["event"] == "clean"
    assert "stopped by Ctrl-C or the stop button (SIGINT)" in shown["problems"]
    assert "open requests 0, live instances 0 (confirmed)" in shown["line"]


@chaos
def test_a_kernel_asked_to_end_ends_its_batch_in_order(repository, tmp_path, market, kernel):
    with ready(kernel.client()) as client:
        collect_in(client, repository, market, tmp_path)

        kernel.signal_kernel(signal.SIGTERM)
        shown = execute(client, "", problems="summary.problems")

    events = until_closed(market, log_in(tmp_path))
    assert "recovered" not in {each["event"] for each in events}
    assert "stopped by another program, or the end of its kernel (SIGTERM)" in shown["problems"]


def restart(kernel):
    kernel.restart_kernel()


def shut_down(kernel):
    kernel.shutdown_kernel()


def kill(kernel):
    kernel.signal_kernel(signal.SIGKILL)


@pytest.mark.parametrize("market", [5], indirect=True)  # the clean-up takes too long for it
@pytest.mark.parametrize(
    "stop", [restart, pytest.param(shut_down, marks=chaos), pytest.param(kill, marks=chaos)]
)
def test_a_kernel_that_ends_leaves_nothing(repository, tmp_path, market, kernel, stop):
    """A restarted one finds that nothing is left to be closed."""
    with ready(kernel.client()) as client:
        collect_in(client, repository, market, tmp_path)

    stop(kernel)

    events = until_closed(market, log_in(tmp_path))
    assert "recovered" in {each["event"] for each in events}
    assert "every batch is confirmed clean" in status(tmp_path)
    if stop is restart:
        with ready(kernel.client()) as client:
            assert execute(client, "", answer="6 * 7") == {"answer": "42"}


# JupyterLab's server


@contextmanager
def kernel_of(server, tmp_path):
    """A client of a kernel that the server starts, as it does for an opened notebook."""
    name = ask(server, "api/kernels", "POST")["id"]
    file = tmp_path / "jupyter_runtime_dir" / f"kernel-{name}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    with ready(client):
        yield client


@chaos
@pytest.mark.parametrize("market", [5], indirect=True)  # the clean-up takes too long for it
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_stopped_jupyterlab_server_leaves_nothing(repository, tmp_path, market, name):
    """It ends its kernels, or they end when they see that it is gone."""
    with lab(tmp_path) as (started, server):
        with kernel_of(server, tmp_path) as client:
            collect_in(client, repository, market, tmp_path)
        started.send_signal(signal.Signals[name])
        started.wait(timeout=PATIENCE_S)

        until_closed(market, log_in(tmp_path))

    until(lambda: not processes_of(tmp_path))


# the guard itself

COLLECT = """
    import multiprocessing, os, shutil, signal, sys, time
    from pathlib import Path
    from spotlib.collect.rounds import collect_batch
    from spotlib.ec2.endpoints import connect
    from spotlib.model import Target, plan_launches

    url, log = sys.argv[1], Path(sys.argv[2])

    def middle(progress):
        if progress.elapsed_s > 10:  # both instances are alive
            {happens}

    plans = plan_launches([Target("t3.nano", "sa-east-1")], count=2, methods=sys.argv[3:])
    collect_batch(connect(url), plans, log=log, on_poll=middle)
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"
FORK = "multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)).start()"


def collect_until(happens, market, log, arm=DEFAULT):
    """A collection in a plain process, to which something happens in the middle."""
    script = textwrap.dedent(COLLECT.format(happens=happens))
    with (log.parents[1] / "said.txt").open("w") as said:
        done = subprocess.run(
            [sys.executable, "-c", script, market, str(log), arm],
            check=False,
            stdout=said,  # a file: a child that outlives it would keep a pipe open
            stderr=said,
            timeout=PATIENCE_S,
        )
    assert done.returncode == -signal.SIGKILL, (log.parents[1] / "said.txt").read_text()


@chaos
def test_another_log_that_cannot_be_read_is_not_in_the_guards_way(market, log):
    log.parent.mkdir()
    (log.parent / "20240801T000000Z-newer.jsonl").write_text('{"event":"batch","schema":99}\n')

    collect_until(DIE, market, log)

    until_closed(market, log)


@chaos
@pytest.mark.parametrize("arm", OTHERS)
def test_the_guard_closes_what_any_launch_method_left(market, log, arm):
    collect_until(DIE, market, log, arm)

    until_closed(market, log)
    assert leftovers(market) == NOTHING


def test_a_log_thrown_away_in_the_middle_leaves_nothing_in_the_market(market, log):
    """The guard still knows the batch's name, and so its tag."""
    collect_until(f"shutil.rmtree(log.parent); {DIE}", market, log)

    until(lambda: not processes_of(log.parent, "spotlib.cleanup.guard"))
    assert leftovers(market) == NOTHING


@chaos
def test_a_forked_child_that_lives_on_does_not_keep_the_guard_waiting(tmp_path, market, log):
    """It was born with what its dead parent held: the guard's pipe and the log's lock."""
    collect_until(f"{FORK}; {DIE}", market, log)

    until_closed(market, log)
    assert processes_of(tmp_path), "the child lives on"


def test_a_batch_whose_guard_was_killed_ends_by_itself(market, log):
    def kill_it(_):
        end_all(processes_of(log, "spotlib.cleanup.guard"))

    plans = plan_launches([NANO], count=2, wanted=Stage.RUNNING)
    summary = collect_batch(connect(market), plans, log=log, on_poll=kill_it)

    assert summary.cleaned.confirmed
    assert summary.outcomes == {"ready": 2}
    assert until_closed(market, log)[-1]["event"] == "clean"


def test_nothing_is_launched_without_a_guard(market, log, monkeypatch):
    connection = connect(market)
    checked = plan_for(connection)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with pytest.raises(OSError, match="the guard did not start, so nothing was launched"):
        collect_batch(connection, checked, log=log)

    assert "intent" not in {each["event"] for each in read_events(log)[0]}
    assert leftovers(market) == NOTHING
