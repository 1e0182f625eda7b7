"""What a score rests on, how targets are chosen, and the file that 02_collect reads."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from market import market, random_market, write_tree
from test_notebook import parameters

from spotlib.select.archive.counts import read_counts
from spotlib.select.choose import (
    add_controls,
    choose_targets,
    complete_selection,
    write_selection,
)
from spotlib.select.cov import score_targets, variation
from spotlib.select.evidence import FLAGGED_SHARE, evidence, stability
from spotlib.select.figures import variation_figure
from spotlib.select.report import agreement_words, evidence_table, flag_words, score_words

NAN = float("nan")
CREATED = datetime(2026, 11, 23, 6, 15, tzinfo=UTC)


def history(*series, instance_type="t3.nano", start=datetime(2024, 8, 1, tzinfo=UTC), step=10):
    """One zone of sa-east-1 per series of (SPS, IF)."""
    return market(
        [
            (
                start + timedelta(minutes=step * number),
                instance_type,
                "sa-east-1",
                f"sae1-az{zone}",
                *pair,
            )
            for zone, pairs in enumerate(series, start=1)
            for number, pair in enumerate(pairs)
            if pair is not None
        ]
    )


def counted(history, folder):
    return read_counts(write_tree(history, folder), cache=None).counts


class TestEvidence:
    def test_a_score_that_rests_on_one_snapshot_shows_its_share(self, tmp_path):
        pairs = [(3, 2.5)] * 130 + [(2, 2.5)] * 9 + [(3, 3.0)]
        [row] = evidence(counted(history(pairs), tmp_path)).to_dict("records")

        assert row["resting_share"] == pytest.approx(1 / 140)
        assert row["resting_share"] < FLAGGED_SHARE

    def test_within_zones_only_what_differs_from_the_zones_own_value_counts(self, tmp_path):
        one, other = [(3, 2.5)] * 5 + [(3, 3.0)] * 5, [(1, 2.5)] * 5 + [(1, 3.0)] * 4 + [(2, 3.0)]
        counts = counted(history(one, other), tmp_path)

        assert evidence(counts)["resting_share"].tolist() == [pytest.approx(0.5)]
        within = evidence(counts, form="within")["resting_share"]
        assert within.tolist() == [pytest.approx(1 / 20)]

    def test_a_missing_value_carries_a_score_only_where_it_counts_as_a_value(self, tmp_path):
        counts = counted(history([(3, 3.0), (2, 3.0), (2, NAN), (3, 3.0)]), tmp_path)

        assert evidence(counts)["resting_share"].tolist() == [0.0]
        assert evidence(counts, missing="as_value")["resting_share"].tolist() == [0.25]

    def test_coverage_is_the_share_of_snapshots_with_both_values_known(self, tmp_path):
        full, partial = [(3, 2.5)] * 10, [(3, 2.5)] * 4 + [(3, NAN)] + [None] * 5
        counts = counted(history(full, partial), tmp_path)

        assert evidence(counts)["coverage"].tolist() == [pytest.approx(14 / 20)]

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            ([3, 3, 3, 3], 0.0),
            ([1, 1, 3, 3], 1.0),  # as far apart as three levels allow
            ([2, 2, 3, 3], 0.5),
            ([1, 2, 3], 2 / 3),  # F = 1/3, 2/3: (1/3 + 1/3) * 2 / 2
            ([1, 10], 1.0),
            ([NAN, 3], 0.0),
        ],
    )
    def test_ordinal_variation_is_leiks(self, scores, expected, tmp_path):
        counts = counted(history([(score, 2.5) for score in scores]), tmp_path)

        assert evidence(counts)["sps_ordinal_variation"].tolist() == [pytest.approx(expected)]

    def test_changes_are_counted_within_days_over_midnight_and_never_between_zones(self, tmp_path):
        one = [(3, 2.5)] * 5 + [(2, 2.5)] * 5  # changes at midnight
        other = [(1, 2.5)] * 3 + [(NAN, 2.5)] * 3 + [(1, 2.5), (2, 2.5), (1, 2.5), (1, 2.5)]
        start = datetime(2024, 8, 1, 23, 10, tzinfo=UTC)
        counts = counted(history(one, other, start=start), tmp_path)

        [rate] = evidence(counts)["sps_changes_per_day"]

        assert rate == pytest.approx((1 + 2) / (17 / 144))

    def test_a_scale_that_changed_inside_the_month_is_seen(self, tmp_path):
        jump = counted(history([(3, 2.0), (3, 2.0), (9, 2.5), (9, 2.5)]), tmp_path)

        assert evidence(jump)["sps_above_3"].tolist() == [0.5]

    def test_targets_that_rest_on_a_change_of_the_scale_are_flagged(self, tmp_path):
        jump = history([(3, 2.0), (3, 2.0), (9, 2.5), (9, 2.5)])
        moved = history([(3, 2.0), (2, 2.0), (3, 2.5), (1, 2.5)], instance_type="t3.micro")
        counts = counted(market(pd.concat([jump.rows, moved.rows]).to_numpy().tolist()), tmp_path)
        pairs = variation(counts)
        chosen = choose_targets(score_targets(pairs), top=2)

        table = complete_selection(chosen, pairs, counts=counts, parameters=parameters())

        assert dict(zip(table["instance_type"], table["scale_changed"], strict=True)) == {
            "t3.nano": True,
            "t3.micro": False,
        }
        assert "1 show SPS both up to 3 and above 3" in flag_words(table)
        shown = evidence_table(table, simulated=False).to_html()
        assert shown.count("SPS above 3: two scales") == 1

    def test_controls_are_named_as_such_in_the_legend(self, tmp_path):
        counts = counted(random_market(missing=0.0), tmp_path)
        pairs = variation(counts)
        chosen = choose_targets(score_targets(pairs, sizes=None), top=1)
        given = parameters(controls=1, sizes="nano medium xlarge metal")
        table = complete_selection(chosen, pairs, counts=counts, parameters=given)

        [legend] = variation_figure(pairs, table, simulated=False).legends

        texts = [text.get_text() for text in legend.get_texts()]
        assert sum("(random control)" in text for text in texts) == 1
        assert not any(text.startswith("1  ") and "control" in text for text in texts)
        assert legend.get_title().get_text() == "selected: rank and target"

    def test_the_score_of_the_first_target_is_worked_out_in_the_numbers_of_its_row(self, tmp_path):
        rows = history([(1, 2.0), (2, 2.0), (3, 3.0)])
        table = choose_targets(score_targets(variation(counted(rows, tmp_path))), top=1)

        assert score_words(table).splitlines() == [
            "the score of rank 1, t3.nano in sa-east-1 (1 zone):",
            "  SPS  mean 2.0000, standard deviation 1.0000, over 3 values:"
            " CoV = 1.0000 / 2.0000 = 0.5000",
            "  IF   mean 2.3333, standard deviation 0.5774, over 3 values:"
            " CoV = 0.5774 / 2.3333 = 0.2474",
            "  score = CoV(SPS) x CoV(IF) = 0.5000 x 0.2474 = 0.1237",
        ]

    def test_a_name_of_an_archive_is_shown_and_not_run(self, tmp_path):
        name = "<b>.nano"
        counts = counted(history([(3, 2.0), (2, 2.5)], instance_type=name), tmp_path)
        pairs = variation(counts)
        chosen = choose_targets(score_targets(pairs), top=1)
        table = complete_selection(chosen, pairs, counts=counts, parameters=parameters())

        shown = evidence_table(table, simulated=False).to_html()

        assert name not in shown
        assert "&lt;b&gt;.nano" in shown

    def test_evidence_of_some_pairs_equals_theirs_among_all(self, tmp_path):
        counts = counted(random_market(), tmp_path)
        pairs = variation(counts).iloc[[1, 4]]

        some, every = evidence(counts, pairs=pairs), evidence(counts)

        expected = every.merge(pairs[["instance_type", "region"]])
        pd.testing.assert_frame_equal(some.reset_index(drop=True), expected)
        assert len(some) == 2

    def test_the_last_known_price_is_the_mean_over_zones(self, tmp_path):
        counts = counted(history([(3, 2.5)] * 3, [(3, 2.5)] * 3), tmp_path)

        assert evidence(counts)["price_usd_per_hour"].tolist() == [pytest.approx(0.0021)]


class TestStability:
    def test_a_market_that_repeats_itself_every_day_agrees_with_itself(self, tmp_path):
        rows = random_market(days=1, snapshots=12, seed=3).rows
        rows = pd.concat([rows.assign(at=rows["at"] + timedelta(days=day)) for day in range(4)])
        counts = counted(market(rows.to_numpy().tolist()), tmp_path)

        found = stability(counts, sizes=None, top=3)

        assert found.rank_correlation == pytest.approx(1.0)
        assert found.shared == found.top == 3

    def test_a_single_day_has_no_second_half_to_agree_with(self, tmp_path):
        counts = counted(random_market(days=1), tmp_path)

        found = stability(counts, sizes=None)

        assert np.isnan(found.rank_correlation)
        assert found.shared == 0
        assert found.days == (1, 0)
        words = agreement_words(found)
        assert words == (
            "whether other days would rank alike cannot be told from 1 odd day alone:"
            " read more days"
        )

    def test_days_without_different_scores_say_that_they_cannot_be_compared(self, tmp_path):
        still = counted(history([(3, 2.0)] * 300), tmp_path)

        words = agreement_words(stability(still, sizes=None))

        assert words.startswith("no rank correlation: too few scores differ, over 0 targets")


@pytest.fixture(scope="module")
def table():
    names = [
        (f"{family}.{size}", region)
        for family in ("t3", "t4g", "m6gd")
        for size in ("nano", "medium")
        for region in ("us-east-1", "eu-west-1", "sa-east-1")
    ]
    frame = pd.DataFrame(names, columns=["instance_type", "region"])
    cov = np.linspace(0.5, 0.1, len(frame))
    frame["sps_cov"] = np.where(np.arange(len(frame)) % 3 == 2, 0.0, cov)
    frame["if_cov"] = 0.2
    return frame


class TestChoice:
    def test_a_full_region_or_family_is_skipped(self, table):
        scored = score_targets(table)

        chosen = choose_targets(scored, top=4, max_per_region=2)
        assert chosen["region"].value_counts().max() == 2
        assert chosen["rank"].tolist() == [1, 2, 3, 4]
        assert chosen["score"].is_monotonic_decreasing

        families = choose_targets(scored, top=9, max_per_family=1)
        assert families["instance_type"].str.split(".").str[0].tolist() == ["t3", "t4g", "m6gd"]
        assert (families["inclusion_probability"] == 1).all()
        assert len(choose_targets(scored, top=100)) == len(scored)
        assert choose_targets(scored.head(0), top=3).empty

    def test_controls_are_random_and_constant_targets_with_their_probabilities(self, table):
        chosen = choose_targets(score_targets(table), top=4)

        selection = add_controls(chosen, table, controls=2, seed=7)

        assert selection["role"].tolist() == ["ranked"] * 4 + ["constant"] * 2 + ["random"] * 2
        pairs = selection[["instance_type", "region"]].apply(tuple, axis=1)
        assert pairs.is_unique
        constant = selection[selection["role"] == "constant"]
        assert (constant["sps_cov"] == 0).all()
        assert constant["inclusion_probability"].tolist() == [2 / 6] * 2
        assert selection["inclusion_probability"].iloc[-1] == 2 / (12 - 4)
        assert selection["rank"].tolist() == list(range(1, 9))
        again = add_controls(chosen, table.sample(frac=1, random_state=0), controls=2, seed=7)
        pd.testing.assert_frame_equal(again, selection)
        other = [add_controls(chosen, table, controls=2, seed=seed) for seed in range(5)]
        assert any(not frame.equals(selection) for frame in other)

    def test_zero_controls_change_nothing_and_too_many_take_all(self, table):
        chosen = choose_targets(score_targets(table), top=4)

        assert len(add_controls(chosen, table, controls=0, seed=0)) == 4
        everything = add_controls(chosen, table, controls=99, seed=0)
        assert len(everything) == len(table)
        assert (everything["inclusion_probability"] == 1).all()

    def test_inclusion_probabilities_are_those_of_the_draw(self, table):
        chosen = choose_targets(score_targets(table), top=4)
        draws = [
            add_controls(chosen, table, controls=2, seed=seed).query("role == 'random'")
            for seed in range(400)
        ]
        often = pd.concat(draws).groupby(["instance_type", "region"]).size() / 400

        assert len(often) == 8
        assert often.between(0.25 - 0.09, 0.25 + 0.09).all()


class TestSelectionFile:
    def test_it_carries_its_source_time_and_parameters_and_reads_back_exactly(
        self, table, tmp_path
    ):
        chosen = choose_targets(score_targets(table), top=3)

        path = write_selection(
            chosen, tmp_path, source="sandbox", created=CREATED, parameters={"form": "pooled"}
        )

        assert path.name == "20261123T061500.000000Z.csv"
        back = pd.read_csv(path, dtype={"score": str})  # pandas 2 rounds the last digit
        assert back["rank"].tolist() == [1, 2, 3]
        assert back["score"].map(float).tolist() == chosen["score"].tolist()
        assert back[["source", "created", "form"]].drop_duplicates().to_numpy().tolist() == [
            ["sandbox", "2026-11-23T06:15:00Z", "pooled"]
        ]

    def test_its_name_is_the_utc_time_in_any_zone(self, table, tmp_path):
        created = CREATED.astimezone(timezone(timedelta(hours=9)))

        path = write_selection(table, tmp_path, source="spotlake", created=created, parameters={})

        assert path.name == "20261123T061500.000000Z.csv"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"source": "aws"}, "source must be spotlake or sandbox, got 'aws'"),
            ({"created": datetime(2026, 11, 23)}, "aware of its time zone"),  # noqa: DTZ001
            ({"parameters": {"region": "x"}}, r"columns of the selection: \['region'\]"),
        ],
    )
    def test_misleading_arguments_are_refused(self, change, message, table, tmp_path):
        arguments = {"source": "sandbox", "created": CREATED, "parameters": {}} | change

        with pytest.raises(ValueError, match=message):
            write_selection(table, tmp_path, **arguments)
        assert list(tmp_path.iterdir()) == []

    def test_it_never_overwrites(self, table, tmp_path):
        arguments = {"source": "sandbox", "created": CREATED, "parameters": {}}
        write_selection(table, tmp_path, **arguments)

        with pytest.raises(FileExistsError):
            write_selection(table.head(1), tmp_path, **arguments)


def test_the_study_s_way_from_archive_to_ranking_is_reproduced(tmp_path):
    """The study: concatenate, std over mean of all rows, multiply, drop zeros."""
    history = random_market(days=3, snapshots=20, seed=5)
    rows = history.rows.fillna({"if_score": -1.0})
    grouped = rows.groupby(["instance_type", "region"])[["sps", "if_score"]]
    cov = grouped.std() / grouped.mean()
    study = (cov["sps"] * cov["if_score"]).sort_values(ascending=False)

    ours = score_targets(variation(counted(history, tmp_path), missing="as_value"), sizes=None)

    pairs = list(zip(ours["instance_type"], ours["region"], strict=True))
    assert pairs == list(study.index)
    np.testing.assert_allclose(ours["score"], study, rtol=1e-12)
