"""How long the three tables of many logs take, against pandas reading the same files one by one.

``python benchmarks/load_logs.py [--logs 2000]``: one batch of 50 requests is recorded on the
sandbox in this process, copied under other batch ids, and read in turn both ways.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect_in_process
from spotlib.model import Target, plan_launches
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import World


def record(log: Path) -> None:
    """One batch of 50 requests of 10 targets."""
    world = World(seed=1)
    connection = connect_in_process(world, partial(attach, world))
    names = [f"{family}.{size}" for family in ("t3", "t3a") for size in ("nano", "micro", "small")]
    names += ["t3.medium", "t3a.medium", "t4g.nano", "t4g.micro"]
    plans = plan_launches([Target(name, "us-east-1") for name in names], count=5)
    collect_batch(connection, plans, log=log, seed=1).require()


def multiply(log: Path, copies: int) -> None:
    """The same batch under other ids."""
    text = log.read_text()
    for number in range(copies - 1):
        batch_id = f"20240902T{number:06d}Z-copied"
        log.with_name(f"{batch_id}.jsonl").write_text(text.replace(log.stem, batch_id))


def timed(read: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of work and what came of it."""
    began_s = time.perf_counter()
    found = read()
    return time.perf_counter() - began_s, found


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "20240901T000000Z-abcdef.jsonl"
        record(log)
        multiply(log, given.logs)
        files = sorted(Path(folder).glob("*.jsonl"))
        size = sum(path.stat().st_size for path in files) / 1e6
        pandas_s, _ = timed(lambda: [pd.read_json(path, lines=True) for path in files])
        print(f"{len(files)} logs, {size:.0f} MB; pandas.read_json one by one: {pandas_s:.1f} s")
        for load in (load_batches, load_launches, load_polls):
            took_s, table = timed(lambda load=load: load(folder))
            words = f"{len(table)} rows in {took_s:.1f} s"
            print(f"{load.__name__}: {words}, {took_s / pandas_s:.2f} of pandas' time")


if __name__ == "__main__":
    main()
