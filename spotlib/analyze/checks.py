"""What could make the numbers wrong: checks of the data, and sensitivity to stale reads.

Owns the warnings, one sentence each, and the tables of what would change if API reads were stale.
It changes no estimate.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial, prod

import numpy as np
import pandas as pd
from scipy import stats

from spotlib.analyze.clocks import CLOCKS, CONTRADICT, told_twice
from spotlib.analyze.comparable import NOT_THE_MARKET, stopped
from spotlib.analyze.compare import holm
from spotlib.analyze.curve import Floats, smoothed, widened
from spotlib.analyze.intervals import FEWEST_RUNS
from spotlib.analyze.launch_times import LaunchTimes, round_of
from spotlib.analyze.load import Comparable
from spotlib.analyze.turnbull import turnbull
from spotlib.model import Stage
from spotlib.words import counted, percent, within_words

STALE_S = (2.0, 5.0, 30.0)
_CLUSTERED = 0.2  # of the ends of brackets, where chance would put 2 %
_MISSED = 0.05  # of the polls
_GAPPED = 0.05  # of the brackets
_CONTRADICTED = 0.05  # of the brackets that have an event
_RECENT_S = 600.0  # since our own last launch in the pool
_ON_TIME = 0.9  # of every_s, after which a probe came no earlier than planned
_SHARED_ROUNDS = 0.8
_ALWAYS_FIRST = 5  # rounds, after which the same target first each time is no accident
_FEWEST_DAYS = 3.0
_DAY_S = 86_400.0
_SIGNIFICANT = 0.05
_EXCHANGES = 4096  # of days between releases: all there are, or random ones
_MATTERS = 0.02  # of the shortest median


@dataclass(frozen=True)
class Check:
    """One question to the data: ``found`` is the answer in a sentence."""

    name: str
    warns: bool
    found: str


def self_check(
    data: Comparable, distributions: Mapping[str, LaunchTimes], stage: Stage
) -> pd.DataFrame:
    """Every check, one row each: ``check``, ``warns``, ``found``; warnings first."""
    checks = [
        *(_missed_polls(data), _confounded(data), _order(data), _own_demand(data)),
        *(_time_span(data), _mixed_counts(data), _clustered(data, stage), _gaps(data, stage)),
        *(
            _unfinished(data),
            _abandoned(data),
            _our_own(data),
            _releases(data, distributions),
            _versions(data),
            _prices(data),
            _effective_size(distributions),
            _wide_brackets(distributions),
            _moment_of_reading(data, distributions),
            *_two_clocks(data),
        ),
    ]
    rows = [{"check": each.name, "warns": each.warns, "found": each.found} for each in checks]
    return pd.DataFrame(rows).sort_values(
        "warns", ascending=False, kind="stable", ignore_index=True
    )


def _missed_polls(data: Comparable) -> Check:
    polls = data.polled
    skipped = float(polls["skipped"].sum())
    failed = float(polls["error"].notna().sum())
    share = (failed + skipped) / max(len(polls) + skipped, 1.0)
    missed = percent(share, digits=1)
    words = f"{missed} of the polls were missed ({failed:.0f} failed, {skipped:.0f} skipped)"
    return Check("missed polls", share > _MISSED, words)


def _rounds(data: Comparable) -> pd.DataFrame:
    """Which targets were launched in which round, one row per run."""
    runs = data.launches.drop_duplicates("run")
    return runs.assign(round_id=runs["run"].map(round_of))[["round_id", "target", "sent_at"]]


def _confounded(data: Comparable) -> Check:
    runs = _rounds(data)
    targets = runs["target"].nunique()
    share = float((runs.groupby("round_id")["target"].nunique() == targets).mean())
    warns = targets > 1 and share < _SHARED_ROUNDS
    why = ": a difference between targets may be a difference between times" if warns else ""
    words = f"{percent(share)} of the rounds launched every target"
    return Check("target and time confounded", warns, words + why)


def _order(data: Comparable) -> Check:
    runs = _rounds(data).sort_values("sent_at")
    several = runs[runs.groupby("round_id")["target"].transform("size") > 1]
    first = several.drop_duplicates("round_id")["target"]
    name = "order within a round"
    if first.empty:
        return Check(name, False, "undefined: one target per round")
    if len(first) >= _ALWAYS_FIRST and first.nunique() == 1:
        by_chance = several["target"].nunique() ** (len(first) - 1)
        words = f"{first.iloc[0]} was launched first in all {len(first)} rounds: in random order "
        return Check(name, True, words + f"that happens in 1 of {by_chance:,} studies")
    targets = counted(runs["target"].nunique(), "target")
    return Check(name, False, f"{first.nunique()} of {targets} were first in some round")


def _own_demand(data: Comparable) -> Check:
    runs = data.launches.drop_duplicates("run")
    recent_s: float | pd.Series[float] = _RECENT_S
    within = f"within {_RECENT_S / 60:.0f} min"
    if data.wanted is Stage.GRANTED:  # probes end at once, and are so far apart by design
        every_s = runs["batch_id"].map(data.batches.set_index("batch_id")["every_s"])
        recent_s = (_ON_TIME * every_s).where(every_s > 0, _RECENT_S).clip(upper=_RECENT_S)
        within += ", and earlier than planned (every_s),"
    share = float((runs["since_last_s"] < recent_s).mean())
    words = f"{percent(share)} of the runs began {within} of our last launch in the same pool"
    why = ": our own demand may have slowed them"
    if len(data.arms):
        why += " (launch methods of a round follow each other: see arm_pause_s)"
    words += why if share > 0 else ""
    return Check("our own earlier launches", share > 0, words)


def _time_span(data: Comparable) -> Check:
    sent = data.launches["sent_at"]
    span_s = (sent.max() - sent.min()).total_seconds()
    short = span_s < _FEWEST_DAYS * _DAY_S
    words = f"all runs were sent {within_words(span_s)}"
    words += f", in {sent.dt.hour.nunique()} of a day's 24 hours"
    why = ": the intervals hold for that time only" if short else ""
    return Check("short time span", short, words + why)


def _mixed_counts(data: Comparable) -> Check:
    counts = sorted(set(data.launches["n"].dropna().astype(int)))
    words = f"n is {', '.join(map(str, counts))}"
    why = ": runs of different n are averaged with equal weights" if len(counts) > 1 else ""
    return Check("different n", len(counts) > 1, words + why)


def _brackets(data: Comparable, stage: Stage) -> pd.DataFrame:
    """The brackets of a stage, with the poll interval of their batch."""
    poll_s = data.launches["batch_id"].map(data.batches.set_index("batch_id")["poll_s"])
    shown = data.launches[[f"{stage.label}_after_s", f"{stage.label}_by_s"]].assign(poll_s=poll_s)
    return shown.dropna().set_axis(["after_s", "by_s", "poll_s"], axis=1)


def _clustered(data: Comparable, stage: Stage) -> Check:
    brackets = _brackets(data, stage)
    off = (brackets["by_s"] / brackets["poll_s"] + 0.01) % 1.0
    share = float((off < 0.02).mean()) if len(brackets) else 0.0
    words = f"{percent(share)} of the times are within 1 % of a multiple of the poll interval"
    why = ": they may be counted polls instead of measured times" if share > _CLUSTERED else ""
    return Check("times at multiples of the poll", share > _CLUSTERED, words + why)


def _gaps(data: Comparable, stage: Stage) -> Check:
    brackets = _brackets(data, stage)
    wide = (brackets["by_s"] - brackets["after_s"]) > 2.5 * brackets["poll_s"]
    share = float(wide.mean()) if len(brackets) else 0.0
    words = f"{percent(share)} of the {stage.label} brackets are wider than 2.5 poll intervals"
    return Check("gaps between polls", share > _GAPPED, words)


def _unfinished(data: Comparable) -> Check:
    unfinished = int(data.launches["outcome"].isna().sum())
    words = f"{unfinished} of {counted(len(data.launches), 'request')} without an outcome"
    why = " (under way or cut off): they are censored at their last poll" if unfinished else ""
    return Check("unfinished requests", unfinished > 0, words + why)


def _abandoned(data: Comparable) -> Check:
    """Whether watching was stopped: a batch was interrupted, or its program died."""
    abandoned = stopped(data.launches)
    words = f"{len(abandoned)} of {counted(len(data.launches), 'request')}"
    words += (
        f", in {abandoned['run'].nunique()} of {counted(data.launches['run'].nunique(), 'run')}"
    )
    words += ", stopped being watched before the end"
    why = " (abandoned: the batch was stopped): they are censored at their last poll"
    return Check("abandoned requests", len(abandoned) > 0, words + why * bool(len(abandoned)))


def _our_own(data: Comparable) -> Check:
    """Whether the account itself refused, failed or ended requests."""
    gone = data.left_out[data.left_out["why"].str.endswith(NOT_THE_MARKET)]
    reasons = sorted(set(gone["why"].str.removesuffix(f": {NOT_THE_MARKET}")))
    requests = counted(int(gone["requests"].sum()), "request")
    words = f"{requests} left out because the account ended them"
    words += f" or others of their run: {'; '.join(reasons)}" if reasons else ""
    return Check("ended by our own account", bool(reasons), words)


def _releases(data: Comparable, distributions: Mapping[str, LaunchTimes]) -> Check:
    """Whether times differ between the releases of a target's image."""
    name = "releases of images"
    horizon_s = float(data.launches["timeout_s"].min())
    several = {
        str(target): _daily_scores(here, distributions[str(target)], horizon_s)
        for target, here in data.launches[["target", "run", "image", "sent_at"]].groupby("target")
        if target in distributions and here["image"].nunique() > 1
    }
    if not several:
        return Check(name, False, "undefined: one release only of the image of each target")
    p_values = pd.Series(holm([release_p_value(each) for each in several.values()]), list(several))
    words = f"several releases at {len(several)} of {counted(len(distributions), 'target')}"
    if p_values.isna().all():
        return Check(name, False, words + "; undefined: too few days to tell whether one mattered")
    least = float(p_values.min())
    words += f"; the least p-value (Holm) is {least:.3f}, of {p_values.idxmin()}"
    why = ": a new release, or the time at which it came, may have changed the launch times"
    return Check(name, least < _SIGNIFICANT, words + why * (least < _SIGNIFICANT))


