"""The margin risk of the aligned linear network, against a naive loop and a network that is really trained."""

import itertools

import pytest
import torch

from lightning_bounds.theory.nearly_linear import (
    aligned_margin_risk,
    apriori_scan,
    linear_weight_norm,
    strength,
    whiten,
)

TIMES, BETAS, DIVISORS = [0.0, 0.7, 2.0, 5.0], [0.05, 0.3], [1.0, 4.0]


@pytest.fixture
def data():
    inputs = torch.randn(60, 5)
    return inputs, torch.where(inputs[:, 0] + inputs[:, 1] + torch.randn(60) > 0, 1.0, -1.0)


@pytest.mark.parametrize("depth", [2, 3])
def test_risk_counts_the_samples_within_the_margin(data, depth):
    inputs, labels = data
    s, white = strength(inputs, labels), whiten(inputs).inputs
    direction = labels @ white / (60 * s)
    expected = [
        sum(
            float(y) * float(linear_weight_norm(t, strength=s, beta=b, depth=depth)) ** depth * float(x @ direction)
            < b**depth / q
            for x, y in zip(white, labels, strict=True)
        )
        / 60
        for t, b, q in itertools.product(TIMES, BETAS, DIVISORS)
    ]
    found = aligned_margin_risk(inputs, labels, times=TIMES, betas=BETAS, depths=[depth], divisors=DIVISORS)
    assert found.shape == (4, 2, 1, 1, 2, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


def test_a_trained_linear_network_that_starts_aligned_has_this_risk(data):
    inputs, labels = data
    white = whiten(inputs).inputs
    direction = labels @ white
    direction, beta, step = direction / direction.norm(), 0.3, 1e-3
    hidden = torch.zeros(3, 5)
    hidden[0] = beta * direction
    hidden.requires_grad_()
    output = torch.tensor([[beta, 0.0, 0.0]], requires_grad=True)
    optimizer = torch.optim.SGD([hidden, output], lr=step)
    for _ in range(2000):
        optimizer.zero_grad()
        (0.5 * (labels - (white @ hidden.T @ output.T)[:, 0]).square().mean()).backward()
        optimizer.step()
    margins = labels * (white @ hidden.T @ output.T)[:, 0].detach()
    measured = (margins < beta**2 / 2).double().mean()
    found = aligned_margin_risk(inputs, labels, times=[2.0], betas=[beta], divisors=[2.0])
    assert float(found) == pytest.approx(float(measured), abs=1.5 / 60)


def test_risk_falls_with_time_and_with_smaller_margins(data):
    found = aligned_margin_risk(*data, times=TIMES, betas=BETAS, divisors=DIVISORS)
    assert bool((found.diff(dim=0) <= 0).all())
    assert bool((found.diff(dim=4) <= 0).all())


def test_risk_has_the_shape_of_a_scan(data):
    grid = {"times": TIMES, "betas": BETAS, "depths": [2, 3], "divisors": DIVISORS}
    risks = aligned_margin_risk(*data, **grid)
    setting = {"strength": strength(*data), "rho": 1.0, "dim": 5, "samples": 60, "delta": 0.1, "epsilons": [0.0, 0.1]}
    scan = apriori_scan(**setting, **grid, train_margin_risk=risks)
    torch.testing.assert_close(scan.train_margin_risk, risks.expand(scan.values.shape))


@pytest.mark.parametrize("inputs", [torch.tensor([[1.0], [1.0], [1.0], [1.0]])])
def test_labels_that_no_direction_explains_are_refused(inputs):
    with pytest.raises(ValueError, match="Expected labels that some direction of the inputs explains"):
        aligned_margin_risk(inputs, torch.tensor([1.0, -1.0, 1.0, -1.0]), times=[1.0], betas=[0.1])
