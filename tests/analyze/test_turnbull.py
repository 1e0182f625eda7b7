"""Turnbull's curve, what is read off it, and the lognormal fit."""

import json
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from studies import observed

from spotlib.analyze import turnbull as estimator
from spotlib.analyze.curve import Curve, Observed, smoothed, widened
from spotlib.analyze.lognormal import fit_lognormal
from spotlib.analyze.turnbull import (
    _best_of_gaps,
    _Brackets,
    _nonnegative,
    _regular,
    _uphill,
    influence,
    refitted,
    turnbull,
)

INF = np.inf
THREE_PARTS = np.array([0.5, 0.3, 0.2])
REFERENCE = Path(__file__).with_name("lifelines_npmle.json")
QUICKLY = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])


@st.composite
def lives(draw):
    """Brackets of all kinds: shown, still waiting, ended by EC2; times have one decimal."""
    requests = []
    for _ in range(draw(st.integers(1, 25))):
        after_s = draw(st.integers(0, 300)) / 10
        width_s = draw(st.integers(1, 60)) / 10
        kind = draw(st.sampled_from(["shown", "shown", "shown", "waiting", "never"]))
        by_s = after_s + width_s if kind == "shown" else INF
        requests.append((INF if kind == "never" else after_s, by_s))
    return observed(*zip(*requests, strict=True))


@pytest.mark.parametrize("case", json.loads(REFERENCE.read_text()))
def test_the_curve_agrees_with_lifelines(case):
    """What lifelines 0.30.3's ``fit_interval_censoring`` returned for the same brackets.

    Two of the five are 6e-5 and 8e-5 away, because its EM stops early: it says 0.65008 where the
    shares are exactly 0.65.  EM creeps there (see ``extrapolated_em``).
    """
    by_s = [INF if each is None else each for each in case["by_s"]]
    seen = observed(case["after_s"], by_s)
    curve = turnbull(seen)
    times_s, shares, moves = extrapolated_em(seen)
    known = times_s <= curve.known_until_s
    stops_early = moves > 1e-6

    assert 1 - curve.share_by(case["time_s"]) == pytest.approx(
        case["waiting"], abs=1e-4 if stops_early else 1e-8
    )
    assert curve.share_by(times_s[known]) == pytest.approx(shares[known], abs=1e-6)


