"""Khatri-Rao products, separation, and the eigenvalues of the data with their lower bounds."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian, overparameterization

SMOOTH = ["softplus", "tanh", "sigmoid", "erf", "sin"]


def sphere(n, d, seed=0):
    return functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def khatri_rao_by_loop(X, order):
    rows = []
    for x in X:
        row = x
        for _ in range(order - 1):
            row = torch.kron(row, x)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize(("n", "d", "order"), [(5, 3, 2), (6, 3, 2), (4, 4, 1), (9, 3, 3), (10, 3, 3), (8, 2, 8)])
def test_sigma_min_is_that_of_the_khatri_rao_product(n, d, order):
    X = 1.5 * sphere(n, d)
    expected = float(torch.linalg.svdvals(khatri_rao_by_loop(X, order))[n - 1])
    assert overparameterization.khatri_rao_sigma_min(X, order) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d", "order"), [(7, 3, 2), (5, 4, 1), (11, 3, 3), (3, 1, 2)])
def test_sigma_min_is_zero_beyond_the_dimension_of_symmetric_tensors(n, d, order):
    # The product has d^r >= n columns in the first case, and a rank below n all the same.
    assert n > math.comb(d + order - 1, order)
    assert overparameterization.khatri_rao_sigma_min(sphere(n, d), order) == 0.0


def test_sigma_min_of_duplicates_and_opposites_is_zero():
    X = sphere(4, 6)
    assert overparameterization.khatri_rao_sigma_min(torch.cat([X, X[:1]])) == 0.0
    assert overparameterization.khatri_rao_sigma_min(torch.cat([X, -X[:1]])) == 0.0
    assert overparameterization.khatri_rao_sigma_min(torch.cat([X, -X[:1]]), order=3) == 0.0
    assert overparameterization.khatri_rao_sigma_min(torch.zeros(2, 3)) == 0.0


@pytest.mark.parametrize("scale", [1e-120, 1e-3, 50.0, 1e120])
def test_sigma_min_scales_with_the_power_of_the_rows(scale):
    X = sphere(5, 4)
    expected = scale**2 * overparameterization.khatri_rao_sigma_min(X)
    assert overparameterization.khatri_rao_sigma_min(scale * X) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [0, -1, 1.5, True])
def test_orders_out_of_range_are_refused(order):
    with pytest.raises(ValueError, match="at least 1"):
        overparameterization.khatri_rao_sigma_min(sphere(3, 2), order)


# Separation.


def separation_by_loop(X):
    pairs = [(i, j) for i in range(len(X)) for j in range(i)]
    return min(min(float((X[i] - X[j]).norm()), float((X[i] + X[j]).norm())) for i, j in pairs)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_separation_is_the_smallest_distance_to_another_input_or_its_opposite(n, monkeypatch):
    X = sphere(n, 5, seed=n)
    assert overparameterization.separation(X) == pytest.approx(separation_by_loop(X), rel=1e-12)
    monkeypatch.setattr(gaussian.blocks.tiles, "__defaults__", (6,))
    assert overparameterization.separation(X) == pytest.approx(separation_by_loop(X), rel=1e-12)


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_close_pairs_are_measured_by_their_difference(distance, sign):
    # From inner products the last two would be 0, or NaN.
    X = sphere(6, 5)
    X[4] = sign * X[1] + torch.tensor([distance, 0, 0, 0, 0])
    assert overparameterization.separation(X) == pytest.approx(distance, rel=1e-3)
    assert overparameterization.separation(X) == pytest.approx(separation_by_loop(X), rel=1e-12)


def test_separation_of_duplicates_and_opposites_is_exactly_zero():
    X = sphere(4, 6)
    assert overparameterization.separation(torch.cat([X, X[2:3]])) == 0.0
    assert overparameterization.separation(torch.cat([X, -X[2:3]])) == 0.0


def test_separation_of_unit_rows_is_at_most_that_of_orthogonal_ones():
    assert overparameterization.separation(torch.eye(9)) == pytest.approx(math.sqrt(2), rel=1e-14)
    assert overparameterization.separation(sphere(30, 10)) < math.sqrt(2)


def test_a_last_tile_with_a_single_row_has_no_pair_of_its_own(monkeypatch):
    monkeypatch.setattr(gaussian.blocks.tiles, "__defaults__", (3,))
    assert overparameterization.separation(torch.eye(4)) == pytest.approx(math.sqrt(2))


def test_one_input_has_no_separation():
    with pytest.raises(ValueError, match="at least two inputs to separate, but got 1"):
        overparameterization.separation(torch.ones(1, 3))


# Eigenvalues.


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_hermite_bounds_are_below_the_eigenvalues(name, order):
    X = sphere(6, 5)
    lam, lam_output = (
        overparameterization.neural_eigenvalue(X, name),
        overparameterization.output_eigenvalue(X, name),
    )
    assert overparameterization.neural_eigenvalue_bound(X, name, order) <= lam * (1 + 1e-9)
    if order >= 1:
        assert overparameterization.output_eigenvalue_bound(X, name, order) <= lam_output * (1 + 1e-9)


def test_hermite_bound_is_tight_for_the_quadratic_activation():
    X = sphere(9, 4)
    expected = overparameterization.khatri_rao_sigma_min(X) ** 2
    assert overparameterization.neural_eigenvalue(X, "quadratic") == pytest.approx(expected, rel=1e-9)
    assert overparameterization.neural_eigenvalue_bound(X, "quadratic") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
def test_reduction_to_the_quadratic_activation(name):
    # Eq. (6.4): Σ - (μ̃² 11^T + μ² XX^T) ∘ XX^T is positive semidefinite.
    X = sphere(8, 3)
    constants, gram = gaussian.activation_constants(name), X @ X.T
    lower = (constants.mean_derivative**2 + constants.mu**2 * gram) * gram
    eigenvalues = torch.linalg.eigvalsh(gaussian.neural_covariance(X, name) - lower)
    assert float(eigenvalues[0]) > -1e-11


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
def test_output_bound_of_order_two_is_half_of_mu_squared(name):
    X = sphere(6, 5)
    mu, sigma = gaussian.activation_constants(name).mu, overparameterization.khatri_rao_sigma_min(X)
    assert overparameterization.output_eigenvalue_bound(X, name) == pytest.approx(mu**2 * sigma**2 / 2, abs=1e-14)


@pytest.mark.parametrize("name", SMOOTH)
def test_eigenvalue_is_at_most_the_squared_bound_of_the_derivative(name):
    bound = gaussian.derivative_bounds(name).first
    assert 0 < overparameterization.neural_eigenvalue(sphere(6, 8), name) <= bound**2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "d"), [(5, 2), (20, 3), (12, 10)])
def test_separation_bounds_the_eigenvalue_of_relu(n, d, seed):
    X = sphere(n, d, seed)
    bound = overparameterization.separation_eigenvalue_bound(X)
    assert 0 < bound == pytest.approx(overparameterization.separation(X) / (100 * n**2))
    assert bound <= overparameterization.neural_eigenvalue(X, "relu")
    assert bound <= float(torch.linalg.eigvalsh(gaussian.relu_derivative_covariance(X))[0])


def test_duplicates_have_eigenvalue_zero_and_an_infinite_condition_number():
    X = sphere(4, 5)
    X = torch.cat([X, X[:1]])
    assert overparameterization.neural_eigenvalue(X, "relu") == 0.0
    assert overparameterization.kappa(X) == overparameterization.kappa_tilde(X, "softplus") == math.inf


def test_one_antipodal_pair_leaves_the_kernel_of_relu_regular_and_three_in_the_plane_do_not():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.28, 0.96]])
    one, three = torch.cat([x[:1], -x[:1]]), torch.cat([x, -x])
    assert overparameterization.separation(one) == overparameterization.separation(three) == 0.0
    assert overparameterization.neural_eigenvalue(one, "relu") == pytest.approx(0.5)
    assert overparameterization.neural_eigenvalue(three, "relu") == 0.0


def test_condition_numbers_are_their_formulas():
    X = sphere(6, 4)
    norm = float(torch.linalg.svdvals(X)[0])
    sigma = float(torch.linalg.svdvals(khatri_rao_by_loop(X, 2))[5])
    lam = float(torch.linalg.eigvalsh(gaussian.neural_covariance(X, "tanh"))[0])
    assert overparameterization.spectral_norm(X) == pytest.approx(norm, rel=1e-12)
    assert overparameterization.kappa(X) == pytest.approx(math.sqrt(4 / 6) * norm / sigma**2, rel=1e-9)
    assert overparameterization.kappa_tilde(X, "tanh") == pytest.approx(math.sqrt(4 / 6) * norm / lam, rel=1e-9)


def test_bounds_that_are_proven_for_unit_rows_refuse_others():
    with pytest.raises(ValueError, match=r"rows of norm 1, .* off by 1"):
        overparameterization.neural_eigenvalue_bound(2 * sphere(3, 3), "relu")
