"""Features that are left out of a forecast: which values they may have, and how likely each is.

What is unknown is not taken to be some fixed value.  It may be whatever it was in training, and
the forecast is the average over that.  No model is fitted here, and nothing is forecast.
"""

import numpy as np
import pandas as pd

from spotlib.forecast.models import FEATURES, regressors
from spotlib.forecast.training import Floats

_MOST_RUNS = 200  # to average over: of more, so many are drawn


def complete(asked: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, Floats]:
    """Return the one row of ``asked`` with each set of values for its NaN, and their weights.

    The values are those of ``runs``: of the same target if there are any, else of all.  A run has
    more weight if it is more similar to the known values.  A feature that was never known in them
    stays NaN.
    """
    unknown = [name for name in FEATURES if asked[name].isna().item()]
    own = runs[runs["target"] == asked["target"].item()]
    found = own if len(own) else runs
    seen = [name for name in unknown if found[name].notna().any()]
    if not seen:
        return asked, np.ones(1)
    known = found.dropna(subset=seen)
    found = known if len(known) else found
    weight = _likeness(asked, found)
    if len(found) > _MOST_RUNS:
        rng = np.random.default_rng(0)  # the same question has the same answer
        found = found.iloc[rng.choice(len(found), _MOST_RUNS, p=weight / weight.sum())]
        weight = np.ones(_MOST_RUNS)
    alike = found[seen].assign(weight=weight).groupby(seen, dropna=False)
    values = alike["weight"].sum().reset_index()
    rest = {name: asked[name].item() for name in asked.columns.difference(seen)}
    return values[seen].assign(**rest), (values["weight"] / values["weight"].sum()).to_numpy()


def _likeness(asked: pd.DataFrame, runs: pd.DataFrame) -> Floats:
    """Return 1 for the runs most like the row of ``asked``, less for others: (runs,).

    A Gaussian kernel, one standard deviation wide in each regressor.
    """
    rows = pd.DataFrame(regressors(runs))
    at = np.clip(regressors(asked)[0], rows.min(), rows.max())
    gaps = ((rows - at) / rows.std(ddof=0)) ** 2  # NaN where unknown, or where all are the same
    distance = gaps.fillna(1.0).sum(axis=1).to_numpy()
    return np.asarray(np.exp((distance.min() - distance) / 2.0))
