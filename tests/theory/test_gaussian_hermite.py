"""Hermite coefficients and the constants of activations."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian
from lightning_bounds.theory.gaussian.hermite import hermite_expansion
from lightning_bounds.theory.gaussian.quadrature import gauss_legendre, gaussian_rule

NAMES = ["relu", "softplus", "tanh", "sigmoid", "erf", "sin", "quadratic", "identity"]


def relu_coefficient(order):
    """Closed form: 1/√(2π), 1/2, 1/(2√π), 0, and (-1)^{r/2-1} (r-3)!! / √(2π r!) for even orders."""
    if order <= 1:
        return 1 / math.sqrt(2 * math.pi) if order == 0 else 0.5
    if order % 2:
        return 0.0
    double_factorial = math.prod(range(order - 3, 0, -2))
    return (-1) ** (order // 2 - 1) * double_factorial / math.sqrt(2 * math.pi * math.factorial(order))


def coefficient_by_gauss_hermite(function, order, nodes=120):
    g, weights = np.polynomial.hermite_e.hermegauss(nodes)
    polynomial = np.polynomial.hermite_e.hermeval(g, [0] * order + [1]) / math.sqrt(math.factorial(order))
    values = function(torch.tensor(g)).numpy()
    return float((weights * values * polynomial).sum() / weights.sum())


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 6, 7, 20, 61, 100])
def test_coefficients_of_relu_are_the_closed_form(order):
    assert gaussian.hermite_coefficient("relu", order) == pytest.approx(relu_coefficient(order), abs=1e-13)


@pytest.mark.parametrize("order", [0, 1, 4, 7, 30])
def test_coefficients_of_sine_are_the_closed_form(order):
    expected = 0.0 if order % 2 == 0 else (-1) ** (order // 2) * math.exp(-0.5) / math.sqrt(math.factorial(order))
    assert gaussian.hermite_coefficient("sin", order) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", ["softplus", "tanh", "sigmoid", "erf"])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 5, 8])
def test_coefficients_agree_with_gauss_hermite_quadrature(name, order):
    function = gaussian.activation_function(name).function
    expected = coefficient_by_gauss_hermite(function, order)
    assert gaussian.hermite_coefficient(name, order) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", ["softplus", "tanh", "sigmoid", "erf", "sin"])
@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_coefficients_of_a_derivative_are_those_of_the_function_one_order_up(name, order):
    # Erratum B7: μ_r(φ') = √(r+1) μ_{r+1}(φ); here φ' is expanded by itself.
    derivative = gaussian.activation_function(name).derivative
    expected = gaussian.hermite_coefficient(derivative, order)
    assert gaussian.hermite_coefficient(name, order, derivative=1) == pytest.approx(expected, abs=1e-12)
    assert math.sqrt(order + 1) * gaussian.hermite_coefficient(name, order + 1) == pytest.approx(expected, abs=1e-12)


def test_second_derivative_of_relu_is_the_delta_function():
    assert gaussian.hermite_coefficient("relu", 0, derivative=2) == pytest.approx(1 / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("name", ["softplus", "tanh", "erf", "sin", "quadratic"])
@pytest.mark.parametrize("norm", [0.3, 1.0, 3.0])
def test_squared_coefficients_add_up_to_the_energy(name, norm):
    function = gaussian.activation_function(name).function
    expansion = hermite_expansion(function, torch.tensor([norm]), order=300)
    assert float(expansion.coefficients.square().sum()) <= float(expansion.energies[0]) * (1 + 1e-12)
    torch.testing.assert_close(
        expansion.coefficients.square().cumsum(0) + expansion.tails,
        expansion.energies.expand(301, 1),
        rtol=1e-12,
        atol=0,
    )
    assert float(expansion.tails[-1]) < 1e-6 * float(expansion.energies[0])


def test_constants_of_the_paper():
    softplus, relu = gaussian.activation_constants("softplus"), gaussian.activation_constants("relu")
    assert softplus.mu == pytest.approx(0.20662, abs=5e-6)
    assert softplus.mean_derivative == pytest.approx(0.5, abs=1e-13)
    assert relu.mu == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-13)
    assert relu.mean_derivative == pytest.approx(0.5, rel=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_gamma_is_mu_over_the_root_of_two(name):
    constants = gaussian.activation_constants(name)
    assert constants.gamma == pytest.approx(constants.mu / math.sqrt(2), abs=1e-13)


@pytest.mark.parametrize("arguments", [("relu", -1), ("relu", 501), ("relu", 1.5), ("relu", True), ("relu", 1, 11)])
def test_orders_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="integer from 0 to"):
        gaussian.hermite_coefficient(*arguments)


@pytest.mark.parametrize("degree", [0, 2, 7, 30, 31])
def test_gauss_legendre_nodes_integrate_polynomials(degree):
    nodes, weights = gauss_legendre(16)
    assert float(weights @ nodes**degree) == pytest.approx((1 + (-1) ** degree) / (degree + 1), abs=1e-14)


@pytest.mark.parametrize(("power", "moment"), [(0, 1), (1, 0), (2, 1), (4, 3), (8, 105)])
def test_gaussian_rule_gives_the_moments(power, moment):
    nodes, weights = gaussian_rule(0)
    assert float(weights @ nodes**power) == pytest.approx(moment, abs=1e-12, rel=1e-13)


# How large activations and their derivatives are.


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("softplus", 1.0), ("tanh", 1.0), ("sin", 1.0), ("erf", 2 / math.sqrt(math.pi)), ("sigmoid", 0.5),
        ("relu", math.inf), ("quadratic", math.inf), ("identity", 1.0),
    ],
)  # fmt: skip
def test_bound_is_the_largest_of_the_derivatives_and_the_value_at_zero(name, bound):
    assert gaussian.derivative_bounds(name).bound == bound


def test_relu_has_a_bounded_first_derivative_only():
    assert gaussian.derivative_bounds("relu")[:2] == (1.0, math.inf)


@pytest.mark.parametrize("name", NAMES)
def test_grid_finds_the_exact_bounds(name):
    function = gaussian.activation_function(name).function
    measured = gaussian.derivative_bounds(lambda z: function(z))
    exact = gaussian.derivative_bounds(name)
    assert measured == pytest.approx(exact, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        (functional.leaky_relu, 1.0, math.inf),
        (lambda z: z.square(), math.inf, 2.0),
        (lambda z: z.pow(3), math.inf, math.inf),
        (functional.silu, 1.0998, 0.5),
    ],
)
def test_grid_sees_growth_and_kinks(function, first, second):
    assert gaussian.derivative_bounds(function)[:2] == pytest.approx((first, second), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_autograd(name):
    chosen = gaussian.activation_function(name)
    z = torch.randn(50).requires_grad_()
    (expected,) = torch.autograd.grad(chosen.function(z).sum(), z)
    torch.testing.assert_close(chosen.derivative(z.detach()), expected, rtol=1e-12, atol=1e-14)


def test_derivative_of_relu_at_zero_is_one():
    assert float(gaussian.activation_function("relu").derivative(torch.zeros(()))) == 1.0


@pytest.mark.parametrize("activation", [lambda z: z.sum(), lambda z: z.log(), lambda z: 3.0])
def test_functions_that_do_not_act_entrywise_are_refused(activation):
    with pytest.raises(ValueError, match="entrywise"):
        gaussian.activation_function(activation)


def test_what_is_no_activation_is_refused():
    with pytest.raises(TypeError, match="name of an activation or a function"):
        gaussian.activation_function(3)
