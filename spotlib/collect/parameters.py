"""The notebooks' parameters: typed, checked together, and an unknown name refused.

papermill hands over what it was given without looking: ``-p dry_run false`` arrives as text and a
misspelt name is only warned of.  So the cell after the parameters checks them all at once, and
every complaint says what was wrong, what was seen and what is allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.ec2.connection import is_aws
from spotlib.model import (
    MOST_INSTANCES_PER_CALL,
    Plan,
    Stage,
    Target,
    plan_launches,
    require_intervals,
)
from spotlib.record.selection_file import newest_selection, read_selection, selection_targets
from spotlib.sandbox.numbers import CALM, parse_market

# What the sandbox measures when nothing was selected: the head of the published ranking for
# August 2024, from which the question came.
BUILTIN_TARGETS = (
    Target("t3.nano", "sa-east-1"),
    Target("t3.medium", "sa-east-1"),
    Target("t4g.medium", "ap-northeast-3"),
)


@dataclass(frozen=True)
class CollectParameters:
    """The parameters of ``02_collect``; the notebook explains each."""

    n: int
    selection: str
    top: int
    instance_type: str
    region: str
    availability_zone_id: str
    rounds: int
    every_s: float
    endpoint: str
    market: str
    profile: str
    account_id: str
    ready: str
    timeout_s: float
    poll_s: float
    image: str
    max_price_usd: float
    budget_usd: float
    campaign_budget_usd: float
    placement_scores: bool
    dry_run: bool
    speed: float
    seed: int
    results: str

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, all of it at once."""
        problems = [words for wrong, words in self._rules() if wrong]
        try:
            require_intervals(timeout_s=self.timeout_s, poll_s=self.poll_s)
        except ValueError as error:
            problems.append(str(error))
        try:
            parse_market(self.market or CALM)
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))

    def _rules(self) -> list[tuple[bool, str]]:
        sandbox, known = self.endpoint == "sandbox", self.endpoint in ("sandbox", "aws")
        url = self.endpoint.startswith(("http://", "https://"))
        pair = bool(self.instance_type) + bool(self.region)
        return [
            (
                not 1 <= self.n <= MOST_INSTANCES_PER_CALL,
                f"n must be from 1 to {MOST_INSTANCES_PER_CALL} instances per target, got {self.n}",
            ),
            (self.top < 1, f"top must be at least 1 target, got {self.top}"),
            (self.rounds < 1, f"rounds must be at least 1, got {self.rounds}"),
            (self.every_s <= 0, f"every_s must be above 0 seconds, got {self.every_s}"),
            (
                self.ready not in ("ready", "running"),
                f"ready must be 'ready' (status checks ok) or 'running', got {self.ready!r}",
            ),
            (
                not (known or url),
                f"endpoint must be 'sandbox' (free), 'aws' (costs money) or a URL, "
                f"got {self.endpoint!r}",
            ),
            (
                pair == 1,
                "instance_type and region belong together, got "
                f"{self.instance_type!r} and {self.region!r}",
            ),
            (
                bool(self.availability_zone_id) and pair != 2,
                "availability_zone_id needs an instance_type and a region",
            ),
            (
                bool(self.selection) and pair > 0,
                "give either a selection or an instance_type and a region, not both",
            ),
            (
                bool(self.profile) and sandbox,
                "profile is for AWS, the sandbox has none: set endpoint='aws'",
            ),
            (
                bool(self.market) and is_aws(self.endpoint),
                'market is for the sandbox, AWS has its own: leave it ""',
            ),
            (self.speed < 0, f"speed must be 0 (virtual time) or above, got {self.speed}"),
            *(
                (getattr(self, name) < 0, f"{name} must be 0 or above, got {getattr(self, name)}")
                for name in ("max_price_usd", "budget_usd", "campaign_budget_usd")
            ),
        ]

    @property
    def market_seed(self) -> int | None:
        """The seed, or None to draw one."""
        return self.seed if self.seed >= 0 else None

    @property
    def schedule(self) -> dict[str, Any]:
        """What ``collect`` is told of the rounds, the looks, the seed and the budgets."""
        return {
            "rounds": self.rounds,
            "every_s": self.every_s,
            "poll_s": self.poll_s,
            "seed": self.market_seed,
            "placement_scores": self.placement_scores,
            "budget_usd": self.budget_usd or None,
            "campaign_budget_usd": self.campaign_budget_usd or None,
        }

    def plans(self, targets: Sequence[Target]) -> list[Plan]:
        """One plan for each target."""
        return plan_launches(
            targets,
            count=self.n,
            timeout_s=self.timeout_s,
            wanted=Stage[self.ready.upper()],
            image=self.image or None,
            max_price_usd=self.max_price_usd or None,
        )


@dataclass(frozen=True)
class Choice:
    """What is to be measured, and a sentence that says why these.

    ``market`` is the sandbox's market to measure in: the one named, else that of the archive which
    selected the targets; "" where nobody said.
    """

    targets: tuple[Target, ...]
    words: str
    selection: pd.DataFrame | None = None
    path: Path | None = None
    market: str = ""

    def require_market(self, market: str | None) -> None:
        """Refuse an endpoint whose market is another; None is one that tells of no market.

        Raises
        ------
        ValueError
            If what was selected in one market would be launched in another.
        """
        if market is not None and self.market and market != self.market:
            raise ValueError(
                f"these targets are for the sandbox's market {self.market}, and the endpoint is of "
                f"the market {market}: start it with --market {self.market}, or select again"
            )


def targets_to_collect(parameters: CollectParameters, results: Path) -> Choice:
    """The targets that the parameters name, or those of the newest selection.

    Raises
    ------
    ValueError
        If there is none to take, or a simulated selection would be launched on AWS.
    """
    given = parameters
    if given.instance_type:
        one = Target(given.instance_type, given.region, given.availability_zone_id or None)
        return Choice((one,), f"{one}, as given", market=given.market)
    path = Path(given.selection) if given.selection else newest_selection(results)
    if path is None:
        return _builtin(given)
    path = path if path.exists() else results / "selection" / path
    table = read_selection(path)
    if is_aws(given.endpoint) and table["source"].iloc[0] != "spotlake":
        raise ValueError(
            f"selection {path.name} is simulated, and AWS costs money: run 01_select on a real "
            "SpotLake archive, or give an instance_type and a region"
        )
    market = _market_of(table)
    if market and given.market and given.market != market:
        raise ValueError(
            f"selection {path.name} was made in the sandbox's market {market}, and "
            f'market={given.market!r} was asked for: leave market "", or select again'
        )
    chosen = tuple(selection_targets(table, top=given.top))
    words = f"the first {len(chosen)} of {len(table)} targets of {path.name}"
    words += f", from {table['source'].iloc[0]}" + f", market {market}" * bool(market)
    return Choice(chosen, words, table, path, given.market or market)


def _market_of(selection: pd.DataFrame) -> str:
    """The sandbox's market whose archive selected these; "" for a real archive."""
    if selection["source"].iloc[0] != "sandbox":
        return ""
    return str(selection["market"].iloc[0]) if "market" in selection else CALM


def _builtin(given: CollectParameters) -> Choice:
    if given.endpoint != "sandbox":
        raise ValueError(
            f"endpoint={given.endpoint!r} needs targets: write a selection with 01_select, or give "
            "an instance_type and a region"
        )
    chosen = BUILTIN_TARGETS[: given.top]
    words = f"no selection is written yet, so a built-in list: {len(chosen)} targets"
    return Choice(chosen, words, market=given.market)
