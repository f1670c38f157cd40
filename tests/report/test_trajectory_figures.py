"""Figures of a training beside its envelopes."""

import pytest

from lightning_bounds.report.trajectory_figures import dynamics_figure

MEASURED = {"measured": ([0, 5, 10], [4.0, 0.4, 0.0])}
ENVELOPE = {"guaranteed": ([0, 5], [4.0, 3.9])}


def drawn(figure):
    return {line.get_label(): (line.get_linestyle(), list(line.get_ydata())) for line in figure.axes[0].lines}


def test_measured_curves_are_solid_and_envelopes_dashed():
    figure = dynamics_figure(MEASURED, ENVELOPE, ylabel="residual norm", title="Residual")
    assert drawn(figure) == {"measured": ("-", [4.0, 0.4, 0.0]), "guaranteed": ("--", [4.0, 3.9])}
    assert figure.get_suptitle() == "Residual"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("step", "residual norm")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "guaranteed"]


def test_each_curve_has_a_color_of_its_own():
    lines = dynamics_figure({**MEASURED, "predicted": ([0], [1.0])}, ENVELOPE, ylabel="norm").axes[0].lines
    assert len({line.get_color() for line in lines}) == 3


@pytest.mark.parametrize(
    ("values", "logarithmic", "scale"),
    [([1.0, 0.1], True, "log"), ([0.0, 0.0], True, "linear"), ([1.0], False, "linear")],
)
def test_the_axis_is_logarithmic_where_it_is_asked_for_and_something_is_positive(values, logarithmic, scale):
    figure = dynamics_figure({"measured": (list(range(len(values))), values)}, ylabel="norm", logarithmic=logarithmic)
    assert figure.axes[0].get_yscale() == scale


@pytest.mark.parametrize(
    ("curves", "envelopes"),
    [({}, ENVELOPE), ({"measured": ([0], [])}, {}), (MEASURED, {"guaranteed": ([0, 1], [1.0])})],
)
def test_nothing_to_draw_and_curves_of_two_lengths_are_refused(curves, envelopes):
    with pytest.raises(ValueError, match="Expected"):
        dynamics_figure(curves, envelopes, ylabel="norm")
