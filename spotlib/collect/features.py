"""What is known of a target just before it is requested: price, placement scores, IF.

These values cannot be queried later, so every batch records them with each request, with their time
and source.  If a value is not available it is missing, and the source says why; nothing here stops
a batch.
"""

import json
import math
import urllib.request
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import pandas as pd

from spotlib.collect.images import LINUX, RUN_LINUX
from spotlib.ec2.caller import Caller
from spotlib.ec2.clock import control
from spotlib.ec2.connection import Connection
from spotlib.ec2.patience import Patient
from spotlib.ec2.places import currency_of, home_region, is_aws
from spotlib.ec2.refusals import Refusal, reading
from spotlib.model import T3_SOURCES, Plan, Target
from spotlib.record.events import Features

# AWS's own JSON behind the Spot Instance Advisor page: public, undocumented, about 1 MB.
_ADVISOR_HOST = "https://spot-bid-advisor.s3.amazonaws.com"
_ADVISOR_PATH = "/spot-advisor-data.json"
_MOST_SCORED_REGIONS = 10  # in one GetSpotPlacementScores
_SCORE_AGE_S = 600  # SpotLake sees scores change at most this often
# T3 is always asked at these same capacities: another one would be a new question.
LADDER = (1, 2, 5, 10, 20, 50)
# Asked for one type, EC2 gives 1 to 3 of its 10; since September 2025 some GPU types get more.
_GOOD_SCORE = 3
_MOST_T3 = 1000  # in a selection; SpotLake asks for up to 50

_PATIENCE_S = 5.0

Value = TypeVar("Value")
PriceHistory = dict[str, dict[str, tuple[float, datetime]]]


def spot_prices(
    connection: Caller, region: str, names: Iterable[str], *, product: str = LINUX
) -> PriceHistory:
    """Return ``{type: {zone id: (USD per hour, since when)}}`` in force now, from the history.

    Where EC2 states them in another currency they are unknown.
    """
    if currency_of(region) != "USD":
        return {}
    now = connection.server_utc()
    prices: PriceHistory = {}
    for item in connection.pages(
        region,
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=sorted(names),
        ProductDescriptions=[product],
        StartTime=now,
        EndTime=now,
    ):
        zone = item.get("AvailabilityZoneId") or item["AvailabilityZone"]
        with reading("price", action="describe_spot_price_history", region=region):
            price = (float(item["SpotPrice"]), item["Timestamp"])
        zones = prices.setdefault(item["InstanceType"], {})
        zones[zone] = max(zones.get(zone, price), price, key=lambda each: each[1])
    return prices


def target_price(prices: PriceHistory, target: Target) -> tuple[float, datetime | None]:
    """Return the price of a zone target, or the cheapest zone's of a region target; NaN unknown."""
    zones = prices.get(target.instance_type, {})
    if target.availability_zone_id:
        return zones.get(target.availability_zone_id, (math.nan, None))
    return min(zones.values(), key=lambda each: each[0], default=(math.nan, None))


def on_demand_usd(connection: Caller, target: Target, *, operation: str = RUN_LINUX) -> float:
    """Return the on-demand price per hour (shared tenancy) from the price list; or NaN.

    ``operation`` is the usage operation of the image: what it runs, with which licence.

    It is NaN where no price in USD is listed: in other currencies, and in partitions without a
    price list.

    Raises
    ------
    Refusal
        If the price list may not or cannot be read.
    """
    if not connection.region_names(target.region, "pricing"):
        return math.nan
    wanted = {
        "instanceType": target.instance_type,
        "regionCode": target.region,
        "operation": operation,
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    reply = connection.call(
        home_region(target.region),
        "get_products",
        service="pricing",
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()],
    )
    with reading("price list", action="get_products", region=target.region):
        found = [
            float(dimension["pricePerUnit"].get("USD", "nan"))
            for product in map(json.loads, reply["PriceList"])
            for term in product["terms"].get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        ]
    # The highest: a bound must not be too low.
    return max((usd for usd in found if not math.isnan(usd)), default=math.nan)


