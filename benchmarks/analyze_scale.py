"""How long 03 takes, and how much memory, from the logs to its last cell, as the logs grow.

``python benchmarks/analyze_scale.py [--requests 160000] [--targets 8]``: logs of that many requests
and of a fourth and a sixteenth of them are written, without a sandbox but with the events that the
loop writes.  The cells of ``03_analyze`` then run on each, in a process of their own.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import psutil
from joblib.externals.loky import get_reusable_executor

from spotlib.model import Outcome, Stage
from spotlib.record.events import (
    BatchEvent,
    CleanEvent,
    Event,
    Features,
    Host,
    IntentEvent,
    OutcomeEvent,
    PollEvent,
    RequestedEvent,
    StageCounts,
    StageEvent,
)

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "03_analyze.ipynb"
STAGES = (Stage.FULFILLED, Stage.RUNNING, Stage.READY)
COUNT, ROUNDS, EVERY_S, POLL_S, TIMEOUT_S = 5, 24, 3600.0, 5.0, 600.0
FAMILIES = ("t3", "t3a", "m5", "c5", "r5", "m6i", "c6i", "r6i", "m7g", "c7g")
SIZES = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge")
REGIONS = ("us-east-1", "eu-west-1", "ap-northeast-1", "sa-east-1")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def write_logs(folder: Path, *, requests: int, targets: int) -> int:
    """A campaign of hourly calls of 5 in batches of 24 rounds; return the bytes written."""
    encode = msgspec.json.Encoder(enc_hook=lambda number: number.item()).encode
    types = [f"{family}.{size}" for size in SIZES for family in FAMILIES]
    names = [(each, region) for each in types for region in REGIONS][:targets]
    rounds, size = requests // (COUNT * len(names)), 0
    for first in range(0, rounds, ROUNDS):
        batch = Batch(BEGAN + timedelta(seconds=first * EVERY_S), names, first)
        lines = [
            encode(msgspec.structs.replace(event, line=number))
            for number, event in enumerate(batch.events(min(ROUNDS, rounds - first)), 1)
        ]
        size += (folder / f"{batch.batch_id}.jsonl").write_bytes(b"\n".join([*lines, b""]))
    return size


class Batch:
    """The events of one batch; targets have the same pace in each."""

    def __init__(self, started_at: datetime, names: list[tuple[str, str]], seed: int) -> None:
        self.batch_id = f"{started_at:%Y%m%dT%H%M%SZ}-{seed:06x}"
        self.started_at, self.names = started_at, names
        self.pace = np.random.default_rng(1).lognormal(0.0, 0.4, len(names))
        self.rng = np.random.default_rng(seed + 2)
        self.phase_s = float(self.rng.uniform(0, POLL_S))

    def events(self, rounds: int) -> Iterator[Event]:
        """The first line, the rounds, the confirmed end."""
        yield self._first(rounds)
        for number in range(rounds):
            yield from self._round(number)
        yield CleanEvent(
            confirmed=True, open_requests={}, live_instances={}, errors={}, at_s=rounds * EVERY_S
        )

    def _first(self, rounds: int) -> BatchEvent:
        return BatchEvent(
            schema=2,
            batch_id=self.batch_id,
            simulated=True,
            world=f"w-{self.batch_id}",
            world_seed=None,
            endpoint="sandbox",
            market="tight",
            url=None,
            started_at=self.started_at,
            rounds=rounds,
            every_s=EVERY_S,
            poll_s=POLL_S,
            phase_s=self.phase_s,
            seed=1,
            settle_s=30.0,
            notes={},
            account="123456789012",
            arn=None,
            profile=None,
            expected_usd=1.0,
            bound_usd=2.0,
            warnings=(),
            host=Host(name="here", pid=1, spotlib="0", python="3", boto3="1"),
        )

    def _round(self, number: int) -> Iterator[Event]:
        """Every call of a round, then the polls and what they showed, region by region."""
        names, rng, started_at = self.names, self.rng, self.started_at
        sent_s = number * EVERY_S + np.arange(len(names)) * 0.3
        ids = [
            [f"sir-{started_at:%y%m%d}{number:02d}{plan:03d}{each}" for each in range(COUNT)]
            for plan in range(len(names))
        ]
        for plan, (name, region) in enumerate(names):
            at = started_at + timedelta(seconds=float(sent_s[plan]))
            features = Features(
                price_usd=round(float(rng.uniform(0.01, 0.2)), 4),
                price_at=at,
                price_source="spot price history",
                price_changed_at=at - timedelta(hours=3),
                on_demand_usd=0.4,
                sps=int(rng.integers(1, 4)),
                sps_at=at,
                sps_source=f"placement score for {COUNT}",
                if_source="not known",
                since_last_s=EVERY_S if number else None,
            )
            yield IntentEvent(
                round=number,
                plan=plan,
                at_s=sent_s[plan],
                at=at,
                instance_type=name,
                region=region,
                availability_zone_id=None,
                placement="region",
                method="request_spot_instances",
                wanted="ready",
                n=COUNT,
                timeout_s=TIMEOUT_S,
                max_price_usd=None,
                image=f"ami-{REGIONS.index(region):017x}",
                image_name="al2023-ami-2023.12-kernel-6.18-x86_64",
                vcpus=2,
                valid_until=at,
                shutdown_after_min=15,
                features=features,
                request={"InstanceCount": COUNT, "Type": "one-time"},
            )
            yield RequestedEvent(
                round=number,
                plan=plan,
                at=at,
                asked_s=sent_s[plan],
                answered_s=sent_s[plan] + 0.8,
                attempts=(),
                request_ids=tuple(ids[plan]),
                server_date=None,
            )
        for region in dict.fromkeys(region for _, region in names):
            plans = [plan for plan, (_, place) in enumerate(names) if place == region]
            calls = {plan: (float(sent_s[plan]), ids[plan]) for plan in plans}
            yield from self._polls(number, region, calls)

    def _polls(
        self, number: int, region: str, calls: dict[int, tuple[float, list[str]]]
    ) -> Iterator[Event]:
        """The polls of a region while a request of it is waited for; 2 % of them are skipped."""
        rng, started_at, plans = self.rng, self.started_at, list(calls)
        sent_s = np.array([call_s for call_s, _ in calls.values()])
        times_s = sent_s[:, None, None] + _times_s(self.pace[plans], rng)
        due_s = sent_s.max() + self.phase_s + 1.0 + np.arange(0, TIMEOUT_S, POLL_S)
        numbers = np.flatnonzero(rng.random(len(due_s)) > 0.02)
        due_s = due_s[numbers]
        asked_s, answered_s = due_s + 0.01, due_s + rng.lognormal(-1.4, 0.3, len(due_s)) + 0.02
        first = np.searchsorted(asked_s, times_s)  # the poll that shows each stage
        last = np.minimum(first[:, :, -1].max(axis=1), len(due_s) - 1)  # of each plan
        shown = (first[..., None] <= np.arange(len(due_s))).sum(axis=1)  # (plans, stages, polls)
        ends = {tick: [] for tick in range(len(due_s))}
        for row, request, step in np.ndindex(first.shape):
            if first[row, request, step] < len(due_s):
                ends[int(first[row, request, step])].append((row, request, step))
        for row, request in np.argwhere(first[..., -1] == len(due_s)):
            ends[len(due_s) - 1].append((row, request, None))
        for tick in range(int(last.max()) + 1):
            at = started_at + timedelta(seconds=float(due_s[tick]))
            yield PollEvent(
                round=number,
                number=int(numbers[tick]),
                region=region,
                due_s=due_s[tick],
                asked_s=asked_s[tick],
                answered_s=answered_s[tick],
                at=at,
                server_date=f"{at:%a, %d %b %Y %H:%M:%S} GMT",
                calls=2,
                plans={
                    plan: _seen(shown[row, :, tick])
                    for row, plan in enumerate(plans)
                    if tick <= last[row]
                },
                error=None,
                seen={},
            )
            for row, request, step in ends[tick]:
                plan, request_id = plans[row], calls[plans[row]][1][request]
                about = {"round": number, "plan": plan, "request_id": request_id}
                about["instance_id"] = (
                    request_id.replace("sir-", "i-0000") if step is not None else None
                )
                about["status_code"] = "fulfilled" if step is not None else "capacity-not-available"
                if step is not None:
                    yield StageEvent(
                        **about,
                        stage=STAGES[step].label,
                        after_s=asked_s[tick - 1] if tick else sent_s[row],
                        by_s=answered_s[tick],
                        availability_zone_id="use1-az4",
                        created_at=started_at + timedelta(seconds=int(sent_s[row])),
                        status_updated_at=at.replace(microsecond=0),
                        launched_at=at.replace(microsecond=0),
                    )
                if step in (None, 2):
                    yield OutcomeEvent(
                        **about,
                        outcome=Outcome.TIMED_OUT if step is None else Outcome.READY,
                        status_message="Your Spot request is fulfilled." if step else None,
                        instance_state="running" if step else None,
                        instance_reason=None,
                        watched_s=asked_s[tick],
                    )


def _times_s(pace: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """When each request is fulfilled, running and ready: (plans, requests, stages)."""
    luck = rng.lognormal(0.0, 0.4, (len(pace), 1))  # of a run: its requests share one moment
    waits_s = rng.lognormal(0.0, 0.3, (3, len(pace), COUNT)) * pace[:, None] * luck
    times_s = np.cumsum(waits_s * np.array([8.0, 12.0, 100.0])[:, None, None], axis=0)
    never = rng.random((len(pace), COUNT)) < rng.choice([0.0, 0.5], (len(pace), 1), p=[0.9, 0.1])
    return np.where(never, np.inf, times_s).transpose(1, 2, 0)


def _seen(shown: np.ndarray) -> StageCounts:
    fulfilled, running, ready = (int(each) for each in shown)
    codes = {"fulfilled": fulfilled} | (
        {"capacity-not-available": COUNT - fulfilled} if fulfilled < COUNT else {}
    )
    return StageCounts(
        accepted=COUNT, fulfilled=fulfilled, running=running, ready=ready, codes=codes
    )


def run_notebook(results: Path) -> None:
    """Run the cells of 03 in this process; print JSON: seconds per section, peak memory.

    Seconds are by the clock, and of processor time of all processes.
    """
    os.environ["MPLBACKEND"] = "Agg"
    names: dict[str, object] = {}
    seconds: dict[str, list[float]] = {}
    section = "start"
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            titles = [line[3:] for line in source.splitlines() if line.startswith("## ")]
            section = titles[0] if titles else section
            continue
        began = [time.perf_counter(), _cpu_s()]
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, section, "exec"), names)
        get_reusable_executor().shutdown(wait=True)  # only then are its seconds counted
        took = np.array([time.perf_counter(), _cpu_s()]) - began
        seconds[section] = (np.array(seconds.get(section, [0.0, 0.0])) + took).tolist()
        if "results: str" in source:
            names["results"] = str(results)
        names["display"] = _render
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(json.dumps({"seconds": seconds, "peak_mb": peaks[0], "largest_child_mb": peaks[1]}))


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _render(*shown: object) -> None:
    """What a notebook does with a table, without a notebook."""
    for each in shown:
        getattr(each, "_repr_html_", lambda: None)()


def measure(requests: int, targets: int) -> dict[str, object]:
    """Write logs, and run 03 on them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "launches"
        logs.mkdir()
        size = write_logs(logs, requests=requests, targets=targets)
        command = [sys.executable, __file__, "--notebook", folder]
        tree_mb = 0.0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                tree_mb = max(tree_mb, _tree_mb(psutil.Process(process.pid)))
                time.sleep(0.2)
            found = json.loads(process.stdout.read().splitlines()[-1])
        load = os.getloadavg()[0]  # 1 is one core: of the notebook and of all other work
        return {"logs_mb": size / 1e6, **found, "tree_mb": tree_mb, "load": load}