def test_where_lifelines_is_installed_it_agrees_on_fresh_brackets():
    lifelines = pytest.importorskip("lifelines", reason="it needs pandas below 3")
    rng = np.random.default_rng(5)
    after_s = rng.uniform(0, 30, 40)
    by_s = np.where(rng.random(40) < 0.3, INF, after_s + rng.uniform(1, 6, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = lifelines.KaplanMeierFitter()
        table = fitter.fit_interval_censoring(after_s, by_s, tol=1e-9).survival_function_
    upper, lower = table.to_numpy().T
    sure = np.isclose(upper, lower) & np.isfinite(table.index.to_numpy())

    times_s = table.index.to_numpy()[sure]
    curve = turnbull(observed(after_s, by_s))

    assert 1 - curve.share_by(times_s) == pytest.approx(upper[sure], abs=1e-4)


@QUICKLY
@given(lives())
def test_no_other_curve_is_more_likely(seen):
    """The conditions for a maximum (Gentleman and Geyer 1994), which know nothing of EM."""
    curve = turnbull(seen)
    beyond = max(curve.after_s.max(), 1.0)
    after_s = np.where(np.isinf(seen.after_s), beyond, seen.after_s)
    holds = (after_s[:, None] <= curve.after_s) & (curve.by_s <= seen.by_s[:, None])
    chance = holds @ curve.mass
    gain = (holds / chance[:, None]).mean(axis=0)

    assert curve.mass.sum() == pytest.approx(1.0)
    assert gain.max() <= 1 + 1e-6
    assert gain[curve.mass > 1e-6] == pytest.approx(1.0, abs=1e-6)


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of a function that a search makes once in each of its steps."""

    def counted(module, name):
        function, made = getattr(module, name), []
        monkeypatch.setattr(module, name, lambda *a, **k: made.append(1) or function(*a, **k))
        return made

    return counted


@pytest.mark.parametrize(("middle", "seed"), [(4, 0), (4, 40), (5, 0), (5, 1), (5, 39)])
def test_a_study_polled_in_many_schedules_ends_at_the_maximum_soon(
    calls, middle, seed, monkeypatch
):
    """A step that leaves out a piece for good went on for hundreds of steps and did not end."""
    steps, sizes = calls(estimator, "_uphill"), []
    monkeypatch.setattr(
        estimator,
        "_nonnegative",
        lambda *given: sizes.append(len(given[1])) or _nonnegative(*given),
    )
    rng = np.random.default_rng(seed)
    phase_s = rng.uniform(0, 5, 11)[rng.integers(0, 11, 200)].repeat(5)
    pace = rng.lognormal(0, 0.4, 200).repeat(5)
    poll = np.ceil((rng.lognormal(middle, 0.3, 1000) * pace - phase_s) / 5)
    by_s = phase_s + (poll + (rng.random(1000) < 0.02)) * 5 + 0.3
    seen = observed(np.maximum(phase_s + (poll - 1) * 5, 0), by_s, np.arange(200).repeat(5))

    curve = turnbull(seen)
    holds = (seen.after_s[:, None] <= curve.after_s) & (curve.by_s <= seen.by_s[:, None])
    gain = (holds / (holds @ curve.mass)[:, None]).mean(axis=0)

    assert gain.max() <= 1 + 1e-6
    assert len(steps) <= 15  # it takes 8 to 12
    assert max(sizes) <= 2 / 3 * len(curve.by_s)  # of all pieces it looks at 54 to 58 %


@QUICKLY
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_step_is_the_least_squares_solution_that_scipy_finds(size, rows, seed):
    rng = np.random.default_rng(seed)
    design = np.vstack([rng.standard_normal((rows, size)), 1e-3 * np.eye(size)])
    aim = rng.standard_normal(len(design))

    found = _nonnegative(design.T @ design, design.T @ aim)

    least = optimize.nnls(design, aim)[1]
    assert found.min() >= 0
    assert np.linalg.norm(design @ found - aim) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize(
    ("matrix", "right", "expected"),
    [
        (np.eye(3), [1.0, -0.5, 0.5], [1.0, 0.0, 0.5]),  # what is below 0 is left out
        ([[2.0, 1.0], [1.0, 2.0]], [3.0, 1.0], [1.5, 0.0]),  # it would lose: 1.5 * 1 > 1
        # Without rounding, x is 1, 0 and 2 everywhere; here 0 comes out as -3e-13.
        ([[108, 94, 96], [94, 82, 83], [96, 83, 94]], [300.0, 260.0, 284.0], [1.0, 0.0, 2.0]),
    ],
)
def test_a_step_is_found_without_going_round_in_circles(matrix, right, expected, monkeypatch):
    """So scipy's slower way, which never does, is not asked."""
    monkeypatch.setattr(estimator.optimize, "nnls", None)
    found = _nonnegative(np.array(matrix, dtype=float), np.array(right))

    assert found == pytest.approx(expected, abs=1e-9)
    assert found.min() >= 0.0


def test_pieces_that_no_bracket_tells_apart_have_a_step_nevertheless():
    """Of two of them the one matrix has no inverse; a ten billionth of their mean is added."""
    regular = _regular(np.ones((2, 2)))

    assert regular - 1.0 == pytest.approx(1e-10 * np.eye(2), abs=1e-15)
    assert np.isfinite(np.linalg.cholesky(regular)).all()


@pytest.mark.parametrize(
    ("weight", "mass", "aim", "expected"),
    [
        ([0.5, 0.5], [0.8, 0.2], [0.5, 0.5], [0.5, 0.5]),  # all the way
        ([0.5, 0.5], [0.9, 0.1], [0.02, 0.98], [0.68, 0.32]),  # a quarter of it
        ([0.5, 0.5], [0.9, 0.1], [2.0, 1.0], [0.83, 0.17]),  # an eighth: too much mass loses
        ([0.5, 0.5], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5]),  # away from the maximum: EM
        ([1 - 1e-9, 1e-9], [0.5, 0.5], [1 - 1e-14, 1e-14], [1.0, 0.0]),  # next to nothing is none
        ([1 - 1e-9, 1e-9], [0.5, 0.5], [1.0, 0.0], [0.75, 0.25]),  # no bracket is emptied
    ],
)
def test_a_step_goes_as_far_as_it_gains_a_third_of_what_its_slope_promises(
    weight, mass, aim, expected
):
    """Two brackets with a piece each; gains are 0.5 * log(mass) of each, less the mass.

    From 0.9 and 0.1, where it is -1.204, the slope is 3.911: at the aim, half way and a quarter of
    it are -1.966, -0.696 and -0.763, and need 0.100, -0.552 and -0.878.
    """
    brackets = _Brackets.of(observed([0, 3], [3, 6], run=[0, 1]))
    mass, weight = np.array(mass), np.array(weight)
    score = brackets.score(weight, brackets.chance(mass))

    found = _uphill(brackets, weight, mass, np.array(aim), score)

    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert (found > 0).tolist() == [each > 0 for each in expected]


@pytest.mark.parametrize(
    ("has_mass", "best"),
    [
        ("..#...#.", ".#.....#"),
        ("#..#....", ".#.....#"),
        ("...#...#", ".#......"),
        ("#......#", ".#......"),
        ("#.#.#..#", ".#......"),
        ("........", ".#......"),
    ],
)
def test_of_each_gap_the_best_piece_is_added_if_it_would_gain(has_mass, best):
    """The scores between are highest at the second piece, and below 1 or just 1 in the middle."""
    score = np.array([1.5, 3.0, 1.0, 0.5, 0.9, 1.0, 0.3, 2.0])

    found = _best_of_gaps(score, np.array([each == "#" for each in has_mass]))

    assert "".join(np.where(found, "#", ".")) == best


def plain_em(seen, *, steps, of_run=1.0):
    """Self-consistency as Turnbull wrote it, over every cell between two ends of brackets.

    ``of_run`` is how often each run counts.
    """
    ends_s = np.unique(np.concatenate([[0.0], seen.after_s, seen.by_s]))
    ends_s = np.append(ends_s[np.isfinite(ends_s)], INF)
    holds = (seen.after_s[:, None] <= ends_s[:-1]) & (ends_s[1:] <= seen.by_s[:, None])
    never = np.isinf(seen.after_s)
    holds = np.column_stack([holds, never | np.isinf(seen.by_s)]).astype(float)  # and never at all
    weight = (of_run / np.bincount(seen.run))[seen.run]
    mass = np.full(holds.shape[1], 1.0 / holds.shape[1])
    for _ in range(steps):
        mass *= (weight / (holds @ mass)) @ holds / weight.sum()
    return ends_s[1:-1], np.cumsum(mass)[:-2]


def extrapolated_em(seen):
    """Where EM ends: the times, the shares, and by how much its last 5,000 steps moved them.

    Its error falls no faster than 1 / steps where a cell that ends empty is as likely as others,
    so twice as many steps have half the error.
    """
    times_s, shares = plain_em(seen, steps=5_000)
    more = plain_em(seen, steps=10_000)[1]
    return times_s, 2 * more - shares, np.abs(more - shares).max()


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_curve_of_an_independent_em(seed):
    rng = np.random.default_rng(seed)
    run = np.sort(rng.integers(0, 12, 45))
    after_s = rng.integers(0, 120, 45) / 4
    by_s = np.where(rng.random(45) < 0.25, INF, after_s + rng.integers(8, 20, 45) / 4)
    after_s[rng.random(45) < 0.1] = INF
    by_s[np.isinf(after_s)] = INF
    seen = observed(after_s, by_s, run=np.unique(run, return_inverse=True)[1])

    times_s, shares, _ = extrapolated_em(seen)
    known = times_s <= turnbull(seen).known_until_s

    # At the ends of brackets, where the data decide; EM leaves traces of mass between them.
    assert turnbull(seen).share_by(times_s[known]) == pytest.approx(shares[known], abs=1e-6)


@QUICKLY
@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=30))
def test_where_only_the_right_is_censored_it_is_scipys_kaplan_meier(requests):
    times_s, shown = np.array(requests, dtype=np.float64).T
    shown = shown.astype(bool)
    waiting = stats.CensoredData.right_censored(times_s, ~shown)
    reference = stats.ecdf(waiting).cdf
    # Exact times as brackets too narrow to matter; a tie of both is shown first, as everywhere.
    seen = observed(np.where(shown, times_s - 1e-6, times_s), np.where(shown, times_s, INF))

    curve = turnbull(seen)
    moments = np.unique(times_s)

    assert curve.share_by(moments) == pytest.approx(reference.evaluate(moments), abs=1e-5)


