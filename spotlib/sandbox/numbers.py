"""Every number of the pretend market, in one table: value, unit, and where it comes from.

A number is ``measured`` (the note names the source) or ``invented`` (the note says what it does).
``measured (public, 2025-05)`` are fitted to the outcomes of public requests, see ``market_fit.py``.
No other module holds a number of the market.  Results obtained with these numbers say nothing about
AWS.  No random number is drawn and no clock is read here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any

from spotlib.errors import did_you_mean

DEFAULT_SEED = 20240901  # archive and endpoint must show the same market

MEASURED_2025 = "measured (public, 2025-05)"


def _measured(value: float, unit: str, note: str) -> Any:
    return field(default=value, metadata={"unit": unit, "label": "measured", "note": note})


def _invented(value: float, unit: str, note: str) -> Any:
    return field(default=value, metadata={"unit": unit, "label": "invented", "note": note})


def _later(value: float, unit: str, note: str, *, label: str = "invented") -> Any:
    """A number that came after worlds had ids: at its default it changes no id."""
    metadata = {"unit": unit, "label": label, "note": note}
    return field(default=value, repr=False, metadata=metadata)


def _fitted(value: float, unit: str, note: str, *, within: tuple[float, float]) -> Any:
    """A number fitted to public outcomes of 2025-05, which also hold anywhere ``within``."""
    note = f"{note}; between {within[0]:g} and {within[1]:g} by ``benchmarks/market_fit.py``"
    return field(default=value, metadata={"unit": unit, "label": MEASURED_2025, "note": note})


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The parameters of one market; ``PROFILES`` holds the named sets.

    The default is the market for all work: ``benchmarks/market_fit.py`` holds it against public
    outcomes of requests.
    """

    # How tight a pool is: a dimensionless index, about 0 +- 1 over all pools.
    level_shift: float = _invented(0.0, "index", "added to every pool: how tight the market is")
    level_spread: float = _invented(
        1.03, "index", "spread of the pools' mean tightness; the shares of scores follow from it"
    )
    level_share_type: float = _invented(
        0.35, "share", "part of a pool's mean shared by its type in all regions"
    )
    level_share_region: float = _invented(
        0.57, "share", "part shared by its type in the zones of a region"
    )
    volatility_median: float = _invented(
        0.005,
        "index",
        "median over pools of the standard deviation of their own movement; about 96 % of pools "
        "then show one placement score all day, as in curated real archives",
    )
    volatility_sigma: float = _invented(
        1.5, "log", "sigma of the lognormal distribution of volatility over pools"
    )
    zone_volatility: float = _invented(
        0.01, "index", "standard deviation of the movement the pools of a zone share"
    )
    day_amplitude: float = _invented(0.012, "index", "daily amplitude; tightest at 15 h local time")

    # From tightness to free instances and scores.
    full_at: float = _invented(1.58, "index", "tightness at which one instance is left")
    capacity_width: float = _invented(
        0.12,
        "index",
        "tightness that divides the free instances by e; 2 to 3 % of pools can then fill only a "
        "part of a request for 5, as two of three zones did in public traces of 16 nodes",
    )
    capacity_most: float = _invented(5000.0, "instances", "the most free instances of a pool")
    contested_at: float = _fitted(
        0.80,
        "index",
        "tightness above which others want more than is free: EC2 then accepts only a share of the "
        "requests, e times smaller for each capacity_width more",
        within=(0.78, 0.80),
    )
    rivals_median: float = _fitted(
        0.15,
        "index",
        "median over pools of the size of others' demand that no score shows",
        within=(0.10, 0.20),
    )
    rivals_sigma: float = _fitted(
        1.5,
        "log",
        "sigma of its lognormal distribution over pools: in few pools it is large",
        within=(1.0, 2.0),
    )
    rivals_quickest_s: float = _invented(
        10800.0,
        "s",
        "shortest period of this demand's movement; with the next, states last about as long as in "
        "twelve public pools of 2025-04",
    )
    rivals_slowest_s: float = _invented(345600.0, "s", "its longest period")
    call_together: float = _invented(
        0.0,
        "share",
        "how far the requests of one call are decided together: 0 one by one, like as many calls, "
        "1 all alike; which of them AWS does is not known",
    )
    score_lag_s: float = _invented(600.0, "s", "lag of the placement score")
    score_bias: float = _invented(0.05, "index", "spread over pools of the score's constant error")
    score_error: float = _invented(0.008, "index", "standard deviation of its varying error")
    score_2_at: float = _measured(
        1.11, "index", "85.9 % of pools then have SPS 3 (SpotLake snapshot of 2022-07-12)"
    )
    score_1_at: float = _measured(
        1.35, "index", "9.6 % of pools then have SPS 1 (SpotLake snapshot of 2022-07-12)"
    )
    interruption_tightness: float = _invented(
        0.25, "share", "weight of a type's mean tightness in its interruption frequency (IF)"
    )
    interruption_drift: float = _invented(
        0.2, "index", "standard deviation of the drift of IF over weeks"
    )
    interruption_unlisted: float = _invented(
        0.03, "share", "types that the advisor does not list (IF is -1)"
    )
    interruption_share_1: float = _measured(
        0.241, "share", "pools with IF 1.0 (SpotLake snapshot of 2022-07-12)"
    )
    interruption_share_1_5: float = _measured(0.070, "share", "pools with IF 1.5, same snapshot")
    interruption_share_2: float = _measured(0.143, "share", "pools with IF 2.0, same snapshot")
    interruption_share_2_5: float = _measured(0.241, "share", "pools with IF 2.5, same snapshot")

    # From request to ready.
    evaluate_median_s: float = _invented(
        0.6, "s", "request to decision; the outcome is known within 0.3..1.5 s"
    )
    evaluate_sigma: float = _invented(0.4, "log", "sigma of its lognormal distribution")
    in_flight_median_s: float = _measured(
        1.0, "s", "decision to fulfilled: create to fulfilled took 2 s in two public samples"
    )
    in_flight_sigma: float = _invented(0.3, "log", "sigma of its lognormal distribution")
    reevaluate_s: float = _invented(20.0, "s", "time between two evaluations of a held request")
    boot_median_s: float = _invented(
        6.0, "s", "pending to running: a judgement; one public run of 2021 took 4.9 s"
    )
    boot_sigma: float = _invented(0.557, "log", "95 % of instances are then running within 15 s")
    boot_share_request: float = _invented(
        0.3, "share", "part of the log-variance shared by the instances of a request"
    )
    boot_pool_sigma: float = _invented(0.15, "log", "sigma over pools of the median boot")
    boot_tightness: float = _invented(0.20, "log/index", "tight pools boot more slowly")
    guest_boot_s: float = _invented(
        15.0,
        "s",
        "running to user data: a judgement from public boot timings of 3 to 23 s",
    )
    ok_least_s: float = _invented(
        150.0, "s", "running to status ok: a judgement; checks are said to lag by 3 to 5 minutes"
    )
    ok_most_s: float = _invented(
        270.0, "s", "the longest such lag, before the wait for the next check"
    )
    check_every_s: float = _measured(60.0, "s", "status checks are performed every minute (AWS)")
    on_demand_free: float = _later(
        0.998, "share", "pool-hours in which on-demand launches, which are apart from spot, succeed"
    )
    zone_choice_noise: float = _invented(
        1.0, "log", "EC2 chooses the zone with most capacity, which it knows with this error"
    )
    recover_s: float = _invented(60.0, "s", "until a terminated instance's capacity is free")

    # The guest and its console.
    guest_boot_sigma: float = _later(
        0.0, "log", "sigma of guest_boot_s over instances; above 0 it changes what older worlds did"
    )
    kernel_spread_s: float = _later(
        1.0, "s", "standard deviation of the kernel's start around the moment of running"
    )
    script_median_s: float = _later(
        0.1, "s", "user data begin to their lines on the console: asking for metadata takes time"
    )
    script_sigma: float = _later(1.0, "log", "sigma of its lognormal distribution")
    clock_off_s: float = _later(
        2.0, "s", "standard deviation of the error of a guest's clock until it is synchronised"
    )
    synchronised_median_s: float = _later(
        8.0,
        "s",
        "kernel start to a synchronised clock: an error of a second or more is stepped, a smaller "
        "one made up for at a twelfth (chrony's defaults)",
    )
    synchronised_sigma: float = _later(0.5, "log", "sigma of its lognormal distribution")
    clock_error_s: float = _later(0.0005, "s", "standard deviation of the error that is left")
    console_lag_median_s: float = _later(
        4.0, "s", "a line on the console until GetConsoleOutput with Latest shows it"
    )
    console_lag_sigma: float = _later(
        0.5, "log", "sigma over instances of its lognormal distribution"
    )
    console_post_least_s: float = _later(
        120.0,
        "s",
        "running to what GetConsoleOutput shows without Latest (2 minutes seen: pycloudlib 143)",
        label="measured",
    )
    console_post_most_s: float = _later(
        1200.0, "s", "the longest such time (20 minutes seen: pycloudlib 193)", label="measured"
    )
    console_end_most_s: float = _later(
        60.0, "s", "longest time from terminated or stopped to the last post"
    )

    # Interruption and end.
    interruption_per_hour: float = _invented(
        0.004, "1/h", "interruption rate of a pool of tightness 0"
    )
    interruption_steepness: float = _invented(1.2, "log/index", "that rate grows with tightness")
    interruption_together: float = _measured(
        0.92, "share", "instances of a pool interrupted within 3 minutes (arXiv 2604.16457)"
    )
    interruption_slot_s: float = _measured(180.0, "s", "same source: the 3 minutes")
    notice_s: float = _measured(120.0, "s", "interruption notice to the end (AWS user guide)")
    shutdown_median_s: float = _invented(12.0, "s", "shutting-down to terminated")
    shutdown_sigma: float = _invented(0.4, "log", "sigma of its lognormal distribution")
    request_retained_s: float = _measured(14400.0, "s", "ended requests stay visible (AWS)")
    instance_retained_s: float = _measured(3600.0, "s", "terminated instances stay visible (AWS)")
    request_valid_s: float = _measured(604800.0, "s", "default ValidUntil: 7 days (AWS)")

    # The API.
    describe_median_s: float = _invented(0.12, "s", "latency of calls that only read: a judgement")
    mutate_median_s: float = _invented(0.6, "s", "latency of cancel, terminate, tag")
    request_median_s: float = _measured(
        1.5, "s", "latency of a launch call: 1.54 s in ec2-boot-bench, 2021, one run"
    )
    latency_sigma: float = _invented(0.3, "log", "sigma of the latencies' lognormal distribution")

    # Money.
    price_per_vcpu: float = _invented(0.037, "USD/h", "on demand, us-east-1, x86")
    price_per_gib: float = _invented(0.00275, "USD/h", "on demand, us-east-1, x86")
    price_burstable_per_gib: float = _invented(0.0105, "USD/h", "burstable types, x86")
    price_arm_factor: float = _invented(0.8, "ratio", "arm64 over x86_64; t4g.nano is 0.0042 USD/h")
    price_gpu: float = _invented(0.45, "USD/h", "per GPU or accelerator")
    price_region_most: float = _invented(1.6, "ratio", "most expensive region over us-east-1")
    spot_share: float = _measured(
        0.30, "ratio", "spot over on demand: median saving 70 % (SpotLake snapshot of 2022-07-12)"
    )
    spot_share_sigma: float = _invented(0.25, "log", "sigma over pools of that ratio")
    spot_tightness: float = _invented(0.12, "log/index", "tight pools cost more")
    price_holds_s: float = _invented(14400.0, "s", "a price does not change for at least this long")

    # Defects of the archive, as in the real one.
    gap_share: float = _measured(
        0.0016, "share", "missing snapshots: 7 of 4,464 in the real month of 2024-08"
    )
    gap_most: float = _invented(3.0, "snapshots", "the longest gap")
    glitch_per_day: float = _invented(
        0.05, "1/day", "snapshots in which every IF reads -1; the real month of 2024-08 had one"
    )
    duplicate_per_day: float = _invented(0.1, "1/day", "snapshots with rows written twice")
    duplicate_share: float = _invented(0.02, "share", "rows of such a snapshot written twice")
    absent_share: float = _invented(0.01, "share", "pools absent for a part of a month")