def _daily_scores(launches: pd.DataFrame, times: LaunchTimes, horizon_s: float) -> list[Floats]:
    """The mean score (``run_means_s``) of each day, one array per release of the image."""
    scores = pd.Series(times.run_means_s(horizon_s), list(times.run_names))
    runs = launches.drop_duplicates("run").set_index("run").loc[scores.index]
    daily = scores.groupby([runs["image"], runs["sent_at"].dt.floor("D")]).mean().dropna()
    return [np.asarray(each, dtype=np.float64) for _, each in daily.groupby(level=0)]


def release_p_value(daily: Sequence[Floats]) -> float:
    """P-value of the differences between releases, by a permutation test over whole days.

    Runs of one day share the state of the market, so days are permuted, not runs.  It is exact up
    to 4,096 permutations, and uses random ones beyond.  A release with only one day is not
    compared.  NaN if the days are too few for any p-value below 0.05.  Releases follow each other
    in time, so a slow change of the market is also found.
    """
    compared = [each for each in daily if len(each) > 1]  # scipy needs two of each
    sizes = [len(each) for each in compared]
    ways = factorial(sum(sizes)) // prod(map(factorial, sizes))
    same_size = prod(factorial(count) for count in Counter(sizes).values())  # exchanged whole
    if same_size / ways > _SIGNIFICANT:
        return np.nan
    test = stats.permutation_test(
        compared,
        lambda *groups, axis: sum(each.shape[axis] * each.mean(axis=axis) ** 2 for each in groups),
        permutation_type="independent",
        alternative="greater",
        n_resamples=_EXCHANGES,
        vectorized=True,
        rng=np.random.default_rng(1),  # the same data have the same p-value
    )
    return float(test.pvalue)