@QUICKLY
@given(st.lists(st.floats(0.1, 59.9), min_size=1, max_size=40))
def test_on_a_common_grid_of_polls_it_is_the_share_seen_at_each(times_s):
    steps = np.ceil(np.array(times_s) / 3.0)

    curve = turnbull(observed(3 * steps - 3, 3 * steps))
    polls = np.arange(0.0, 63.0, 3.0)

    assert curve.share_by(polls) == pytest.approx([(3 * steps <= t).mean() for t in polls])


@QUICKLY
@example(observed([30.0, 5.4, 30.0, 14.7], [30.1, 10.3, INF, INF]), 0.95)  # seen last at the end
@given(lives(), st.floats(0.05, 0.95))
def test_a_quantile_is_where_the_curve_gets_there(seen, share):
    curve = smoothed(turnbull(seen), 3.0)
    time_s = curve.quantile(share)

    if np.isinf(time_s):
        assert curve.mass[np.isfinite(curve.by_s)].sum() < share
    else:
        finite = curve.share_by(np.minimum([time_s, max(time_s - 0.01, 0)], curve.known_until_s))
        assert finite[0] >= share - 1e-4
        assert finite[1] <= share + 1e-4


def test_a_quantile_is_found_once():
    curve = turnbull(observed([0, 3], [3, 6]))

    assert curve.quantile(0.5) is curve.quantile(0.5)


