"""A batch that reads the consoles of its guests leaves nothing behind, wherever it dies."""

import pytest
from conftest import read_events
from crashing import points_of, require_recovered, swept

from spotlib.model import Stage
from spotlib.record.tables import load_launches


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Every point at which the short batch can die that waits until its guests are usable."""
    folder = tmp_path_factory.mktemp("points")
    return points_of(folder, wanted=Stage.USABLE, settle_s=5.0)


def test_a_batch_that_dies_at_any_step_leaves_nothing_and_one_outcome_each(
    points, tmp_path, sampled
):
    reads = [each for each in points if "console" in each.name]
    seen = set()
    for number, point in enumerate([*sampled(points, 48), *sampled(reads, 12)]):
        world, log = point.revived(tmp_path / str(number), power_lost=number % 2 == 1)
        acknowledged, _ = read_events(log)

        assert swept(world, log).clean, point.name

        require_recovered(world, log, acknowledged)
        launches = load_launches(log)
        assert launches.loc[launches["outcome"] == "ready", "usable_by_s"].notna().all()
        seen |= set(launches["outcome"])
    assert {"ready", "abandoned"} <= seen