@dataclass
class FeatureSource:
    """Asks for the features of the targets, once per round.

    AWS limits how many *new* placement-score questions an account may ask per day (a question is a
    combination of types, regions and count).  Therefore the whole batch asks the same questions,
    and an answer is kept for ten minutes.  ``t3`` asks up to six more for each type.  ``selection``
    supplies IF where the advisor cannot be had, and T3 where it is not asked; ``products`` what a
    target's image runs if it is not Linux.  ``warnings`` says what could not be had, and why.

    A round waits for these answers, so a region is retried for ``_PATIENCE_S`` only.  A target is
    then sent a few seconds late at most, which is not part of a measured time.
    """

    connection: Connection
    plans: Sequence[Plan]
    products: Mapping[Target, str] = field(default_factory=dict)
    placement_scores: bool = True
    t3: bool = False
    advisor: bool = True
    selection: pd.DataFrame | None = None
    warnings: dict[str, str] = field(default_factory=dict)
    _scores: dict[Target, dict[str, Any]] = field(default_factory=dict)
    _answers: dict["_Question", dict[str, int]] = field(default_factory=dict)
    _scored_s: float = -math.inf
    _advised: dict[str, Any] | None = None

    def ask(self) -> dict[Target, Features]:
        """Return for each target what is known now: value, ``_at`` and ``_source`` of each."""
        patient = Patient(self.connection, most_s=_PATIENCE_S)
        self._ask_scores(patient)
        targets = [plan.target for plan in self.plans]
        prices = self._prices(patient, targets)
        return {
            target: Features(
                **prices[target],
                **self._scores[target],
                **({} if self.t3 else self._selected_t3(target)),
                **self._interruption(target),
            )
            for target in targets
        }

    def _optional(
        self, what: str, source: str, ask: Callable[[], Value], missing: Value
    ) -> tuple[Value, str]:
        """Return the answer and its source; if there is none, warn and return what is missing."""
        try:
            return ask(), source
        except Exception as error:  # noqa: BLE001 - whatever it is, a feature never ends a batch
            why = str(error) if isinstance(error, Refusal) else repr(error)
            self.warnings.setdefault(what, f"{what} is not recorded: {why}")
            return missing, f"not known: {getattr(error, 'code', type(error).__name__)}"

    def _prices(self, patient: Patient, targets: Sequence[Target]) -> dict[Target, dict[str, Any]]:
        found: dict[Target, dict[str, Any]] = {}
        places = {(each.region, self.products.get(each, LINUX)): None for each in targets}
        for region, product in sorted(places):
            here = [
                each
                for each in targets
                if (each.region, self.products.get(each, LINUX)) == (region, product)
            ]
            asked_at, names = self.connection.clock.utc(), {each.instance_type for each in here}
            prices, source = self._optional(
                f"the spot price in {region}",
                "spot price history",
                partial(spot_prices, patient, region, names, product=product),
                PriceHistory(),
            )
            for target in here:
                price_usd, since = target_price(prices, target)
                found[target] = {
                    "price_usd": price_usd,
                    "price_at": asked_at,
                    "price_source": source,
                    "price_changed_at": since,
                }
        return found

    def _ask_scores(self, patient: Patient) -> None:
        now_s = self.connection.clock.now_s()
        if now_s - self._scored_s < _SCORE_AGE_S:
            return
        self._scored_s = now_s
        self._answers.clear()
        for plan in self.plans:
            self._scores[plan.target] = {"sps_source": "not asked"}
        for plans in _score_groups(self.plans) if self.placement_scores else ():
            self._ask_score(patient, plans)
        for plans in _ladder_groups(self.plans) if self.t3 else ():
            self._ask_t3(patient, plans)

    def _ask_score(self, patient: Patient, plans: Sequence[Plan]) -> None:
        asked_at = self.connection.clock.utc()
        scores, source = self._optional(
            f"the placement score of {plans[0].target.instance_type}",
            f"placement score for {plans[0].count}",
            partial(self._answer, patient, _question(plans, plans[0].count)),
            dict[str, int](),
        )
        for plan in plans:
            score = scores.get(_place(plan.target))
            self._scores[plan.target] |= {"sps": score, "sps_at": asked_at, "sps_source": source}

    def _ask_t3(self, patient: Patient, plans: Sequence[Plan]) -> None:
        """Ask for larger and larger capacities until all these targets are scored below 3."""
        asked_at, source = self.connection.clock.utc(), ""
        scores: dict[Target, list[int | None]] = {plan.target: [] for plan in plans}
        for capacity in LADDER:
            found, source = self._optional(
                f"the T3 of {plans[0].target.instance_type}",
                "not known: another place had a better score",
                partial(self._answer, patient, _question(plans, capacity)),
                None,
            )
            if found is None:
                break
            for target, seen in scores.items():
                seen.append(found.get(_place(target)))
            if not any(seen[-1] and seen[-1] >= _GOOD_SCORE for seen in scores.values()):
                break
        for target, seen in scores.items():
            t3 = t3_of(seen)
            why = source if t3 is None else T3_SOURCES[0]
            self._scores[target] |= {"t3": t3, "t3_at": asked_at, "t3_source": why}

    def _answer(self, patient: Patient, question: "_Question") -> dict[str, int]:
        """Ask a question once: the score for ``n`` instances is often on the ladder too."""
        if question not in self._answers:
            self._answers[question] = _placement_scores(patient, question)
        return self._answers[question]

    def _interruption(self, target: Target) -> dict[str, Any]:
        if self.advisor:
            ask = partial(self._advisor_score, target)
            score, _ = self._optional("the Spot Advisor's score", "", ask, None)
            if score is not None:
                return score
        return self._selected_interruption(target) or {"if_source": "not known"}

    def _selected(self, target: Target) -> "pd.Series[Any]":
        """Return the target's row of the selection; an empty one if there is none.

        For a zone it is the zone's own row, or else that of the whole region.
        """
        table = pd.DataFrame() if self.selection is None else self.selection
        for name in ("instance_type", "region"):
            table = table[table[name] == getattr(target, name)] if name in table else table[:0]
        if (zone := "availability_zone_id") in table:
            own = table[table[zone] == target.availability_zone_id]
            table = own if len(own) else table[table[zone].isna()]
        return table.iloc[0] if len(table) else pd.Series(dtype="object")

    def _selected_interruption(self, target: Target) -> dict[str, Any] | None:
        row = self._selected(target)
        score = pd.to_numeric(row.get("if_mean", math.nan), errors="coerce")
        if pd.isna(score):
            return None
        at = _instant(row.get("if_at"))
        return {"if_score": float(score), "if_at": at, "if_source": "selection"}

    def _selected_t3(self, target: Target) -> dict[str, Any]:
        """Return the T3 of the selection's archive: of a region, never of one of its zones."""
        row = self._selected(target)
        t3 = pd.to_numeric(row.get("t3", math.nan), errors="coerce")
        if target.availability_zone_id or not 0 <= t3 <= _MOST_T3:
            return {"t3_source": "not asked"}
        return {"t3": int(t3), "t3_at": _instant(row.get("t3_at")), "t3_source": T3_SOURCES[1]}

    def _advisor_score(self, target: Target) -> dict[str, Any] | None:
        if self._advised is None:
            self._advised = {"at": self.connection.clock.utc()}  # asked once, also if that fails
            regions = {plan.target.region for plan in self.plans}
            self._advised |= _read_advisor(self.connection, regions)
        types = self._advised.get("spot_advisor", {}).get(target.region, {}).get("Linux", {})
        score = advisor_score(types, target.instance_type)
        if math.isnan(score):
            return None
        return {"if_score": score, "if_at": self._advised["at"], "if_source": "spot advisor"}


