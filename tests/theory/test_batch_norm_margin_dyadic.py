"""Dyadic data: the linear margin, and Proposition 1.1 at finite and infinite width."""

import math

import pytest
import torch
from scipy import integrate, stats

from lightning_bounds.theory.batch_norm_margin import (
    draw_weights,
    dyadic_dataset,
    dyadic_infinite_width_margins,
    dyadic_linear_margin,
    dyadic_margin_claim,
    dyadic_reference,
    layer_margins,
    linear_max_margin,
    maximal_layer_margins,
    whole_set_statistics,
)

# The reference values of section 2.5 of the notes on the paper.
DYADIC_MARGINS = {1: 0.5, 2: 0.2236067977, 3: 0.1091089451, 5: 0.02707651805, 10: 8.457283367e-4}


@pytest.mark.parametrize(("dim", "printed"), DYADIC_MARGINS.items())
def test_dyadic_linear_margin_is_that_of_the_notes_and_of_the_solver(dim, printed):
    inputs, labels = dyadic_dataset(dim)
    assert dyadic_linear_margin(dim) == pytest.approx(printed, rel=1e-9)
    assert dyadic_linear_margin(dim) == pytest.approx(math.sqrt(3 / (4 ** (dim + 1) - 4)), rel=1e-14)
    assert linear_max_margin(inputs, labels) == pytest.approx(printed, rel=1e-9)
    u = 2.0 ** torch.arange(1, dim + 1)
    assert float((labels * (inputs @ u)).min() / u.norm()) == pytest.approx(printed, rel=1e-9)


@pytest.mark.parametrize("dim", [20, 30, 600])
def test_dyadic_margins_of_high_dimensions_do_not_overflow(dim):
    assert dyadic_linear_margin(dim) == pytest.approx(math.ldexp(math.sqrt(0.75), -dim), rel=1e-12)


@pytest.mark.parametrize("dim", [20, 25, 30])
def test_solver_resolves_rows_of_very_different_sizes(dim):
    assert linear_max_margin(*dyadic_dataset(dim)) == pytest.approx(dyadic_linear_margin(dim), rel=1e-6)


def test_dyadic_data_are_centered_and_of_the_covariance_of_the_paper():
    inputs, labels = dyadic_dataset(4)
    statistics = whole_set_statistics(inputs)
    torch.testing.assert_close(statistics.mean, torch.zeros(4))
    torch.testing.assert_close(statistics.covariance, torch.diag(4.0 ** -torch.arange(1, 5)) / 4)
    assert labels.tolist() == [1.0] * 4 + [-1.0] * 4
    assert float(inputs.norm(dim=1).max()) == 0.5


def test_infinite_width_margins_in_two_dimensions_are_those_of_the_notes_and_their_closed_form():
    margins = dyadic_infinite_width_margins(2)
    assert margins.tolist() == pytest.approx([0.16099625, 0.24729267], rel=1e-6)
    inside = math.exp(-0.25) - math.exp(-16)
    first = 4 / math.sqrt(3) * math.asin(math.sqrt(3 / 5) / 2) / math.sqrt(8)
    second = 4 / math.sqrt(3) * math.asinh(math.sqrt(12 / 5)) / math.sqrt(32)
    assert margins.tolist() == pytest.approx([2 / math.pi * inside * first, 2 / math.pi * inside * second], rel=1e-12)


def test_infinite_width_margin_in_one_dimension_is_half_the_shell():
    assert dyadic_infinite_width_margins(1).item() == pytest.approx((math.erf(4 / 2**0.5) - math.erf(0.5 / 2**0.5)) / 2)


