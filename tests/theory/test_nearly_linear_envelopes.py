"""Norms of nearly-linear networks: u, v, w and the corrected system against differential equations and closed forms."""

import math

import pytest
import torch

from lightning_bounds.theory.nearly_linear import (
    blow_up_time,
    corrected_derivative_norms,
    derivative_norm_bound,
    norm_antiderivative,
    upper_incomplete_gamma,
    weight_norm_bound,
)

GRID = [
    (depth, epsilon, rho)
    for depth in (2, 3, 4, 6)
    for epsilon in (0.001, 0.1, 1.0)
    for rho in (1.0, 3.7)
]  # fmt: skip
BETAS = {2: 0.1, 3: 0.3, 4: 0.3, 6: 0.4}


def setting(depth, epsilon=0.1, rho=3.7, beta=None, strength=0.65):
    return {"strength": strength, "rho": rho, "beta": beta or BETAS[depth], "epsilon": epsilon, "depth": depth}


def constants(*, strength, rho, beta, epsilon, depth):
    """Definitions of Theorem 5.2 with E401 to E404, once more."""
    one = 1 + rho * beta**depth

    def rate(r):
        return (1 - epsilon) * (strength + rho * beta**depth) + epsilon * r * (depth - 1) * one

    return one, rate(1), beta * rate(rho) / rate(1)


def trajectory(time, *, tight=True, **numbers):
    """u, v, v_1 and v_2 by scipy's integrator, from the differential equations."""
    integrate = pytest.importorskip("scipy.integrate")
    one, rate, start = constants(**numbers)
    depth, rho, beta = numbers["depth"], numbers["rho"], numbers["beta"]
    more = depth - 1

    def slope(_, state):
        u, v, first, later = state
        F = u + beta * rho - start if tight else rho * u
        G = more * F * u**more + first * u**more + more * F * later * u ** (depth - 2)
        return [
            rate * u**more,
            v * ((1 + more * rho) * u ** (2 * more) + rate * more * u ** (depth - 2))
            + more * u**more * (one + rho * u**depth),
            u**more * (G + more * one) + more * rate * u ** (depth - 2) * later,
            F * u ** (depth - 2) * (G + more * one)
            + rate * u ** (depth - 2) * first
            + (depth - 2) * rate * u ** (depth - 2) * later,
        ]

    return integrate.solve_ivp(slope, (0, time), [start, 0, 0, 0], method="DOP853", rtol=1e-11, atol=1e-30).y[:, -1]


def some_time(numbers):
    return min(0.6 * blow_up_time(**numbers), 1.0)