@QUICKLY
@given(lives(), st.floats(0.5, 25.0))
def test_the_restricted_mean_is_the_area_above_the_curve(seen, horizon_s):
    curve = smoothed(turnbull(seen), 3.0)
    mean_s = float(curve.restricted_mean_s(horizon_s))

    if horizon_s > curve.known_until_s:
        assert np.isnan(mean_s)
    else:
        times_s = np.linspace(0, horizon_s, 20_001)
        area = np.trapezoid(1 - curve.share_by(times_s), times_s)
        assert mean_s == pytest.approx(area, abs=0.02)


def test_a_share_of_nothing_is_never_minus_nothing():
    """A curve by influence values may have pieces a little below 0."""
    curve = Curve(np.array([5.0, 9.0]), np.array([6.0, INF]), np.array([-1e-20, 1.0]), INF)

    for each in (curve, replace(curve, mass=curve.mass[None])):
        assert not np.signbit(each.share_by([0.0, 5.5, 7.0])).any()


def test_a_share_is_at_most_one_and_never_falls_even_by_rounding():
    """A sum in another order at each time would fall here once."""
    rng = np.random.default_rng(4)
    mass, after_s = rng.random(8), np.sort(rng.random(8))
    curve = Curve(after_s, after_s + 0.1, mass / mass.sum() * (1 + 1e-9), INF)
    shares = curve.share_by(np.linspace(0.0, 1.5, 307))

    assert (np.diff(shares) >= 0).all()
    assert shares[-1] == 1.0
    many = replace(curve, mass=np.stack([mass, mass / 2]) / mass.sum())
    assert many.share_by([0.0, 1.5]) == pytest.approx(np.array([[0.0, 1.0], [0.0, 0.5]]))


def test_beyond_what_was_watched_nothing_is_known():
    curve = turnbull(observed([0, 10], [3, INF]))

    assert curve.share_by([3, 10, 10.1]) == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)
    assert np.isnan(curve.restricted_mean_s(11.0))
    assert curve.quantile(0.6) == INF


def test_a_request_that_ec2_ended_is_known_never_to_be_ready():
    curve = turnbull(observed([0, INF], [3, INF]))

    assert curve.share_by(1e6) == pytest.approx(0.5)
    assert curve.restricted_mean_s(100.0) == pytest.approx((1.5 + 100) / 2)


def test_an_end_of_ours_is_censored_and_its_weight_goes_to_later_times():
    curve = turnbull(observed([0, 5, 9], [3, INF, 12]))

    assert curve.share_by(12.0) == pytest.approx(1.0)
    assert curve.share_by(8.0) == pytest.approx(1 / 3)


def test_what_waited_until_just_where_the_last_came_would_have_come_with_it():
    """Both that were there at 9 s count as the one that came after it: the whole curve is known."""
    curve = turnbull(observed([0, 9, 9], [3, INF, 12]))

    assert curve.known_until_s == INF
    assert curve.share_by([8.0, 1e6]) == pytest.approx([1 / 3, 1.0])


def test_every_run_weighs_the_same_whatever_its_n():
    seen = observed([0, 0, 0, 50], [3, 3, 3, 53], run=[0, 0, 0, 1])

    assert turnbull(seen).share_by(10.0) == pytest.approx(0.5)


