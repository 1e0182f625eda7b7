"""What an archive says is shown by 01 as text: no HTML, no link, no formula."""

import pytest
from market import random_market, write_tree
from pages import EVIL, FORMULA, formats_of, require_text

from spotlib.figures import banner_html, bar_html, save
from spotlib.select import figures, report
from spotlib.select.archive.counts import read_counts
from spotlib.select.choose import choose_targets
from spotlib.select.cov import score_targets, variation
from spotlib.select.evidence import compare_ways
from spotlib.select.source import Archive, banner

SIZES = ("nano", "medium", "xlarge")


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """The counts of an archive, with a planted text in each region's name."""
    folder = write_tree(random_market(days=2, snapshots=20), tmp_path_factory.mktemp("archive"))
    found = read_counts(folder, cache=None).counts
    return found.assign(region=found["region"].astype(str) + f"<script>{FORMULA}")


@pytest.fixture(scope="module")
def selection(counts):
    pairs = variation(counts)
    chosen = choose_targets(score_targets(pairs, sizes=SIZES), top=3)
    return chosen.assign(
        role="ranked",
        resting_share=0.5,
        flagged=False,
        scale_changed=False,
        coverage=1.0,
        sps_ordinal_variation=0.1,
        sps_changes_per_day=1.0,
        expected_cost_usd=0.01,
        rank=range(1, len(chosen) + 1),
    )


def test_the_table_of_a_selection_shows_names_as_text(selection):
    shown = formats_of(report.evidence_table(selection, simulated=False))

    require_text(shown)
    assert "script&gt;$" in shown["text/html"]


def test_banners_and_bars_show_their_words_as_text():
    archive = Archive(f"/data/{EVIL}", "2024-08", EVIL, EVIL)

    for html in (banner(archive), banner_html(EVIL, "real"), bar_html(0.5, EVIL)):
        require_text({"text/html": html})
        assert "alert(1)" in html


def test_figures_draw_names_with_dollar_signs_as_text(counts, selection, tmp_path):
    ranks, _ = compare_ways(counts, sizes=SIZES, top=3)
    ranked = score_targets(variation(counts), sizes=SIZES)
    drawn = {
        "variation": figures.variation_figure(variation(counts), selection, simulated=False),
        "regions": figures.score_heatmap(ranked, simulated=True),
        "history": figures.history_figure(counts, selection, simulated=False),
        "ways": figures.ranks_figure(ranks, simulated=False),
    }

    for name, figure in drawn.items():
        svg = save(figure, tmp_path / name).with_suffix(".svg").read_text()
        assert "<script" not in svg
        assert "<a " not in svg
    legend = [text.get_text() for text in drawn["variation"].legends[0].get_texts()]
    assert any(FORMULA in each for each in legend)
