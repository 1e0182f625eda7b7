"""The parameters of ``02_collect``: their ranges, and the targets that they name.

Every message says what is wrong, the value seen and what is allowed; types are checked by
``spotlib.parameters``.  Nothing here calls EC2.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.collect.cost import USUAL_EVERY_S, PreflightReport
from spotlib.collect.schedule import (
    require_end,
    require_intervals,
    require_pauses,
    require_probe_pauses,
    usual_poll_s,
)
from spotlib.ec2.endpoints import require_endpoint, starts_sandbox
from spotlib.ec2.places import is_aws
from spotlib.errors import ParameterError, did_you_mean
from spotlib.model import (
    ARMS,
    DEFAULT_METHOD,
    MOST_INSTANCES_PER_CALL,
    MOST_SEED,
    Plan,
    Stage,
    Target,
    plan_launches,
    require_arms,
    require_events,
    require_watched_usable,
    usual_timeout_s,
)
from spotlib.parameters import problems_of, require_no_problems
from spotlib.record.selection_file import newest_selection, read_selection, selection_targets
from spotlib.sandbox.clock import MOST_SPEED
from spotlib.sandbox.numbers import FITTED, parse_market
from spotlib.words import counted, listed

# What the sandbox measures without a selection: the first targets of the published ranking for
# August 2024, which raised the question of this project.
BUILTIN_TARGETS = (
    Target("t3.nano", "sa-east-1"),
    Target("t3.medium", "sa-east-1"),
    Target("t4g.medium", "ap-northeast-3"),
)

_STAGES = {
    "ready": Stage.READY,
    "usable": Stage.USABLE,
    "running": Stage.RUNNING,
    "granted": Stage.GRANTED,
    "accepted": Stage.GRANTED,  # the word of the public data sets
}


_USUAL = {  # what 0 stands for
    "timeout_s": "for the usual (600, of a probe 30)",
    "poll_s": "for the usual (3, of a probe 0.5)",
    "every_s": f"for the usual ({USUAL_EVERY_S:g}, or as long as a round may last)",
    "max_price_usd": "to leave it to EC2",
    "budget_usd": "for no limit",
    "campaign_budget_usd": "for no limit",
}


@dataclass(frozen=True)
class CollectParameters:
    """The parameters of ``02_collect``; the notebook explains each."""

    n: int
    selection: str
    top: int
    instance_type: str
    region: str
    availability_zone_id: str
    methods: str
    arm_pause_s: float
    rounds: int
    every_s: float
    endpoint: str
    market: str
    profile: str
    account_id: str
    ready: str
    usable: bool
    events: bool | str
    timeout_s: float
    poll_s: float
    image: str
    allow_any_image: bool
    max_price_usd: float
    budget_usd: float
    campaign_budget_usd: float
    placement_scores: bool
    t3: bool
    dry_run: bool
    speed: float
    seed: int
    results: str

    def __post_init__(self) -> None:
        """Report every invalid value at once."""
        require_no_problems([*self._out_of_range(), *self._conflicts(), *self._negative()])

    def _out_of_range(self) -> Iterator[str]:
        if not 1 <= self.n <= MOST_INSTANCES_PER_CALL:
            most = MOST_INSTANCES_PER_CALL
            yield f"n must be from 1 to {most} instances per target, got {self.n}"
        if self.top < 1:
            yield f"top must be at least 1 target, got {self.top}"
        if self.ready not in _STAGES:
            yield (
                "ready must be 'ready' (status checks ok), 'usable' (the guest says so), "
                f"'running', or 'granted' (a probe), got {self.ready!r}"
                f"{did_you_mean(self.ready, _STAGES)}"
            )
        every_s = self._or_usual("every_s", USUAL_EVERY_S)  # a round's length is not known yet
        yield from problems_of(require_pauses, every_s=every_s, arm_pause_s=self.arm_pause_s)
        yield from problems_of(require_end, rounds=self.rounds, every_s=every_s)
        yield from problems_of(require_arms, self.methods.split())
        yield from problems_of(require_endpoint, self.endpoint)
        yield from problems_of(
            require_intervals,
            timeout_s=self._or_usual("timeout_s", usual_timeout_s(self.wanted)),
            poll_s=self._or_usual("poll_s", usual_poll_s(self.wanted)),
        )
        if self.wanted is Stage.GRANTED:
            yield from problems_of(
                require_probe_pauses,
                rounds=self.rounds,
                every_s=every_s,
                arms=len(self.methods.split()),
                arm_pause_s=self.arm_pause_s,
            )
        yield from problems_of(require_events, self.events)
        yield from problems_of(require_watched_usable, self.wanted, usable=self.usable)
        yield from problems_of(parse_market, self.market or FITTED)

    def _conflicts(self) -> Iterator[str]:
        named = len(self.instance_type.split()) * len(self.region.split())
        any_name = bool(self.instance_type or self.region)
        if any_name and not named:
            given, lacks, such = ("instance_type", "region", "us-east-1")
            if self.region.strip():
                given, lacks, such = "region", "instance_type", "t3.nano"
            yield (
                f"{lacks} is missing: {given}={getattr(self, given)!r} needs one, such as "
                f"{such!r}; or leave {given} out, and the targets are those of a selection"
            )
        if self.availability_zone_id and named != 1:
            yield (
                "availability_zone_id needs one instance_type and one region, got "
                f"{self.availability_zone_id!r} with {self.instance_type!r} and {self.region!r}"
            )
        if self.selection and any_name:
            yield "set either a selection or an instance_type and a region, not both"
        if self.profile and starts_sandbox(self.endpoint):
            yield "profile is for AWS, the sandbox has none: set endpoint='aws'"
        if self.account_id and not re.fullmatch("[0-9]{12}", self.account_id):
            yield f"account_id must be 12 digits, zeros in front included, got {self.account_id!r}"
        if self.market and is_aws(self.endpoint):
            yield 'market is for the sandbox, AWS has its own: leave it ""'

    def _negative(self) -> Iterator[str]:
        for name, usual in _USUAL.items():
            if getattr(self, name) < 0:
                yield f"{name} must be above 0, or 0 {usual}, got {getattr(self, name)}"
        if not 0 <= self.speed <= MOST_SPEED:
            yield f"speed must be from 0 (virtual time) to {MOST_SPEED:.0f}, got {self.speed}"
        if self.seed > MOST_SEED:
            yield f"seed must be at most {MOST_SEED}, got {self.seed}"

    def _or_usual(self, name: str, usual_s: float) -> float:
        """The seconds of a parameter, where 0 means the usual ones."""
        seconds: float = getattr(self, name)
        return seconds if seconds > 0 else usual_s

    @property
    def wanted(self) -> Stage:
        """The stage that is waited for."""
        return _STAGES.get(self.ready, Stage.READY)

    @property
    def market_seed(self) -> int | None:
        """The seed; None draws one."""
        return self.seed if self.seed >= 0 else None

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``collect_batch`` for polls, seed, features and budgets."""
        return {
            "poll_s": self.poll_s or None,
            "seed": self.market_seed,
            **self.scores,
            "events": self.events,
            "budget_usd": self.budget_usd or None,
            "campaign_budget_usd": self.campaign_budget_usd or None,
        }

    def rhythm(self, checked: PreflightReport) -> dict[str, Any]:
        """When rounds begin, and the pause within one; the default depends on the plans."""
        every_s = self.every_s or checked.usual_every_s(self.arm_pause_s)
        return {"rounds": self.rounds, "every_s": every_s, "arm_pause_s": self.arm_pause_s}

    @property
    def scores(self) -> dict[str, bool]:
        """Which placement scores are asked for."""
        return {"placement_scores": self.placement_scores, "t3": self.t3}

    def plans(self, targets: Sequence[Target]) -> list[Plan]:
        """Return one plan per target and launch method."""
        return plan_launches(
            targets,
            count=self.n,
            timeout_s=self.timeout_s or None,
            wanted=self.wanted,
            image=self.image or None,
            max_price_usd=self.max_price_usd or None,
            methods=self.methods.split(),
            usable=self.usable,
        )


