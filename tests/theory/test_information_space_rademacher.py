"""Rademacher complexity against draws of the signs, and the bounds that it enters against test errors."""

import math

import pytest
import torch

from lightning_bounds.theory import information_space as spaces


def unit_rows(n, d):
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


def test_bound_is_that_of_equation_6_40():
    value = spaces.rademacher_bound(
        nu=2.0, B=1.5, num_samples=25, width=16, distance=3.0, row_distance=0.5, output_distance=0.2, energy=0.7
    )
    assert value == pytest.approx(2 * 1.5 * ((3 + 0.7 * 0.2) / 5 + (0.25 + 3 * 0.2) / 4))


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("distance", [0.1, 2.0])
def test_complexity_of_networks_that_are_linear_in_their_weights_is_below_the_bound(K, distance):
    # With φ = identity the supremum over |W - W_0|_F <= M is M |V^T Ξ^T X|_F / n; the part at W_0 has mean zero.
    n, k, nu = 20, 30, 1.5
    X, V = unit_rows(n, 6), nu / (k * K) ** 0.5 * (2.0 * torch.randint(2, (K, k)) - 1)
    signs = 2.0 * torch.randint(2, (500, n, K)) - 1
    suprema = distance / n * (V.T @ signs.transpose(1, 2) @ X).flatten(1).norm(dim=1)
    bound = spaces.rademacher_bound(nu=nu, B=1.0, num_samples=n, width=k, distance=distance, row_distance=0.0)
    assert 0.8 * bound <= float(suprema.mean()) <= bound * 1.02  # (6.40) loses Jensen's inequality alone


def test_complexity_of_a_moving_output_layer_is_below_the_bound():
    # W stays: the supremum over |V - V_0|_F <= ν M / √(k K) is that radius times |Ξ^T Φ|_F / n.
    n, k, K, nu, moved = 20, 30, 2, 1.5, 0.8
    hidden = torch.tanh(unit_rows(n, 6) @ torch.randn(6, k))
    energy = spaces.average_energy(hidden)
    assert energy == pytest.approx(float(hidden.norm()) / (n * k) ** 0.5)
    signs = 2.0 * torch.randint(2, (500, n, K)) - 1
    suprema = nu * moved / (k * K) ** 0.5 / n * (signs.transpose(1, 2) @ hidden).flatten(1).norm(dim=1)
    bound = spaces.rademacher_bound(
        nu=nu, B=1.0, num_samples=n, width=k, distance=0.0, row_distance=0.0, output_distance=moved, energy=energy
    )
    assert 0.8 * bound <= float(suprema.mean()) <= bound * 1.02


def test_second_order_term_bounds_what_a_network_gains_over_its_linear_part():
    # For each draw, gradient ascent on Σ ξ f over rows within R/√k finds a value that the bound allows.
    n, k, nu, R = 10, 20, 1.0, 6.0
    X, W, V = unit_rows(n, 4), torch.randn(k, 4), nu / k**0.5 * (2.0 * torch.randint(2, (1, k)) - 1)
    signs = 2.0 * torch.randint(2, (200, 1, n)) - 1
    start = torch.tanh(X @ W.T) @ V.T
    shift = torch.zeros(200, k, 4)
    for _ in range(30):
        slopes = 1 - torch.tanh(X @ (W + shift).transpose(1, 2)) ** 2
        shift = shift + 5.0 * (slopes * signs.transpose(1, 2) * V).transpose(1, 2) @ X
        shift = shift * (R / k**0.5 / shift.norm(dim=2, keepdim=True)).clamp_max(1)
    gained = (signs @ (torch.tanh(X @ (W + shift).transpose(1, 2)) @ V.T - start)).mean() / n
    bound = spaces.rademacher_bound(nu=nu, B=1.0, num_samples=n, width=k, distance=R, row_distance=R)
    assert 0 < float(gained) <= bound


@pytest.mark.parametrize("delta", [0.5, 0.1, 1e-6])
def test_loss_bound_adds_complexity_and_chance_up(delta):
    bound = spaces.loss_bound(0.2, 0.05, num_samples=400, delta=delta)
    chance = (5 * math.log(2 / delta) / 400) ** 0.5
    assert dict(bound.terms) == pytest.approx(
        {"empirical_loss": 0.2, "complexity": 2 * 2**0.5 * 0.05, "chance": chance}
    )
    assert bound.confidence == pytest.approx(1 - delta)
    # Theorem B.1 of Arora et al. 2019 has a smaller third term.
    assert 3 * (math.log(2 / delta) / (2 * 400)) ** 0.5 <= bound.terms["chance"]


