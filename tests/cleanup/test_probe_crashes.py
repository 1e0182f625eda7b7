"""A batch of probes that dies at any step leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import read_events
from crashing import DEFAULT, EMPTY, points_of, require_recovered, swept
from kill_nine import bodies, digest

from spotlib.model import Stage
from spotlib.record.tables import load_launches


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Every point at which the short batch of probes can die."""
    folder = tmp_path_factory.mktemp("points")
    return points_of(folder, wanted=Stage.GRANTED, settle_s=5.0)


def test_probes_that_die_at_any_step_leave_nothing_and_one_outcome_each(points, tmp_path, sampled):
    outcomes = set()
    for number, point in enumerate(sampled(points, 14)):
        world, log = point.revived(tmp_path / str(number), power_lost=number % 2 == 1)
        acknowledged, _ = read_events(log)

        assert swept(world, log).clean, point.name

        require_recovered(world, log, acknowledged)
        outcomes |= set(load_launches(log)["outcome"])
    assert outcomes == {"granted", "held", "abandoned"}


@pytest.mark.chaos  # that a real kill leaves what the snapshots say, ``test_crashes`` shows
def test_kill_9_in_the_middle_of_a_probe_leaves_nothing(points, tmp_path, sampled):
    """Between EC2's answer to a probe and our cancel."""
    names = [each.name for each in points]
    first = names.index("after request_spot_instances")
    steps = sampled(range(first, names.index("before cancel_spot_instance_requests")), 99, whole=5)
    script = Path(__file__).parents[1] / "kill_nine.py"
    command = [sys.executable, script, tmp_path / "real", f"{DEFAULT}/granted", *steps]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    for line, step in zip(done.stdout.splitlines(), steps, strict=True):
        each = json.loads(line)
        world, log = points[step].revived(tmp_path / str(step))
        assert each["killed"], names[step]
        assert each["before"] == {"truth": digest(world), "log": bodies(log)}, names[step]
        assert each["swept"]
        assert (each["leftovers"], each["touched"]) == (EMPTY, [])
