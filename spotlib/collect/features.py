"""What is known of a target the moment before it is requested: price, placement score, IF.

It cannot be bought later, so every batch records it beside each request, with when it was taken
and from where.  Whatever cannot be had is NaN and says why; nothing here stops a batch.
"""

import json
import math
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from spotlib.ec2.clock import control
from spotlib.ec2.connection import Connection, is_aws
from spotlib.ec2.refusals import Refusal
from spotlib.model import Plan, Target

PRICING_REGION = "us-east-1"
# AWS's own JSON behind the Spot Instance Advisor page: public, undocumented, about 1 MB.
_ADVISOR_HOST = "https://spot-bid-advisor.s3.amazonaws.com"
_ADVISOR_PATH = "/spot-advisor-data.json"
_MOST_SCORED_REGIONS = 10  # in one GetSpotPlacementScores
_SCORE_AGE_S = 600  # SpotLake sees scores change at most this often

Known = dict[Target, dict[str, Any]]  # the fields of an intent's ``known``
PriceHistory = dict[str, dict[str, tuple[float, datetime]]]


def spot_prices(connection: Connection, region: str, names: Iterable[str]) -> PriceHistory:
    """``{type: {zone id: (USD an hour, since when)}}`` in force now, from the price history."""
    now = connection.server_utc()
    prices: PriceHistory = {}
    for item in connection.pages(
        region,
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=sorted(names),
        ProductDescriptions=["Linux/UNIX"],
        StartTime=now,
        EndTime=now,
    ):
        zone = item.get("AvailabilityZoneId") or item["AvailabilityZone"]
        price = (float(item["SpotPrice"]), item["Timestamp"])
        zones = prices.setdefault(item["InstanceType"], {})
        zones[zone] = max(zones.get(zone, price), price, key=lambda each: each[1])
    return prices


def target_price(prices: PriceHistory, target: Target) -> tuple[float, datetime | None]:
    """The price for a zone target; for a region target, where EC2 chooses, the cheapest zone's."""
    zones = prices.get(target.instance_type, {})
    if target.availability_zone_id:
        return zones.get(target.availability_zone_id, (math.nan, None))
    return min(zones.values(), key=lambda each: each[0], default=(math.nan, None))


def on_demand_usd(connection: Connection, target: Target) -> float:
    """The on-demand price per hour, Linux and shared tenancy, from the price list; or NaN.

    Raises
    ------
    Refusal
        If the price list may not be read.
    """
    wanted = {
        "instanceType": target.instance_type,
        "regionCode": target.region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    reply = connection.call(
        PRICING_REGION,
        "get_products",
        service="pricing",
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()],
    )
    found = [
        float(dimension["pricePerUnit"]["USD"])
        for product in map(json.loads, reply["PriceList"])
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
    ]
    return max(found, default=math.nan)  # a bound must not be too low


