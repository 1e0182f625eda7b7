"""Every estimate, table, figure and sentence of 03 where launches ended in every possible way."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from studies import NANO, SMALL, record

from spotlib.analyze import (
    comparison_figures,
    comparison_sentences,
    selectors,
    sentences,
    summaries,
)
from spotlib.analyze import figures as plots
from spotlib.analyze.checks import self_check, stale_medians, stale_orders
from spotlib.analyze.compare import compare_targets, most_different
from spotlib.analyze.load import load_comparable
from spotlib.figures import save
from spotlib.model import Outcome, Stage

HORIZON_S = 30.0
STAGES = ("fulfilled", "running", "ready")


def ended(launches, rng):
    """The same launches, half of which EC2 refused, failed or interrupted somewhere."""
    launches = launches.copy()
    for place in launches.index[rng.random(len(launches)) < 0.5]:
        outcome = rng.choice([Outcome.REFUSED, Outcome.FAILED, Outcome.INTERRUPTED])
        reached = 0 if outcome == Outcome.REFUSED else rng.integers(0, 3)
        launches.loc[place, "outcome"] = outcome
        launches.loc[place, "kind"] = "capacity" if outcome == Outcome.REFUSED else None
        for stage in STAGES[reached:]:
            launches.loc[place, [f"{stage}_after_s", f"{stage}_by_s"]] = np.nan
    return launches


def all_ended(launches, target):
    """The same launches, where EC2 refused every request of one target."""
    launches = launches.copy()
    here = launches["target"] == target
    launches.loc[here, ["outcome", "kind"]] = [str(Outcome.REFUSED), "capacity"]
    launches.loc[here, [f"{stage}_{end}_s" for stage in STAGES for end in ("after", "by")]] = np.nan
    return launches


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    log = tmp_path_factory.mktemp("study") / "20240901T000000Z-abcdef.jsonl"
    record(log, targets=(NANO, SMALL), n=2, rounds=7)
    return load_comparable(log)


@pytest.fixture(
    params=[
        pytest.param("half of both targets", marks=pytest.mark.chaos),
        "one target wholly",
        "both wholly",
    ]
)
def data(request, recorded):
    launches = ended(recorded.launches, np.random.default_rng(5))
    if request.param != "half of both targets":
        launches = all_ended(launches, str(NANO))
    if request.param == "both wholly":
        launches = all_ended(launches, str(SMALL))
    return replace(recorded, launches=launches)


def test_every_function_of_the_analysis_takes_competing_outcomes_without_a_warning(data, tmp_path):
    styles = plots.Styles.of(data.launches["target"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates = summaries.durations(data.launches, data.wanted, resamples=99)
        ready = estimates["request to ready"]
        pairs = most_different(compare_targets(ready, horizon_s=HORIZON_S), every=True)
        parts = summaries.phases(estimates)
        of_n = summaries.ready_of_n(ready, data.launches, horizon_s=HORIZON_S)
        outcomes = selectors.target_outcomes(ready, horizon_s=HORIZON_S)
        features = selectors.target_features(data.launches)
        ranks = selectors.associations(features, outcomes)
        tables = [
            *(summaries.summarize(each, horizon_s=HORIZON_S) for each in estimates.values()),
            *(summaries.lognormal_table(ready), summaries.server_times(data.launches)),
            *(pairs, parts, ranks, self_check(data, ready, Stage.READY)),
            *(stale_medians(ready), stale_orders(ready)),
            *(each.band(np.linspace(0, 40, 9)) for each in ready.values()),
        ]
        words = [
            *sentences.answer_sentences(of_n, pairs, data.launches, Stage.READY),
            *comparison_sentences.comparison_sentences(pairs, drawn=len(pairs)),
            sentences.runs_sentence(ready, of_n, horizon_s=HORIZON_S),
            *(sentences.phase_sentence(parts), comparison_sentences.selector_sentence(ranks)),
            *(sentences.formatted_summary(tables[0]), sentences.formatted_ready(of_n)),
        ]
        shown = {name: estimates[name] for name in summaries.SHOWN if name in estimates}
        figures = [
            plots.answer_figure(ready, styles, until_s=HORIZON_S, simulated=True),
            plots.distribution_figure(shown, styles, only=list(ready), simulated=True),
            plots.phases_figure(parts, styles, simulated=True),
            plots.timeline_figure(data.launches, styles, simulated=True),
            comparison_figures.comparison_figure(pairs, styles, simulated=True),
            comparison_figures.association_figure(ranks, "share", styles, simulated=True),
        ]
        for number, figure in enumerate(figures):
            save(figure, tmp_path / f"{number}.png")

    assert len(pairs) == 1
    assert set(parts["phase"]) <= set(summaries.PHASES)
    assert not any(len(each) == 0 for each in tables[:5])
    assert words


def test_a_target_that_ec2_always_refused_has_no_width_no_spread_and_a_bound(recorded):
    launches = all_ended(recorded.launches, str(NANO))
    ready = summaries.durations(launches, recorded.wanted, resamples=99)["request to ready"]
    outcomes = selectors.target_outcomes(ready, horizon_s=HORIZON_S)
    [pair] = compare_targets(ready, horizon_s=HORIZON_S).to_dict("records")

    assert ready[str(NANO)].observed.width_s == 0
    assert np.isnan(outcomes.loc[str(NANO), "spread_s"])
    assert outcomes.loc[str(SMALL), "spread_s"] >= 0
    assert np.isnan([pair[f"ratio{end}"] for end in ("", "_low_adjusted", "_high_adjusted")]).all()
    assert pair["difference"] == pytest.approx(-outcomes.loc[str(SMALL), "share"])
