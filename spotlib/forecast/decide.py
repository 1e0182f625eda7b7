"""What to request, decided from a forecast: how many instances, and how long to wait.

This module answers the questions of ``03_analyze``: what to expect if each target's last run
were requested again, how many instances to request to have n ready, and when to stop waiting.
It fits no model and weighs no cost.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from spotlib.analyze.intervals import too_few
from spotlib.figures import target_names
from spotlib.forecast.forecast import CHOSEN, Forecast, Forecaster, forecast_ready
from spotlib.forecast.history import history_now
from spotlib.forecast.models import FEATURES
from spotlib.forecast.score import UNITS, Scores
from spotlib.model import Stage, Target
from spotlib.words import counted, listed, percent, which

_PROBABILITY = 0.9  # of having the needed instances ready
_MOST_TIMES = 10  # at most so many requests per needed instance are tried
_WITHIN_S = 60.0  # a pending instance is waited for if it may be ready so soon


def forecast_targets(
    forecaster: Forecaster, requests: pd.DataFrame, probes: pd.DataFrame | None = None
) -> list[Forecast]:
    """Forecast each target as if its last run were requested again, in order of name.

    ``requests`` is the request table, ``probes`` as for it.  Own history is that of all these runs,
    as of their end.
    """
    return [
        forecast_ready(forecaster, target, n=n, features=features)
        for target, n, features in _last_runs(requests, probes)
    ]


def decisions(
    forecaster: Forecaster, requests: pd.DataFrame, probes: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return what to do, one row per target, if its last run of ``n`` were requested again.

    ``by_s`` is the last elapsed time of the forecaster, and ``all_ready`` the probability
    that all n are ready by then.  With probability 0.9, ``ready_at_least`` or more of the n are.
    ``to_request`` is the number to request to have n ready by then with probability 0.9; NaN if
    10 n is not enough.  ``wait_until_s`` is the time after which to stop waiting, in whole
    seconds; NaN if it still pays 60 s before ``by_s`` (``waiting_pays_until_s``).
    """
    rows = []
    for target, n, features in _last_runs(requests, probes):
        forecast = forecast_ready(forecaster, target, n=n, features=features)
        by_s = float(forecast.times_s[-1])
        needed = requests_needed(forecaster, target, k=n, by_s=by_s, features=features)
        rows.append(
            {
                "target": str(target),
                "n": n,
                "by_s": by_s,
                "all_ready": float(forecast.at_least(n)[-1]),
                "ready_at_least": int(forecast.quantile(1.0 - _PROBABILITY)[-1]),
                "to_request": np.nan if needed is None else float(needed),
                "wait_until_s": round(waiting_pays_until_s(forecast), 0),
            }
        )
    return pd.DataFrame(rows)


def forecast_words(forecasts: Sequence[Forecast]) -> str:
    """Say for which target the most and the least are expected at the end."""
    ranked = sorted(forecasts, key=lambda each: each.expected[-1] / each.n)
    by_count: dict[str, list[str]] = {}
    for each in ranked:
        by_count.setdefault(_count_words(each), []).append(str(each.target))
    ends = dict.fromkeys((_count_words(ranked[0]), _count_words(ranked[-1])))
    words = (f"{count} at {which(by_count[count], of=len(ranked))}" for count in ends)
    return f"After {ranked[0].times_s[-1]:.0f} s, expect {' to '.join(words)}."


def _count_words(forecast: Forecast) -> str:
    count = f"{forecast.expected[-1]:.1f}"
    ends = {"0.0": f"none of {forecast.n}", f"{forecast.n}.0": f"all {forecast.n}"}
    return ends.get(count, f"{count} of {forecast.n}")


def decision_words(table: pd.DataFrame, stage: Stage = Stage.READY) -> str:
    """Say at how many targets n is enough, more than n and not even 10 n, and where to wait."""
    more = int((table["to_request"] > table["n"]).sum())
    never = int(table["to_request"].isna().sum())
    ways = {
        "request n": len(table) - more - never,
        "request more than n": more,
        f"not even {_MOST_TIMES} times n is enough": never,
    }
    by_s = float(table["by_s"].iloc[0])
    waits = {
        f"waiting still pays at {by_s - _WITHIN_S:.0f} s (later is not known)": (
            by_s >= _WITHIN_S and int(table["wait_until_s"].isna().sum())
        ),
        "waiting never pays": int((table["wait_until_s"] == 0).sum()),
    }
    to_do, to_wait = (
        [f"at {number} {words}" for words, number in each.items() if number]
        for each in (ways, waits)
    )
    return (
        f"To have n {stage.label} within {by_s:.0f} s with a chance of {percent(_PROBABILITY)}: "
        f"of {counted(len(table), 'target')}, {listed(to_do)}."
        + (f"  Of the same, {listed(to_wait)}." if to_wait else "")
    )