def resampled_both_ways(rng, *, count):
    """Curves of 199 resamples of 40 runs, estimated anew and by influence values.

    With a tail, a share never ready and some of it ended by EC2.
    """
    level, own = rng.standard_normal((40, 1)), rng.standard_normal((40, count))
    time_s = 20.0 * np.exp(0.5 * level + 0.3 * own)
    after_s = np.floor(time_s + rng.uniform(0, 3, (40, 1))).ravel()
    lost = rng.random(len(after_s))
    by_s = np.where(lost < 0.2, INF, after_s + 3.3)
    after_s = np.where(lost < 0.1, INF, after_s)
    seen = observed(after_s, by_s, run=np.repeat(np.arange(40), count))
    draws = rng.multinomial(40, np.full(40, 1 / 40), size=199)
    found = turnbull(seen)
    moved = influence(seen, found)
    linear = replace(moved, mass=found.mass[found.mass > 0] + (draws - 1) @ moved.mass)
    return smoothed(refitted(seen, draws, near=found), 1.6), smoothed(linear, 1.6)


@pytest.mark.parametrize("count", [1, 5])
def test_influence_values_and_estimating_anew_agree_on_how_sure_a_number_is(count):
    """On average over 20 studies.

    The mean is a smooth function of the runs.  At a single time the curve is not: of one study
    alone the errors differ by up to a fifth, in either direction.
    """
    rng = np.random.default_rng(3)
    studies = [resampled_both_ways(rng, count=count) for _ in range(20)]

    for number, off, alike in (
        (lambda curve: curve.share_by(20.0), 0.05, 0.92),
        (lambda curve: curve.quantile(0.4), 0.05, 0.9),
        (lambda curve: curve.restricted_mean_s(25.0), 0.02, 0.99),
    ):
        pairs = [(number(anew), number(linear)) for anew, linear in studies]
        ratios = [np.std(linear) / np.std(anew) for anew, linear in pairs]
        assert np.mean(ratios) == pytest.approx(1.0, abs=off)
        assert np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]) > alike


def test_on_a_common_grid_influence_values_are_the_runs_own_shares_less_the_curve():
    """Three runs: of 2 and 1 and 4 requests; a share is a mean over runs, so a third of each."""
    after_s = [0, 3, 0, 3, 3, 6, 3]
    seen = observed(after_s, [3, 6, 3, 6, 6, 9, 6], run=[0, 0, 1, 2, 2, 2, 2])

    moved = influence(seen, turnbull(seen))

    own = np.array([[1 / 2, 1 / 2, 0], [1, 0, 0], [0, 3 / 4, 1 / 4]])
    assert moved.by_s.tolist() == [3, 6, 9]
    assert moved.mass == pytest.approx((own - own.mean(axis=0)) / 3, abs=1e-8)


@pytest.mark.parametrize("seed", [1, 2])
def test_influence_values_are_the_derivative_of_an_independent_em(seed):
    """Each run counted a hundredth more and less, among brackets that overlap."""
    rng = np.random.default_rng(seed)
    run = np.arange(6).repeat([1, 2, 3, 3, 4, 5])
    after_s = rng.integers(0, 40, 18) / 4.0
    by_s = after_s + rng.integers(6, 14, 18) / 4
    by_s[[2, 9]] = INF
    after_s[9] = INF
    seen = observed(after_s, by_s, run)
    curve = turnbull(seen)
    moved = influence(seen, curve)
    ends_s = moved.by_s[np.isfinite(moved.by_s) & (moved.by_s <= curve.known_until_s)]

    for number in range(6):
        change = np.zeros(6)
        change[number] = 0.01
        found = [plain_em(seen, steps=5_000, of_run=1 + sign * change) for sign in (1, -1)]
        times_s = found[0][0]
        slope = (found[0][1] - found[1][1]) / 0.02
        expected = slope[np.searchsorted(times_s, ends_s)]
        assert np.cumsum(moved.mass[number])[: len(ends_s)] == pytest.approx(expected, abs=2e-5)


def test_a_resample_estimated_anew_is_the_curve_of_the_runs_drawn_and_is_found_soon(calls):
    lengths = calls(estimator.linalg, "norm")  # two in each round
    rng = np.random.default_rng(2)
    after_s = rng.integers(0, 60, (20, 4)) + rng.integers(0, 30, (20, 1))
    by_s = np.where(rng.random((20, 4)) < 0.2, INF, after_s + rng.integers(3, 9, (20, 4)))
    after_s[:2], by_s[:2] = 95, INF  # watched to the end, in every resample below
    run = np.arange(20).repeat(4)
    seen = observed(after_s.ravel(), by_s.ravel(), run)
    draws = 1 + rng.multinomial(20, np.full(20, 1 / 20), size=50)
    times_s = np.arange(0.0, 96.0, 5.0)

    again = refitted(seen, draws, near=turnbull(seen)).share_by(times_s)

    assert len(lengths) <= 2 * 18  # it takes 14 rounds
    for drawn, shares in zip(draws, again, strict=True):
        rows = [
            row for each in np.repeat(np.arange(20), drawn) for row in np.flatnonzero(run == each)
        ]
        alone = observed(seen.after_s[rows], seen.by_s[rows], np.arange(drawn.sum()).repeat(4))
        assert shares == pytest.approx(turnbull(alone).share_by(times_s), abs=0.02)


