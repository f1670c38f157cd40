"""Covariances of activations: closed forms, series and quadrature agree with each other and with sampling."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian
from lightning_bounds.theory.gaussian import quadrature, series

NAMES = ["relu", "softplus", "tanh", "sigmoid", "erf", "sin", "quadratic", "identity"]
# The nearly parallel pair differs in one of 3e5 weights, which a sample may miss, standard error and all.
_UNSEEN = 1e-5
SMOOTH = [name for name in NAMES if name != "relu"]


def unit_inputs(n=7, d=4):
    """Unit rows, among them duplicates, an antipodal pair and a nearly parallel one."""
    X = functional.normalize(torch.randn(n, d))
    X[1], X[2], X[3] = X[0], -X[0], functional.normalize(X[0] + 1e-5 * X[4], dim=0)
    return X


def gauss_hermite_by_loop(function, X, nodes=100):
    """E f(x·w) f(x'·w), one pair at a time, on a tensor grid of Gauss-Hermite nodes."""
    g, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    K = X @ X.T
    result = torch.zeros(len(X), len(X))
    for i in range(len(X)):
        for j in range(len(X)):
            a, b, c = (float(entry) for entry in (K[i, i], K[j, j], K[i, j]))
            u = math.sqrt(a) * g.unsqueeze(1)
            v = c / math.sqrt(a) * g.unsqueeze(1) + math.sqrt(max(b - c * c / a, 0.0)) * g
            result[i, j] = weights @ (function(u) * function(v)) @ weights
    return result


def derivative_of(name):
    return gaussian.activation_function(name).derivative


def function_of(name):
    return gaussian.activation_function(name).function


@pytest.mark.parametrize("name", SMOOTH)
def test_unit_rows_agree_with_gauss_hermite_quadrature(name):
    X = unit_inputs()
    expected = gauss_hermite_by_loop(derivative_of(name), X)
    torch.testing.assert_close(gaussian.derivative_covariance(X, name), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(gaussian.neural_covariance(X, name), expected * (X @ X.T), rtol=0, atol=1e-8)
    expected = gauss_hermite_by_loop(function_of(name), X)
    torch.testing.assert_close(gaussian.output_covariance(X, name), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SMOOTH)
def test_rows_of_different_norms_agree_with_gauss_hermite_quadrature(name):
    X = unit_inputs() * torch.linspace(0.2, 0.9, 7).unsqueeze(1)
    expected = gauss_hermite_by_loop(derivative_of(name), X)
    torch.testing.assert_close(gaussian.derivative_covariance(X, name), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("derivative", [True, False])
def test_sampled_weights_give_the_same(name, derivative):
    X = unit_inputs() * torch.linspace(0.5, 2.0, 7).unsqueeze(1)
    estimate = gaussian.monte_carlo_covariance(
        X, name, torch.Generator().manual_seed(1), num_samples=50_000, derivative=derivative
    )
    exact = (gaussian.derivative_covariance if derivative else gaussian.output_covariance)(X, name)
    assert bool(((estimate.value - exact).abs() <= 5 * estimate.standard_error + _UNSEEN).all())
    # Nothing but identity and quadratic is sampled exactly, so the comparison can fail.
    assert bool((estimate.standard_error < 0.2 * exact.abs().max()).all())


@pytest.mark.parametrize("name", ["erf", "sin", "quadratic", "identity"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_series_gives_the_closed_forms(name, scale):
    X = scale * unit_inputs()
    closed, function = gaussian.activation_function(name), function_of(name)
    sizes = gaussian.output_covariance(X, name).abs().max(), gaussian.derivative_covariance(X, name).abs().max()
    rows = series.Rows(torch.full((7,), scale), X / scale)
    difference = series.series_covariance(rows, function) - gaussian.output_covariance(X, name)
    assert float(difference.abs().max()) < 1e-11 * float(sizes[0])
    difference = series.series_covariance(rows, closed.derivative) - gaussian.derivative_covariance(X, name)
    assert float(difference.abs().max()) < 1e-11 * float(sizes[1])


def test_erf_is_right_for_large_norms():
    # Gauss-Hermite with 80 nodes is off by 1e-3 here; the weight along the row integrates by itself.
    a = 30.0**2
    X = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    K = gaussian.derivative_covariance(X, "erf")
    assert float(K[0, 0]) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * a), rel=1e-13)
    assert float(K[0, 1]) == pytest.approx((2 / math.sqrt(math.pi) / math.sqrt(1 + 2 * a)) ** 2, rel=1e-13)


def test_sine_does_not_overflow_and_keeps_small_products():
    X = torch.tensor([[40.0, 0.0], [40.0, 1e-9], [1e-9, 40.0]])
    K = gaussian.output_covariance(X, "sin")
    assert bool(K.isfinite().all())
    assert float(K[0, 0]) == pytest.approx((1 - math.exp(-3200)) / 2)
    x = torch.tensor([[1.0, 0.0], [1e-12, 1.0]])
    assert float(gaussian.output_covariance(x, "sin")[0, 1]) == pytest.approx(1e-12 * math.exp(-1), rel=1e-10)


@pytest.mark.parametrize("function", [torch.relu, functional.leaky_relu, functional.elu])
def test_functions_with_a_kink_at_zero_are_integrated_exactly(function):
    X = unit_inputs()
    slope = {functional.leaky_relu: 0.01, torch.relu: 0.0}.get(function)
    estimate = gaussian.monte_carlo_covariance(X, function, torch.Generator().manual_seed(2), num_samples=20_000)
    exact = gaussian.derivative_covariance(X, function)
    assert bool(((estimate.value - exact).abs() <= 5 * estimate.standard_error + _UNSEEN).all())
    if slope is not None:
        # leaky' = (1 - s) step + s, so its covariance is a combination of the step's and of means 1/2.
        step = gaussian.relu_derivative_covariance(X)
        expected = (1 - slope) ** 2 * step + slope * (1 - slope) + slope**2
        torch.testing.assert_close(exact, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("function", [functional.gelu, functional.silu, torch.atan])
def test_any_smooth_function_is_differentiated_and_integrated(function):
    X = unit_inputs()

    def derivative(z):
        z = z.clone().requires_grad_()
        return torch.autograd.grad(function(z).sum(), z)[0]

    expected = gauss_hermite_by_loop(derivative, X)
    torch.testing.assert_close(gaussian.derivative_covariance(X, function), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        gaussian.output_covariance(X, function), gauss_hermite_by_loop(function, X), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "activation", [pytest.param(functional.hardtanh, marks=pytest.mark.slow), lambda z: (z.square() / 3).exp()]
)
def test_what_does_not_converge_is_no_number(activation):
    with pytest.raises(ArithmeticError, match="pass a named activation, or estimate by Monte Carlo"):
        gaussian.output_covariance(unit_inputs(), activation)


@pytest.mark.parametrize("name", NAMES)
def test_covariances_are_symmetric_and_positive_semidefinite(name):
    X = torch.randn(30, 3)
    for K in (gaussian.neural_covariance(X, name), gaussian.output_covariance(X, name)):
        assert torch.equal(K, K.T)
        assert float(torch.linalg.eigvalsh(K)[0]) > -1e-11 * float(K.abs().max())


@pytest.mark.parametrize("name", ["softplus", "erf", "tanh"])
def test_rotation_changes_nothing(name):
    X = torch.randn(10, 4)
    Q = torch.linalg.qr(torch.randn(4, 4)).Q
    torch.testing.assert_close(
        gaussian.neural_covariance(X @ Q, name), gaussian.neural_covariance(X, name), rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_tiles_do_not_change_the_result(name, monkeypatch):
    X = torch.randn(20, 3)
    whole = gaussian.neural_covariance(X, name)
    monkeypatch.setattr(gaussian.blocks.tiles, "__defaults__", (6,))
    torch.testing.assert_close(gaussian.neural_covariance(X, name), whole, rtol=1e-11, atol=1e-12)


def test_expected_gram_of_a_network_is_width_times_variance_times_covariance():
    # Erratum A1 of the paper on information spaces: E[J J^T] = k Var(v) Σ(X).
    X, width = unit_inputs(5), 200_000
    W, v = torch.randn(width, 4), 0.3 * torch.randn(width)
    slopes = (X @ W.T).sigmoid() * v
    gram = (slopes @ slopes.T) * (X @ X.T)
    torch.testing.assert_close(gram / (width * 0.09), gaussian.neural_covariance(X, "softplus"), rtol=0, atol=5e-3)


@pytest.mark.parametrize("pairs", [1, 20])
def test_two_dimensional_quadrature_gives_the_arc_cosine_kernel(pairs, monkeypatch):
    monkeypatch.setattr(quadrature, "_PAIRS", 8)
    theta = torch.rand(pairs) * 0.1
    ones = torch.ones(pairs)
    values = quadrature.pair_expectation(torch.relu, ones, 2 * ones, theta, ones, 1e-12)
    expected = 2 * (theta.sin() + (math.pi - theta) * theta.cos()) / (2 * math.pi)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", [4.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_two_dimensional_quadrature_resolves_steep_functions(norm):
    theta = torch.tensor([0.0, 1e-5, 1e-3, 0.03, 0.2, math.pi])
    norms = torch.full((6,), norm)
    values = quadrature.pair_expectation(derivative_of("erf"), norms, norms, theta, 1 / norms, 1e-12)
    a = norms.square()
    expected = (4 / math.pi) / (1 + 4 * a + 4 * (a * theta.sin()).square()).sqrt()
    torch.testing.assert_close(values, expected, rtol=1e-11, atol=0)


def test_modules_with_parameters_are_measured_without_gradients_and_in_inference_mode():
    X = unit_inputs()
    module = torch.nn.PReLU(init=0.01)
    expected = gaussian.neural_covariance(X, functional.leaky_relu)
    torch.testing.assert_close(gaussian.neural_covariance(X, module), expected)
    assert not gaussian.output_covariance(X, module).requires_grad
    assert module.weight.grad is None
    with torch.inference_mode():
        torch.testing.assert_close(gaussian.neural_covariance(X, module).clone(), expected)


@pytest.mark.parametrize("covariance", [gaussian.neural_covariance, gaussian.output_covariance])
def test_unknown_names_and_zero_rows_are_refused(covariance):
    with pytest.raises(ValueError, match=r"among .*'softplus'.* but got 'swish'"):
        covariance(torch.ones(1, 2), "swish")
    with pytest.raises(ValueError, match=r"samples \[0\] are zero"):
        covariance(torch.zeros(1, 2), "tanh")


def test_monte_carlo_needs_two_samples():
    with pytest.raises(ValueError, match="at least 2"):
        gaussian.monte_carlo_covariance(torch.ones(1, 2), "tanh", torch.Generator(), num_samples=1)


def test_sampling_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    gaussian.monte_carlo_covariance(torch.ones(1, 2), "tanh", torch.Generator(), num_samples=10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_series_of_many_inputs_fits_into_memory_and_time():
    K = gaussian.neural_covariance(functional.normalize(torch.randn(3000, 300)), "softplus")
    assert bool(K.isfinite().all())
    assert float(K[0, 0]) == pytest.approx(0.29337, abs=1e-4)