def formatted_decisions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``decisions`` as they are shown: the chance as percent, times whole.

    A number that is not known is shown as over the last that was tried.
    """
    tried = {"to_request": _MOST_TIMES * table["n"], "wait_until_s": table["by_s"] - _WITHIN_S}
    shown = {
        name: table[name].map("{:.0f}".format).mask(table[name].isna(), last.map(_over))
        for name, last in tried.items()
    }
    by_s = table["by_s"].map("{:.0f}".format)
    return table.assign(all_ready=table["all_ready"].map(percent), by_s=by_s, **shown)


def _over(last: float) -> str:
    return f"over {last:.0f}" if last >= 0 else "-"


def score_words(scores: Scores) -> str:
    """Say what the chosen model gained, and how often its band held the count."""
    [chosen] = scores.table[scores.table["model"] == CHOSEN].to_dict("records")
    gain, low, high = (_below(chosen[name]) for name in ("gain", "gain_low", "gain_high"))
    ends = f"95 % interval: {low} to {high}"
    if np.isnan(chosen["gain_low"]):
        units = scores.runs[UNITS[scores.resampled]]
        ends = f"no interval: {too_few(len(units.drop_duplicates()), scores.resampled)}"
    return (
        f"The error (crps) of the chosen model is {gain} that of one curve for all targets "
        f"({ends}).  "
        f"The shade held {percent(chosen['coverage_drawn'])} of the counts, and "
        f"{percent(chosen['coverage_randomised'])} with its ends counted in part."
    )


def _below(gain: float) -> str:
    """``16 % below``, or ``above`` where nothing was gained."""
    return f"{percent(abs(gain))} {'above' if gain < 0 else 'below'}"


def requests_needed(
    forecaster: Forecaster,
    target: Target,
    *,
    k: int,
    by_s: float,
    features: Mapping[str, float] | None = None,
) -> int | None:
    """Return the smallest n of which ``k`` are ready by ``by_s`` with probability 0.9.

    None if 10 k is not enough.  Instances of a run fail together, so requesting more helps less
    than it would if they were independent, and may never be enough.
    """
    for n in range(k, _MOST_TIMES * k + 1):
        forecast = forecast_ready(forecaster, target, n=n, features=features, times_s=[by_s])
        if forecast.at_least(k).item() >= _PROBABILITY:
            return n
    return None


def waiting_pays_until_s(
    forecast: Forecast, *, within_s: float = _WITHIN_S, least_probability: float = 0.05
) -> float:
    """Return from when on a pending instance is no longer likely enough to be ready soon.

    Likely enough: ``least_probability`` of becoming ready within the next ``within_s``, that is
    (S(t) - S(t + within_s)) / S(t) with S the share still pending.  From this time on, in whole
    seconds, cancel and request elsewhere.  0.0 if waiting never pays: request elsewhere at once.
    NaN if the time is not known: the forecast is shorter than ``within_s``, or waiting still pays
    at the last time that can be tested, ``within_s`` before its end.
    """
    times_s = np.concatenate([[0.0], forecast.times_s])
    pending = np.concatenate([[1.0], 1.0 - forecast.expected / forecast.n])
    last_s = float(times_s[-1]) - within_s
    if last_s < 0:
        return float("nan")
    now = np.append(np.arange(0.0, last_s), last_s)
    still = np.interp(now, times_s, pending)
    later = np.interp(now + within_s, times_s, pending)
    pays = (still - later) >= least_probability * np.maximum(still, 1e-12)
    return float("nan") if pays[-1] else float(now[np.flatnonzero(pays).max(initial=-1) + 1])


def _last_runs(
    requests: pd.DataFrame, probes: pd.DataFrame | None
) -> Iterator[tuple[Target, int, dict[str, float]]]:
    """Yield the target, n and features of each target's last run, with the history up to now."""
    order = ["instance_type", "region", "availability_zone_id"]
    last = requests.sort_values("sent_at").drop_duplicates(order, keep="last").sort_values(order)
    last = last.set_index(target_names(last))
    for row in last.assign(**history_now(requests, probes)).to_dict("records"):
        zone = row["availability_zone_id"]
        target = Target(row["instance_type"], row["region"], None if pd.isna(zone) else str(zone))
        features = {name: float(row[name]) for name in FEATURES if not pd.isna(row[name])}
        yield target, int(row["n"]), features