def test_resamples_of_what_leaves_no_choice_are_that_curve():
    """All is in one piece; or two thirds are at each end, so the piece between ends empty."""
    one = observed([0, 0], [3, 3], run=[0, 1])
    ends = observed([0, 0, 2, 4, 6, 6], [3, 3, 5, 7, 9, 9], run=[0] * 6)

    assert refitted(one, [[2, 0], [1, 1]], near=turnbull(one)).mass.tolist() == [[1.0], [1.0]]
    curve = turnbull(ends)
    assert curve.mass == pytest.approx([0.5, 0.0, 0.5])
    assert refitted(ends, [[1], [3]], near=curve).mass == pytest.approx(
        np.array([[0.5, 0.0, 0.5]] * 2), abs=1e-3
    )


def test_no_mass_of_a_resample_is_below_zero_and_that_of_runs_not_drawn_fades():
    """Their pieces are in no bracket that counts."""
    rng = np.random.default_rng(2)
    after_s = rng.integers(0, 400, 120) / 4
    seen = observed(after_s, after_s + 1.1, np.arange(40).repeat(3))
    draws = rng.multinomial(40, np.full(40, 1 / 40), size=50)

    found = refitted(seen, draws, near=turnbull(seen))

    assert found.mass.min() >= 0.0
    assert found.mass.sum(axis=1) == pytest.approx(1.0)
    inside = (seen.after_s[:, None] <= found.after_s) & (found.by_s <= seen.by_s[:, None])
    for drawn, mass in zip(draws, found.mass, strict=True):
        assert mass[~inside[np.repeat(drawn > 0, 3)].any(axis=0)].max(initial=0.0) < 1e-6


def test_equal_brackets_counted_once_are_the_same_curve():
    seen = observed([0, 0, 3, 3, 3, 9], [3, 3, 6, 6, 6, INF], run=[0, 0, 1, 1, 2, 2])
    apart = observed([0, 3, 3, 9], [3, 6, 6, INF], run=[0, 1, 2, 2])

    assert turnbull(seen).mass == pytest.approx(turnbull(apart).mass)


def test_many_requests_are_estimated_in_seconds():
    """4,000 runs of 5: EM took minutes for what influence values need one estimate for."""
    rng = np.random.default_rng(3)
    time_s = 60.0 * np.exp(
        0.4 * rng.standard_normal((4000, 1)) + 0.3 * rng.standard_normal((4000, 5))
    )
    phase_s = rng.uniform(0, 3, (4000, 1))
    after_s = np.floor((time_s - phase_s) / 3) * 3 + phase_s
    seen = observed(
        np.maximum(after_s, 0).ravel(), (after_s + 3).ravel(), run=np.repeat(np.arange(4000), 5)
    )

    begun = process_time()
    curve = turnbull(seen)
    moved = influence(seen, curve)

    assert process_time() - begun < 20  # seconds of an idle machine: 1
    assert curve.share_by(60.0) == pytest.approx(0.5, abs=0.03)
    assert moved.mass.sum(axis=1) == pytest.approx(0.0, abs=1e-6)


def test_smoothing_keeps_the_mean_and_never_begins_before_the_request():
    curve = Curve(np.array([0.0, 9.9]), np.array([0.4, 10.0]), np.array([0.5, 0.5]), INF)
    wide = smoothed(curve, 3.0)

    assert wide.after_s.min() >= 0
    assert wide.restricted_mean_s(60.0) == pytest.approx(curve.restricted_mean_s(60.0))


