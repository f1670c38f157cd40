"""Functions that are provably learned: the bounds as theorems on random inputs, and what is not among them."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import (
    arctangent,
    cosine,
    kernel_summary,
    linear,
    power_sum,
    quadratic,
    sample_size,
)


@pytest.fixture
def inputs():
    rows = torch.randn(120, 4)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture
def direction():
    vector = torch.randn(4)
    return vector / vector.norm()


def inverse_form(inputs, labels):
    return kernel_summary(inputs, labels).inverse_form


@pytest.mark.parametrize("power", [1, 2, 4, 6, 10])
@pytest.mark.parametrize("length", [0.5, 1.0, 2.0])
def test_powers_are_as_simple_as_the_theorem_says(inputs, direction, power, length):
    labels = -1.5 * (length * inputs @ direction) ** power
    bound = power_sum([-1.5], (length * direction).unsqueeze(0), [power])
    assert inverse_form(inputs, labels) <= bound.sharper < bound.printed
    assert bound.printed == pytest.approx((3 * power * 1.5 * length**power) ** 2)
    assert bound.sharper == pytest.approx(
        (1.5 * length**power * (2 if power == 1 else math.sqrt(2 * math.pi) * (power - 1))) ** 2
    )


def test_sums_of_powers_are_as_simple_as_the_corollary_says(inputs):
    coefficients, directions, powers = [1.0, -2.0, 0.5], torch.randn(3, 4), [1, 2, 4]
    labels = sum(a * (inputs @ b) ** p for a, b, p in zip(coefficients, directions, powers, strict=True))
    bound = power_sum(coefficients, directions, powers)
    assert inverse_form(inputs, labels) <= bound.sharper < bound.printed
    alone = [power_sum([a], b.unsqueeze(0), [p]) for a, b, p in zip(coefficients, directions, powers, strict=True)]
    assert bound.printed == pytest.approx(sum(one.printed**0.5 for one in alone) ** 2)
    assert bound.sharper == pytest.approx(sum(one.sharper**0.5 for one in alone) ** 2)


def test_linear_functions_nearly_reach_their_bound(inputs, direction):
    # K is nearly isotropic for random rows, so little of the bound 4 |β|² is lost.
    form = inverse_form(inputs, inputs @ (3 * direction))
    assert linear(3 * direction) == power_sum([1.0], 3 * direction.unsqueeze(0), [1])
    assert 0.7 * 36 < form <= linear(3 * direction).sharper == pytest.approx(36.0)


def test_quadratic_functions_are_as_simple_as_the_example_says(inputs):
    matrix = torch.randn(4, 4)
    matrix = matrix + matrix.T
    bound = quadratic(matrix)
    labels = torch.einsum("ni,ij,nj->n", inputs, matrix, inputs)
    assert inverse_form(inputs, labels) <= bound.sharper < bound.printed
    values, vectors = torch.linalg.eigh(matrix)
    assert bound.printed == pytest.approx(power_sum(values.tolist(), vectors.T, [2] * 4).printed)
    assert bound.sharper <= power_sum(values.tolist(), vectors.T, [2] * 4).sharper


@pytest.mark.parametrize("length", [0.01, 1.0, 3.0])
def test_the_cosine_is_as_simple_as_the_example_says(inputs, direction, length):
    bound = cosine(length * direction)
    assert inverse_form(inputs, (length * inputs @ direction).cos() - 1) <= bound.sharper < bound.printed


@pytest.mark.parametrize("length", [0.0, 1e-3, 0.7, 4.0])
def test_the_cosine_has_the_sum_over_its_series(direction, length):
    terms = [((-1) ** j / math.factorial(2 * j), 2 * j) for j in range(1, 40)]
    series = power_sum([a for a, _ in terms], (length * direction).expand(39, 4), [p for _, p in terms])
    bound = cosine(length * direction)
    assert bound == pytest.approx(series, rel=1e-10)
    closed = 2 * math.pi * (length * math.sinh(length) - math.cosh(length) + 1) ** 2
    assert bound.sharper == pytest.approx(closed, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("length", [0.1, 1.0])
def test_the_arctangent_is_as_simple_as_the_example_says(inputs, direction, length):
    z = length * inputs @ direction
    bound = arctangent(length * direction)
    assert inverse_form(inputs, z * (z / 2).arctan()) <= bound.sharper < bound.printed


@pytest.mark.parametrize("length", [0.0, 0.3, 1.0])
def test_the_arctangent_has_the_sum_over_its_series(direction, length):
    coefficients = [(-1) ** (j - 1) * 2.0 ** (1 - 2 * j) / (2 * j - 1) for j in range(1, 40)]
    series = power_sum(coefficients, (length * direction).expand(39, 4), [2 * j for j in range(1, 40)])
    assert arctangent(length * direction) == pytest.approx(series, rel=1e-10)


@pytest.mark.parametrize("power", [3, 5])
def test_odd_powers_are_refused_because_their_form_grows_with_the_samples(power):
    with pytest.raises(ValueError, match="powers"):
        power_sum([1.0], torch.ones(1, 3), [power])
    rows = torch.randn(800, 3)
    rows = rows / rows.norm(dim=1, keepdim=True)
    few, many = (inverse_form(rows[:n], rows[:n, 0] ** power) for n in (100, 800))
    even_few, even_many = (inverse_form(rows[:n], rows[:n, 0] ** (power + 1)) for n in (100, 800))
    assert many > 3 * few
    assert even_many < 1.5 * even_few


@pytest.mark.parametrize("power", [0, -2, 2.0, True, 7])
def test_powers_are_one_or_positive_and_even(power):
    with pytest.raises(ValueError, match="powers"):
        power_sum([1.0], torch.ones(1, 3), [power])


def test_sample_size_is_that_of_the_paper_and_grows_with_the_factor():
    expected = (9 + math.log(20)) / 0.01**2
    assert sample_size(9.0, epsilon=0.01, delta=0.05) == pytest.approx(expected)
    assert sample_size(9.0, epsilon=0.01, delta=0.05, factor=7.0) == pytest.approx(7 * expected)


def test_numbers_beyond_all_numbers_are_infinite(direction):
    assert cosine(1e4 * direction) == (math.inf, math.inf)
    assert power_sum([1.0], 1e100 * direction.unsqueeze(0), [4]) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (power_sum, ([1.0], torch.ones(2, 3), [1]), "each term"),
        (power_sum, ([], torch.ones(0, 3), []), "each term"),
        (power_sum, ([math.nan], torch.ones(1, 3), [2]), "finite"),
        (power_sum, ([1.0], torch.full((1, 3), math.inf), [2]), "finite"),
        (linear, (torch.ones(2, 2),), "direction"),
        (cosine, (torch.tensor([math.nan]),), "direction"),
        (arctangent, (torch.tensor([1.1, 0.0]),), "at most 1"),
        (quadratic, (torch.ones(2, 3),), "square"),
        (quadratic, (torch.tensor([[1.0, 2.0], [0.0, 1.0]]),), "symmetric"),
        (quadratic, (torch.full((2, 2), math.nan),), "finite"),
    ],
)
def test_bad_functions_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    "changes", [{"complexity": -1.0}, {"epsilon": 0.0}, {"delta": 1.0}, {"factor": 0.0}, {"complexity": math.nan}]
)
def test_sample_size_refuses_numbers_out_of_range(changes):
    with pytest.raises(ValueError, match="Expected"):
        sample_size(**({"complexity": 1.0, "epsilon": 0.1, "delta": 0.1} | changes))