def _versions(data: Comparable) -> Check:
    """How many versions of the measuring software there are; launches are not split by them."""
    counts = []
    for name in ("spotlib", "python", "botocore"):
        found = data.batches[f"{name}_version"]
        unknown = int(found.isna().sum())
        missing = f" (not in {counted(unknown, 'log')})" * bool(unknown)
        counts.append(f"{found.nunique()} of {name}{missing}")
    changed = data.batches["spotlib_version"].nunique() > 1
    why = ": what measures was changed on the way" if changed else ""
    return Check("versions of programs", changed, f"versions in use: {', '.join(counts)}{why}")


def _prices(data: Comparable) -> Check:
    """How much spot prices moved; launches are not split by them."""
    prices = data.launches.groupby("target")["price_usd"].agg(["min", "max"]).dropna()
    changed = int((prices["max"] > prices["min"]).sum())
    targets = counted(len(prices), "target")
    words = f"the spot price changed at {changed} of {targets} whose price is known"
    most = float((prices["max"] / prices["min"]).max()) if changed else 1.0
    return Check("spot prices", False, words + f", at most {most:.2f} times" * bool(changed))


def _effective_size(distributions: Mapping[str, LaunchTimes]) -> Check:
    few = [name for name, each in distributions.items() if each.observed.runs < FEWEST_RUNS]
    requests = sum(len(each.observed.run) for each in distributions.values())
    runs = sum(each.observed.runs for each in distributions.values())
    size = sum(map(effective_sample_size, distributions.values()))
    words = f"{counted(requests, 'request')} in {counted(runs, 'run')}, which tell as much as "
    words += f"{size:.0f} that have nothing in common (the effective sample size)"
    if few:
        words += f"; fewer than {FEWEST_RUNS} runs, so no interval: {', '.join(few)}"
    return Check("effective sample size", bool(few) or size < requests / 2, words)