FITTED = "fitted"  # the default market

# Extremes for tests, in which a pool accepts whatever its free capacity holds.
_CALM = Numbers(level_spread=1.0, score_bias=0.25, contested_at=math.inf)

PROFILES = {
    FITTED: Numbers(),
    "calm": _CALM,
    "tight": replace(_CALM, level_shift=0.8, volatility_median=0.25, interruption_per_hour=0.02),
    "outage": replace(_CALM, level_shift=2.2, zone_volatility=0.6, interruption_per_hour=0.3),
}

MARKET_HELP = "fitted, or fitted/7 with seed 7; calm, tight and outage are extremes for tests"


def parse_market(name: str) -> tuple[str, int]:
    """Split a market's name, ``fitted`` or ``fitted/7``, into its profile and seed.

    Raises
    ------
    ValueError
        If there is no such market.
    """
    profile, slash, seed = name.partition("/")
    if profile not in PROFILES or bool(slash) is not seed.isdecimal():
        raise ValueError(
            f"market must be one of {', '.join(sorted(PROFILES))}, or one of them with a seed, "
            f"such as fitted/7, got {name!r}{did_you_mean(profile, set(PROFILES) - {profile})}"
        )
    return profile, int(seed) if seed else DEFAULT_SEED


def table_markdown(numbers: Numbers | None = None) -> str:
    """The table as Markdown, for the documentation."""
    numbers = numbers or PROFILES[FITTED]
    lines = [
        "| number | value | unit | label | what it is, or its source |",
        "|---|---|---|---|---|",
    ]
    for item in dataclasses.fields(numbers):
        meta, value = item.metadata, getattr(numbers, item.name)
        lines.append(
            f"| `{item.name}` | {value:g} | {meta['unit']} | {meta['label']} | {meta['note']} |"
        )
    return "\n".join(lines) + "\n"