class _Question(NamedTuple):
    """A question as AWS counts it: another type, capacity or set of regions is a new one."""

    instance_type: str
    capacity: int
    by_zone: bool
    regions: tuple[str, ...]


def _question(plans: Sequence[Plan], capacity: int) -> _Question:
    target, regions = plans[0].target, {plan.target.region for plan in plans}
    by_zone = target.availability_zone_id is not None
    return _Question(target.instance_type, capacity, by_zone, tuple(sorted(regions)))


def _place(target: Target) -> str:
    return target.availability_zone_id or target.region


def _placement_scores(patient: Patient, question: _Question) -> dict[str, int]:
    """Return the score of each region, or of each zone if the question is for zones."""
    reply = patient.call(
        question.regions[0],
        "get_spot_placement_scores",
        quick=True,
        InstanceTypes=[question.instance_type],
        TargetCapacity=question.capacity,
        SingleAvailabilityZone=question.by_zone,
        RegionNames=list(question.regions),
        MaxResults=_MOST_SCORED_REGIONS,
    )
    place = "AvailabilityZoneId" if question.by_zone else "Region"
    return {item[place]: item["Score"] for item in reply["SpotPlacementScores"]}


def t3_of(scores: Sequence[int | None]) -> int | None:
    """Return T3 from the scores for the first capacities of ``LADDER``; None if undecided.

    T3 is the largest capacity up to which each one is scored 3 or more; 0 if not even 1 is.

    >>> t3_of([3, 3, 2]), t3_of([1]), t3_of([3, 3]), t3_of([3, 3, 3, 3, 3, 9])
    (2, 0, None, 50)
    """
    t3 = 0
    for capacity, score in zip(LADDER, scores, strict=False):
        if score is None:
            return None
        if score < _GOOD_SCORE:
            return t3
        t3 = capacity
    return t3 if len(scores) == len(LADDER) else None


