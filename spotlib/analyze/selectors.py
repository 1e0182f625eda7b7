"""TODO."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from spotlib.analyze.launch_times import LaunchTimes
from spotlib.analyze.turnbull import Floats

FEWEST_TARGETS = 6  # below, even a perfect rank correlation could well be chance


_SELECTED_BY = ("score", "sps_cov", "if_cov", "sps_ordinal_variation")  # of a selection file


_KNOWN = ("sps", "if_score", "price_usd", "hour")  # of the launches


def target_features(
    launches: pd.DataFrame, selections: Sequence[pd.DataFrame] = ()
) -> pd.DataFrame:
    """What was known of each target before it was launched, indexed by target; NaN if unknown.

    The mean over its requests of SPS, IF, price and hour (UTC); and, of each selection file, what
    it was selected by, with the file's form in the name: ``sps_cov (pooled)``.
    """
    hour = launches["sent_at"].dt.hour + launches["sent_at"].dt.minute / 60
    known = launches.assign(hour=hour).groupby("target")[list(_KNOWN)].mean()
    table = known.astype("float64")
    for selection in selections:
        form = selection["form"].iloc[0] if "form" in selection else "form unknown"
        names = [name for name in _SELECTED_BY if name in selection]
        numbers = selection[names].astype("float64")
        numbers.columns = pd.Index([f"{name} ({form})" for name in names])
        for other in ("pooled", "within"):  # the form that did not choose stands there too
            for name in ("sps_cov", "if_cov"):
                if f"{name}_{other}" in selection:
                    numbers[f"{name} ({other})"] = selection[f"{name}_{other}"].astype("float64")
        numbers.index = pd.Index(selection["instance_type"] + " in " + selection["region"])
        table = table.join(numbers[[name for name in numbers if name not in table]])
    return table


def target_outcomes(laws: Mapping[str, LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """The share come, the median, and the spread between runs of each target."""
    rows = {
        name: {
            "share": law.share_ready(horizon_s).value,
            "median_s": law.quantile(0.5).value,
            "spread_s": _spread_s(law.run_means_s(horizon_s)),
        }
        for name, law in laws.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def _spread_s(scores: Floats) -> float:
    """The standard deviation between runs, n - 1 in the divisor; NaN for a single run."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan


def associations(features: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation over targets, one row a feature and outcome.

    ``rho`` with ``low`` and ``high``: Fisher's transformation with the variance of Bonett and
    Wright (Psychometrika 2000).  The sample is the targets, so below 6 of them, or where a
    feature or an outcome does not vary, they are NaN and ``why`` says so.
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
        few = f"{targets} targets say nothing, at least {FEWEST_TARGETS} are needed"
        return unknown | {"why": few}
    if constant:
        return unknown | {"why": f"{constant[0]} is the same for all targets"}
    rho = float(stats.spearmanr(pair.iloc[:, 0], pair.iloc[:, 1]).statistic)
    half = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (targets - 3))
    middle = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    ends = {"low": float(np.tanh(middle - half)), "high": float(np.tanh(middle + half))}
    return {"targets": targets, "rho": rho, **ends, "why": ""}


def best_selector(table: pd.DataFrame, outcome: str = "spread_s") -> str:
    """One sentence: which feature goes with an outcome best, and whether that is more than chance.

    A selector is to find targets whose launches differ from run to run, hence the spread.
    """
    known = table[(table["outcome"] == outcome) & table["rho"].notna()]
    if known.empty:
        why = table.loc[table["outcome"] == outcome, "why"]
        return f"nothing can be said of selectors: {why.iloc[0] if len(why) else 'no feature'}"
    rows = known.to_dict("records")
    best = max(rows, key=lambda row: abs(row["rho"]))
    sure = best["low"] > 0 or best["high"] < 0
    verdict = (
        "its interval leaves out 0, but it is the best of "
        f"{len(known)} looked at: confirm it on other targets"
        if sure
        else "its interval holds 0: no selector is shown to be better than another"
    )
    return (
        f"over {best['targets']} targets {best['feature']} goes best with {outcome}: "
        f"rank correlation {best['rho']:.2f} ({best['low']:.2f} to {best['high']:.2f}); {verdict}"
    )
