"""The status-check lag: what counts, what it would save, and how 03 shows it."""

import numpy as np
import pytest
from launch_rows import run_rows, table_of
from studies import NANO, SMALL, record
from test_analyze_notebook import page_of, tables_of, text_of

from spotlib.analyze.comparable import name_runs
from spotlib.analyze.lag import ALL, formatted_lag, lag_sentences, lag_table, lag_times
from spotlib.analyze.launch_times import launch_times
from spotlib.model import Stage
from spotlib.sandbox.world import Fate

USABLE = {
    "running_after_s": 9.0,
    "running_by_s": 11.0,
    "usable_after_s": 29.0,
    "usable_by_s": 31.0,
    "guest_uptime_s": 15.0,
}
UNSEEN = {"running_after_s": 9.0, "running_by_s": 11.0, "usable_watched_s": 9.0}


def lags(*runs):
    launches = name_runs(table_of(*runs))
    found = lag_times(launches, resamples=99)
    return found, lag_table(found, launches)


def test_the_lag_lies_between_the_differences_of_the_inner_and_of_the_outer_ends():
    found, table = lags(*(run_rows([211.5], number=number, **USABLE) for number in range(8)))

    [times] = found.values()
    assert (times.observed.after_s.min(), times.observed.by_s.max()) == (177.5, 182.5)
    assert table["median_s"].tolist() == pytest.approx([180.0], abs=2.5)
    assert table["saved_s"].tolist() == pytest.approx([180.0], abs=2.5)
    assert table["launches"].tolist() == [8]


def test_a_guest_that_is_usable_after_its_checks_were_ok_waited_for_nothing():
    """Nothing keeps the checks waiting for a guest's script; 03 must be drawn all the same."""
    early = [*run_rows([25.5], number=1, **USABLE)]
    found, table = lags(run_rows([211.5], **USABLE), early)

    [times] = found.values()
    assert (times.observed.after_s.min(), times.observed.by_s.min()) == (0.0, 1e-3)
    assert table["launches"].tolist() == [2]
    assert lags(early)[1]["saved_s"].tolist() == pytest.approx([0.0], abs=1e-3)


def test_what_is_saved_is_what_ec2_bills_and_a_minute_is_billed_in_any_case():
    """Running at 10 s, usable at 30 s, ready at 210 s: 200 s are billed, or 60 s."""
    _, table = lags(run_rows([211.5], region="sa-east-1", placement="zone", **USABLE))

    volume_usd = 8 * 0.08 / 730
    assert table["saved_usd"].tolist() == pytest.approx([140 / 3600 * (0.002 + volume_usd)])
    _, unknown = lags(run_rows([211.5], price_usd=np.nan, **USABLE))
    assert unknown["saved_usd"].isna().all()


def test_launches_without_a_stamp_or_that_did_not_wait_for_the_checks_do_not_count():
    _, table = lags(
        run_rows([211.5], **USABLE),
        run_rows([211.5], number=1, **UNSEEN),
        run_rows([211.5], number=2),
        run_rows([np.inf], number=3, wanted="usable", **USABLE),
    )

    assert table["launches"].tolist() == [1]
    assert lags(run_rows([211.5]))[0] == {}
    assert list(lag_sentences(lags(run_rows([211.5]))[1], table)) == []


def test_several_targets_have_a_row_for_all_of_them_first():
    runs = (
        [*run_rows([211.5], **USABLE)],
        [*run_rows([241.5], region="us-east-1", plan=1, **USABLE)],
    )
    _, table = lags(*runs)

    assert table["target"].tolist() == [ALL, "t3.nano in sa-east-1", "t3.nano in us-east-1"]
    assert table["launches"].tolist() == [2, 1, 1]
    assert table["saved_s"].tolist() == pytest.approx([195.0, 180.0, 210.0], abs=3.0)
    assert formatted_lag(table).shape == (3, 6)
    [first, second] = lag_sentences(table, name_runs(table_of(*runs)))
    own = [each["median_s"] for each in table.to_dict("records")[1:]]
    assert f"over both targets (of each by itself {min(own):.1f} to {max(own):.1f} s)." in first
    assert 'waits for "usable" ends each launch 19' in second