def effective_sample_size(times: LaunchTimes) -> float:
    """How many independent requests a target's requests are worth.

    n / (1 + (m - 1) ICC) with m requests per run (Kish, Survey Sampling 1965).  The intraclass
    correlation of the times is from a one-way analysis of variance; a request that was never shown
    at the stage counts with the longest time seen, and a run that was not watched so long counts
    for nothing.  A single run counts as one request.
    """
    seen = times.observed
    longest = float(seen.by_s[np.isfinite(seen.by_s)].max(initial=1.0))
    middle = np.where(np.isfinite(seen.by_s), (seen.after_s + seen.by_s) / 2, longest)
    watched = ~np.isnan(times.run_shares(longest))[seen.run]
    middle, run = middle[watched], np.unique(seen.run[watched], return_inverse=True)[1]
    sizes = np.bincount(run)
    runs, requests = len(sizes), len(middle)
    if runs in (1, requests):
        return float(runs)
    means = np.bincount(run, middle) / sizes
    between = float((sizes * (means - middle.mean()) ** 2).sum()) / (runs - 1)
    within = float(((middle - means[run]) ** 2).sum()) / (requests - runs)
    size = (requests - (sizes**2).sum() / requests) / (runs - 1)
    total = between + (size - 1) * within
    alike = min(max((between - within) / total, 0.0), 1.0) if total > 0 else 1.0
    return float(requests / (1 + (size - 1) * alike))


def _wide_brackets(distributions: Mapping[str, LaunchTimes]) -> Check:
    wide = [
        name
        for name, each in distributions.items()
        if each.observed.events and each.observed.width_s > each.curve.interquartile_s()
    ]
    targets = f"{len(wide)} of {counted(len(distributions), 'target')}"
    words = f"at {targets} a bracket is wider than the middle half of the times"
    why = f", so the shape of the curve is unknown: {', '.join(wide)}" if wide else ""
    return Check("polls too far apart", bool(wide), words + why)