@dataclass(frozen=True)
class Choice:
    """The targets to measure, and a phrase that says where they come from.

    ``market`` is the sandbox's market to measure in: the one named, else the one whose archive
    selected the targets; "" if neither is known.
    """

    targets: tuple[Target, ...]
    origin: str
    selection: pd.DataFrame | None = None
    market: str = ""

    def words(self, plans: Sequence[Plan]) -> str:
        """Say how many targets there are, in how many plans if some are launched in several ways.

        Examples
        --------
        >>> from spotlib import Target, plan_launches
        >>> from spotlib.collect.parameters import Choice
        >>> nano = Target("t3.nano", "us-east-1")
        >>> arms = ["request_spot_instances", "run_instances"]
        >>> Choice((nano,), "as given").words(plan_launches([nano], count=1, methods=arms))
        '1 target, 2 plans: as given'
        """
        several = f", {counted(len(plans), 'plan')}" * (len(plans) > len(self.targets))
        return f"{counted(len(self.targets), 'target')}{several}: {self.origin}"

    def require_market(self, market: str | None) -> None:
        """Refuse an endpoint that plays another market; ``market`` is None if it names none.

        Raises
        ------
        ValueError
            If targets selected in one market would be launched in another.
        """
        if market is not None and self.market and market != self.market:
            raise ParameterError(
                f"these targets are for the sandbox's market {self.market}, but the endpoint plays "
                f"{market}: start it with --market {self.market}, or select again"
            )