def test_a_guest_that_is_usable_last_is_not_said_to_be_usable_first():
    early = [*run_rows([25.5], **USABLE)]
    launches = name_runs(table_of(early))

    assert [*lag_sentences(lags(early)[1], launches)] == [
        "Status checks were ok no later than the guest was usable, at t3.nano in sa-east-1."
    ]


@pytest.mark.parametrize(
    ("saved_usd", "words"),
    [
        (0.002, "and each costs $0.0020 less."),
        (-0.002, "and each costs $0.0020 more."),
        (np.nan, "and what that saves is not known, because a price is not."),
    ],
)
def test_what_waiting_for_usable_would_cost_is_said_as_more_or_less(saved_usd, words):
    launches = name_runs(table_of(run_rows([211.5], **USABLE)))
    table = lags(run_rows([211.5], **USABLE))[1].assign(saved_usd=saved_usd)

    [_, said] = lag_sentences(table, launches)
    assert said.endswith(words)


def test_targets_whose_guests_were_not_read_are_counted_in_the_sentence():
    unread = [[*run_rows([211.5], region=name, plan=2)] for name in ("eu-west-1", "eu-west-2")]
    runs = [[*run_rows([211.5], region=name, **USABLE)] for name in ("us-east-1", "us-east-2")]

    said = [
        next(lag_sentences(lags(*each)[1], name_runs(table_of(*each))))
        for each in (runs[:1], [*runs, *unread])
    ]

    assert said[0].endswith(" at t3.nano in us-east-1.")
    assert "over 2 of 4 targets (of each by itself" in said[1]
    assert said[1].endswith(" s; of 2 targets no guest was read).")


def test_the_medians_of_the_targets_are_called_those_of_each_only_if_each_has_one():
    names = ("us-east-1", "us-east-2", "us-west-2")
    runs = [[*run_rows([211.5], region=name, **USABLE)] for name in names]
    table, launches = lags(*runs)[1], name_runs(table_of(*runs))
    last = table.index[table["target"] != ALL][-1]
    lacking = table.assign(median_s=table["median_s"].mask(table.index == last))

    assert " (of each by itself " in next(lag_sentences(table, launches))
    assert " (of those with one by itself " in next(lag_sentences(lacking, launches))


def test_a_guest_that_was_not_heard_is_censored_where_it_ran_and_others_do_not_count():
    """A stamp that was missed must not make guests look slow."""
    heard = (run_rows([211.5], number=number, **USABLE) for number in range(3))
    launches = name_runs(
        table_of(*heard, run_rows([211.5], number=3, **UNSEEN), run_rows([211.5], number=4))
    )

    [times] = launch_times(launches, Stage.USABLE, resamples=9).values()
    assert len(times.observed.run) == 4
    assert sorted(times.observed.after_s) == [9.0, 29.0, 29.0, 29.0]
    assert times.quantile(0.5).value == pytest.approx(30.0, abs=1.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What 03 shows of a small study that recorded when guests were usable."""
    folder = tmp_path_factory.mktemp("usable")
    fates = [
        Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=5.0, ok_s=60.0 + n % 7) for n in range(64)
    ]
    targets = (NANO, SMALL)
    record(
        folder / "launches" / "a.jsonl",
        targets=targets,
        n=2,
        rounds=7,
        every_s=300.0,
        fates=fates,
        timeout_s=120.0,
        usable=True,
    )
    return folder, page_of(folder, drawn=False)


def test_the_page_shows_the_lag_its_figure_and_what_would_be_saved(page):
    folder, shown = page
    text = text_of(" ".join(each.get("text/html", "") for each in shown))
    tables = dict(tables_of(shown))

    assert (folder / "figures" / "status-check-lag.png").exists()
    assert tables["status-check-lag"]["target"].iloc[0] == ALL
    assert "Status checks were ok later than the guest was usable, by a median of" in text
    assert "over both targets (of each by itself" in text
    assert 'A study that waits for "usable" ends each launch' in text
    phases = (folder / "tables" / "phases.csv").read_text()
    assert "usable to ready" in phases
    assert "running to usable" in phases
    assert "running to ready" not in phases