@pytest.mark.parametrize(("depth", "epsilon", "rho"), GRID)
def test_envelopes_solve_their_differential_equations(depth, epsilon, rho):
    numbers = setting(depth, epsilon, rho)
    time = some_time(numbers)
    u, v, first, later = trajectory(time, **numbers)
    assert weight_norm_bound(time, **numbers) == pytest.approx(u, rel=1e-8)
    assert derivative_norm_bound(time, **numbers) == pytest.approx(v, rel=1e-8)
    norms = corrected_derivative_norms(time, **numbers)
    assert (norms.first, norms.later) == pytest.approx((first, later), rel=1e-6)
    start = constants(**numbers)[2]
    assert norms.input_norm == pytest.approx(u + numbers["beta"] * rho - start, rel=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_loose_system_solves_its_differential_equation_and_is_the_larger_one(depth):
    numbers = setting(depth, 0.1, 2.5)
    time = some_time(numbers)
    u, _, first, later = trajectory(time, tight=False, **numbers)
    loose, tight = (corrected_derivative_norms(time, **numbers, tight=tight) for tight in (False, True))
    assert loose == pytest.approx((first, later, 2.5 * u), rel=1e-6)
    assert all(large >= small for large, small in zip(loose, tight, strict=True))


@pytest.mark.parametrize(("depth", "epsilon", "rho"), GRID)
def test_derivative_norm_is_the_difference_of_antiderivatives(depth, epsilon, rho):
    numbers = setting(depth, epsilon, rho)
    time = some_time(numbers)
    _, rate, start = constants(**numbers)
    scale = depth * rate / (1 + (depth - 1) * rho)
    u = weight_norm_bound(time, **numbers)
    w = [norm_antiderivative(z, **numbers) for z in (u, start, numbers["beta"])]
    front = (depth - 1) / depth * scale ** ((2 - depth) / depth) * u ** (depth - 1) * math.exp(u**depth / scale)
    assert derivative_norm_bound(time, **numbers) == pytest.approx(front * (w[0] - w[1]), rel=1e-7)
    assert derivative_norm_bound(time, **numbers, form="w_beta") == pytest.approx(front * (w[0] - w[2]), rel=1e-7)


def test_antiderivative_of_two_layers_is_an_exponential_integral():
    special = pytest.importorskip("scipy.special")
    numbers = setting(2)
    one, rate, _ = constants(**numbers)
    x = 0.3**2 / (2 * rate / 4.7)
    expected = one / rate * special.expi(-x) - 2 * 3.7 / 4.7 * math.exp(-x)
    assert norm_antiderivative(0.3, **numbers) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_with_rho_one_the_corrected_system_is_the_theorem(depth):
    numbers = setting(depth, 0.1, 1.0)
    time = some_time(numbers)
    norms = corrected_derivative_norms(time, **numbers)
    v, u = derivative_norm_bound(time, **numbers), weight_norm_bound(time, **numbers)
    assert norms == pytest.approx((v, v, u), rel=1e-7)


@pytest.mark.parametrize(
    ("numbers", "time", "u", "v", "w_beta"),
    [
        (setting(2), 1.0, 0.285684584, 0.386891936, 0.562833078),
        (setting(3, rho=2.0), 1.0, 0.548538885, 0.858629023, 1.54770627),
        (setting(4, 0.05, 1.0), 5.0, 0.54660226, 2.74703358, 2.74703358),
        (setting(2, 1e-3, 1.0, 1e-3), 2.0, 3.671873e-3, 7.343887e-3, None),
        (setting(2, 1e-3, 1.0, 0.5), 2.0, 3.026942, 8.333242e4, None),
        (setting(2, 1e-2, 3.7, 1e-3), 2.0, 3.847766e-3, 7.695974e-3, None),
        (setting(2, 1e-3, 3.7, 0.5), 1.0, 2.424188, 1.549236e4, None),
    ],
)
def test_reference_values_of_the_norms(numbers, time, u, v, w_beta):
    assert weight_norm_bound(time, **numbers) == pytest.approx(u, rel=3e-7)
    assert derivative_norm_bound(time, **numbers) == pytest.approx(v, rel=3e-7)
    if w_beta is not None:
        assert derivative_norm_bound(time, **numbers, form="w_beta") == pytest.approx(w_beta, rel=2e-8)


def test_printed_start_has_the_root_of_rho():
    numbers = setting(2)
    one = 1 + 3.7 * 0.01
    rate = 0.9 * (0.65 + 0.037) + 0.1 * one
    printed = 0.1 * (0.9 * (0.65 + 0.037) + 0.1 * math.sqrt(3.7) * one) / rate
    assert weight_norm_bound(0.0, **numbers, form="printed") == pytest.approx(printed, rel=1e-12)
    assert weight_norm_bound(0.0, **numbers) == pytest.approx(0.13877978, rel=1e-7)
    assert weight_norm_bound(0.0, **numbers, form="w_beta") == weight_norm_bound(0.0, **numbers)


@pytest.mark.parametrize("form", ["theorem", "w_beta", "printed"])
def test_with_rho_one_every_form_is_the_same(form):
    numbers = setting(3, 0.1, 1.0)
    assert derivative_norm_bound(1.0, **numbers, form=form) == pytest.approx(derivative_norm_bound(1.0, **numbers))


def test_derivative_norm_begins_at_zero_only_with_the_correction():
    assert derivative_norm_bound(0.0, **setting(2)) == 0
    assert derivative_norm_bound(0.0, **setting(2), form="w_beta") > 0


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_small_times_give_the_first_order(depth):
    numbers = setting(depth, 0.2, 3.7)
    one, _, start = constants(**numbers)
    expected = (depth - 1) * start ** (depth - 1) * (one + 3.7 * start**depth) * 1e-9
    assert derivative_norm_bound(1e-9, **numbers) == pytest.approx(expected, rel=1e-7)


def test_small_weights_give_the_stated_behavior():
    numbers = setting(3, 0.2, 1.0, beta=1e-4)
    u = weight_norm_bound(5.0, **numbers)
    assert derivative_norm_bound(5.0, **numbers) == pytest.approx(2 * 5.0 * u**2, rel=1e-6)


@pytest.mark.parametrize("function", [weight_norm_bound, derivative_norm_bound])
def test_tensors_of_times_give_tensors_of_the_same_numbers(function):
    times = torch.tensor([[0.0, 0.5], [1.0, 100.0]], dtype=torch.float32)
    values = function(times, **setting(3))
    assert values.dtype == torch.float64
    assert values.tolist() == [[function(float(time), **setting(3)) for time in row] for row in times]
    assert isinstance(function(1, **setting(3)), float)


def test_tensors_of_times_give_tensors_of_corrected_norms():
    norms = corrected_derivative_norms(torch.tensor([0.5, 1.0]), **setting(3))
    alone = corrected_derivative_norms(1.0, **setting(3))
    assert [float(part[1]) for part in norms] == pytest.approx(list(alone), rel=1e-14)


def test_blow_up_time_is_where_u_becomes_infinite():
    time = blow_up_time(**setting(3, rho=2.0))
    assert time == pytest.approx(3.15895881, rel=2e-9)
    assert weight_norm_bound(time * (1 - 1e-9), **setting(3, rho=2.0)) < math.inf
    past = torch.tensor([time * (1 + 1e-9), 1e6])
    assert weight_norm_bound(past, **setting(3, rho=2.0)).isinf().all()
    assert derivative_norm_bound(past, **setting(3, rho=2.0)).isinf().all()
    assert blow_up_time(**setting(2)) == math.inf


@pytest.mark.parametrize(("depth", "beta", "time"), [(2, 0.5, 1.8), (3, 0.3, 2.8), (2, 0.5, 1.9)])
def test_large_derivative_norms_agree_with_mpmath(depth, beta, time):
    mpmath = pytest.importorskip("mpmath")
    numbers = setting(depth, 0.3, 3.2, beta=beta)
    one, rate, start = constants(**numbers)
    scale = depth * rate / (1 + (depth - 1) * 3.2)
    u = mpmath.mpf(weight_norm_bound(time, **numbers))

    def w(z):
        x, a = z**depth / scale, mpmath.mpf(2 - depth) / depth
        return -one / rate * mpmath.gammainc(a, x) - 3.2 * scale / rate * mpmath.gammainc(mpmath.mpf(2) / depth, x)

    factor = mpmath.mpf(depth - 1) / depth * mpmath.mpf(scale) ** (mpmath.mpf(2 - depth) / depth)
    expected = factor * u ** (depth - 1) * (w(u) - w(start)) * mpmath.exp(u**depth / scale)
    assert expected > 1e6
    assert derivative_norm_bound(time, **numbers) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 6, 40])
