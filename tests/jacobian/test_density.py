"""The density of singular values against spectra that are known, and what its error bars promise."""

import pytest
import torch
from torch import nn

from lightning_bounds import JacobianOperator, jacobian_spectrum
from lightning_bounds.jacobian.density import spectral_density
from lightning_bounds.jacobian.products import HeldRows, RecomputedRows


def of_values(values, columns=None) -> HeldRows:
    """Rows of a linear network whose Jacobian has these singular values, in random directions."""
    left, right = torch.randn(len(values), len(values)), torch.randn(columns or len(values), len(values))
    matrix = torch.linalg.qr(left).Q * values @ torch.linalg.qr(right).Q.T
    return HeldRows(JacobianOperator(nn.Linear(matrix.shape[1], 1, bias=False), matrix))


TWO_LEVELS = torch.cat([3 * torch.ones(40), torch.ones(160)])


def test_equal_values_are_one_point():
    density = spectral_density(of_values(2 * torch.ones(50), 70))
    counts = density.histogram(torch.tensor([0.0, 1.9, 2.1, 9.0]))
    torch.testing.assert_close(counts.value, torch.tensor([0.0, 50.0, 0.0]))
    torch.testing.assert_close(counts.error, torch.zeros(3))
    torch.testing.assert_close(density.quantiles().value, 2 * torch.ones(50))


def test_every_row_of_weights_adds_up_to_one_and_nodes_lie_in_the_spectrum():
    density = spectral_density(of_values(torch.linspace(1, 5, 90)), steps=12)
    torch.testing.assert_close(density.weights.sum(dim=1), torch.ones(8))
    assert 1 - 1e-9 <= float(density.nodes.min()) < float(density.nodes.max()) <= 5 + 1e-9


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_moments_up_to_twice_the_steps_are_those_of_the_random_vectors(steps):
    # Gauss quadrature of k points is exact for polynomials of degree 2 k - 1.
    rows = of_values(torch.linspace(0.5, 1.5, 40))
    density = spectral_density(rows, probes=3, steps=steps, seed=5)
    generator = torch.Generator().manual_seed(5)
    z = torch.randint(0, 2, (40, 3), generator=generator, dtype=torch.float64).mul_(2).sub_(1) / 40**0.5
    gram = rows.left(torch.eye(40))
    power = torch.linalg.matrix_power(gram, 2 * steps - 1)
    moments = (density.weights * density.nodes ** (2 * (2 * steps - 1))).sum(dim=1)
    torch.testing.assert_close(moments, (z * (power @ z)).sum(dim=0), rtol=1e-9, atol=0)


def test_energy_is_that_of_the_frobenius_norm_within_its_error():
    density = spectral_density(of_values(torch.logspace(0, -3, 300)), probes=30)
    value, error = density.energy
    assert float((value - density.frobenius_norm**2).abs()) < 3 * float(error)
    assert float(error) < 0.2 * float(value)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_rank_above_the_columns_leaves_zeros(count):
    matrix = torch.randn(30, count)
    rows = HeldRows(JacobianOperator(nn.Linear(count, 1, bias=False), matrix))
    density = spectral_density(rows, probes=40)
    zeros = density.histogram(torch.tensor([0.0, 1e-3, 100.0]))
    assert float((zeros.value[0] - (30 - count)).abs()) <= 4 * float(zeros.error[0])
    assert float(zeros.value.sum()) == pytest.approx(30)


def test_a_jacobian_of_zeros_has_only_zeros():
    density = spectral_density(HeldRows(JacobianOperator(nn.Linear(4, 1, bias=False), torch.zeros(6, 4))))
    torch.testing.assert_close(density.quantiles().value, torch.zeros(6))
    assert float(density.energy.value) == 0.0


@pytest.mark.parametrize("seed", range(12))
def test_counts_of_two_levels_are_right_within_four_errors(seed):
    counts = spectral_density(of_values(TWO_LEVELS), probes=16, seed=seed).histogram(torch.tensor([0.0, 2.0, 4.0]))
    assert bool(((counts.value - torch.tensor([160.0, 40.0])).abs() <= 4 * counts.error).all())
    assert float(counts.error.max()) < 4


def test_errors_are_the_spread_of_independent_repetitions():
    rows = of_values(TWO_LEVELS)
    runs = [spectral_density(rows, probes=16, seed=seed).histogram(torch.tensor([2.0, 4.0])) for seed in range(60)]
    spread = torch.cat([run.value for run in runs]).std()
    typical = torch.cat([run.error for run in runs]).mean()
    assert 0.7 < float(spread / typical) < 1.4


def test_quantiles_are_the_singular_values_of_a_smooth_spectrum():
    values = torch.linspace(3, 1, 400)
    found = spectral_density(of_values(values), probes=16).quantiles().value
    assert float((found - values).abs().max()) < 0.2
    assert bool((found.diff() <= 0).all())


@pytest.mark.parametrize("block_bytes", [1, 5_000])
def test_density_does_not_depend_on_how_many_rows_are_made_at_a_time(block_bytes):
    held = of_values(torch.linspace(3, 1, 40))
    parts = spectral_density(RecomputedRows(held.jacobian, block_bytes), steps=8)
    torch.testing.assert_close(parts.nodes, spectral_density(held, steps=8).nodes, rtol=1e-10, atol=0)


def test_as_a_method_of_the_spectrum_it_gives_values_with_errors_and_no_vectors():
    jacobian = of_values(TWO_LEVELS).jacobian
    spectrum = jacobian_spectrum(jacobian, method="density")
    assert (spectrum.method, spectrum.left_vectors.shape, len(spectrum.singular_values)) == ("density", (200, 0), 200)
    assert float(spectrum.singular_values[:20].min()) == pytest.approx(3)
    assert float(spectrum.singular_values[-100:].max()) == pytest.approx(1)
    assert spectrum.density.histogram(torch.tensor([2.0, 4.0])).value.shape == (1,)
    with pytest.raises(ValueError, match="left vectors"):
        spectrum.information_space(rank=3)


@pytest.mark.parametrize(("probes", "steps"), [(1, 5), (0, 5), (4, 0)])
def test_too_few_probes_or_steps_are_refused(probes, steps):
    with pytest.raises(ValueError, match=f"but got {probes} and {steps}"):
        spectral_density(of_values(torch.ones(4)), probes, steps)


@pytest.mark.parametrize("edges", [[1.0], [2.0, 1.0], [1.0, 1.0], [1.0, float("nan")]])
def test_edges_that_do_not_ascend_are_refused(edges):
    with pytest.raises(ValueError, match="ascending edges"):
        spectral_density(of_values(torch.ones(4))).histogram(torch.tensor(edges))
