"""``request_spot_instances`` records to the byte what it recorded when it was the only method.

``recorded/request_spot_instances.jsonl`` holds the logs of two batches of the sandbox, without
their first lines, which name the process; ``.calls`` beside it has every call that was made, in
order.  A change of the sandbox that moves its draws needs them written anew, with
``python test_unchanged.py``.
"""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import ARM, NANO, QUICK, plan_for, scripted
from crashing import Died, in_process, short_batch, short_world, swept

from spotlib.collect.rounds import collect_batch
from spotlib.model import Target
from spotlib.sandbox.faults import fail
from spotlib.sandbox.world import Fate

RECORDED = Path(__file__).with_name("recorded") / "request_spot_instances.jsonl"
ZONE = Target("t3.nano", "us-east-1", "use1-az4")
FATES = (
    QUICK,
    Fate(held_s=4.0, boot_s=3.0, ok_s=5.0),
    Fate(held_s=None),
    Fate(boot_s=2.0, ok_s=3.0, interrupted_s=1.0),
    Fate(fails="system-error"),
    Fate(in_flight_s=12.0),
)


def test_the_log_and_the_calls_of_the_default_method_are_as_they_were():
    log, calls = whole_run()

    assert log.splitlines() == RECORDED.read_text().splitlines()
    assert calls.splitlines() == RECORDED.with_suffix(".calls").read_text().splitlines()


def whole_run() -> tuple[str, str]:
    """A batch with every kind of outcome, and one that dies and is swept: logs and calls."""
    logs, calls = [], []
    with TemporaryDirectory() as folder:
        for name, run in (("ended", ended), ("swept", died_and_swept)):
            path = Path(folder) / name / "20240901T000000Z-abcdef.jsonl"
            world = run(path)
            lines = path.read_text().splitlines()[1:]
            logs += [each for each in lines if not each.startswith('{"event":"recovered"')]
            calls += [
                f"{each.action} {each.region} {each.code or ''}".strip() for each in world.calls
            ]
    return "\n".join(logs) + "\n", "\n".join(calls) + "\n"


def ended(path):
    """Two rounds of three targets, with refusals, faults, interruption and time-out."""
    world = scripted(*FATES, seed=3)
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, ZONE, n=2, timeout_s=40.0)
    world.faults += [
        fail("RequestSpotInstances", 3, "InsufficientInstanceCapacity"),
        fail("RequestSpotInstances", 4, "RequestLimitExceeded"),
        fail("DescribeInstances", 5, "InternalError"),
    ]
    collect_batch(connection, checked, log=path, rounds=2, every_s=120.0, seed=7, guard=False)
    return world


def died_and_swept(path):
    """The short batch of the crash tests dies in the middle, and a sweep closes it."""
    world, steps = short_world(), iter(range(10**9))

    def visit(name):
        if next(steps) >= 60:
            raise Died(name)

    with suppress(Exception):
        short_batch(in_process(world), path, visit)
    swept(world, path, batch_id=path.stem)  # as the guard does
    return world


if __name__ == "__main__":
    RECORDED.parent.mkdir(exist_ok=True)
    log, calls = whole_run()
    RECORDED.write_text(log)
    RECORDED.with_suffix(".calls").write_text(calls)