@pytest.mark.parametrize(("arguments", "factor"), [({}, 2.0), ({"sharp": True}, 2**0.5), ({"signs": True}, 1.0)])
def test_classification_bound_is_a_multiple_of_the_loss_bound(arguments, factor):
    bound = spaces.classification_bound(4.0, 0.05, num_samples=400, delta=0.1, **arguments)
    loss = spaces.loss_bound(4.0 / 20, 0.05, num_samples=400, delta=0.1)
    assert bound.value == pytest.approx(factor * loss.value)
    assert "A12" in bound.caveats[0]


@pytest.mark.parametrize("K", [2, 3, 5])
def test_a_wrong_argmax_is_at_least_as_far_away_as_the_sharp_factor_says(K):
    outputs = torch.randn(20_000, K)
    labels = torch.eye(K)[torch.arange(20_000) % K]
    wrong = outputs.argmax(dim=1) != labels.argmax(dim=1)
    assert float((outputs - labels)[wrong].norm(dim=1).min()) >= 2**-0.5
    tie = torch.zeros(K)
    tie[:2] = 0.5
    assert float((tie - labels[0]).norm()) == pytest.approx(2**-0.5)


@pytest.mark.parametrize("seed", range(3))
def test_error_of_fitted_linear_networks_is_below_the_bound(seed):
    # The class is fixed in advance: |W| <= 2, V = (1, -1)/√2, W_0 = 0.
    torch.manual_seed(seed)
    n, V = 2000, torch.tensor([[1.0], [-1.0]]) / 2**0.5
    classes = torch.arange(n + 1000) % 2
    X = torch.nn.functional.normalize(torch.stack([1.0 - 2 * classes, 0.3 * torch.randn(n + 1000)], dim=1), dim=1)
    Y = torch.eye(2)[classes]
    W = torch.linalg.lstsq(X[:n], (Y[:n] @ V)).solution.T
    assert float(W.norm()) <= 2
    nu = float(V.abs().max()) * 2**0.5
    complexity = spaces.rademacher_bound(nu=nu, B=1.0, num_samples=n, width=1, distance=2.0, row_distance=0.0)
    residual = float((X[:n] @ W.T @ V.T - Y[:n]).norm())
    bound = spaces.classification_bound(residual, complexity, num_samples=n, delta=0.1)
    error = ((X[n:] @ W.T @ V.T).argmax(dim=1) != classes[n:]).double().mean()
    assert float(error) <= bound.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nu": -1.0}, "`nu` to be finite, 0 or more, but got -1.0"),
        ({"B": 0.0}, "`B` to be positive and finite, but got 0.0"),
        ({"num_samples": 0}, "`num_samples` to be positive"),
        ({"width": 0}, "`width` to be positive"),
        ({"distance": math.nan}, "`distance` .* but got nan"),
        ({"output_distance": 1.0, "B": 0.5}, "`B` of at least 1 for an output layer that moves, but got 0.5; take 1"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    arguments = {"nu": 1.0, "B": 1.0, "num_samples": 10, "width": 10, "distance": 1.0, "row_distance": 1.0}
    with pytest.raises(ValueError, match=message):
        spaces.rademacher_bound(**arguments | change)


@pytest.mark.parametrize("function", [spaces.loss_bound, spaces.classification_bound])
@pytest.mark.parametrize(
    ("first", "second", "delta", "message"),
    [
        (-0.1, 0.1, 0.1, "finite, 0 or more, but got -0.1"),
        (0.1, math.inf, 0.1, "`rademacher` to be finite"),
        (0.1, 0.1, 1.0, r"`delta` in \(0, 1\), the probability of failure, but got 1.0"),
    ],
)
def test_bounds_of_no_numbers_are_refused(function, first, second, delta, message):
    with pytest.raises(ValueError, match=message):
        function(first, second, num_samples=10, delta=delta)


def test_hidden_outputs_that_are_no_matrix_are_refused():
    with pytest.raises(ValueError, match=r"finite hidden outputs \(n, k\), but got shape \(3,\)"):
        spaces.average_energy(torch.ones(3))
