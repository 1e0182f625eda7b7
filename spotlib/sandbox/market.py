"""The pretend spot market: how tight each pool is at any time, and what follows from that.

A pool is one instance type in one availability zone.  Its tightness is a level, plus its own
movement, plus the movement of its zone, plus a daily cycle.  It is a weighted sum of sines, so the
same seed yields the same value at a moment in every process and in any order of calls.  Free
capacity, scores, prices, interruptions and the times of a launch follow from it.

Times ``at`` are POSIX seconds, a scalar or an array.  The plural functions take many pools at once
and return one row per pool, which is much faster.  No state is kept and no clock is read: ``world``
knows who holds which instance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spotlib.sandbox import catalogue
from spotlib.sandbox.chance import Floats, normals, uniforms
from spotlib.sandbox.numbers import DEFAULT_SEED, FITTED, PROFILES, Numbers, parse_market

DAY_S = 86400.0
_PERIODS_S = np.geomspace(3600.0, 14 * DAY_S, 9)
_DRIFT_PERIODS_S = np.array([11.0, 23.0, 47.0]) * DAY_S
_TIGHTEST_HOUR = 15.0
# Whole hours east of Greenwich, for the daily cycle.
_HOURS_EAST = {
    "af": 2, "ap-northeast": 9, "ap-south": 5, "ap-southeast-1": 8, "ap-southeast-2": 10,
    "ca": -5, "eu": 1, "il": 2, "me": 3, "sa": -3, "us-east": -5, "us-west": -8,
}  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """One instance type in one availability zone."""

    instance_type: str
    zone_id: str
    region: str


@dataclass(frozen=True)
class Boot:
    """The times of one launch, in seconds: fulfilled to running, running to status checks ok."""

    boot_s: float
    ok_s: float


@dataclass(frozen=True)
class _PoolTraits:
    """How one pool differs from the others."""

    tightness: Floats  # weights of the functions of time in ``_basis``
    score_error: Floats  # such weights, of the error of its placement score
    price_phase: float  # when the price changes, as a share of the time it holds
    spot_usd: float  # at tightness 0
    on_demand_usd: float


class Market:
    """One seeded market.  ``profile`` names a set of numbers; ``numbers`` replaces it."""

    def __init__(
        self, seed: int = DEFAULT_SEED, *, profile: str = FITTED, numbers: Numbers | None = None
    ) -> None:
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        self.seed = seed
        self.profile = profile
        self.numbers = numbers or PROFILES[profile]
        self._rival_periods_s = np.geomspace(
            self.numbers.rivals_quickest_s, self.numbers.rivals_slowest_s, 6
        )
        self._traits = lru_cache(maxsize=None)(self._draw_traits)
        self._place = lru_cache(maxsize=10_000)(self._draw_place)
        self._rivals = lru_cache(maxsize=None)(self._draw_rivals)
        self.on_demand_usd = lru_cache(maxsize=None)(self._on_demand_usd)
        self._interruption_weights = lru_cache(maxsize=None)(self._draw_interruption_weights)

    @classmethod
    def named(cls, name: str) -> Market:
        """The market with this name: ``fitted``, or ``fitted/7`` with seed 7."""
        profile, seed = parse_market(name)
        return cls(seed, profile=profile)

    @property
    def name(self) -> str:
        """Its name in logs, selections and archives; ``named`` accepts it."""
        return self.profile if self.seed == DEFAULT_SEED else f"{self.profile}/{self.seed}"

    # Tightness, and what EC2 shows of it.

    def tightness(self, pool: Pool, at: ArrayLike) -> Floats:
        """How tight the pool is: well below 0, much is free; above ``full_at``, nothing."""
        return _single_row(self.tightnesses([pool], at), at)

    def tightnesses(self, pools: Sequence[Pool], at: ArrayLike) -> Floats:
        """The same for many pools: one row per pool, one column per moment."""
        weights = np.array([self._traits(pool).tightness for pool in pools])
        values: Floats = np.matmul(weights, _basis(at))
        return values

    def free_capacity(self, pool: Pool, at: ArrayLike) -> Floats:
        """Instances the pool could launch, a whole number; those of ours are not subtracted."""
        return _single_row(self.free_capacities([pool], at), at)

    def free_capacities(self, pools: Sequence[Pool], at: ArrayLike) -> Floats:
        """The same for many pools: one row per pool."""
        n = self.numbers
        free = np.exp((n.full_at - self.tightnesses(pools, at)) / n.capacity_width)
        whole: Floats = np.floor(np.minimum(free, n.capacity_most))
        return whole

    def accepted_share(self, pool: Pool, at: ArrayLike) -> Floats:
        """The share of requests that EC2 accepts: below 1 where others want more than is free."""
        return _single_row(self.accepted_shares([pool], at), at)

    def accepted_shares(self, pools: Sequence[Pool], at: ArrayLike) -> Floats:
        """The same for many pools: one row per pool.

        Others' demand rises and falls within a day, and no score shows it.  Below a pool's usual
        demand it changes nothing.
        """
        n = self.numbers
        tight = self.tightnesses(pools, at)
        if math.isinf(n.contested_at):
            return np.ones_like(tight)
        weights = np.array([self._rivals(pool) for pool in pools])
        rivals = np.maximum(np.matmul(weights, _waves(at, self._rival_periods_s)), 0.0)
        lacks = (tight + rivals - n.contested_at) / n.capacity_width
        share: Floats = np.exp(-np.maximum(lacks, 0.0))
        return share

    def accepts(
        self, pool: Pool, at: ArrayLike, *, held: int, request: str, index: int
    ) -> NDArray[np.bool_]:
        """Whether EC2 would launch a request at these moments, if ``held`` instances are ours.

        Each request keeps its place among all that want the pool: one that was refused is accepted
        when the share has grown enough.
        """
        room = self.free_capacity(pool, at) > held
        if math.isinf(self.numbers.contested_at):
            return room
        share = self.accepted_share(pool, at)
        if np.all(share == 1.0):
            return room
        accepted: NDArray[np.bool_] = room & (self._place(request, index) < share)
        return accepted

    def accepts_on_demand(self, pool: Pool, at: float, *, held: int) -> bool:
        """Whether EC2 would launch an on-demand instance now; it can or cannot for whole hours."""
        n = self.numbers
        draw = uniforms(1, self.seed, "on demand", pool, int(at // 3600.0))[0]
        return held < n.capacity_most and bool(draw < n.on_demand_free)

    def placement_score(self, pool: Pool, at: ArrayLike, *, capacity: int = 1) -> Floats:
        """1 (unlikely) to 3: an inexact, delayed view of the tightness, renewed every 10 min."""
        return _single_row(self.placement_scores([pool], at, capacity=capacity), at)

    def placement_scores(
        self, pools: Sequence[Pool], at: ArrayLike, *, capacity: int = 1
    ) -> Floats:
        """The same for many pools: one row per pool."""
        n = self.numbers
        seen_at = np.floor(np.asarray(at) / 600.0) * 600.0 - n.score_lag_s
        error = np.array([self._traits(pool).score_error for pool in pools])
        seen = self.tightnesses(pools, seen_at) + np.matmul(error, _basis(seen_at))
        seen += n.capacity_width * math.log(capacity)  # as if the pool were tighter
        score: Floats = 3.0 - (seen >= n.score_2_at) - (seen >= n.score_1_at)
        return score

    def interruption_score(self, instance_type: str, region: str, at: ArrayLike) -> Floats:
        """SpotLake's IF: 3.0 (few interruptions) to 1.0; NaN if the advisor does not list the type.

        It drifts over weeks and is renewed once per day.
        """
        return _single_row(self.interruption_scores([instance_type], region, at), at)

    def interruption_scores(self, types: Sequence[str], region: str, at: ArrayLike) -> Floats:
        """The same for many types of a region: one row per type."""
        n = self.numbers
        renewed = uniforms(1, self.seed, "renewed", region)[0] * DAY_S
        day = np.floor((np.asarray(at) - renewed) / DAY_S) * DAY_S
        weights = np.array([self._interruption_weights(name, region) for name in types])
        constant = np.ones((1, _row(at).size))
        value = weights @ np.concatenate([constant, _waves(day, _DRIFT_PERIODS_S)])
        shares = (n.interruption_share_1, n.interruption_share_1_5, n.interruption_share_2)
        lowest = np.cumsum([*shares, n.interruption_share_2_5])[::-1]
        spread = math.sqrt(1.0 + n.interruption_drift**2)
        steps = [NormalDist().inv_cdf(1.0 - share) * spread for share in lowest]
        score = 3.0 - 0.5 * np.searchsorted(steps, value)
        return np.where(np.isnan(value), np.nan, score)

    # Money.

    def _on_demand_usd(self, instance_type: str, region: str) -> float:
        """A plausible on-demand price, USD per hour."""
        n, kind = self.numbers, catalogue.instance_type(instance_type)
        if kind is None:
            raise ValueError(f"no such instance type: {instance_type!r}")
        usd = n.price_burstable_per_gib * kind.memory_gib
        if not kind.burstable:
            usd = n.price_per_vcpu * kind.vcpus + n.price_per_gib * kind.memory_gib
        usd = usd * (n.price_arm_factor if "arm64" in kind.architectures else 1.0)
        share = uniforms(1, self.seed, "dear", region)[0] if region != "us-east-1" else 0.0
        usd = (usd + n.price_gpu * kind.accelerators) * (1.0 + share * (n.price_region_most - 1.0))
        return round(float(usd), 4)

    def price_usd(self, pool: Pool, at: ArrayLike) -> Floats:
        """The spot price, USD per hour."""
        return _single_row(self.prices_usd([pool], at), at)

    def prices_usd(self, pools: Sequence[Pool], at: ArrayLike) -> Floats:
        """The same for many pools: one row per pool.  Prices hold for hours: few moments differ."""
        n = self.numbers
        since = self.price_since(pools, at)
        moments, column = np.unique(since, return_inverse=True)
        tight = np.take_along_axis(
            self.tightnesses(pools, moments), column.reshape(since.shape), axis=1
        )
        traits = [self._traits(pool) for pool in pools]
        base = np.array([[each.spot_usd] for each in traits])
        on_demand = np.array([[each.on_demand_usd] for each in traits])
        price = np.minimum(base * np.exp(n.spot_tightness * tight), on_demand)
        usd: Floats = np.maximum(np.round(price, 4), 0.0001)
        return usd

    def price_since(self, pools: Sequence[Pool], at: ArrayLike) -> Floats:
        """When the spot price of each moment was set: one row per pool."""
        hold_s = self.numbers.price_holds_s
        share = np.array([[self._traits(pool).price_phase] for pool in pools])
        offset = 600.0 * np.floor(share * hold_s / 600.0)
        since: Floats = np.floor((_row(at) - offset) / hold_s) * hold_s + offset
        return since

    # Draws of a launch; ``name`` identifies the draw.

    def decision_s(self, *name: object) -> tuple[float, float]:
        """Seconds to EC2's decision, and from there to fulfilment if there is capacity."""
        n = self.numbers
        decide, launch = normals(2, self.seed, "decision", *name)
        return (
            n.evaluate_median_s * math.exp(n.evaluate_sigma * decide),
            n.in_flight_median_s * math.exp(n.in_flight_sigma * launch),
        )

    def boot(self, pool: Pool, at: float, *, request: str, index: int) -> Boot:
        """The times of one launch; ``request`` identifies the call, ``index`` the instance."""
        n = self.numbers
        pool_part = normals(1, self.seed, "boot", pool)[0]
        shared = normals(1, self.seed, "boot", request)[0]
        own = normals(1, self.seed, "boot", request, index)[0]
        share = n.boot_share_request
        part = math.sqrt(share) * shared + math.sqrt(1.0 - share) * own
        log_s = n.boot_sigma * part + n.boot_pool_sigma * pool_part
        log_s += n.boot_tightness * float(np.clip(self.tightness(pool, at), -2.0, 4.0))
        boot_s = n.boot_median_s * math.exp(log_s)
        lag, phase = uniforms(2, self.seed, "checks", request, index)
        seen_at = at + boot_s + n.ok_least_s + lag * (n.ok_most_s - n.ok_least_s)
        phase_s = phase * n.check_every_s  # each instance is checked at its own second
        checked_at = math.ceil((seen_at - phase_s) / n.check_every_s) * n.check_every_s + phase_s
        return Boot(boot_s=float(boot_s), ok_s=float(checked_at - at - boot_s))

    def interruption(
        self, pool: Pool, at: float, *, until: float, request: str, index: int
    ) -> float | None:
        """When an instance that runs since ``at`` is interrupted; None if not by about ``until``.

        A pool interrupts nearly all its instances within one slot of three minutes.  Slots that
        begin in (at, until] count, so consecutive calls miss none.
        """
        n = self.numbers
        slot_s = n.interruption_slot_s
        slots = np.arange(int(at // slot_s) + 1, int(until // slot_s) + 1)
        starts = slots * slot_s
        rates = n.interruption_per_hour * np.exp(
            n.interruption_steepness * self.tightness(pool, starts)
        )
        chance = -np.expm1(-rates * slot_s / 3600.0)
        for slot, start, probability in zip(slots, starts, chance, strict=True):
            if uniforms(1, self.seed, "taken", pool, slot)[0] < probability:
                joins, when = uniforms(2, self.seed, "taken", pool, slot, request, index)
                if joins < n.interruption_together:
                    return float(start + when * slot_s)
        return None

    def shutdown_s(self, *name: object) -> float:
        """Seconds from shutting-down to terminated."""
        n = self.numbers
        draw = normals(1, self.seed, "shutdown", *name)[0]
        return float(n.shutdown_median_s * math.exp(n.shutdown_sigma * draw))

    def latency_s(self, kind: str, *name: object) -> float:
        """Seconds an API call takes; ``kind`` is ``describe``, ``mutate`` or ``request``."""
        median_s: float = getattr(self.numbers, f"{kind}_median_s")
        draw = normals(1, self.seed, "latency", *name)[0]
        return float(median_s * math.exp(self.numbers.latency_sigma * draw))

    def choose_zone(self, pools: Sequence[Pool], at: float, *name: object) -> Pool:
        """The pool EC2 picks if the request names no zone: most capacity, known with an error."""
        noise = self.numbers.zone_choice_noise * normals(len(pools), self.seed, "zone", *name)
        free = -self.tightnesses(pools, at)[:, 0] / self.numbers.capacity_width
        return pools[int(np.argmax(free + noise))]

    # How pools differ.

    def _draw_traits(self, pool: Pool) -> _PoolTraits:
        n, waves = self.numbers, 2 * len(_PERIODS_S)
        shared = n.level_share_type + n.level_share_region
        level, bias, volatility, share, *rest = normals(4 + 2 * waves, self.seed, "pool", pool)
        level = math.sqrt(shared) * self._shared_level(pool) + math.sqrt(1.0 - shared) * level
        zone = n.zone_volatility * normals(waves, self.seed, "zone", pool.zone_id)
        own = n.volatility_median * math.exp(n.volatility_sigma * volatility)
        moves = (own * np.array(rest[:waves]) + zone) / math.sqrt(len(_PERIODS_S))
        error = n.score_error * np.array(rest[waves:]) / math.sqrt(len(_PERIODS_S))
        day = n.day_amplitude * _day_weights(pool.region)
        on_demand_usd = self.on_demand_usd(pool.instance_type, pool.region)
        return _PoolTraits(
            tightness=np.concatenate([[n.level_shift + n.level_spread * level], moves, day]),
            score_error=np.concatenate([[n.score_bias * bias], error, [0.0, 0.0]]),
            price_phase=float(uniforms(1, self.seed, "price", pool)[0]),
            spot_usd=on_demand_usd * n.spot_share * math.exp(n.spot_share_sigma * share),
            on_demand_usd=on_demand_usd,
        )

    def _draw_place(self, request: str, index: int) -> float:
        """A request's place among all that want the pool, 0 to 1: the lowest is accepted first."""
        together = self.numbers.call_together
        shared = normals(1, self.seed, "place", request)[0]
        own = normals(1, self.seed, "place", request, index)[0]
        return NormalDist().cdf(math.sqrt(together) * shared + math.sqrt(1.0 - together) * own)

    def _draw_rivals(self, pool: Pool) -> Floats:
        """Weights of the waves of others' demand, which no score shows."""
        n, periods = self.numbers, len(self._rival_periods_s)
        size, *moves = normals(1 + 2 * periods, self.seed, "rivals", pool)
        scale = n.rivals_median * math.exp(n.rivals_sigma * size) / math.sqrt(periods)
        return np.array(moves) * scale

    def _shared_level(self, pool: Pool) -> float:
        """The level that the pools of a type share in a region, scaled to variance 1."""
        name = (self.seed, "level", pool.instance_type)
        a, b = self.numbers.level_share_type, self.numbers.level_share_region
        of_type, of_region = normals(1, *name)[0], normals(1, *name, pool.region)[0]
        return float((math.sqrt(a) * of_type + math.sqrt(b) * of_region) / math.sqrt(a + b))

    def _draw_interruption_weights(self, instance_type: str, region: str) -> Floats:
        """Weights of a type's IF: its mean, then its drift; NaN if the advisor omits the type."""
        n = self.numbers
        if uniforms(1, self.seed, "unlisted", instance_type)[0] < n.interruption_unlisted:
            return np.full(1 + 2 * len(_DRIFT_PERIODS_S), np.nan)
        draws = normals(1 + 2 * len(_DRIFT_PERIODS_S), self.seed, "repute", instance_type, region)
        shared = self._shared_level(Pool(instance_type, "", region))
        own = math.sqrt(1.0 - n.interruption_tightness) * draws[0]
        mean = math.sqrt(n.interruption_tightness) * shared + own
        return np.append(mean, n.interruption_drift * draws[1:] / math.sqrt(len(_DRIFT_PERIODS_S)))


def _single_row(rows: Floats, at: ArrayLike) -> Floats:
    """The row of a single pool, in the shape of ``at``."""
    row: Floats = rows[0].reshape(np.shape(at))
    return row


def _row(at: ArrayLike) -> Floats:
    return np.atleast_1d(np.asarray(at, dtype=np.float64))


def _waves(at: ArrayLike, periods_s: Floats) -> Floats:
    """Sines, then cosines of these periods: one row each, one column per moment."""
    angle = 2.0 * np.pi * _row(at)[None, :] / periods_s[:, None]
    return np.concatenate([np.sin(angle), np.cos(angle)])


def _basis(at: ArrayLike) -> Floats:
    """The functions of time whose weighted sum is a tightness; the first is constant."""
    row = _row(at)
    return np.concatenate(
        [np.ones((1, row.size)), _waves(row, _PERIODS_S), _waves(row, np.array([DAY_S]))]
    )


def _day_weights(region: str) -> Floats:
    """Weights of the day's sine and cosine that make 15 h local time the tightest."""
    east = next((h for prefix, h in _HOURS_EAST.items() if region.startswith(prefix)), 0)
    angle = 2.0 * np.pi * (_TIGHTEST_HOUR - east) / 24.0
    return np.array([math.sin(angle), math.cos(angle)])