def _moment_of_reading(data: Comparable, distributions: Mapping[str, LaunchTimes]) -> Check:
    """How much depends on when, during a call, EC2 reads the state that it returns."""
    name = "moment of reading"
    answered = data.polls[data.polls["error"].isna()]
    if answered.empty:
        return Check(name, False, "undefined: no poll was answered")
    answered = answered.drop_duplicates(["batch_id", "round", "region", "poll"])
    half_s = float((answered["answered_s"] - answered["asked_s"]).mean()) / 2
    medians_s = [each.quantile(0.5).value for each in distributions.values()]
    least_s = float(np.nanmin([*medians_s, np.inf]))
    words = (
        f"times assume that EC2 reads the state half-way through a poll; if at its start or end, "
        f"they are {half_s:.2f} s too long or too short"
    )
    return Check(name, half_s > _MATTERS * least_s, words)


def _two_clocks(data: Comparable) -> Iterator[Check]:
    """Whether EC2's events and the polls agree; nothing if no events were recorded."""
    told, against, earlier = 0, 0, 0
    for stage, rows in told_twice(data.launches, data.wanted).items():
        clocks = rows[f"{stage.label}_clocks"]
        told += int(clocks.notna().sum())
        apart = rows[clocks == CONTRADICT]
        against += len(apart)
        event_by = apart[CLOCKS["event"].format(stage.label, "by")]
        earlier += int((event_by <= apart[f"{stage.label}_after_s"]).sum())
    if not told:
        return
    share = against / told
    words = f"{percent(share)} of {counted(told, 'bracket')} contradict those of EC2's events"
    if against:
        words += f": {earlier} shown late (an old state), {against - earlier} shown before EC2 "
        words += "says that they were reached"
    yield Check("two clocks contradict each other", share > _CONTRADICTED, words)


def stale_medians(distributions: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """Sensitivity of the medians to stale reads, one row per target and ``stale_s``.

    A poll may have shown a state that was up to ``stale_s`` (0, 2, 5, 30) seconds old.  For
    ``median_s``, every bracket is widened by ``stale_s`` and the median estimated again.  For
    ``least_s``, every bracket is moved back by ``stale_s``.
    """
    rows = [
        {
            "target": name,
            "stale_s": seconds,
            "median_s": _median_if_stale(each, seconds),
            "least_s": np.maximum(each.quantile(0.5).value - seconds, 0.0),
        }
        for name, each in distributions.items()
        for seconds in (0.0, *STALE_S)
    ]
    return pd.DataFrame(rows)


def _median_if_stale(times: LaunchTimes, seconds: float) -> float:
    if seconds == 0:
        return times.quantile(0.5).value
    found = turnbull(widened(times.observed, seconds))
    median_s = float(smoothed(found, times.observed.width_s / 2).quantile(0.5))
    return np.nan if found.is_open_at(0.5) or np.isinf(median_s) else median_s


def stale_orders(distributions: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """Whether two medians keep their order if only the slower target's reads were stale.

    One row per pair and ``stale_s``: ``faster``, ``slower``, ``stale_s``, ``holds``.  This is the
    worst case: all reads of one region are late by ``stale_s``, those of the other are not late.
    """
    medians = {name: each.quantile(0.5).value for name, each in distributions.items()}
    known = sorted((s, name) for name, s in medians.items() if not np.isnan(s))
    rows = [
        {"faster": a, "slower": b, "stale_s": seconds, "holds": slow_s - seconds > fast_s}
        for (fast_s, a), (slow_s, b) in combinations(known, 2)
        for seconds in STALE_S
    ]
    return pd.DataFrame(rows, columns=["faster", "slower", "stale_s", "holds"])
