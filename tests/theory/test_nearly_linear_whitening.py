"""Whitening on the span of the inputs, and the strength of the linear signal."""

import math

import pytest
import torch

from lightning_bounds.theory.nearly_linear import strength, whiten


@pytest.fixture
def inputs():
    """Correlated, not centered, with a dead, a constant and a repeated feature: rank 5 of 7."""
    x = torch.randn(40, 4) @ torch.diag(torch.tensor([100.0, 1.0, 0.1, 3.0])) @ torch.randn(4, 4) + 2
    return torch.cat([x, torch.zeros(40, 1), torch.ones(40, 1), x[:, :1]], dim=1)


@pytest.fixture
def labels():
    return torch.randn(40).sign()


def test_whitened_inputs_have_the_identity_as_second_moment(inputs):
    whitening = whiten(inputs)
    assert whitening.rank == 5
    assert whitening.transform.shape == (7, 5)
    torch.testing.assert_close(whitening.inputs.T @ whitening.inputs / 40, torch.eye(5), rtol=0, atol=1e-12)
    torch.testing.assert_close(inputs @ whitening.transform, whitening.inputs, rtol=1e-9, atol=1e-9)
    assert whitening.mean_square_norm(inputs) == pytest.approx(5)


def test_float32_inputs_are_whitened_in_float64(inputs):
    whitening = whiten(inputs.float())
    assert whitening.inputs.dtype == torch.float64
    assert float((whitening.inputs.T @ whitening.inputs / 40 - torch.eye(5)).abs().max()) < 1e-10


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200])
def test_scale_of_the_inputs_does_not_matter(inputs, scale):
    white = whiten(inputs * scale).inputs
    torch.testing.assert_close(white @ white.T, whiten(inputs).inputs @ whiten(inputs).inputs.T, rtol=1e-7, atol=1e-7)


def test_directions_below_the_threshold_are_no_part_of_the_span():
    x = torch.randn(50, 2) * torch.tensor([1.0, 1e-4])
    assert whiten(x).rank == 2
    assert whiten(x * torch.tensor([1.0, 1e-2])).rank == 1


def test_energy_outside_the_span_is_reported_and_dropped(inputs):
    whitening = whiten(inputs)
    fresh = torch.randn(3, 7)
    outside = fresh - fresh @ torch.linalg.pinv(inputs) @ inputs
    expected = float(outside.square().sum() / fresh.square().sum())
    assert whitening.energy_outside(fresh) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(whitening.apply(fresh), whitening.apply(fresh - outside), rtol=1e-6, atol=1e-6)
    assert whitening.energy_outside(inputs) < 1e-20
    assert whitening.energy_outside(torch.zeros(1, 7)) == 0


def test_strength_is_the_root_of_what_least_squares_explains(inputs, labels):
    fit = inputs @ torch.linalg.pinv(inputs, rtol=1e-10) @ labels
    assert strength(inputs, labels) ** 2 == pytest.approx(1 - float((labels - fit).square().mean()), rel=1e-9)


def test_strength_of_raw_and_whitened_inputs_is_the_same(inputs, labels):
    expected = float((labels @ whiten(inputs).inputs).norm() / 40)
    assert strength(inputs, labels) == pytest.approx(expected, rel=1e-12)
    assert strength(whiten(inputs).inputs, labels) == pytest.approx(expected, rel=1e-10)
    assert strength(inputs @ torch.randn(7, 7), labels.int().unsqueeze(1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(4, 4), (3, 8)])
def test_strength_is_one_where_every_label_can_be_fitted(n, d):
    labels = torch.tensor([1.0, -1.0, -1.0, 1.0])[:n]
    assert strength(torch.randn(n, d), labels) == pytest.approx(1.0)
    assert strength(torch.randn(n, d), labels) <= 1


def test_strength_is_zero_for_labels_without_a_linear_signal():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert strength(x, x.prod(dim=1)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4, 2), "zeros only"),
        (torch.ones(1, 2), "at least 2 samples"),
        (torch.tensor([[1.0], [math.nan]]), "finite"),
        (torch.tensor([[1.0], [math.inf]]), "finite"),
        (torch.ones(4), "shape"),
        (torch.ones(2, 2, 2), "flatten images"),
        (torch.ones(0, 3), "shape"),
    ],
)
def test_inputs_that_cannot_be_whitened_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        whiten(bad)


def test_other_features_are_named(inputs):
    with pytest.raises(ValueError, match="Expected 7 features, but got 3"):
        whiten(inputs).apply(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 1]), "labels -1 and \\+1"),
        (torch.tensor([1.0, 0.5, -1.0]), "labels -1 and \\+1"),
        (torch.tensor([1.0, math.nan, -1.0]), "finite"),
        (torch.ones(2), "each of the 3 samples"),
        (torch.ones(3, 2), "each of the 3 samples"),
    ],
)
def test_labels_other_than_signs_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        strength(torch.eye(3), labels)
