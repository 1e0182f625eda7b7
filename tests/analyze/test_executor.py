"""Targets are estimated at once on any executor, and nothing changes by that."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from studies import Truth, simulate

from spotlib.analyze.launch_times import launch_times
from spotlib.model import Stage


def test_targets_estimated_on_an_executor_are_the_same():
    rng = np.random.default_rng(1)
    names = ("t3.nano in sa-east-1", "t3.micro in sa-east-1", "t3.small in eu-west-1")
    launches = pd.concat(
        [simulate(Truth(never=0.1), runs=8, count=3, rng=rng, target=each) for each in names]
    )

    here = launch_times(launches, Stage.READY, resamples=50)
    with ThreadPoolExecutor(2) as executor:
        there = launch_times(launches, Stage.READY, resamples=50, executor=executor)

    assert list(there) == list(here) == sorted(names)
    for name, each in here.items():
        assert there[name].quantile(0.5) == each.quantile(0.5)
        np.testing.assert_array_equal(there[name].resampled.mass, each.resampled.mass)
        np.testing.assert_array_equal(there[name].draws, each.draws)
