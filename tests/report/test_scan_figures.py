"""Heat maps of bounds."""

import math

import pytest
import torch

from lightning_bounds.report import heat_map_figure

ROWS, COLUMNS = ("time", [1.0, 2.0, 3.0]), ("beta", [0.001, 0.1])


def test_every_bound_is_shown_once_up_to_one():
    values = torch.tensor([[0.1, 0.2], [0.6, 0.9], [3.0, math.inf]])
    panel = heat_map_figure({"all": values}, ROWS, COLUMNS).axes[0]
    assert panel.images[0].get_array().tolist() == values.clamp_max(1.0).tolist()
    assert [label.get_text() for label in panel.get_yticklabels()] == ["1", "2", "3"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.001", "0.1"]


@pytest.mark.parametrize(("largest", "contours"), [(0.9, 1), (0.4, 0)])
def test_the_line_of_a_coin_is_drawn_where_bounds_cross_it(largest, contours):
    values = torch.tensor([[0.1, 0.2], [0.3, largest], [0.3, largest]])
    assert len(heat_map_figure({"all": values}, ROWS, COLUMNS).axes[0].collections) == contours


def test_every_map_has_its_panel():
    figure = heat_map_figure({"a": torch.zeros(3, 2), "b": torch.ones(3, 2)}, ROWS, COLUMNS, title="Bounds")
    assert [panel.get_title() for panel in figure.axes[:2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "Expected something to draw"),
        ({"a": torch.zeros(2, 3)}, r"Expected numbers of shape \(3, 2\) in 'a'"),
        ({"a": torch.full((3, 2), math.nan)}, "or NaN"),
    ],
)
def test_what_is_no_map_is_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        heat_map_figure(maps, ROWS, COLUMNS)
