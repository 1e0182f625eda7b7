"""A collector that logged in with an MFA code is killed: only its guard can close the batch, with
the keys that it was handed, because the code is good for one session only.
"""

import json
import sys
from pathlib import Path

import kill_with_mfa
import pytest
from conftest import CHAOS
from programs import PATIENCE_S, run

NOTHING = {"requests": [], "instances": []}
STEPS = range(20, 140, 4)  # from before the first request on


@pytest.mark.usefixtures("_programs_end_with_the_test")
def test_a_collector_killed_after_an_mfa_login_leaves_nothing(tmp_path, sampled):
    """30 kills in make chaos: the keys stand in no file, argument or environment either."""
    steps = sampled(STEPS, 16)
    script = Path(kill_with_mfa.__file__)

    done = run(
        sys.executable, script, tmp_path, *steps, patience_s=PATIENCE_S * (5 if CHAOS else 1)
    )
    kills = [json.loads(line) for line in done.stdout.splitlines()]

    assert [each["step"] for each in kills] == list(steps)
    for each in kills:
        assert each["killed"], each
        assert each["left"] == NOTHING, each
        assert each["recorded_clean"], each
        assert each["ended_s"] < kill_with_mfa.TIMEOUT_S, "nothing ended by itself"
        assert each["codes"] == {}, "the code was used, once"
        assert each["exposed"] == []
    assert sum(each["left_then"] > 0 for each in kills) > len(kills) / 2
