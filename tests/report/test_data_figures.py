"""Figures of a data set: what they draw is what they were given, and wrong vectors are refused."""

import matplotlib
import pytest
import torch
from PIL import Image

from lightning_bounds.report.data_figures import eigenvalue_figure, label_energy_figure, predicted_residual_figure

SPECTRA = {"relu": torch.tensor([4.0, 1.0, 0.0]), "tanh": torch.tensor([3.0, 2.0, 1.0, 0.5])}
ENERGIES = {"true": torch.tensor([0.875, 0.9375, 1.0]), "random": torch.tensor([0.5, 0.75, 1.0])}
CURVES = {"true labels": ([1, 10, 100], [0.5, 0.1, 0.01]), "worst labels": ([1, 1000], [0.9, 0.5])}
FIGURES = {
    "eigenvalues": lambda: eigenvalue_figure(SPECTRA, title="title"),
    "energy": lambda: label_energy_figure(ENERGIES, title="title"),
    "residual": lambda: predicted_residual_figure(CURVES, title="title"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_without_global_state(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    figure.savefig(tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before
    assert figure.get_suptitle() == "title"
    assert figure.axes[0].get_xlabel()
    assert figure.axes[0].get_ylabel()
    with Image.open(tmp_path / "figure.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize(
    ("figure", "expected", "scales"),
    [
        (
            "eigenvalues",
            {"relu": ([1, 2, 3], [4.0, 1.0, 0.0]), "tanh": ([1, 2, 3, 4], [3.0, 2.0, 1.0, 0.5])},
            ("log", "log"),
        ),
        (
            "energy",
            {"true": ([1, 2, 3], [0.875, 0.9375, 1.0]), "random": ([1, 2, 3], [0.5, 0.75, 1.0])},
            ("log", "linear"),
        ),
        ("residual", CURVES, ("log", "log")),
    ],
)
def test_curves_are_what_was_given(figure, expected, scales):
    drawn = FIGURES[figure]()
    (panel,) = drawn.axes
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in panel.lines}
    assert lines == expected
    assert (panel.get_xscale(), panel.get_yscale()) == scales
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == list(expected)


@pytest.mark.parametrize("make", [eigenvalue_figure, label_energy_figure, predicted_residual_figure])
def test_nothing_to_draw_is_an_error(make):
    with pytest.raises(ValueError, match="Expected something to draw"):
        make({})


@pytest.mark.parametrize("values", [torch.tensor([1.0, 2.0]), torch.ones(2, 2), torch.ones(0)])
def test_eigenvalues_that_do_not_descend_are_refused(values):
    with pytest.raises(ValueError, match="Expected descending eigenvalues"):
        eigenvalue_figure({"relu": values})


@pytest.mark.parametrize(
    "shares", [torch.tensor([0.5, 0.4]), torch.tensor([0.5, 2.0]), torch.tensor([-0.1, 1.0]), torch.ones(2, 2)]
)
def test_energies_that_are_no_growing_shares_are_refused(shares):
    with pytest.raises(ValueError, match="Expected shares"):
        label_energy_figure({"true": shares})


def test_a_curve_without_a_value_for_each_step_is_refused():
    with pytest.raises(ValueError, match="curve 'true', but got 1 for 2"):
        predicted_residual_figure({"true": ([1, 2], [0.5])})
