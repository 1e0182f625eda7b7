"""What the forecast says of the targets at hand, and what to do about it: for ``03_analyze``.

Owns the questions put to the forecaster, from what was known before each target's last run.  The
forecasts themselves are ``forecast``'s.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from spotlib.curves import FEATURES
from spotlib.forecast import (
    Forecast,
    Forecaster,
    forecast_ready,
    requests_needed,
    waiting_pays_until_s,
)
from spotlib.model import Target


def outlook(forecaster: Forecaster, training: pd.DataFrame) -> list[Forecast]:
    """The forecast for each target as if its last run were asked for again, in order of name."""
    return [
        forecast_ready(forecaster, target, n=n, known=known)
        for target, n, known in _questions(training)
    ]


def decisions(
    forecaster: Forecaster, training: pd.DataFrame, *, chance: float = 0.9
) -> pd.DataFrame:
    """What to do, one row a target, by the last time learnt from.

    ``all_ready`` is the chance that all n are ready by then, ``to_request`` how many to ask for so
    that n are with this chance (NaN if ten times as many are not enough), ``wait_until_s`` when
    waiting pays no more.
    """
    rows = []
    for forecast, (target, n, known) in zip(
        outlook(forecaster, training), _questions(training), strict=True
    ):
        by_s = float(forecast.times_s[-1])
        needed = requests_needed(
            forecaster, target, k=n, by_s=by_s, chance=chance, known=known, most=10 * n
        )
        rows.append(
            {
                "target": str(target),
                "n": n,
                "by_s": by_s,
                "all_ready": float(forecast.at_least(n)[-1]),
                "to_request": np.nan if needed is None else float(needed),
                "wait_until_s": waiting_pays_until_s(forecast),
            }
        )
    return pd.DataFrame(rows)


def decision_words(table: pd.DataFrame) -> str:
    """One sentence: where asking for exactly n is enough, and where nothing is."""
    enough = int((table["to_request"] == table["n"]).sum())
    never = int(table["to_request"].isna().sum())
    by_s = table["by_s"].iloc[0]
    return (
        f"for {enough} of {len(table)} targets n requests give n ready by {by_s:.0f} s in 9 of 10 "
        f"cases; for {never} not even ten times as many would"
    )


def _questions(training: pd.DataFrame) -> Iterator[tuple[Target, int, dict[str, float]]]:
    order = ["instance_type", "region", "availability_zone_id"]
    last = training.sort_values("sent_at").drop_duplicates(order, keep="last").sort_values(order)
    for row in last.to_dict("records"):
        zone = row["availability_zone_id"]
        target = Target(row["instance_type"], row["region"], None if pd.isna(zone) else str(zone))
        known = {name: float(row[name]) for name in FEATURES if not pd.isna(row[name])}
        yield target, int(row["n"]), known
