"""The columns of the tables, and their types.

A column's name tells its type: ``*_s`` and ``*_usd`` are numbers, ``*_at`` is an instant in UTC.
Nothing is read here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spotlib.model import About, Stage
from spotlib.record.events import Features

PLACE = ("simulated", "world", "endpoint", "batch_id")
PLAN = (
    *("round", "plan", "instance_type", "region", "availability_zone_id", "placement"),
    *("method", "purchase", "wanted", "n", "timeout_s"),
)
_FEATURES = Features.__struct_fields__
STAGES = tuple(stage.label for stage in Stage)
# What EC2's events tell of a request, and the stages whose moment they tell too.
TOLD: tuple[About, ...] = ("fulfilled", "running")
WARNED: tuple[About, ...] = ("interruption", "rebalance")


def _brackets(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}_{end}_s" for name in names for end in ("after", "by"))


_BRACKETS = _brackets(STAGES)
BATCH_COLUMNS = (
    *PLACE,
    *("started_at", "account", "profile", "rounds", "every_s", "poll_s", "phase_s", "seed"),
    *("rounds_done", "plans", "requests", "ended", "clean", "torn"),
    *("spotlib_version", "python_version", "botocore_version"),
)
LAUNCH_COLUMNS = (
    *PLACE,
    *PLAN,
    *("request_id", "instance_id", "zone_id", "image", "image_family", "max_price_usd", "sent_at"),
    *("outcome", "status_code", "instance_reason", "instance_message", "kind", "watched_s"),
    *_BRACKETS,
    *("impaired_after_s", "impaired_by_s", "refused_after_s", "refused_by_s"),
    *("held_after_s", "held_by_s"),
    *("usable_watched_s", "guest_uptime_s", "guest_at", "guest_synchronised"),
    *_brackets([f"{stage}_{clock}" for stage in TOLD for clock in ("event", "both")]),
    *(f"{stage}_clocks" for stage in TOLD),
    *_brackets(WARNED),
    *("created_at", "fulfilled_at", "launched_at"),
    *_FEATURES,
)
POLL_COLUMNS = (*PLACE, *PLAN, "poll", "asked_s", "answered_s", "at", *STAGES, "error")
EACH_POLL = ("poll", "asked_s", "answered_s", "at", "error")  # the same for all plans of a poll
EACH_RUN = (  # the same for all requests of a run
    *(*PLACE, *PLAN),
    *("image", "image_family", "max_price_usd", "sent_at"),
    *_FEATURES,
)
EACH_REQUEST = tuple(name for name in LAUNCH_COLUMNS if name not in EACH_RUN)
COUNTS = ("of_poll", "of_run", *STAGES)
_WHOLE = {
    *("round", "plan", "n", "poll", *STAGES),
    *("rounds", "rounds_done", "plans", "requests", "ended", "seed", "sps", "t3"),
}
_YES_OR_NO = {"simulated", "torn", "clean", "guest_synchronised"}


def typed(rows: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table of these columns; a column without any value is of type object."""
    table = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name == "at" or name.endswith("_at"):
            table[name] = pd.to_datetime(table[name], utc=True)
        elif name in _WHOLE:
            table[name] = table[name].astype("Int64")
        elif name.endswith(("_s", "_usd")) or name == "if_score":
            table[name] = table[name].astype("float64")
        elif name in _YES_OR_NO:
            table[name] = table[name].astype("boolean")
        elif table[name].isna().all():
            table[name] = table[name].astype("object")
        elif pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype("float64")
        else:
            table[name] = table[name].astype("str")
    return table


def concatenated(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all parts, each as from ``typed``: a column is text if it is in any part."""
    table = pd.concat(parts, ignore_index=True)
    for name in table.columns[table.dtypes == "object"]:
        if table[name].notna().any():
            table[name] = table[name].astype("str")
    return table


def whole(numbers: NDArray[np.integer[Any]]) -> pd.arrays.IntegerArray:
    """Whole numbers with -1 for what is missing, as the tables show them."""
    return pd.arrays.IntegerArray(numbers.astype(np.int64), numbers < 0)