def test_what_the_brackets_leave_open_holds_the_quantile_and_the_mean_of_the_times_within():
    rng = np.random.default_rng(1)
    for _ in range(200):
        run = np.sort(rng.integers(0, 4, 12))
        run = np.unique(run, return_inverse=True)[1]
        time_s = rng.exponential(2.0, 12)
        after_s = np.maximum(time_s - rng.random(12), 0.0)
        by_s = np.where(rng.random(12) < 0.2, np.inf, time_s + rng.random(12) + 1e-9)
        share = rng.random()
        order = np.argsort(time_s)
        reached = np.cumsum(1 / np.bincount(run)[run[order]]) / (run.max() + 1)
        true_s = time_s[order][np.searchsorted(reached, share - 1e-9)]

        seen = Observed(after_s, by_s, run)
        low_s, high_s = seen.left_open(share)
        low_mean_s, high_mean_s = seen.mean_left_open(3.0)

        assert low_s <= true_s <= high_s
        mean_s = np.average(np.minimum(time_s, 3.0), weights=1 / np.bincount(run)[run])
        assert low_mean_s <= mean_s <= high_mean_s
    two = Observed(np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.arange(2))
    assert two.left_open(0.0) == two.left_open(0.5) == (1.0, 3.0)


@pytest.mark.parametrize("sizes", [(6, 6), (1, 6), (3, 6), (3,) * 10, (7,), (1, 2, 3, 4)])
def test_what_the_brackets_leave_open_is_exact_where_a_share_is_exactly_reached(sizes):
    run = np.repeat(np.arange(len(sizes)), sizes)
    weight = [Fraction(1, sizes[each] * len(sizes)) for each in run]
    after_s = 3.0 * np.arange(len(run))
    for reached in np.cumsum(weight):
        number = int(np.flatnonzero(np.cumsum(weight) >= reached)[0])
        left = Observed(after_s, after_s + 3, run).left_open(float(reached))
        assert left == (after_s[number], after_s[number] + 3)


def test_a_narrow_piece_becomes_as_wide_as_the_window_around_its_middle_by_hand():
    """Unless it is wider, would begin before 0, or end after what was watched; never stays never.

    The middles are 1, 10, 22 and 29.5 s, the ends of what was watched 0 and 30 s.
    """
    after_s, by_s = np.array([0.5, 9.0, 20.0, 29.0, 30.0]), np.array([1.5, 11.0, 24.0, 30.0, INF])
    wide = smoothed(Curve(after_s, by_s, np.full(5, 0.2), 30.0), 3.0)

    assert wide.after_s.tolist() == [0.0, 8.5, 20.0, 29.0, 30.0]
    assert wide.by_s.tolist() == [2.0, 11.5, 24.0, 30.0, INF]


def test_what_is_read_off_a_curve_by_hand():
    """Half is ready evenly from 0 to 10 s, three tenths from 20 to 30 s, and the rest never.

    Of the 0.8 shown a quarter is reached at 0.2: 4 s; three quarters at 0.6: 20 + 10 / 3 s.
    Each is found at a share that is less by a millionth.  To 25
    s the area above the curve is 10 - 2.5 below 10 s, 5 to 20 s and 2.5 - 0.75 / 2 beyond.
    """
    curve = Curve(np.array([0.0, 20.0, 40.0]), np.array([10.0, 30.0, INF]), THREE_PARTS, 40.0)
    nothing = Curve(np.array([40.0]), np.array([INF]), np.array([1.0]), 40.0)

    assert curve.share_by([0.0, 4.0, 15.0, 25.0, 40.0]).tolist() == [0.0, 0.2, 0.5, 0.65, 0.8]
    assert np.isnan(curve.share_by(40.001))
    assert curve.shown_share() == pytest.approx(0.8)
    assert [float(curve.quantile(each)) for each in (0.0, 0.2, 0.5, 0.6, 0.8)] == pytest.approx(
        [0.0, 4.0 - 2e-5, 10.0 - 2e-5, 20 + 10 / 3 - 1e-4 / 3, 30 - 1e-4 / 3],
        abs=1e-9,
    )
    assert curve.quantile(0.8001) == INF
    assert curve.interquartile_s() == pytest.approx(16 + 10 / 3, abs=1e-4)
    assert curve.restricted_mean_s(25.0) == pytest.approx(7.5 + 5 + 2.125)
    assert curve.restricted_mean_s(40.0) == pytest.approx(7.5 + 5 + 3.5 + 2)
    assert (nothing.shown_share(), nothing.interquartile_s()) == (0.0, 0.0)
    assert nothing.restricted_mean_s(40.0) == 40.0


def test_brackets_know_their_runs_their_events_and_how_wide_they_are():
    seen = observed([0, 3, 3, INF, 9], [2, 6, 7, INF, INF], run=[0, 0, 2, 1, 2])

    assert (seen.runs, seen.events, seen.width_s) == (3, 3, 3.0)
    assert observed([0, INF], [INF, INF]).width_s == 0.0


