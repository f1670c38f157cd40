"""The linear network's training time and weights, and the limits of the bound for vanishing weights."""

import math

import pytest
import torch

from lightning_bounds.theory.nearly_linear import (
    derivative_norm_bound,
    deviation_bound,
    deviation_factor,
    linear_weight_norm,
    training_time,
    vanishing_deviation,
    vanishing_deviation_at,
    vanishing_training_time,
    weight_norm_bound,
)


@pytest.mark.parametrize(
    ("depth", "beta", "value"), [(2, 0.05, 5.96465587618), (3, 0.3, 4.96178272173), (4, 0.3, 9.16933417243)]
)
def test_reference_values(depth, beta, value):
    assert training_time(strength=0.65, beta=beta, depth=depth, fraction=0.9) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize(("beta", "fraction"), [(0.3, 0.9), (1e-3, 0.5), (0.5, 0.999999), (0.05, 0.01)])
def test_training_time_is_the_hypergeometric_formula(depth, beta, fraction):
    mpmath = pytest.importorskip("mpmath")
    s = 0.65
    if depth == 2:
        expected = math.log(fraction * (s - beta**2) / ((1 - fraction) * beta**2)) / (2 * s)
    else:
        ends = [
            z ** (mpmath.mpf(2) / depth - 1) * mpmath.hyp2f1(1, mpmath.mpf(2) / depth - 1, mpmath.mpf(2) / depth, z)
            for z in (mpmath.mpf(beta) ** depth / s, mpmath.mpf(fraction))
        ]
        expected = float((ends[0] - ends[1]) * s ** (mpmath.mpf(2) / depth - 1) / (s * (depth - 2)))
    assert training_time(strength=s, beta=beta, depth=depth, fraction=fraction) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("fraction", [0.3, 0.99])
def test_training_time_is_the_integral_in_log_norm(depth, fraction):
    integrate = pytest.importorskip("scipy.integrate")
    s, beta = 0.4, 0.2
    end = math.log(fraction * s) / depth
    integral, _ = integrate.quad(
        lambda x: math.exp((2 - depth) * x) / (s - math.exp(depth * x)), math.log(beta), end, epsabs=0, epsrel=1e-11
    )
    assert training_time(strength=s, beta=beta, depth=depth, fraction=fraction) == pytest.approx(integral, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.2, 0.9, 0.999])
def test_at_the_training_time_the_linear_network_has_the_fraction(depth, fraction):
    time = training_time(strength=0.65, beta=0.3, depth=depth, fraction=fraction)
    norm = linear_weight_norm(time, strength=0.65, beta=0.3, depth=depth)
    assert norm**depth == pytest.approx(fraction * 0.65, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_linear_weight_norm_solves_its_differential_equation(depth):
    integrate = pytest.importorskip("scipy.integrate")
    s, times = 0.65, torch.tensor([0.0, 0.5, 3.0, 10.0])
    solution = integrate.solve_ivp(
        lambda _, u: u ** (depth - 1) * (s - u**depth), (0, 10), [0.3], t_eval=times.tolist(), rtol=1e-11, atol=1e-14
    )
    norms = linear_weight_norm(times, strength=s, beta=0.3, depth=depth)
    assert norms.tolist() == pytest.approx(solution.y[0].tolist(), rel=1e-8)


def test_linear_weight_norm_of_two_layers_is_the_root_of_the_printed_formula():
    grown = math.exp(2 * 0.65 * 3.0)
    square = 0.65 * grown / (grown - 1 + 0.65 / 0.05**2)
    assert linear_weight_norm(3.0, strength=0.65, beta=0.05, depth=2) ** 2 == pytest.approx(square, rel=1e-12)
    assert linear_weight_norm(0.0, strength=0.65, beta=0.05, depth=2) == pytest.approx(0.05, rel=1e-12)


def test_linear_weight_norm_has_a_limit_and_stays_below_the_envelope():
    times = torch.tensor([0.0, 1.0, 1e3, 1e6])
    norms = linear_weight_norm(times, strength=0.65, beta=0.3, depth=3)
    assert float(norms[-1]) == pytest.approx(0.65 ** (1 / 3), rel=1e-12)
    bound = weight_norm_bound(times, strength=0.65, rho=1.0, beta=0.3, epsilon=0.0, depth=3)
    assert (norms <= bound * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.9}, "beta\\^depth < strength"),
        ({"beta": 0.79}, "beta\\^depth < fraction"),
        ({"fraction": 1.0}, "`fraction`"),
        ({"fraction": 0.0}, "`fraction`"),
        ({"strength": 0.0}, "`strength`"),
        ({"strength": 1.1}, "`strength`"),
        ({"depth": 1}, "`depth`"),
        ({"beta": 0.0}, "`beta`"),
    ],
)
def test_numbers_out_of_range_are_named(change, message):
    numbers = {"strength": 0.65, "beta": 0.1, "depth": 2, "fraction": 0.9}
    with pytest.raises(ValueError, match=message):
        training_time(**(numbers | change))


