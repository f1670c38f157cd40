import sys

import matplotlib
import numpy as np
import pytest
import torch

from lightning_bounds.report import (
    error_figure,
    histogram,
    margin_figure,
    residual_figure,
    spectrum_figure,
    trajectory_figure,
)

CURVES = {"information": ([0, 1, 2], [0.8, 0.1, 0.0]), "nuisance": ([0, 1, 2], [0.2, 0.2, 0.1])}
VECTORS = {"initial": torch.tensor([3.0, 1.0, 1.0]), "final": torch.tensor([4.0, 0.5, torch.nan]).bfloat16()}
FIGURES = {
    "spectrum": lambda: spectrum_figure(VECTORS, {"initial": 0.1}, title="title"),
    "residual": lambda: residual_figure({"training data": CURVES, "test data": CURVES}, title="title"),
    "error": lambda: error_figure(CURVES, title="title"),
    "margin": lambda: margin_figure(VECTORS, title="title"),
    "trajectory": lambda: trajectory_figure(CURVES, {"radius": 2.0}, title="title"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_without_global_state(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    figure.savefig(tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before
    assert figure.get_suptitle() == "title"
    assert all(panel.get_xlabel() for panel in figure.axes)
    assert figure.axes[0].get_ylabel()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_the_same_whatever_style_the_user_has_set(name, tmp_path):
    FIGURES[name]().savefig(tmp_path / "plain.png")
    with matplotlib.rc_context(
        {"font.size": 20, "axes.facecolor": "black", "xtick.labelsize": 30, "lines.linewidth": 9}
    ):
        FIGURES[name]().savefig(tmp_path / "styled.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_covers_another_or_leaves_the_figure(name):
    figure = FIGURES[name]()
    texts = [text for legend in figure.legends for text in legend.get_texts()] + [figure._suptitle]
    for panel in figure.axes:
        texts += [*panel.texts, panel._left_title, panel.xaxis.label, panel.yaxis.label]
        for axis, (low, high) in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 6
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert all(box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_long_legends_stay_inside_the_figure():
    curves = {f"a rather long name of a curve, number {i}": ([0, 1], [0.0, i]) for i in range(5)}
    figure = trajectory_figure(curves, {"a guaranteed radius with a long name": 4312.0})
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("make", [spectrum_figure, residual_figure, error_figure, margin_figure, trajectory_figure])
def test_nothing_to_draw_is_an_error(make):
    with pytest.raises(ValueError, match="Expected something to draw"):
        make({})


@pytest.mark.parametrize("make", [error_figure, trajectory_figure, lambda curves: residual_figure({"a": curves})])
def test_curves_need_one_value_per_time(make):
    with pytest.raises(ValueError, match="Expected one value per epoch or step in curve 'train', but got 1 for 2"):
        make({"train": ([0, 1], [0.5])})


def test_spectra_share_their_bins_and_lose_no_value():
    figure = spectrum_figure(VECTORS)
    stairs = [panel.patches[0].get_data() for panel in figure.axes]
    assert stairs[0].edges.tolist() == stairs[1].edges.tolist() == histogram(torch.tensor([0.0, 4.0])).edges.tolist()
    assert [int(data.values.sum()) for data in stairs] == [3, 2]
    assert {panel.get_yscale() for panel in figure.axes} == {"log"}


def test_spectra_show_their_noise_floors():
    figure = spectrum_figure(VECTORS, {"initial": 0.25})
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [0.25]
    assert figure.axes[0].texts[0].get_text() == "3 values, largest 3.00, noise floor 0.250 (dashed)"
    assert not figure.axes[1].lines


def test_an_empty_spectrum_is_an_empty_panel():
    figure = spectrum_figure({"initial": torch.ones(0), "final": torch.ones(2)})
    assert figure.axes[0].texts[0].get_text() == "0 values"


def test_residual_panels_hold_the_curves_and_share_a_logarithmic_axis():
    figure = residual_figure({"training data": CURVES, "test data": {"total": ([0, 5], [1.0, 1e-6])}})
    left, right = figure.axes
    assert {line.get_label(): line.get_ydata().tolist() for line in left.lines} == {
        name: values for name, (_, values) in CURVES.items()
    }
    assert left.get_yscale() == right.get_yscale() == "log"
    assert left.get_ylim() == right.get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["information", "nuisance", "total"]


def test_a_panel_without_curves_stays_empty():
    assert [len(panel.lines) for panel in residual_figure({"training data": {}}).axes] == [0]


def test_equal_names_have_equal_colors_in_all_panels():
    reversed_curves = dict(reversed(CURVES.items()))
    figure = residual_figure({"training data": CURVES, "test data": reversed_curves})
    colors = [{line.get_label(): line.get_color() for line in panel.lines} for panel in figure.axes]
    assert colors[0] == colors[1]


def test_margins_mark_zero_and_name_the_negative_share():
    figure = margin_figure({"initial": torch.tensor([-1.0, -0.5, 2.0, torch.nan]), "final": torch.tensor([1.0])})
    (panel,) = figure.axes
    assert [line.get_xdata() for line in panel.lines] == [[0.0, 0.0]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["initial (66.7% negative)", "final (0.0% negative)"]
    np.testing.assert_allclose([patch.get_data().values.sum() for patch in panel.patches], 1.0)


@pytest.mark.parametrize(("radius", "scale"), [(19.0, "linear"), (21.0, "log"), (float("inf"), "linear")])
def test_a_radius_far_above_the_curves_makes_the_axis_logarithmic(radius, scale):
    figure = trajectory_figure({"path length": ([0, 1], [0.0, 2.0])}, {"radius": radius})
    assert figure.axes[0].get_yscale() == scale
    assert len(figure.axes[0].lines) == (1 if radius == float("inf") else 2)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-bounds\[experiments\]'"):
        error_figure(CURVES)
