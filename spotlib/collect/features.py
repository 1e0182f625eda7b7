"""What is known of a target just before it is requested: price, placement score, IF.

It cannot be asked for later, so every batch records it beside each request, with when it was taken
and from where.  A value that cannot be had is missing and says why; nothing here stops a batch.
"""

import json
import math
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from spotlib.collect.images import LINUX, RUN_LINUX
from spotlib.ec2.clock import control
from spotlib.ec2.connection import Caller, Connection
from spotlib.ec2.patience import Patient
from spotlib.ec2.places import currency_of, home_region, is_aws
from spotlib.ec2.refusals import Refusal, reading
from spotlib.model import Plan, Target
from spotlib.record.events import Features

# AWS's own JSON behind the Spot Instance Advisor page: public, undocumented, about 1 MB.
_ADVISOR_HOST = "https://spot-bid-advisor.s3.amazonaws.com"
_ADVISOR_PATH = "/spot-advisor-data.json"
_MOST_SCORED_REGIONS = 10  # in one GetSpotPlacementScores
_SCORE_AGE_S = 600  # SpotLake sees scores change at most this often

_PATIENCE_S = 5.0

Answer = TypeVar("Answer")
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

    AWS limits how many *new* placement-score questions an account may ask per day (types, regions
    and count make one).  So the same question is asked for the whole batch, and its answer is kept
    for ten minutes.  ``selection`` supplies IF where the advisor cannot be had, ``products`` what a
    target's image runs if it is not Linux.  ``warnings`` says what could not be had, and why.

    A round waits for these answers, so each region is asked again for ``_PATIENCE_S`` only: a
    target is sent late by a few seconds at most, which is no measured time.
    """

    connection: Connection
    plans: Sequence[Plan]
    products: Mapping[Target, str] = field(default_factory=dict)
    placement_scores: bool = True
    advisor: bool = True
    selection: pd.DataFrame | None = None
    warnings: dict[str, str] = field(default_factory=dict)
    _scores: dict[Target, dict[str, Any]] = field(default_factory=dict)
    _scored_s: float = -math.inf
    _advised: dict[str, Any] | None = None

    def ask(self) -> dict[Target, Features]:
        """Return for each target what is known now: value, ``_at`` and ``_source`` of each."""
        patient = Patient(self.connection, most_s=_PATIENCE_S)
        self._ask_scores(patient)
        targets = [plan.target for plan in self.plans]
        prices = self._prices(patient, targets)
        return {
            target: Features(**prices[target], **self._scores[target], **self._interruption(target))
            for target in targets
        }

    def _optional(
        self, what: str, source: str, ask: Callable[[], Answer], missing: Answer
    ) -> tuple[Answer, str]:
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
        for plan in self.plans:
            self._scores[plan.target] = {"sps_source": "not asked"}
        for plans in _score_questions(self.plans) if self.placement_scores else ():
            self._ask_score(patient, plans)

    def _ask_score(self, patient: Patient, plans: Sequence[Plan]) -> None:
        asked_at = self.connection.clock.utc()
        scores, source = self._optional(
            f"the placement score of {plans[0].target.instance_type}",
            f"placement score for {plans[0].count}",
            partial(_placement_scores, patient, plans),
            dict[str, int](),
        )
        for plan in plans:
            score = scores.get(plan.target.availability_zone_id or plan.target.region)
            self._scores[plan.target] = {"sps": score, "sps_at": asked_at, "sps_source": source}

    def _interruption(self, target: Target) -> dict[str, Any]:
        if self.advisor:
            ask = partial(self._advisor_score, target)
            score, _ = self._optional("the Spot Advisor's score", "", ask, None)
            if score is not None:
                return score
        return self._selected(target) or {"if_source": "not known"}

    def _selected(self, target: Target) -> dict[str, Any] | None:
        table = self.selection
        if table is None or not {"if_mean", "created"} <= set(table.columns):
            return None
        here = table[
            (table["instance_type"] == target.instance_type) & (table["region"] == target.region)
        ]
        if here.empty:
            return None
        created = pd.to_datetime(here["created"].iloc[0], utc=True, errors="coerce")
        return {
            "if_score": float(here["if_mean"].iloc[0]),
            "if_at": None if pd.isna(created) else created.to_pydatetime(),
            "if_source": "selection",
        }

    def _advisor_score(self, target: Target) -> dict[str, Any] | None:
        if self._advised is None:
            self._advised = {"at": self.connection.clock.utc()}  # asked once, also if that fails
            self._advised |= _read_advisor(self.connection)
        types = self._advised.get("spot_advisor", {}).get(target.region, {}).get("Linux", {})
        score = advisor_score(types, target.instance_type)
        if math.isnan(score):
            return None
        return {"if_score": score, "if_at": self._advised["at"], "if_source": "spot advisor"}


def _placement_scores(patient: Patient, plans: Sequence[Plan]) -> dict[str, int]:
    """Return the score of each region, or of each zone if the plans name zones."""
    target = plans[0].target
    by_zone = target.availability_zone_id is not None
    reply = patient.call(
        target.region,
        "get_spot_placement_scores",
        quick=True,
        InstanceTypes=[target.instance_type],
        TargetCapacity=plans[0].count,
        SingleAvailabilityZone=by_zone,
        RegionNames=sorted({plan.target.region for plan in plans}),
        MaxResults=_MOST_SCORED_REGIONS,
    )
    place = "AvailabilityZoneId" if by_zone else "Region"
    return {item[place]: item["Score"] for item in reply["SpotPlacementScores"]}


def advisor_score(types: Mapping[str, Any], instance_type: str) -> float:
    """Return SpotLake's IF from the advisor's range: 3.0 under 5 % per month ... 1.0 over 20 %."""
    if instance_type not in types:
        return math.nan
    return 3.0 - 0.5 * float(types[instance_type]["r"])


def _read_advisor(connection: Connection) -> dict[str, Any]:
    """Return the Spot Advisor's JSON, from the sandbox or from AWS; other endpoints have none."""
    if connection.simulated:
        # It is computed when it is asked for, which takes a busy machine many seconds.
        url, patience_s = connection.url, 120.0
        return control(url, _ADVISOR_PATH, timeout_s=patience_s) if url else {}
    if not is_aws(connection.endpoint):
        return {}
    with urllib.request.urlopen(_ADVISOR_HOST + _ADVISOR_PATH, timeout=10) as reply:
        return dict(json.load(reply))


def _score_questions(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Group the plans that one call answers: the same type, count and kind of placement."""
    groups: dict[tuple[str, int, str], list[Plan]] = {}
    for plan in plans:
        key = (plan.target.instance_type, plan.count, plan.target.placement)
        groups.setdefault(key, []).append(plan)
    most = _MOST_SCORED_REGIONS
    return [some[i : i + most] for some in groups.values() for i in range(0, len(some), most)]


def since_last_launch_s(
    last_launches: Mapping[Target, datetime], target: Target, now: datetime
) -> float | None:
    """Return the seconds since our own last launch of a target: its effect may still be felt."""
    if target not in last_launches:
        return None
    return (now - last_launches[target]) / timedelta(seconds=1)
