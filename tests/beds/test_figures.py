"""Declared panels show the numbers of the results."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure as Page

from redistill.beds.figures import Figure, bars, curves, points, tiles
from redistill.core.study import Outcome, Results

ARMS = ["ours", "rival", "other"]


def results() -> Results:
    cells = {}
    for seed in (1, 2):
        for k, arm in enumerate(ARMS[:2]):
            arrays = {"path": np.arange(4.0) * (k + seed), "epoch": np.array([2.0, 4, 6, 8]),
                      "image": np.full((6, 3, 4, 5), k * 1.0)}  # fmt: skip
            cells[arm, seed] = Outcome({"accuracy": 0.5 + 0.1 * k + 0.02 * seed, "ece": 0.1 * seed}, arrays)
        cells["other", seed] = Outcome({"loss": 1.0})
    return Results((1, 2), cells)


def axis(panel, arms=ARMS):
    drawn = Page().subplots()
    panel(drawn, results(), arms)
    return drawn


def test_bars_are_means_in_percent_with_ours_in_orange():
    drawn = axis(bars("accuracy", ours={"ours"}, dots="ece"))
    assert [bar.get_width() for bar in drawn.patches] == pytest.approx([53, 63])  # "other" has none
    assert drawn.patches[0].get_facecolor() != drawn.patches[1].get_facecolor()
    assert drawn.lines[-1].get_xdata() == pytest.approx([15, 15]) and drawn.get_title() == "accuracy, %"
    low, high = drawn.get_xlim()
    assert low < 52 and high > 64


def test_curves_are_means_over_seeds_or_every_seed():
    mean = axis(curves("path", x="epoch", xlabel="epoch"))
    assert [list(line.get_ydata()) for line in mean.lines] == [[0, 1.5, 3, 4.5], [0, 2.5, 5, 7.5]]
    assert list(mean.lines[0].get_xdata()) == [2, 4, 6, 8] and mean.get_xlabel() == "epoch"
    every = axis(curves("path", arms=("ours",), each=True, scale=2))
    assert [list(line.get_ydata()) for line in every.lines] == [[0, 2, 4, 6], [0, 4, 8, 12]]
    assert list(every.lines[0].get_xdata()) == [1, 2, 3, 4] and len(every.get_legend().get_texts()) == 1


def test_a_seed_that_diverged_is_left_out():
    torn = results()
    torn.cells["rival", 1] = Outcome({}, diverged="step 3: loss is nan")
    bar, curve = Page().subplots(2)
    bars("accuracy")(bar, torn, ARMS)
    curves("path")(curve, torn, ARMS)
    assert [patch.get_width() for patch in bar.patches] == pytest.approx([53, 64])
    assert [list(line.get_ydata()) for line in curve.lines] == [[0, 1.5, 3, 4.5], [0, 3, 6, 9]]


def test_points_are_seeds():
    drawn = axis(points("accuracy", "ece"))
    assert len(drawn.collections) == 2
    np.testing.assert_allclose(drawn.collections[0].get_offsets(), [[52, 10], [54, 20]])


def test_tiles_lie_in_rows():
    drawn = axis(tiles("image", rows=2, arms=("ours", "rival")))
    picture = drawn.images[0].get_array()
    assert picture.shape == (4 * 4, 3 * 5, 3)
    assert np.all(picture[:8] == 0.5) and np.all(picture[8:] == 1)


def test_a_figure_is_written(tmp_path):
    Figure("arms", (bars("accuracy"), curves("path"), points("accuracy", "ece")), columns=2).draw(
        results(), ARMS, tmp_path
    )
    assert (tmp_path / "arms.png").stat().st_size > 1000