def sphere_average(j):
    """Mean over the unit sphere of R^3 of what the margin on the axis j integrates, on a grid of equal areas."""

    def integrand(theta, cosine):
        sine = math.sqrt(1 - cosine**2)
        point = [sine * math.cos(theta), sine * math.sin(theta), cosine]
        others = sum(2.0 ** (k + 1) * point[k] for k in range(3) if k != j)
        inside = abs(others) < 2.0 ** (j + 1) * abs(point[j])
        return inside * abs(point[j]) / math.sqrt(sum(4.0 ** -(k + 1) * point[k] ** 2 for k in range(3)))

    points = [((i + 0.5) / 300 * 2 * math.pi, (k + 0.5) / 150 * 2 - 1) for i in range(300) for k in range(150)]
    return math.fsum(integrand(*point) for point in points) / len(points)


def test_infinite_width_margins_in_three_dimensions_against_the_integral_over_the_sphere():
    shell = stats.chi2.cdf(3 * 16, 3) - stats.chi2.cdf(3 / 4, 3)
    expected = [math.sqrt(3) / 2 * 2.0 ** -(j + 1) * shell * sphere_average(j) for j in range(3)]
    assert dyadic_infinite_width_margins(3).tolist() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(("dim", "printed"), [(2, 0.51), (3, 0.50), (4, 0.51), (6, 0.53), (8, 0.55), (10, 0.55)])
def test_claim_of_the_proposition_holds_with_room(dim, printed):
    least = float(dyadic_infinite_width_margins(dim).min())
    assert least / (math.sqrt(dim) * dyadic_linear_margin(dim)) == pytest.approx(printed, abs=0.015)
    assert least > 19 * dyadic_margin_claim(dim)


@pytest.mark.parametrize(("dim", "width"), [(2, 200_000), (3, 200_000)])
def test_margin_of_wide_networks_tends_to_that_of_infinite_width(dim, width):
    inputs, labels = dyadic_dataset(dim)
    a, c, V = draw_weights(width, dim, seed=1)
    reference = dyadic_reference(V)
    zero = torch.zeros(width)
    network = {"output_weights": a, "scales": c, "directions": V}
    margins = layer_margins(inputs, labels, **network, reference_output=reference, reference_scale=zero)
    assert margins.gamma_a == pytest.approx(float(dyadic_infinite_width_margins(dim).min()), rel=0.06)
    assert abs(margins.gamma_c) == 0.0
    assert margins.gamma >= dyadic_margin_claim(dim)
    assert float(reference.norm()) <= 1


@pytest.mark.parametrize(("dim", "ratio"), [(2, 1.03), (3, 1.22), (4, 1.40)])
def test_largest_margin_on_dyadic_data_beats_the_reference(dim, ratio):
    inputs, labels = dyadic_dataset(dim)
    a, c, V = draw_weights(2000, dim, seed=0)
    best = maximal_layer_margins(inputs, labels, output_weights=a, directions=V)
    assert best.gamma_a / (math.sqrt(dim) * dyadic_linear_margin(dim)) == pytest.approx(ratio, rel=0.08)
    reference = {"reference_output": dyadic_reference(V), "reference_scale": torch.zeros(2000)}
    found = layer_margins(inputs, labels, output_weights=a, scales=c, directions=V, **reference)
    assert dyadic_margin_claim(dim) < found.gamma_a < best.gamma_a


def test_quadrature_of_the_radial_integral_matches_scipy():
    # The one-dimensional integral behind the margins of infinite width, for d = 5 and j = 2.
    powers = torch.arange(1, 6, dtype=torch.float64)

    def integrand(s):
        variances = 1 / (1 + 2 * s**2 * 4.0**-powers)
        ratio = 4 * variances[1] / (4.0**powers * variances).sum().sqrt()
        return float(variances.prod().sqrt() * ratio)

    expectation = 2 * math.sqrt(2) / math.pi * integrate.quad(integrand, 0, math.inf, limit=500, epsrel=1e-10)[0]
    shell = stats.chi2.cdf(5 * 16, 5) - stats.chi2.cdf(5 / 4, 5)
    expected = math.sqrt(5) / 2 / 4 * shell * expectation
    assert dyadic_infinite_width_margins(5)[1].item() == pytest.approx(expected, rel=1e-8)