@dataclass
class Features:
    """Asks for what is known, once a round, and remembers what may not be asked too often.

    AWS limits how many *new* placement-score questions an account may ask a day (types, regions
    and count make one), so the same question is asked for the whole batch, and its answer kept
    for ten minutes.  ``selection`` supplies IF where the advisor cannot be had.
    """

    connection: Connection
    plans: Sequence[Plan]
    placement_scores: bool = True
    advisor: bool = True
    selection: pd.DataFrame | None = None
    _scores: dict[Target, dict[str, Any]] = field(default_factory=dict)
    _scored_s: float = -math.inf
    _advised: dict[str, Any] | None = None

    def known(self) -> Known:
        """For each target the fields of an ``intent``: value, ``_at`` and ``_source`` of each."""
        self._ask_scores()
        targets = [plan.target for plan in self.plans]
        prices = self._prices(targets)
        return {
            target: {**prices[target], **self._scores[target], **self._interruption(target)}
            for target in targets
        }

    def _prices(self, targets: Sequence[Target]) -> dict[Target, dict[str, Any]]:
        found: dict[Target, dict[str, Any]] = {}
        for region in sorted({target.region for target in targets}):
            here = [target for target in targets if target.region == region]
            asked_at, source = self.connection.clock.utc(), "spot price history"
            try:
                prices = spot_prices(self.connection, region, {each.instance_type for each in here})
            except Refusal as refusal:
                prices, source = {}, f"not known: {refusal.code}"
            for target in here:
                price, since = target_price(prices, target)
                found[target] = _fact("price", price, asked_at, source, unit="_usd")
                found[target]["price_changed_at"] = since
        return found

    def _ask_scores(self) -> None:
        now_s = self.connection.clock.now_s()
        if now_s - self._scored_s < _SCORE_AGE_S:
            return
        self._scored_s = now_s
        for plan in self.plans:
            self._scores[plan.target] = _fact("sps", math.nan, None, "not asked")
        for plans in _score_questions(self.plans) if self.placement_scores else ():
            self._ask_score(plans)

    def _ask_score(self, plans: Sequence[Plan]) -> None:
        asked_at = self.connection.clock.utc()
        by_zone = plans[0].target.availability_zone_id is not None
        try:
            reply = self.connection.call(
                plans[0].target.region,
                "get_spot_placement_scores",
                InstanceTypes=[plans[0].target.instance_type],
                TargetCapacity=plans[0].count,
                SingleAvailabilityZone=by_zone,
                RegionNames=sorted({plan.target.region for plan in plans}),
                MaxResults=_MOST_SCORED_REGIONS,
            )
        except Refusal as refusal:
            reply, source = {"SpotPlacementScores": []}, f"not known: {refusal.code}"
        else:
            source = f"placement score for {plans[0].count}"
        scores = {
            item["AvailabilityZoneId"] if by_zone else item["Region"]: item["Score"]
            for item in reply["SpotPlacementScores"]
        }
        for plan in plans:
            place = plan.target.availability_zone_id or plan.target.region
            self._scores[plan.target] = _fact("sps", scores.get(place, math.nan), asked_at, source)

    def _interruption(self, target: Target) -> dict[str, Any]:
        if self.advisor:
            score, at, source = self._advisor_score(target)
            if not math.isnan(score):
                return _fact("if", score, at, source, name="if_score")
        chosen = self._selected(target)
        if chosen is not None:
            return _fact("if", chosen["if_mean"], chosen["created"], "selection", name="if_score")
        return _fact("if", math.nan, None, "not known", name="if_score")

    def _selected(self, target: Target) -> Mapping[str, Any] | None:
        table = self.selection
        if table is None or not {"if_mean", "created"} <= set(table.columns):
            return None
        here = table[
            (table["instance_type"] == target.instance_type) & (table["region"] == target.region)
        ]
        return None if here.empty else {str(k): v for k, v in here.iloc[0].items()}

    def _advisor_score(self, target: Target) -> tuple[float, datetime | None, str]:
        if self._advised is None:
            self._advised = {"at": self.connection.clock.utc(), **_read_advisor(self.connection)}
        types = self._advised.get("spot_advisor", {}).get(target.region, {}).get("Linux", {})
        return advisor_score(types, target.instance_type), self._advised["at"], "spot advisor"


def advisor_score(types: Mapping[str, Any], instance_type: str) -> float:
    """SpotLake's IF from the advisor's range: 3.0 for under 5 % a month ... 1.0 for over 20 %."""
    if instance_type not in types:
        return math.nan
    return 3.0 - 0.5 * float(types[instance_type]["r"])


def _read_advisor(connection: Connection) -> dict[str, Any]:
    """The Spot Advisor's JSON, from the pretend market or from AWS; empty where it is not had."""
    try:
        if connection.simulated:
            return control(connection.url, _ADVISOR_PATH) if connection.url else {}
        if not is_aws(connection.endpoint):
            return {}
        with urllib.request.urlopen(_ADVISOR_HOST + _ADVISOR_PATH, timeout=10) as reply:
            return dict(json.load(reply))
    except (OSError, ValueError):  # undocumented and optional: a feature, not a condition
        return {}


def _score_questions(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans that one call answers: the same type, count and kind of placement."""
    groups: dict[tuple[str, int, str], list[Plan]] = {}
    for plan in plans:
        key = (plan.target.instance_type, plan.count, plan.target.placement)
        groups.setdefault(key, []).append(plan)
    most = _MOST_SCORED_REGIONS
    return [some[i : i + most] for some in groups.values() for i in range(0, len(some), most)]


def _fact(
    what: str, value: float, at: Any, source: str, *, unit: str = "", name: str = ""
) -> dict[str, Any]:
    known = None if math.isnan(value) else value  # JSON has no NaN; the tables read None as NaN
    return {name or what + unit: known, f"{what}_at": at, f"{what}_source": source}


def since_last_launch_s(
    launched_at: Mapping[Target, datetime], target: Target, now: datetime
) -> float | None:
    """Seconds since our own last launch of a target: our demand may still be felt there."""
    if target not in launched_at:
        return None
    return (now - launched_at[target]) / timedelta(seconds=1)