def named_target(text: str, region: str) -> Target:
    """Return the target that a command names; ``region`` is that of a type alone.

    Examples
    --------
    >>> from spotlib.collect.parameters import named_target
    >>> str(named_target("t3.nano@sa-east-1/sae1-az2", "us-east-1"))
    't3.nano in sae1-az2'
    """
    name, at, place = text.partition("@")
    slash = zone = ""
    if at:
        region, slash, zone = place.partition("/")
    try:
        return Target(name, region, zone if slash else None)
    except ValueError as error:
        raise ValueError(f"{error}; write a target as t3.nano@us-east-1") from error


def add_methods(parser: argparse.ArgumentParser) -> None:
    """Add ``--methods`` to a command; it takes one value, so that targets may follow it."""
    parser.add_argument(
        "--methods",
        action="append",
        metavar="METHODS",
        help=f'with spaces between, as "run_instances run_instances:on-demand"; of '
        f"{', '.join(ARMS)}; default: {DEFAULT_METHOD}",
    )


def named_arms(methods: Sequence[str] | None) -> list[str]:
    """Return the arms that the values of ``--methods`` name; without any, the default method.

    Examples
    --------
    >>> from spotlib.collect.parameters import named_arms
    >>> named_arms(["run_instances run_instances:on-demand", "create_fleet_instant"])
    ['run_instances', 'run_instances:on-demand', 'create_fleet_instant']
    """
    return [DEFAULT_METHOD] if methods is None else " ".join(methods).split()


def targets_to_collect(parameters: CollectParameters, results: Path) -> Choice:
    """Return the targets that the parameters name, else those of the newest selection.

    Raises
    ------
    ValueError
        If there is no target, or a simulated selection would be launched on AWS.
    """
    given = parameters
    if given.instance_type:
        pairs = dict.fromkeys(product(given.instance_type.split(), given.region.split()))
        named = tuple(Target(*each, given.availability_zone_id or None) for each in pairs)
        return Choice(named, f"{listed([*map(str, named)])}, as given", market=given.market)
    path = Path(given.selection) if given.selection else newest_selection(results)
    if path is None:
        return _builtin(given)
    path = path if path.exists() else results / "selection" / path
    table = read_selection(path)
    if is_aws(given.endpoint) and table["source"].iloc[0] != "spotlake":
        raise ParameterError(
            f"selection {path.name} is simulated, and AWS costs money: run 01_select on a real "
            "SpotLake archive, or set instance_type and region"
        )
    market = _market_of(table)
    if market and given.market and given.market != market:
        raise ParameterError(
            f"selection {path.name} was made in the sandbox's market {market}, not in "
            f'market={given.market!r}: leave market "", or select again'
        )
    chosen = tuple(selection_targets(table, top=given.top))
    origin = f"the first {len(chosen)} of {len(table)} targets of {path.name}"
    origin += f", from {table['source'].iloc[0]}" + f", market {market}" * bool(market)
    return Choice(chosen, origin, table, given.market or market)


def _market_of(selection: pd.DataFrame) -> str:
    """Return the sandbox's market whose archive was read; "" for a real archive."""
    if selection["source"].iloc[0] != "sandbox":
        return ""
    return str(selection["market"].iloc[0]) if "market" in selection else "calm"


def _builtin(given: CollectParameters) -> Choice:
    if not starts_sandbox(given.endpoint):
        raise ParameterError(
            f"endpoint={given.endpoint!r} needs targets: write a selection with 01_select, or set "
            "instance_type and region"
        )
    chosen = BUILTIN_TARGETS[: given.top]
    origin = "no selection is written yet, so a built-in list"
    return Choice(chosen, origin, market=given.market)
