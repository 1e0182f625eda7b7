"""The tables and sentences of ``02_collect``: the plan before a launch, what came of it after.

Wording only.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.cleanup.unfinished import Unfinished
from spotlib.collect.cost import IF_ALL_DIES, PreflightReport
from spotlib.collect.features import LADDER, score_questions
from spotlib.collect.stopping import stopped_words
from spotlib.ec2.connection import Connection
from spotlib.ec2.events import EVENTS
from spotlib.ec2.fleets import FLEETS, fleets_of
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES
from spotlib.ec2.places import is_aws
from spotlib.figures import NOT_AWS, SIMULATED, banner_html, target_names
from spotlib.model import SPOT, Outcome
from spotlib.money import usd
from spotlib.record.events import ReleaseEvent
from spotlib.record.log import ends_clean, is_alive
from spotlib.record.replay import RecordedBatch, replay
from spotlib.words import counted, listed


def banner(connection: Connection) -> str:
    """Return one loud line: whether this is a pretend market, or costs money."""
    if connection.simulated:
        market = connection.market or "of a test"
        words = f"{SIMULATED}: a pretend market, {market}, world {connection.world}. "
        words += "No AWS, no cost."
        return banner_html(words, "simulated")
    if is_aws(connection.endpoint):
        return banner_html("AWS: the next cells spend real money.", "costs money")
    words = f"{NOT_AWS}: another program answers for EC2 at {connection.endpoint}, so its results "
    words += "say nothing about AWS. It is not known whether it costs money."
    return banner_html(words, "unknown")


def market_name(connection: Connection) -> str:
    """Return the name of the measured market, as tables show it."""
    if connection.simulated:
        return SIMULATED
    return "AWS" if is_aws(connection.endpoint) else f"{NOT_AWS} ({connection.endpoint})"


def plan_table(checked: PreflightReport, market: str) -> pd.DataFrame:
    """Return one row per target and launch method: what will be requested, its cost in USD."""
    rows = [
        {
            "market": market,
            "target": str(each.plan.target),
            "launched by": each.plan.arm,
            "n": each.plan.count,
            "largest n": each.largest_count,
            "vCPUs each": each.vcpus,
            "spot $/h": each.price_usd,
            "on demand $/h": each.on_demand_usd,
            "expected $": round(each.expected_usd, 4),
            "at most $": round(each.bound_usd, 4),
            "image": each.image_name or each.image,
        }
        for each in checked.prepared
    ]
    return pd.DataFrame(rows)


def rounds_words(checked: PreflightReport, rhythm: Mapping[str, Any]) -> str:
    """Say how many rounds there will be, how far apart, and what they cost.

    ``rhythm`` has ``rounds`` and ``every_s`` as ``collect_batch`` takes them.
    """
    rounds, every_s = rhythm["rounds"], rhythm["every_s"]
    often = counted(rounds, "round") + f", one every {every_s:g} s" * (rounds > 1)
    expected, most = (usd(rounds * each) for each in (checked.expected_usd, checked.bound_usd))
    return f"{often}: expected {expected}, at most {most} ({IF_ALL_DIES})"


def question_words(checked: PreflightReport, *, placement_scores: bool, t3: bool) -> str:
    """Say how many placement-score questions will be asked, because AWS limits new ones."""
    plans = [each.plan for each in checked.prepared]
    most = score_questions(plans, placement_scores=placement_scores, t3=t3)
    if t3:
        rungs = ", ".join(map(str, LADDER))
        how = f"T3 asks for {rungs} instances, up to the first that no target is scored 3 for"
    else:
        more = score_questions(plans, placement_scores=placement_scores, t3=True) - most
        how = f"t3=True would ask up to {more} more"
    asked = counted(most, "different question")
    return (
        f"placement scores: at most {asked}, free, asked again every ten "
        f"minutes at most; {how}. AWS limits how many new questions an account may ask per day, "
        "and does not say to how many."
    )


def outcome_table(launches: pd.DataFrame) -> pd.DataFrame:
    """Count the requests per target (rows) and outcome (columns), with what EC2 said of them.

    That is its status codes, why it says that instances ended, and how many failed a check.
    """
    named = launches.assign(
        target=target_and_arm(launches),
        outcome=pd.Categorical(launches["outcome"], [str(each) for each in Outcome]),
    )
    counts = named.groupby(["simulated", "target", "outcome"], observed=True).size()
    table = counts.unstack("outcome", fill_value=0)
    named["reason"] = named["instance_reason"] + " (" + named["instance_message"].fillna("") + ")"
    by_target = named.groupby(["simulated", "target"])
    return table.assign(
        **{
            "EC2's status codes": by_target["status_code"].agg(_counted),
            "why instances ended": by_target["reason"].agg(_counted),
            "impaired": by_target["impaired_by_s"].count(),
        }
    )


def target_and_arm(table: pd.DataFrame) -> "pd.Series[str]":
    """The target of each row, and how it was launched where that is not the same for all."""
    bought = ":" + table["purchase"].astype(str)
    arms = table["method"].astype(str) + bought.where(bought != f":{SPOT}", "")
    names = target_names(table)
    return names if arms.nunique() < 2 else names + ", " + arms


def ending(log: Path) -> str:
    """Return how a batch ended, as its log alone says: by itself, or closed by the guard."""
    record = replay(log, polls=False)
    if record is None:
        return f"{log.stem}: nothing is recorded yet"
    after_it = [each for each in record.releases if each.at is not None]  # a sweep writes ``at``
    if record.clean is None or not ends_clean(log):
        line = Unfinished(log, is_alive(log), record).line()
        return line + f"; so far the guard, or a sweep, {_ended(after_it)}" * bool(after_it)
    if record.clean.at is None:
        did = f"It {_ended(record.releases)}.  Confirmed: nothing is left."
        return f"Batch {log.stem} {_end_words(record)}.\n{did}"
    spent_usd = record.spent_at_most_usd or math.nan
    return (
        f"Batch {log.stem} was closed by the guard, or by a sweep: its own process had ended.\nIt "
        f"{_ended(after_it)}.  Confirmed at {record.clean.at:%H:%M:%S} UTC: nothing is left.\n"
        f"It can have cost at most {usd(spent_usd)} ({IF_ALL_DIES})."
    )


def _end_words(record: RecordedBatch) -> str:
    """How a batch ended that was closed by its own process; older logs do not name a stop."""
    begun, rounds = record.begun, record.batch.rounds
    stopped_by = record.clean.stopped_by if record.clean is not None else None
    if isinstance(stopped_by, str):
        last_round = max((number + 1 for number, _ in record.runs), default=0)
        return f"was {stopped_words(stopped_by, last_round, rounds)}"
    lacks = f"; of its {counted(rounds, 'round')} {begun} were launched" * (begun < rounds)
    return f"ended by itself{lacks}"


def _ended(releases: Iterable[ReleaseEvent]) -> str:
    passes = list(releases)
    ended = {name for each in passes for name in each.cancelled}
    queues = EVENTS.of(ended)
    rows, templates = FLEETS.of(ended), LAUNCH_TEMPLATES.of(ended)
    instances = {name for each in passes for name in each.terminated}
    requests = len(ended) - len(rows) - len(templates) - len(queues)
    words = [f"cancelled {counted(requests, 'request')}"]
    words += [f"deleted {counted(len(fleets_of(rows)), 'fleet')}"] * bool(rows)
    words += [f"deleted {counted(len(templates), 'launch template')}"] * bool(templates)
    words += ["deleted the queues and rules of EC2's events"] * bool(queues)
    return listed([*words, f"terminated {counted(len(instances), 'instance')}"])


def _counted(values: pd.Series) -> str:
    return ", ".join(f"{value} x{count}" for value, count in values.value_counts().items())
