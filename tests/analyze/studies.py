"""Studies at hand for the tests: the simulator of the benchmarks, and batches on the sandbox."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import analyze_narrow as narrow
from analyze_coverage import coverage
from analyze_study import HeavyTail, Truth, simulate
from analyze_truth import errors

from spotlib.analyze.curve import Observed
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect_in_process
from spotlib.model import Target, plan_launches
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate, World

__all__ = ["HeavyTail", "Truth", "coverage", "errors", "narrow", "simulate"]

NANO, SMALL = Target("t3.nano", "sa-east-1"), Target("t3.small", "sa-east-1")


def observed(after_s, by_s, run=None):
    """Brackets from lists; by default each request is a run of its own."""
    runs = range(len(after_s)) if run is None else run
    ends = (np.array(each, dtype=np.float64) for each in (after_s, by_s))
    return Observed(*ends, np.array(runs, dtype=np.int64))


def record(
    log,
    *,
    targets=(NANO, SMALL),
    n=3,
    rounds=2,
    every_s=120.0,
    seed=1,
    fates=(),
    rest=None,
    small_s=0.0,
    events=False,
    **plan,
):
    """A batch on a sandbox in this process: requests have these fates in order, then ``rest``.

    Those of t3.small boot ``small_s`` longer.
    """
    waiting = iter(fates)
    quick = rest or Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=6.0, ok_s=9.0)

    def script(request):
        fate, is_small = next(waiting, quick), request.pool.instance_type == SMALL.instance_type
        return replace(fate, boot_s=fate.boot_s + small_s) if small_s and is_small else fate

    world = World(seed=seed, script=script)
    connection = connect_in_process(world, partial(attach, world))
    plan.setdefault("timeout_s", 40.0)
    plans = plan_launches(targets, count=n, **plan)
    checked = preflight(connection, plans, events=events).require()
    settings = {"rounds": rounds, "every_s": every_s, "seed": seed, "events": events}
    collect_batch(connection, checked, log=log, guard=False, **settings)
    return world


def edited(source, copy, **changes):
    """A copy of a log under another id, with some fields changed in all events that have them."""
    lines = []
    for line in source.read_text().splitlines():
        event = json.loads(line)
        for name, value in changes.items():
            if name in event:
                event[name] = value
        event |= {"batch_id": copy.stem} if "batch_id" in event else {}
        lines.append(json.dumps(event, separators=(",", ":")))
    copy.write_text("\n".join(lines) + "\n")
    return copy