@pytest.mark.parametrize("beta", [1e-200, 1e-3, 1.0, 1e3, 1e200])
@pytest.mark.parametrize(("strength", "epsilon", "rho"), [(0, 0, 1), (0, 1, 9), (1, 0, 9), (0.65, 0.1, 3.7)])
def test_no_number_is_ever_nan(depth, beta, strength, epsilon, rho):
    numbers = setting(depth, epsilon, rho, beta, strength)
    times = torch.tensor([0.0, 1e-12, 1e-3, 1.0, 1e3, 1e6])
    forms = ("theorem", "w_beta", "printed")
    values = [derivative_norm_bound(times, **numbers, form=form) for form in forms]
    values += [weight_norm_bound(times, **numbers), *corrected_derivative_norms(times, **numbers)]
    assert not any(bool(value.isnan().any()) for value in values)
    assert all(bool((value[1:] >= value[:-1] * (1 - 1e-9)).all()) for value in values)


@pytest.mark.parametrize(("name", "values"), [("epsilon", (0.1, 0.2)), ("beta", (0.1, 0.2)), ("rho", (1.0, 3.0))])
@pytest.mark.parametrize("depth", [2, 3])
def test_norms_grow_with_every_number(name, values, depth):
    small, large = (setting(depth, 0.1, 2.0, 0.2) | {name: value} for value in values)
    assert weight_norm_bound(1.0, **small) < weight_norm_bound(1.0, **large)
    assert derivative_norm_bound(1.0, **small) < derivative_norm_bound(1.0, **large)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 1.5}, "`strength` in \\[0, 1\\]"),
        ({"strength": -0.1}, "`strength`"),
        ({"rho": 0.99}, "`rho`"),
        ({"beta": 0.0}, "`beta`"),
        ({"beta": math.nan}, "`beta`"),
        ({"epsilon": 1.1}, "`epsilon` in \\[0, 1\\]"),
        ({"epsilon": -0.1}, "`epsilon`"),
        ({"depth": 1}, "`depth`"),
        ({"depth": 2.0}, "`depth`"),
    ],
)
@pytest.mark.parametrize("function", [weight_norm_bound, derivative_norm_bound, corrected_derivative_norms])
def test_numbers_out_of_range_are_named(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(1.0, **(setting(2) | change))


@pytest.mark.parametrize("time", [-1.0, math.nan, math.inf, torch.tensor([1.0, -1.0])])
def test_times_out_of_range_are_named(time):
    with pytest.raises(ValueError, match="training times"):
        weight_norm_bound(time, **setting(2))


def test_unknown_form_is_named():
    with pytest.raises(ValueError, match="`form` among theorem, w_beta, printed"):
        derivative_norm_bound(1.0, **setting(2), form="proof")


@pytest.mark.parametrize(
    ("a", "x", "value"),
    [
        (-1 / 3, 0.01, 9.93189755697099),
        (-0.5, 2, 0.0300987571001865),
        (0, 0.1, 1.82292395841939),
        (-2 / 3, 0.5, 0.607998877904231),
    ],
)
def test_reference_values_of_the_incomplete_gamma_function(a, x, value):
    assert upper_incomplete_gamma(a, x) == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("a", [-30.5, -2.0, -1 + 1e-9, -2 / 3, -1e-12, 0.0, 1e-12, 1 / 3, 1.0, 1.5, 20.0])
@pytest.mark.parametrize("x", [1e-12, 0.01, 0.999, 1.0, 1.001, 5.0, 40.0, 300.0])
def test_incomplete_gamma_function_agrees_with_mpmath(a, x):
    mpmath = pytest.importorskip("mpmath")
    assert upper_incomplete_gamma(a, x) == pytest.approx(float(mpmath.gammainc(a, x)), rel=1e-11)


@pytest.mark.parametrize("a", [-1.7, -0.5, 0.4, 2.5])
@pytest.mark.parametrize("x", [0.3, 1.0, 7.0])
def test_incomplete_gamma_function_has_its_recurrence(a, x):
    expected = a * upper_incomplete_gamma(a, x) + x**a * math.exp(-x)
    assert upper_incomplete_gamma(a + 1, x) == pytest.approx(expected, rel=1e-11)


def test_incomplete_gamma_function_at_the_ends_and_on_tensors():
    x = torch.tensor([0.0, 1.0, math.inf])
    assert upper_incomplete_gamma(0.5, x).tolist() == pytest.approx([math.sqrt(math.pi), 0.27880558528, 0.0])
    assert upper_incomplete_gamma(torch.tensor([-1.0, 0.0, 3.0]), 0.0).tolist() == [math.inf, math.inf, 2.0]
    assert isinstance(upper_incomplete_gamma(-1, 2), float)


@pytest.mark.parametrize(("a", "x"), [(0.5, -1.0), (math.nan, 1.0), (0.5, math.nan)])
def test_incomplete_gamma_function_names_what_it_does_not_take(a, x):
    with pytest.raises(ValueError, match="finite `a` and `x` of at least 0"):
        upper_incomplete_gamma(a, x)