def test_stale_reads_widen_the_brackets_backwards_only():
    wide = widened(observed([4, 1, INF, 600], [7, 4, INF, INF]), 5.0)

    assert wide.after_s.tolist() == [0, 0, INF, 595]
    assert wide.by_s.tolist() == [7, 4, INF, INF]


@pytest.mark.parametrize("ends", [([3], [3]), ([4], [3]), ([np.nan], [3]), ([-1], [3])])
def test_an_impossible_bracket_is_refused(ends):
    with pytest.raises(ValueError, match="brackets need 0 <= after_s < by_s"):
        observed(*ends)


def test_no_request_at_all_is_refused():
    with pytest.raises(ValueError, match="there is no request"):
        observed([], [])


class TestLognormal:
    def brackets(self, rng, median_s, sigma, count, poll_s=3.0):
        times_s = median_s * np.exp(sigma * rng.standard_normal(count))
        phase_s = rng.uniform(0, poll_s, count)
        step = np.ceil((times_s - phase_s) / poll_s)
        after_s = np.maximum(phase_s + (step - 1) * poll_s, 0.0)
        return observed(after_s, phase_s + step * poll_s)

    @pytest.mark.parametrize(("median_s", "sigma"), [(20.0, 0.6), (2.0, 0.6), (250.0, 0.15)])
    def test_it_recovers_what_the_brackets_were_drawn_from(self, median_s, sigma):
        rng = np.random.default_rng(3)
        fits = [fit_lognormal(self.brackets(rng, median_s, sigma, 100)) for _ in range(20)]

        medians = np.array([fit.median_s for fit in fits])
        assert medians.mean() == pytest.approx(median_s, rel=4 * sigma / np.sqrt(2000) + 0.01)
        assert np.mean([fit.sigma for fit in fits]) == pytest.approx(sigma, rel=0.06)

    @pytest.mark.parametrize(("median_s", "sigma", "poll_s"), [(20, 0.6, 3.0), (250, 0.1, 15.0)])
    def test_it_is_what_scipy_finds_bracket_by_bracket(self, median_s, sigma, poll_s):
        seen = self.brackets(np.random.default_rng(4), median_s, sigma, 200, poll_s)
        ends = np.column_stack([seen.after_s, seen.by_s])

        fit = fit_lognormal(seen)

        shape, _, scale = stats.lognorm.fit(stats.CensoredData(interval=ends), 0.5, floc=0)
        assert (fit.median_s, fit.sigma) == pytest.approx((scale, shape), rel=1e-3)

    def test_the_never_ready_do_not_stretch_it(self):
        rng = np.random.default_rng(3)
        ready = self.brackets(rng, 20.0, 0.6, 300)
        seen = observed(
            np.append(ready.after_s, np.full(130, 600.0)), np.append(ready.by_s, np.full(130, INF))
        )

        assert fit_lognormal(seen).sigma == pytest.approx(0.6, rel=0.15)

    @pytest.mark.parametrize(
        ("after_s", "by_s"),
        [
            ([600.0] * 20, [INF] * 20),  # scipy returns a median of 798 s
            ([3.0] * 20, [6.0] * 20),  # and here a sigma of 0.015
            ([3.0, 6.0] * 10, [6.0, 9.0] * 10),
            ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]),
        ],
    )
    def test_what_cannot_be_fitted_is_refused_in_one_sentence(self, after_s, by_s):
        with pytest.raises(
            ValueError, match="at least 5 requests shown at the stage and 3 different"
        ):
            fit_lognormal(observed(after_s, by_s))


@pytest.mark.parametrize(("runs", "n"), [(20, 5), (40, 50), (400, 5), (1000, 5)])
def test_one_request_that_waited_for_ever_is_not_lost_among_thousands(runs, n):
    """The rest gains more at once than the rare bracket loses if it is emptied."""
    rng = np.random.default_rng(0)
    by_s = 2 + rng.uniform(0, 1, runs).repeat(n)
    after_s = np.zeros(runs * n)
    by_s[0], after_s[0] = np.inf, 600.0
    seen = observed(after_s, by_s, np.arange(runs).repeat(n))

    curve = turnbull(seen)

    assert curve.share_by(599.0) == pytest.approx(1 - 1 / (runs * n), abs=1e-9)
    assert np.isfinite(influence(seen, curve).mass).all()