def _tree_mb(process: psutil.Process) -> float:
    """The memory of a process and its children now, what they share counted once."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += each.memory_full_info().pss
    return total / 2**20


def main() -> None:
    """Print one row per section, two columns per size: seconds by the clock and of processors.

    ``peak_mb`` is of the notebook's process, ``largest_child_mb`` of its largest child, and
    ``tree_mb`` of all of them at one moment.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=160_000)
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--once", action="store_true", help="that size only, no smaller ones")
    parser.add_argument("--notebook", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.notebook:
        run_notebook(given.notebook)
        return
    sizes = [given.requests // part for part in ((1,) if given.once else (16, 4, 1))]
    table = pd.DataFrame()
    for requests in sizes:
        found = measure(requests, given.targets)
        seconds = pd.DataFrame(found["seconds"], index=["s", "CPU s"]).T
        seconds.loc["all"] = seconds.sum()
        for name in ("logs_mb", "peak_mb", "largest_child_mb", "tree_mb", "load"):
            seconds.loc[name] = found[name]
        table = pd.concat([table, seconds.add_prefix(f"{requests:,} ")], axis=1)
        print(table.round(1).to_string(), flush=True)
    if len(sizes) > 1:  # 1 is in proportion to the requests
        growth = np.log(table.iloc[:, -1] / table.iloc[:, -3]) / np.log(sizes[-1] / sizes[-2])
        print(f"CPU seconds grow with the requests to the power of {growth['all']:.2f}, ", end="")
        print(f"peak memory of {growth['peak_mb']:.2f}")


if __name__ == "__main__":
    main()
