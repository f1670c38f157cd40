"""The lemmas on the Jacobian at the random start, on networks that are drawn."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian, overparameterization


def sphere(n, d, seed=0):
    return functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def jacobian(X, W, v, activation):
    """Rows of sample i: v_s φ'(w_s·x_i) x_i, rows of W one after the other."""
    slopes = gaussian.activation_function(activation).derivative(X @ W.T) * v
    return torch.einsum("ns,nd->nsd", slopes, X).flatten(1)


@pytest.mark.parametrize("width", [2, 3, 8, 9])
def test_output_weights_have_two_signs_and_one_size(width):
    y = torch.randn(5)
    v = overparameterization.output_weights(y, width)
    size = float(y.norm()) / math.sqrt(5 * width)
    assert float(v.sum()) == pytest.approx(0.0, abs=1e-15)
    assert int((v == 0).sum()) == width % 2
    assert v[v != 0].abs().tolist() == pytest.approx([size] * (2 * (width // 2)))


@pytest.mark.parametrize("activation", ["relu", "softplus", "erf"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_norm_of_the_jacobian_is_bounded_everywhere(activation, scale):
    X, W = sphere(6, 4), scale * torch.randn(10, 4)
    v = overparameterization.output_weights(torch.randn(6), 10)
    first = gaussian.derivative_bounds(activation).first
    bound = overparameterization.jacobian_norm_bound(overparameterization.spectral_norm(X), v, first)
    norm = float(torch.linalg.matrix_norm(jacobian(X, W, v, activation), ord=2))
    assert 0.2 * bound < norm <= bound or (scale != 1.0 and norm <= bound)


@pytest.mark.parametrize("step", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("activation", ["softplus", "tanh", "erf"])
def test_jacobian_is_lipschitz(activation, step):
    X, W = sphere(6, 4), torch.randn(10, 4)
    v = overparameterization.output_weights(torch.randn(6), 10)
    second = gaussian.derivative_bounds(activation).second
    bound = overparameterization.jacobian_lipschitz_constant(overparameterization.spectral_norm(X), v, second)
    other = W + step * torch.randn(10, 4)
    change = torch.linalg.matrix_norm(jacobian(X, other, v, activation) - jacobian(X, W, v, activation), ord=2)
    assert 0 < float(change) <= bound * float((other - W).norm())


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_smallest_singular_value_at_the_start(activation):
    X = sphere(5, 6)
    lam = overparameterization.neural_eigenvalue(X, activation)
    v = overparameterization.output_weights(torch.randn(5), 4000)
    lemma = overparameterization.initial_sigma_min(5, overparameterization.spectral_norm(X), v, lam)
    assert lemma.conditions[0].holds
    assert lemma.probability == 0.8
    draws = [torch.randn(4000, 6) for _ in range(10)]
    singular = [float(torch.linalg.svdvals(jacobian(X, W, v, activation))[-1]) for W in draws]
    assert sum(value < lemma.value for value in singular) <= 2
    # The expected square is twice the bound's.
    assert singular[0] == pytest.approx(math.sqrt(2) * lemma.value, rel=0.2)


def test_a_narrow_network_does_not_meet_the_condition_on_the_start():
    X = sphere(50, 4)
    v = overparameterization.output_weights(torch.randn(50), 20)
    lam = overparameterization.neural_eigenvalue(X, "relu")
    lemma = overparameterization.initial_sigma_min(50, overparameterization.spectral_norm(X), v, lam)
    assert lemma.conditions[0].holds is False
    assert lemma.conditions[0].actual == pytest.approx(math.sqrt(20))
    assert lemma.conditions[0].required == pytest.approx(
        math.sqrt(20 * math.log(50) / lam) * overparameterization.spectral_norm(X)
    )


@pytest.mark.parametrize("tolerance", [0.2, 1.0])
def test_residual_at_the_start(tolerance):
    X, y, width = sphere(30, 20), torch.randn(30), 50
    v = overparameterization.output_weights(y, width)
    norm = overparameterization.spectral_norm(X)
    lemma = overparameterization.initial_residual_bound(30, norm, float(y.norm()), tolerance=tolerance)
    residuals = [float((functional.softplus(X @ torch.randn(width, 20).T) @ v - y).norm()) for _ in range(100)]
    assert lemma.value == pytest.approx(float(y.norm()) * (2 + tolerance))
    assert lemma.probability == pytest.approx(1 - math.exp(-(tolerance**2) * 30 / (2 * norm**2)))
    assert sum(residual > lemma.value for residual in residuals) <= 100 * (1 - lemma.probability)


def test_tiny_probabilities_keep_their_digits():
    assert overparameterization.initial_residual_bound(1, 1.0, 1.0, tolerance=1e-9).probability == pytest.approx(5e-19)


def test_jacobian_of_relu_changes_little_near_the_start():
    X, width = torch.eye(3), 100_000
    lam = overparameterization.neural_eigenvalue(X, "relu")
    v = overparameterization.output_weights(torch.ones(3), width)
    lemma = overparameterization.relu_jacobian_perturbation(3, 1.0, v, lam)
    assert lemma.probability > 0.999
    W = torch.randn(width, 3)
    # The worst change within the radius: push the smallest pre-activations of one input across 0.
    order = (W[:, 0]).abs().argsort()
    cost = W[order, 0].square().cumsum(0).sqrt()
    flipped = order[cost < lemma.radius]
    assert len(flipped) > 0
    changed = W.clone()
    changed[flipped, 0] *= -1e-9
    assert float(torch.linalg.matrix_norm(changed - W, ord=2)) <= lemma.radius * (1 + 1e-6)
    change = torch.linalg.matrix_norm(jacobian(X, changed, v, "relu") - jacobian(X, W, v, "relu"), ord=2)
    assert 0 < float(change) <= lemma.change


def test_perturbation_lemma_is_its_formula():
    # m0 = 60 * 0.5 / (√200 * 2) for v of 3600 ones; erratum B6: no n in the exponent.
    lemma = overparameterization.relu_jacobian_perturbation(7, 2.0, torch.ones(3600), 0.25)
    m0 = 60 * 0.5 / (math.sqrt(200) * 2)
    assert lemma.radius == pytest.approx(m0**3 / 7200)
    assert lemma.change == pytest.approx(60 * 0.5 / (6 * math.sqrt(2)))
    assert lemma.probability == pytest.approx(1 - 7 * math.exp(-(m0**2) / 6))


@pytest.mark.parametrize(
    ("labels", "width", "message"),
    [
        (torch.zeros(3), 4, "not all 0"),
        (torch.tensor([1.0, float("inf")]), 4, "finite `labels`"),
        (torch.ones(3, 1), 4, r"shape \(n,\), .* \(3, 1\)"),
        (torch.ones(3), 1, "at least 2, but got 1"),
        (torch.ones(3), 2.0, "integer of at least 2"),
    ],
)
def test_labels_and_widths_out_of_range_are_refused(labels, width, message):
    with pytest.raises(ValueError, match=message):
        overparameterization.output_weights(labels, width)