LIMIT = {"strength": 0.65, "rho": 2.5, "epsilon": 0.05}


@pytest.mark.parametrize(
    ("depth", "printed", "value"),
    [(2, True, 5.853597500), (2, False, 3.269360136), (3, True, 38.08746074), (3, False, 13.26809779)],
)
def test_reference_values_of_the_limits(depth, printed, value):
    found = vanishing_deviation(**LIMIT, depth=depth, growth=1.3, divisor=10.0, printed=printed)
    assert found == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("printed", [True, False])
def test_limits_are_reached_by_small_weights(depth, printed):
    beta = 1e-4
    fraction = 1.2 / 0.65 * beta**depth
    time = training_time(strength=0.65, beta=beta, depth=depth, fraction=fraction)
    numbers = LIMIT | {"beta": beta, "depth": depth}
    u = weight_norm_bound(time, **numbers)
    v = derivative_norm_bound(time, **numbers, form="w_beta" if printed else "theorem")
    limit = vanishing_deviation(**LIMIT, depth=depth, growth=1.2, divisor=10.0, printed=printed)
    assert depth * u ** (depth - 1) * v * 10.0 / fraction == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("printed", [True, False])
def test_limit_at_a_fixed_time_is_reached_by_small_weights(printed):
    numbers = LIMIT | {"beta": 1e-4, "depth": 2}
    found = deviation_bound(1.5, **numbers, dim=49, order=2, variant="w_beta" if printed else "theorem")
    limit = vanishing_deviation_at(1.5, **LIMIT, divisor=10.0, printed=printed)
    factor = deviation_factor(order=2, depth=2, dim=49, rho=2.5)
    assert found * 10.0 / 1e-8 == pytest.approx(factor / 2 * limit, rel=1e-6)


def test_training_time_of_two_layers_has_its_limit():
    time = training_time(strength=0.65, beta=1e-5, depth=2, fraction=1.3 / 0.65 * 1e-10)
    assert time == pytest.approx(vanishing_training_time(strength=0.65, growth=1.3), rel=1e-8)


def test_limit_is_infinite_where_the_training_time_is_past_the_blow_up():
    numbers = LIMIT | {"epsilon": 0.5}
    assert vanishing_deviation(**numbers, depth=4, growth=100.0, divisor=1.0) == math.inf
    beta = 1e-3
    time = training_time(strength=0.65, beta=beta, depth=4, fraction=100 / 0.65 * beta**4)
    assert weight_norm_bound(time, **numbers, beta=beta, depth=4) == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [({"growth": 1.0}, "`growth`"), ({"divisor": 0.0}, "`divisor`"), ({"strength": 0.0}, "`strength`")],
)
def test_limits_name_what_they_do_not_take(change, message):
    with pytest.raises(ValueError, match=message):
        vanishing_deviation(**(LIMIT | {"depth": 2, "growth": 1.3, "divisor": 1.0} | change))
