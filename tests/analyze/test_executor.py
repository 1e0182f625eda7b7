"""Targets are estimated at once on any executor, and nothing changes by that."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from studies import Truth, simulate

from spotlib.analyze.launch_times import launch_times, launch_times_of
from spotlib.model import Stage

NAMES = ("t3.micro in sa-east-1", "t3.nano in sa-east-1", "t3.small in eu-west-1")


@pytest.fixture
def launches():
    rng = np.random.default_rng(1)
    return pd.concat(
        [simulate(Truth(never=0.1), runs=8, count=3, rng=rng, target=each) for each in NAMES]
    )


def require_same(there, here):
    assert list(there) == list(here) == list(NAMES)
    for name, each in here.items():
        assert there[name].quantile(0.5) == each.quantile(0.5)
        np.testing.assert_array_equal(there[name].resampled.mass, each.resampled.mass)
        np.testing.assert_array_equal(there[name].draws, each.draws)


def test_targets_estimated_on_an_executor_are_the_same(launches):
    here = launch_times(launches, Stage.READY, resamples=50)
    with ThreadPoolExecutor(2) as executor:
        there = launch_times(launches, Stage.READY, resamples=50, executor=executor)

    require_same(there, here)


def test_every_duration_estimated_at_once_is_that_estimated_alone(launches):
    half_s = launches["ready_by_s"] / 2
    launches = launches.assign(fulfilled_after_s=half_s - 3.0, fulfilled_by_s=half_s)
    launches["fulfilled_after_s"] = launches["fulfilled_after_s"].clip(lower=0.0)
    spans = {"whole": (None, Stage.READY), "rest": (Stage.FULFILLED, Stage.READY)}

    with ThreadPoolExecutor(2) as executor:
        found = launch_times_of(launches, spans, resamples=50, executor=executor)

    for span, (since, stage) in spans.items():
        require_same(found[span], launch_times(launches, stage, since=since, resamples=50))
