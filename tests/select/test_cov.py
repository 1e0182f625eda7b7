"""The mathematics of variation, against hand-worked tables and independent implementations."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from spotlib.select.cov import score_targets, snapshots_by_value, variation

NAN = float("nan")
SPS = st.one_of(st.integers(1, 10), st.just(NAN))
IF = st.one_of(st.integers(2, 6).map(lambda half: half / 2), st.just(NAN))
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["t3.nano", "m6gd.medium"]),
        st.sampled_from(["us-east-1", "sa-east-1"]),
        st.sampled_from(["az1", "az2", "az3"]),
        SPS,
        IF,
        st.integers(1, 5000),
    ),
    min_size=1,
    max_size=40,
)


def counts_of(rows):
    """Counts in which each missing value was written as -1."""
    columns = ["instance_type", "region", "availability_zone_id", "sps", "if_score", "snapshots"]
    table = pd.DataFrame(rows, columns=columns)
    coded = {"sps_coded": table["sps"].isna(), "if_coded": table["if_score"].isna()}
    return table.assign(**coded, surplus_rows=0)


def long(counts, *, missing):
    """One row per zone and snapshot, as the study holds them."""
    rows = counts.loc[counts.index.repeat(counts["snapshots"])]
    return rows.fillna({"sps": -1.0, "if_score": -1.0}) if missing == "as_value" else rows


@settings(deadline=None)
@given(rows=ROWS, missing=st.sampled_from(["drop", "as_value"]))
def test_pooled_is_pandas_own_std_over_mean(rows, missing):
    counts = counts_of(rows)
    ours = variation(counts, missing=missing).set_index(["instance_type", "region"])
    theirs = long(counts, missing=missing).groupby(["instance_type", "region"])[["sps", "if_score"]]
    mean, std = theirs.mean(), theirs.std()

    for feature, short in (("sps", "sps"), ("if_score", "if")):
        cov = (std[feature] / mean[feature]).where(mean[feature] != 0)
        np.testing.assert_allclose(ours[f"{short}_mean"], mean[feature], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours[f"{short}_std"], std[feature], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours[f"{short}_cov"], cov, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(rows=ROWS)
def test_within_is_the_pooled_variance_inside_zones_over_the_grand_mean(rows):
    counts = counts_of(rows)
    ours = variation(counts, form="within").set_index(["instance_type", "region"])

    for pair, table in long(counts, missing="drop").groupby(["instance_type", "region"]):
        values = table.dropna(subset="sps")
        zones = [zone["sps"].to_numpy() for _, zone in values.groupby("availability_zone_id")]
        freedom = len(values) - len(zones)
        expected = NAN
        if freedom > 0:
            squares = sum(((zone - zone.mean()) ** 2).sum() for zone in zones)
            expected = np.sqrt(squares / freedom) / values["sps"].mean()
        np.testing.assert_allclose(ours.loc[pair, "sps_cov"], expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(rows=ROWS, order=st.randoms(), form=st.sampled_from(["pooled", "within"]))
def test_order_and_splitting_into_days_change_nothing_to_the_last_bit(rows, order, form):
    counts = counts_of(rows)
    split = [
        (*names, part)
        for *names, snapshots in rows
        for part in (snapshots // 3, snapshots - snapshots // 3)
    ]
    order.shuffle(split)

    again = variation(counts_of(split), form=form)

    pd.testing.assert_frame_equal(again, variation(counts, form=form), check_exact=True)


@settings(deadline=None)
@given(rows=ROWS)
def test_zones_that_differ_permanently_vary_pooled_but_not_within(rows):
    constant = {}
    for instance_type, region, zone, sps, _, _ in rows:
        assume(not np.isnan(sps))
        constant.setdefault((instance_type, region, zone), sps)
    counts = counts_of([(*names, sps, 2.5, 100) for names, sps in constant.items()])

    assert (variation(counts, form="within")["sps_cov"] == 0).all()
    pooled = variation(counts)
    differing = counts.groupby(["instance_type", "region"])["sps"].nunique().to_numpy() > 1
    assert ((pooled["sps_cov"] > 0) == differing).all()


@settings(deadline=None)
@given(rows=ROWS)
def test_the_cov_is_scipys(rows):
    counts = counts_of(rows)
    ours = variation(counts).set_index(["instance_type", "region"])["if_cov"]

    for pair, table in long(counts, missing="drop").groupby(["instance_type", "region"]):
        values = table["if_score"].dropna()
        expected = stats.variation(values, ddof=1) if len(values) > 1 else NAN
        np.testing.assert_allclose(ours[pair], expected, rtol=1e-12, atol=1e-12)


def test_a_hand_worked_table():
    """Means, deviations and CoVs worked by hand.

    t3.nano in sa-east-1, one zone: SPS 1, 2, 3 once each: mean 2, variance (1+0+1)/2 = 1,
    CoV 1/2.  IF 2, 2, 3: mean 7/3, variance (1/9+1/9+4/9)/2 = 1/3, CoV sqrt(1/3)/(7/3) = sqrt(3)/7.
    Score sqrt(3)/14.

    t3.micro in us-east-1, zones of SPS 1, 1 and 3, 3: mean 2, pooled variance 4/3, within 0.
    """
    counts = counts_of(
        [
            ("t3.nano", "sa-east-1", "sae1-az1", 1, 2.0, 1),
            ("t3.nano", "sa-east-1", "sae1-az1", 2, 2.0, 1),
            ("t3.nano", "sa-east-1", "sae1-az1", 3, 3.0, 1),
            ("t3.micro", "us-east-1", "use1-az1", 1, 2.0, 1),
            ("t3.micro", "us-east-1", "use1-az1", 1, 3.0, 1),
            ("t3.micro", "us-east-1", "use1-az2", 3, 2.0, 1),
            ("t3.micro", "us-east-1", "use1-az2", 3, 3.0, 1),
        ]
    )

    pooled, within = variation(counts), variation(counts, form="within")
    micro, nano = pooled.to_dict("records")
    assert (nano["sps_mean"], nano["sps_std"], nano["sps_cov"]) == (2.0, 1.0, 0.5)
    assert nano["if_cov"] == pytest.approx(np.sqrt(3) / 7, abs=1e-15)
    assert micro["sps_cov"] == pytest.approx(np.sqrt(4 / 3) / 2, abs=1e-15)
    assert within["sps_cov"].tolist() == [0.0, 0.5]
    assert (micro["zones"], micro["snapshots"], nano["zones"]) == (2, 4, 1)

    scored = score_targets(within)
    assert scored[["rank", "instance_type"]].to_numpy().tolist() == [[1, "t3.nano"]]
    assert scored["score"].tolist() == [pytest.approx(np.sqrt(3) / 14, abs=1e-15)]


def test_one_glitch_in_a_month_counts_for_nothing_unless_the_study_is_reproduced():
    zones = ["az1", "az2", "az3"]
    rows = [("t3.nano", "sa-east-1", zone, 3, 3.0, 4456) for zone in zones]
    rows += [("t3.nano", "sa-east-1", zone, 3, NAN, 1) for zone in zones]

    assert variation(counts_of(rows))["if_cov"].tolist() == [0.0]
    study = variation(counts_of(rows), missing="as_value")
    assert study["if_cov"].tolist() == [pytest.approx(0.019976, abs=5e-7)]


def test_scores_are_ranked_by_value_then_name_and_only_if_positive_and_finite():
    table = pd.DataFrame(
        [
            ("t3.nano", "us-east-1", 0.2, 0.1),
            ("t3.nano", "eu-west-1", 0.1, 0.2),
            ("t3.micro", "us-east-1", 0.1, 0.2),
            ("t3.small", "us-east-1", 0.3, 0.3),
            ("t3.medium", "us-east-1", 0.0, 0.3),  # constant
            ("t3.medium", "eu-west-1", NAN, 0.3),  # undefined
            ("t3.medium", "sa-east-1", -0.5, -0.5),  # negative means
            ("t3.medium", "sa-east-2", -0.5, 0.5),
            ("t3.medium", "sa-east-3", 0.5, -0.5),
            ("t3.medium", "sa-east-4", 1e-200, 1e-200),  # less than a number can be
            ("t3.medium", "eu-west-2", np.inf, 0.5),
            ("t3.large", "us-east-1", 0.9, 0.9),
            ("t3.2xlarge", "us-east-1", 0.9, 0.9),
            ("c7i.metal-24xl", "us-east-1", 0.9, 0.9),
        ],
        columns=["instance_type", "region", "sps_cov", "if_cov"],
    )

    scored = score_targets(table)
    order = list(zip(scored["instance_type"], scored["region"], strict=True))

    assert order == [
        ("t3.small", "us-east-1"),
        ("t3.micro", "us-east-1"),
        ("t3.nano", "eu-west-1"),
        ("t3.nano", "us-east-1"),
    ]
    assert scored["rank"].tolist() == [1, 2, 3, 4]
    assert scored.index.tolist() == [0, 1, 2, 3]
    assert scored["score"].tolist() == pytest.approx([0.09, 0.02, 0.02, 0.02])
    assert score_targets(table, sizes=["large"])["instance_type"].tolist() == ["t3.large"]
    assert score_targets(table, sizes=["metal-24xl"])["instance_type"].tolist() == [
        "c7i.metal-24xl"
    ]
    assert len(score_targets(table, sizes=None)) == 7
    assert score_targets(table, sizes=["tiny"]).empty


def _toy(sps, if_score, *, zones=1):
    rows = []
    for zone in range(zones):
        pairs = zip(sps[zone] if zones > 1 else sps, if_score, strict=True)
        rows += [("t3.nano", "sa-east-1", f"az{zone}", *pair, 1) for pair in pairs]
    return counts_of(rows)


@pytest.mark.parametrize(
    ("counts", "form", "if_cov", "ranked"),
    [
        (_toy([1, 2, 3, 3], [NAN] * 4), "pooled", NAN, False),  # IF all -1
        (_toy([1, 2, 3, 3, 3, 3], [3, 3, 3, NAN, 3, 3]), "pooled", 0.0, False),  # one glitch
        (_toy([1, 2, 3, 3], [1, NAN, 1, NAN]), "pooled", 0.0, False),  # half 1.0, half -1
        (_toy([3], [2.5]), "pooled", NAN, False),  # a single observation
        (_toy([NAN, NAN], [NAN, NAN]), "pooled", NAN, False),  # all missing
        (_toy([[3, 3], [1, 1]], [2.0, 2.5], zones=2), "within", None, False),  # only zones differ
        (_toy([[3, 3], [1, 1]], [2.0, 2.5], zones=2), "pooled", None, True),  # as the study has it
    ],
)
def test_toy_cases_that_break_a_naive_score(counts, form, if_cov, ranked):
    table = variation(counts, form=form)

    if if_cov is not None:
        np.testing.assert_equal(table["if_cov"].tolist(), [if_cov])
    assert bool(len(score_targets(table))) is ranked


def test_the_study_s_infinite_and_doubly_negative_scores_are_not_ranked_first():
    infinite = _toy([1, 2, 3, 3], [1, NAN, 1, NAN])
    negative = _toy([NAN, NAN, NAN, 1], [NAN, NAN, NAN, 1.0])
    for counts in (infinite, negative):
        table = variation(counts, missing="as_value")
        assert score_targets(table).empty
    table = variation(negative, missing="as_value")
    assert table[["sps_cov", "if_cov"]].to_numpy().tolist() == [[-2.0, -2.0]]  # as pandas has it


@pytest.mark.parametrize("form", ["pooled", "within"])
def test_nothing_seen_is_no_pair(form):
    table = variation(_toy([3], [2.5]).iloc[:0], form=form)

    assert table.empty
    assert table.columns.equals(variation(_toy([3], [2.5]), form=form).columns)
    assert score_targets(table).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "between"}, "form must be 'pooled' or 'within', got 'between'"),
        ({"missing": "zero"}, "missing must be 'drop' or 'as_value', got 'zero'"),
    ],
)
def test_unknown_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        variation(_toy([3], [2.5]), **change)


def test_a_row_of_no_zone_or_pair_is_in_no_pair():
    named = _toy([1, 2, 3], [2.0, 2.5, 3.0])
    for name in ("instance_type", "region", "availability_zone_id"):
        table = pd.concat([named, named.assign(**{name: None}).iloc[:1]])
        pd.testing.assert_frame_equal(variation(table), variation(named))


def test_zones_without_a_value_or_with_one_alone_by_hand():
    """SPS 1 and 3 in one zone, 2 alone in the next, none in the third: mean 2.

    Within: (1 + 1) / (3 values - 2 zones) = 2, so CoV sqrt(2) / 2.  Pooled: (1 + 0 + 1) / 2 = 1.
    IF 1.5 and 2.5 in the first zone alone: mean 2, both variances 1/2.  A single value has a mean
    and no deviation.
    """
    rows = [("az1", 1, 1.5), ("az1", 3, 2.5), ("az2", 2, NAN), ("az3", NAN, NAN)]
    counts = counts_of([("t3.nano", "sa-east-1", *each, 1) for each in rows])
    alone = counts_of([("t3.tiny", "sa-east-1", "az1", 3, 2.5, 1)])
    both = pd.concat([counts, alone])
    names = ["sps_mean", "sps_std", "sps_cov", "if_mean", "if_std", "if_cov"]
    within, pooled = (variation(both, form=form)[names] for form in ("within", "pooled"))

    half, root = 0.5**0.5, 2**0.5
    assert within.loc[0].tolist() == pytest.approx([2, root, root / 2, 2, half, half / 2])
    assert pooled.loc[0].tolist() == pytest.approx([2, 1, 0.5, 2, half, half / 2])
    for table in (within, pooled):
        assert table.loc[1].tolist() == pytest.approx([3, NAN, NAN, 2.5, NAN, NAN], nan_ok=True)


def test_repeated_rows_count_only_where_the_study_is_reproduced():
    """SPS 1 once, and 2 once with two rows more of the same snapshot: mean 3/2, and 7/4."""
    counts = _toy([1, 2], [2.0, 2.5]).assign(surplus_rows=[0, 2])

    assert variation(counts)[["sps_snapshots", "sps_mean"]].to_numpy().tolist() == [[2, 1.5]]
    study = variation(counts, missing="as_value")
    assert study[["sps_snapshots", "sps_mean"]].to_numpy().tolist() == [[4, 1.75]]


def test_the_columns_are_the_names_the_counts_and_those_of_each_feature_with_the_rank_first():
    table = variation(_toy([1, 2, 3], [2.0, 2.0, 3.0]))
    names = ["instance_type", "region", "zones", "snapshots"]
    each = ["snapshots", "mean", "std", "cov"]
    names += [f"{feature}_{name}" for feature in ("sps", "if") for name in each]

    assert [*table] == names
    assert [*score_targets(table)] == ["rank", *names, "score"]


def test_days_are_added_up_by_zone_and_value_also_where_it_is_missing():
    rows = [(3.0, 2.5, 4), (NAN, 2.5, 1), (3.0, NAN, 2), (NAN, 2.5, 5), (3.0, 2.5, 6)]
    days = counts_of([("t3.nano", "sa-east-1", "az1", *each) for each in rows])
    texts = ["instance_type", "region", "availability_zone_id"]
    days = days.assign(surplus_rows=[1, 0, 2, 0, 0])
    values = pd.CategoricalDtype(["t3.nano", "sa-east-1", "az1", "never seen"])

    for counts in (days, days.astype(dict.fromkeys(texts, values))):
        found = snapshots_by_value(counts).fillna({"sps": -1, "if_score": -1})
        found = found[["sps", "if_score", "snapshots", "surplus_rows"]].to_numpy().tolist()
        assert sorted(found) == [[-1, 2.5, 6, 0], [3, -1, 2, 2], [3, 2.5, 10, 1]]


def test_a_mean_of_zero_has_no_cov():
    """One and what the study took for -1, as often."""
    table = variation(_toy([1, NAN], [1.0, NAN]), missing="as_value")

    assert (table[["sps_mean", "if_mean"]] == 0).all(axis=None)
    assert table[["sps_cov", "if_cov"]].isna().all(axis=None)


def test_sums_do_not_overflow_the_small_integers_that_counts_are_kept_in():
    counts = counts_of([("t3.nano", "sa-east-1", "az1", sps, 2.5, 30_000) for sps in (3, 3, 2, 2)])
    small = counts.astype({"snapshots": "int16"})

    pd.testing.assert_frame_equal(variation(small), variation(counts))
    assert variation(small)["snapshots"].tolist() == [120_000]


def test_invalid_tables_and_sizes_are_refused():
    with pytest.raises(ValueError, match="lacks the columns snapshots, it has instance_type, reg"):
        variation(_toy([3], [2.5]).drop(columns="snapshots"))
    for name in ("sps_coded", "if_coded", "surplus_rows"):
        without = _toy([3], [2.5]).drop(columns=name)
        assert len(variation(without)) == 1
        with pytest.raises(ValueError, match=f"lacks the columns {name}, it has"):
            variation(without, missing="as_value")
    with pytest.raises(ValueError, match="sps_cov and if_cov, it has none"):
        score_targets(pd.DataFrame())
    with pytest.raises(ValueError, match="lacks the columns if_cov, it has"):
        score_targets(pd.DataFrame({"instance_type": [], "region": [], "sps_cov": []}))
    for between in (2.3, 2.2):
        with pytest.raises(ValueError, match=r"if_score must come in steps of 0\.5"):
            variation(_toy([3, 3], [2.5, between]))
    for between in (2.4, 2.6):
        with pytest.raises(ValueError, match=r"sps must come in steps of 1$"):
            variation(_toy([3, between], [2.5, 2.5]))
    with pytest.raises(ValueError, match="sizes must be a list of sizes, got the text 'nano'"):
        score_targets(variation(_toy([3], [2.5])), sizes="nano")
