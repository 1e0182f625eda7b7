"""A column's name tells its type, also where a part of the table has no value of it."""

import numpy as np
import pandas as pd
import pytest

from spotlib.record.columns import (
    BATCH_COLUMNS,
    LAUNCH_COLUMNS,
    POLL_COLUMNS,
    concatenated,
    typed,
    whole,
)

COLUMNS = ("started_at", "round", "ready_by_s", "price_usd", "clean", "kind", "if_score")


def test_the_end_of_a_name_tells_the_type():
    table = typed([("2026-01-02T12:00:00Z", 1, 2, 3, True, "x", 2)], COLUMNS)

    types = {name: str(each) for name, each in table.dtypes.items()}
    assert types.pop("started_at").endswith("UTC]")
    assert types == {
        **{"round": "Int64", "ready_by_s": "float64", "price_usd": "float64"},
        **{"clean": "boolean", "kind": "str", "if_score": "float64"},
    }


def test_what_is_missing_stays_missing_in_every_type():
    table = typed([(None,) * len(COLUMNS)], COLUMNS)

    assert table.isna().all(axis=None)
    assert str(table["kind"].dtype) == "object"
    assert str(table["started_at"].dtype).endswith("UTC]")
    assert str(table["round"].dtype) == "Int64"
    assert str(table["if_score"].dtype) == "float64"


def test_a_number_of_the_users_own_stays_a_number_and_other_words_are_text():
    table = typed([(1, "a"), (None, None)], ("mine", "theirs"))

    assert str(table["mine"].dtype) == "float64"
    assert str(table["theirs"].dtype) == "str"
    assert table["theirs"].isna().tolist() == [False, True]


def test_a_column_is_text_if_it_is_in_any_part_and_else_of_no_type():
    parts = [typed([(None, None)], ("kind", "error")), typed([("quota", None)], ("kind", "error"))]

    for some in (parts, parts[::-1]):
        table = concatenated(some)
        assert {name: str(each) for name, each in table.dtypes.items()} == {
            **{"kind": "str", "error": "object"}
        }
        assert sorted(table["kind"].isna()) == [False, True]
        assert table["error"].isna().all()
        assert table.index.tolist() == [0, 1]


def test_whole_numbers_below_none_are_missing():
    assert pd.Series(whole(np.array([0, -1, 5], dtype=np.int32))).tolist() == [0, pd.NA, 5]


@pytest.mark.parametrize("columns", [LAUNCH_COLUMNS, POLL_COLUMNS])
def test_no_column_is_named_twice(columns):
    assert len(set(columns)) == len(columns)


WHOLE = {"round", "plan", "n", "poll", "rounds", "rounds_done", "plans", "requests", "ended"}
WHOLE |= {"seed", "sps", "t3"}
YES_OR_NO = {"simulated", "clean", "torn", "guest_synchronised"}
STAGES = {"accepted", "granted", "fulfilled", "running", "usable", "ready"}


@pytest.mark.parametrize("columns", [BATCH_COLUMNS, LAUNCH_COLUMNS, POLL_COLUMNS])
def test_every_column_of_the_tables_has_its_type(columns):
    """Instants end in at, seconds in s, dollars in usd, and what is left is text."""
    types = {}
    for name in columns:
        kind, value = "str", "x"
        if name.split("_")[-1] == "at":
            kind, value = "datetime64", "2026-01-02T12:00:00Z"
        elif name in WHOLE | STAGES:
            kind, value = "Int64", 2
        elif name.split("_")[-1] in ("s", "usd") or name == "if_score":
            kind, value = "float64", 2
        elif name in YES_OR_NO:
            kind, value = "boolean", True
        types[name] = kind, value
    table = typed([tuple(value for _, value in types.values())], columns)

    assert {name: str(each).split("[")[0] for name, each in table.dtypes.items()} == {
        name: kind for name, (kind, _) in types.items()
    }
