"""Whether what selected the targets says anything about how they launched.

Owns the features and outcomes of each target and their rank correlations.  Targets were chosen,
not assigned, so no correlation here is read as an effect.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from spotlib.analyze.launch_times import LaunchTimes
from spotlib.figures import target_names

FEWEST_TARGETS = 6  # with fewer even a perfect rank correlation may well be chance
_SELECTED_BY = ("score", "sps_cov", "if_cov", "sps_ordinal_variation")  # of a selection file
_KNOWN = ("sps", "t3", "if_score", "price_usd", "hour")  # of the launches


def target_features(
    launches: pd.DataFrame, selections: Sequence[pd.DataFrame] = ()
) -> pd.DataFrame:
    """What was known of each target before it was launched, indexed by target; NaN if unknown.

    The mean SPS, T3, IF, price and hour (UTC) over its requests, and what each selection file chose
    by.  The name of such a column includes the form of the file: ``sps_cov (pooled)``.
    """
    hour = launches["sent_at"].dt.hour + launches["sent_at"].dt.minute / 60
    known = launches.assign(hour=hour).groupby("target")[list(_KNOWN)].mean()
    table = known.astype("float64")
    for selection in selections:
        form = selection["form"].iloc[0] if "form" in selection else "form unknown"
        names = [name for name in _SELECTED_BY if name in selection]
        numbers = selection[names].astype("float64")
        numbers.columns = pd.Index([f"{name} ({form})" for name in names])
        for other in ("pooled", "within"):  # a file holds the CoVs of both forms
            for name in ("sps_cov", "if_cov"):
                if f"{name}_{other}" in selection:
                    numbers[f"{name} ({other})"] = selection[f"{name}_{other}"].astype("float64")
        numbers.index = pd.Index(target_names(selection))
        table = table.join(numbers[[name for name in numbers if name not in table]])
    return table


def target_outcomes(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """The share ready by the horizon, the median, and the spread between runs of each target."""
    rows = {
        name: {
            "share": each.share_ready(horizon_s).value,
            "median_s": each.quantile(0.5).value,
            "spread_s": _spread_s(each, horizon_s=horizon_s),
        }
        for name, each in distributions.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def _spread_s(times: LaunchTimes, *, horizon_s: float) -> float:
    """The standard deviation between runs (divisor n - 1).

    Only runs that were watched until then count (see ``run_shares``).  NaN for a single run, and if
    nothing was ready by the horizon: no time was seen that could vary.  NaN also where polls tell
    limits only of the mean: what varies there is when they were answered.
    """
    scores = times.run_means_s(horizon_s)
    scores = scores[~np.isnan(scores)]
    seen = len(scores) > 1 and scores.min() < horizon_s and not times.is_mean_open(horizon_s)
    return float(np.std(scores, ddof=1)) if seen else np.nan


def associations(features: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation over targets, one row per feature and outcome.

    ``rho``, ``low`` and ``high``: Fisher's transformation with the variance of Bonett and Wright
    (Psychometrika 2000).  The sample is the targets.  With fewer than 6, or if a feature or an
    outcome is constant, these are NaN and ``why`` has the reason.
    """
    rows = []
    for feature, outcome in product(features.columns, outcomes.columns):
        pair = pd.concat([features[feature], outcomes[outcome]], axis=1, join="inner").dropna()
        rows.append({"feature": feature, "outcome": outcome, **_spearman(pair)})
    return pd.DataFrame(rows)


def _spearman(pair: pd.DataFrame) -> dict[str, object]:
    targets, constant = len(pair), [name for name in pair if pair[name].nunique() < 2]
    unknown: dict[str, object] = {"targets": targets}
    unknown |= dict.fromkeys(("rho", "low", "high"), np.nan)
    if targets < FEWEST_TARGETS:
        few = f"{targets} target{'s' * (targets != 1)}, at least {FEWEST_TARGETS} are needed"
        return unknown | {"why": few}
    if constant:
        return unknown | {"why": f"{constant[0]} is the same for all targets"}
    rho = float(stats.spearmanr(pair.iloc[:, 0], pair.iloc[:, 1]).statistic)
    half = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (targets - 3))
    middle = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    ends = {"low": float(np.tanh(middle - half)), "high": float(np.tanh(middle + half))}
    return {"targets": targets, "rho": rho, **ends, "why": ""}