def score_questions(plans: Sequence[Plan], *, placement_scores: bool, t3: bool) -> int:
    """Return how many different placement-score questions a batch of these plans asks at most."""
    asked = {_question(group, group[0].count) for group in _score_groups(plans) if placement_scores}
    asked |= {
        _question(group, capacity) for group in _ladder_groups(plans) for capacity in LADDER if t3
    }
    return len(asked)


def _instant(text: object) -> datetime | None:
    """Return a time of a selection file; None if it has none that can be read."""
    found = pd.to_datetime(str(text), utc=True, errors="coerce")
    return None if pd.isna(found) else found.to_pydatetime()


def advisor_score(types: Mapping[str, Any], instance_type: str) -> float:
    """Return SpotLake's IF from the advisor's range: 3.0 under 5 % per month ... 1.0 over 20 %."""
    if instance_type not in types:
        return math.nan
    return 3.0 - 0.5 * float(types[instance_type]["r"])


def _read_advisor(connection: Connection, regions: Collection[str]) -> dict[str, Any]:
    """Return the Spot Advisor's JSON, from the sandbox or from AWS; other endpoints have none.

    AWS has one file of all regions; the sandbox computes what it is asked for, which takes it many
    seconds for all regions on a busy machine.
    """
    if connection.simulated:
        path = f"{_ADVISOR_PATH}?{urlencode({'region': sorted(regions)}, doseq=True)}"
        return control(connection.url, path, timeout_s=120.0) if connection.url else {}
    if not is_aws(connection.endpoint):
        return {}
    with urllib.request.urlopen(_ADVISOR_HOST + _ADVISOR_PATH, timeout=10) as reply:
        return dict(json.load(reply))


def _score_groups(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Group the plans that one call answers: the same type, count and kind of placement."""
    return _grouped(
        plans, lambda plan: (plan.target.instance_type, plan.target.placement, plan.count)
    )


def _ladder_groups(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Group the plans of one ladder.  All its questions are for all their regions, see above."""
    return _grouped(plans, lambda plan: (plan.target.instance_type, plan.target.placement))


def _grouped(plans: Sequence[Plan], key: Callable[[Plan], tuple[Any, ...]]) -> list[list[Plan]]:
    groups: dict[tuple[Any, ...], list[Plan]] = {}
    for plan in plans:
        groups.setdefault(key(plan), []).append(plan)
    most = _MOST_SCORED_REGIONS
    return [some[i : i + most] for some in groups.values() for i in range(0, len(some), most)]


def since_last_launch_s(
    last_launches: Mapping[Target, datetime], target: Target, now: datetime
) -> float | None:
    """Return the seconds since our own last launch of a target: it may still affect the pool."""
    if target not in last_launches:
        return None
    return (now - last_launches[target]) / timedelta(seconds=1)
