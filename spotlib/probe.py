"""Probe: ask whether EC2 grants instances, end them at once, and print the share granted.

A probe is a plan that waits for ``Stage.GRANTED``.  Its batch is made by ``collect_batch``, with
guard, log and clean-up, and its log is in the same folder as those of launches.
"""

import argparse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spotlib.analyze.comparable import name_runs, why_not
from spotlib.analyze.granted import granted_lines, share_granted
from spotlib.arguments import number, whole_number
from spotlib.collect.batch import Progress, Waiting
from spotlib.collect.cost import PreflightReport
from spotlib.collect.parameters import add_methods, named_arms, named_target
from spotlib.collect.preflight import preflight
from spotlib.collect.report import market_name, rounds_words
from spotlib.collect.rounds import collect_batch
from spotlib.collect.schedule import PROBE_PAUSE_S, require_rounds
from spotlib.collect.stopping import rewrite_line
from spotlib.collect.summary import BatchSummary
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect, starts_sandbox
from spotlib.model import Stage, plan_launches
from spotlib.money import usd
from spotlib.record.history import last_launches
from spotlib.record.log import new_batch_id
from spotlib.record.tables import load_launches
from spotlib.workspace import LAUNCHES, results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``spotlib probe``."""
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TYPE",
        help="TYPE (in --region), TYPE@REGION or TYPE@REGION/ZONE-ID",
    )
    parser.add_argument("-n", "--count", type=whole_number, default=1, help="instances per probe")
    parser.add_argument(
        "--rounds", type=whole_number, default=1, help="probes of each target; default: 1"
    )
    parser.add_argument(
        "--every-s",
        type=number,
        help=f"from one round to the next, at least {PROBE_PAUSE_S:g}; default: that, or as long "
        "as a round may last",
    )
    parser.add_argument("--endpoint", default="sandbox", help="sandbox (default), aws, or a URL")
    parser.add_argument("--profile", help="the AWS profile; default: the default one")
    parser.add_argument("--region", default="us-east-1", help="default: us-east-1")
    add_methods(parser)
    parser.add_argument("--results", default="", help="the results folder; default: results/")


def run(given: argparse.Namespace) -> int:
    """Show the cost, probe, and print the share granted; 1 if there is a problem."""
    if given.profile and starts_sandbox(given.endpoint):
        raise ValueError("--profile is for AWS, which costs money: add --endpoint aws")
    arms = named_arms(given.methods)
    plans = plan_launches(
        [named_target(each, given.region) for each in given.targets],
        count=given.count,
        wanted=Stage.GRANTED,
        methods=arms,
    )
    every_s = PROBE_PAUSE_S if given.every_s is None else given.every_s
    rhythm = {"rounds": given.rounds, "every_s": every_s, "arm_pause_s": PROBE_PAUSE_S}
    require_rounds(Stage.GRANTED, arms=len(arms), **rhythm)
    logs = results_folder(given.results) / LAUNCHES
    connection = connect(given.endpoint, profile=given.profile)
    try:
        checked = preflight(connection, plans)
        if given.every_s is None:
            rhythm["every_s"] = checked.usual_every_s(PROBE_PAUSE_S, least_s=PROBE_PAUSE_S)
        print(*_cost_lines(checked, market_name(connection), rhythm), sep="\n")
        if checked.problems:
            return 1
        summary = _probe(connection, checked, logs, rhythm)
    finally:
        connection.close()
    print(*_result_lines(summary), sep="\n")
    return 1 if summary.problems else 0


def _probe(
    connection: Connection, checked: PreflightReport, logs: Path, rhythm: Mapping[str, Any]
) -> BatchSummary:
    now = datetime.now(UTC)
    return collect_batch(
        connection,
        checked,
        log=logs / f"{new_batch_id(now)}.jsonl",
        **rhythm,
        last_launches=last_launches(logs, since=now - timedelta(days=1)),
        notes={"selection": "spotlib probe"},
        on_poll=_show,
        on_wait=_show,
    )


def _show(now: Progress | Waiting) -> None:
    words = str(now)
    if isinstance(now, Progress):
        words = f"round {now.round + 1} of {now.rounds}: {now.ready} of {now.requests} {now.goal}"
    rewrite_line(words)


def _cost_lines(checked: PreflightReport, market: str, rhythm: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"warning: {each}" for each in checked.warnings)
    yield from (f"PROBLEM: {each}" for each in checked.problems)
    if checked.problems:  # then nothing is launched
        return
    yield from (f"warning: {each}" for each in checked.late_rounds(**rhythm))
    for each in checked.prepared:
        yield (
            f"{market}: {each.plan.target} by {each.plan.arm}: n={each.plan.count}, a probe is "
            f"expected to cost {usd(each.expected_usd)}, at most {usd(each.bound_usd)}"
        )
    yield rounds_words(checked, rhythm)
    yield from checked.cost_words()


def _result_lines(summary: BatchSummary) -> Iterator[str]:
    probes = name_runs(load_launches(summary.log)) if summary.log.exists() else None
    if probes is not None:
        why = why_not(probes)
        yield from granted_lines(share_granted(probes[why == ""]))
        yield from dict.fromkeys(f"not counted: {each}" for each in why[why != ""])
    yield f"recorded in {summary.log}"
    yield summary.last_line()
    yield from (f"warning: {each}" for each in summary.warnings)
    yield from (f"PROBLEM: {each}" for each in summary.problems)
