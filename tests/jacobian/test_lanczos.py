"""Leading parts of spectra by both iterations, against decompositions of J itself; what their error bars promise."""

import copy
import random

import numpy as np
import pytest
import torch
from cases import CASES
from torch import nn

from lightning_bounds import JacobianOperator, jacobian_spectrum
from lightning_bounds.jacobian.krylov import leading_pairs, orthonormal
from lightning_bounds.jacobian.lanczos import block_width, lanczos_spectrum
from lightning_bounds.jacobian.products import HeldRows, RecomputedRows
from lightning_bounds.jacobian.randomized import randomized_spectrum

METHODS = pytest.mark.parametrize("method", [lanczos_spectrum, randomized_spectrum], ids=["lanczos", "randomized"])
SOURCES = {
    "held": HeldRows,
    "float16": lambda jacobian: HeldRows(jacobian, torch.float16),
    "anew": lambda jacobian: RecomputedRows(jacobian, 2**16),
}
RANK = 12
SPECTRA = {
    "decades": torch.logspace(0, -4, 120),
    "flat": torch.linspace(1, 0.9, 120),
    "tied": torch.cat([torch.ones(20), 0.5 * torch.ones(100)]),
    "tied at the rank": torch.cat([torch.ones(11), 0.5 * torch.ones(3), 0.1 * torch.rand(106).sort().values.flip(0)]),
    "identity": torch.ones(120),
    "bulk": torch.cat([torch.logspace(2, 0, 10), torch.linspace(1, 0.1, 110)]),
    "clusters": torch.cat([v + 1e-7 * torch.rand(6).sort().values.flip(0) for v in torch.linspace(2, 0.1, 20)]),
    "low rank": torch.cat([torch.linspace(3, 1, 7), torch.zeros(113)]),
}


def linear(jacobian) -> JacobianOperator:
    """The network whose Jacobian is this matrix: a linear one without bias on its rows."""
    return JacobianOperator(nn.Linear(jacobian.shape[1], 1, bias=False).to(jacobian.dtype), jacobian)


def with_values(values, columns):
    """A matrix with these singular values, in random directions."""
    left, right = torch.randn(len(values), len(values)), torch.randn(columns, len(values))
    return torch.linalg.qr(left).Q * values.double() @ torch.linalg.qr(right).Q.T


# Values, vectors and error bars.


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@METHODS
def test_error_bars_cover_the_error(method, dtype, source, name):
    matrix = with_values(SPECTRA[name], 300).to(dtype)
    spectrum = method(SOURCES[source](linear(matrix)), RANK)
    truth = torch.linalg.svdvals(matrix.double())
    # The truth is rounded too.
    error = (spectrum.singular_values - truth[:RANK]).abs() - 4 * torch.finfo(torch.float64).eps * truth[0]
    assert bool((error <= spectrum.errors).all())
    resolved = truth[:RANK] > 0.5 * truth[RANK - 1].clamp_min(1e-2 * truth[0])
    assert float((spectrum.errors / truth[:RANK])[resolved].max()) < 4e-3
    assert spectrum.frobenius_norm == pytest.approx(float(matrix.double().norm()), rel=1e-6)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("name", ["decades", "flat", "bulk", "clusters"])
@METHODS
def test_every_singular_value_is_found_to_the_tolerance(method, name, tolerance):
    matrix = with_values(SPECTRA[name], 300)
    spectrum = method(HeldRows(linear(matrix)), RANK, tolerance)
    truth = torch.linalg.svdvals(matrix)[:RANK]
    assert float(((spectrum.singular_values - truth) / truth).abs().max()) <= tolerance
    assert float((spectrum.errors / truth).max()) <= 1.01 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", range(20))
@METHODS
def test_error_bars_cover_the_error_for_every_seed(method, seed, name):
    torch.manual_seed(100 + seed)
    matrix = with_values(SPECTRA[name], 200)
    spectrum = method(HeldRows(linear(matrix)), RANK, 1e-2, seed=seed)
    truth = torch.linalg.svdvals(matrix)[:RANK]
    # The truth itself is right to some roundings.
    assert bool(((spectrum.singular_values - truth).abs() <= spectrum.errors + 1e-14 * truth[0]).all())


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 5), (5, 1)])
@METHODS
def test_all_of_a_small_spectrum_is_that_of_a_singular_value_decomposition(method, shape):
    matrix = torch.randn(shape)
    spectrum = method(RecomputedRows(linear(matrix)), min(shape), 1e-10)
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(spectrum.singular_values, values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((spectrum.left_vectors.T @ left).abs(), torch.eye(min(shape)), rtol=0, atol=1e-4)


@METHODS
def test_left_vectors_span_the_leading_space(method):
    matrix = with_values(SPECTRA["decades"], 300)
    spectrum = method(HeldRows(linear(matrix)), RANK, 1e-10)
    left = torch.linalg.svd(matrix, full_matrices=False).U[:, :RANK]
    torch.testing.assert_close(spectrum.left_vectors.T @ spectrum.left_vectors, torch.eye(RANK), rtol=0, atol=1e-12)
    torch.testing.assert_close((spectrum.left_vectors.T @ left).abs(), torch.eye(RANK), rtol=0, atol=1e-3)
    exact = jacobian_spectrum(linear(matrix), rank=RANK, method="gram")
    y = torch.randn(120)
    iterated = spectrum.information_space(rank=5).alignment(y)
    torch.testing.assert_close(iterated, exact.information_space(rank=5).alignment(y), rtol=1e-4, atol=0)


def test_residual_norms_of_lanczos_are_those_of_its_vectors():
    matrix = with_values(SPECTRA["decades"], 300)
    spectrum = lanczos_spectrum(HeldRows(linear(matrix)), RANK)
    values, left = spectrum.singular_values, spectrum.left_vectors
    residuals = matrix @ (matrix.T @ left) - left * values.square()
    torch.testing.assert_close(spectrum.residual_norms, residuals.norm(dim=0), rtol=1e-6, atol=1e-12)


def test_residual_norms_of_subspace_iteration_are_those_of_its_vectors():
    matrix = with_values(SPECTRA["decades"], 300)
    spectrum = randomized_spectrum(HeldRows(linear(matrix)), RANK)
    right = spectrum.subspace[:, :RANK]
    residuals = matrix.T @ (matrix @ right) - right * spectrum.singular_values.square()
    torch.testing.assert_close(spectrum.residual_norms, residuals.norm(dim=0), rtol=1e-6, atol=1e-12)


@METHODS
def test_values_below_the_floor_are_said_to_be_unresolved(method):
    matrix = with_values(SPECTRA["low rank"], 300).float()
    spectrum = method(HeldRows(linear(matrix)), RANK)
    assert spectrum.resolved_rank == 7
    assert float(spectrum.noise_floor) < 1e-2 * float(spectrum.singular_values[6])


@METHODS
def test_a_jacobian_of_zeros_has_zeros(method):
    spectrum = method(HeldRows(linear(torch.zeros(30, 40))), 3)
    assert spectrum.singular_values.tolist() == [0.0, 0.0, 0.0]
    assert (spectrum.frobenius_norm, spectrum.noise_floor, spectrum.resolved_rank) == (0.0, 0.0, 0)
    torch.testing.assert_close(spectrum.left_vectors.T @ spectrum.left_vectors, torch.eye(3))


@pytest.mark.parametrize("name", ["conv", "batch_coupled", "transformer"])
@METHODS
def test_networks_have_the_singular_values_of_their_gram_matrix(method, name):
    case = CASES[name]()
    jacobian = JacobianOperator(case.model, case.inputs, output_fn=case.output_fn)
    exact = jacobian_spectrum(jacobian, rank=3, method="gram")
    found = method(RecomputedRows(jacobian), 3, 1e-8)
    torch.testing.assert_close(found.singular_values, exact.singular_values, rtol=1e-7, atol=0)


# A sketch, and a warm start.


def counted(rows):
    """How many vectors are multiplied with the rows, in a list that grows."""
    counts, multiply = [], rows.left
    rows.left = lambda vectors: counts.append(vectors.shape[1]) or multiply(vectors)
    return counts


def test_a_sketch_saves_products():
    matrix = with_values(torch.logspace(0, -2, 150), 2**15 + 100).float()
    rows, plain = HeldRows(linear(matrix)), HeldRows(linear(matrix))
    plain.sketch = lambda generator: None
    sketched, random = counted(rows), counted(plain)
    first, second = lanczos_spectrum(rows, RANK), lanczos_spectrum(plain, RANK)
    assert sum(sketched) < 0.8 * sum(random)
    torch.testing.assert_close(first.singular_values, second.singular_values, rtol=1e-3, atol=0)


@pytest.fixture(scope="module")
def training():
    """A small network at three steps of its training."""
    torch.manual_seed(0)
    x = torch.randn(200, 40, dtype=torch.float64)
    y = torch.sin(x[:, :1])
    network = nn.Sequential(nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 1)).double()
    optimizer, networks = torch.optim.SGD(network.parameters(), lr=0.05), []
    for step in range(31):
        if step % 15 == 0:
            networks.append(copy.deepcopy(network))
        optimizer.zero_grad()
        (network(x) - y).square().mean().backward()
        optimizer.step()
    return [JacobianOperator(network, x) for network in networks]


@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_in_a_training_a_warm_start_needs_fewer_products_and_finds_the_same(training, method, monkeypatch):
    counts = []
    name = "left" if method == "lanczos" else "right"
    multiply = getattr(HeldRows, name)
    monkeypatch.setattr(HeldRows, name, lambda rows, v: counts.append(v.shape[1]) or multiply(rows, v))
    start = jacobian_spectrum(training[1], rank=8, method=method)
    counts.clear()
    cold = jacobian_spectrum(training[2], rank=8, method=method)
    of_cold = sum(counts)
    counts.clear()
    warm = jacobian_spectrum(training[2], rank=8, method=method, start=start)
    assert sum(counts) < 0.75 * of_cold
    exact = jacobian_spectrum(training[2], rank=8, method="gram").singular_values
    assert bool(((warm.singular_values - exact).abs() <= warm.errors).all())
    assert bool(((cold.singular_values - exact).abs() <= cold.errors).all())


@pytest.mark.parametrize("earlier", ["gram", "lanczos", "randomized"])
@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_every_spectrum_with_vectors_can_start_every_iteration(training, method, earlier):
    start = jacobian_spectrum(training[0], rank=4, method=earlier)
    found = jacobian_spectrum(training[2], rank=6, method=method, start=start)
    exact = jacobian_spectrum(training[2], rank=6, method="gram").singular_values
    assert bool(((found.singular_values - exact).abs() <= found.errors).all())


@METHODS
def test_a_start_in_a_space_that_is_no_longer_leading_does_not_hide_the_new_one(method):
    # The old leading space is invariant under the new matrix: without random columns no product leaves it.
    old, new = torch.ones(60), torch.ones(60)
    old[:20], new[30:50] = torch.linspace(3, 2, 20), torch.linspace(9, 5, 20)
    before, after = (HeldRows(linear(torch.diag(values))) for values in (old, new))
    start = method(before, 5).subspace
    torch.testing.assert_close(method(after, 5, start=start).singular_values, new[30:35], rtol=1e-3, atol=0)


# Deterministic, and without a trace.


@pytest.mark.parametrize("method", ["lanczos", "randomized", "density"])
def test_equal_seeds_give_equal_bits_and_the_global_generators_are_left_alone(method):
    jacobian = linear(with_values(SPECTRA["decades"], 300))
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = jacobian_spectrum(jacobian, rank=RANK, method=method, seed=3)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert (np.random.get_state()[1] == streams[2]).all()
    torch.rand(5)
    again = jacobian_spectrum(jacobian, rank=RANK, method=method, seed=3)
    other = jacobian_spectrum(jacobian, rank=RANK, method=method, seed=4)
    assert torch.equal(first.singular_values, again.singular_values)
    assert torch.equal(first.left_vectors, again.left_vectors)
    assert not torch.equal(first.singular_values, other.singular_values)


@pytest.mark.parametrize("block_bytes", [1, 10_000, 10**8])
@METHODS
def test_results_do_not_depend_on_how_many_rows_are_made_at_a_time(method, block_bytes):
    jacobian = linear(with_values(SPECTRA["decades"], 300))
    whole, parts = method(HeldRows(jacobian), RANK), method(RecomputedRows(jacobian, block_bytes), RANK)
    torch.testing.assert_close(parts.singular_values, whole.singular_values, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ["lanczos", "randomized", "density"])
def test_the_module_is_left_as_it_was(method):
    case = CASES["conv_batch_norm"]()
    case.model.train()
    before = copy.deepcopy(case.model.state_dict())
    jacobian_spectrum(JacobianOperator(case.model, case.inputs), rank=2, method=method)
    after = case.model.state_dict()
    assert case.model.training
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in case.model.parameters())


# The iteration itself.


@pytest.mark.parametrize("columns", [4, 6, 40])
def test_a_restart_changes_nothing_but_the_number_of_products(columns):
    matrix = with_values(torch.linspace(5, 1, 40), 40)
    matrix = matrix @ matrix.T
    pairs = leading_pairs(
        lambda q: matrix @ q, torch.randn(40, 2), 1, 1e-8, rounding=1e-15, max_columns=columns, max_steps=2000
    )
    assert float(pairs.values[0].sqrt()) == pytest.approx(5, rel=1e-8)


def test_an_iteration_that_is_given_up_says_how_far_it_came():
    matrix = torch.diag(torch.linspace(1, 2, 500))
    with pytest.raises(ArithmeticError, match=r"Expected 3 singular values to 1e-06, but after \d+ products"):
        leading_pairs(lambda q: matrix @ q, torch.randn(500, 4), 3, 1e-6, rounding=1e-15, max_columns=8, max_steps=5)


@pytest.mark.parametrize("known", [None, 3])
def test_orthonormal_columns_span_the_block_outside_the_basis(known):
    basis = None if known is None else torch.linalg.qr(torch.randn(30, known)).Q
    block = torch.randn(30, 5)
    block = torch.cat([block, block[:, :2] + 1e-17], dim=1)
    found = orthonormal(block, basis)
    torch.testing.assert_close(found.T @ found, torch.eye(5), rtol=0, atol=1e-13)
    whole = found if basis is None else torch.cat([basis, found], dim=1)
    torch.testing.assert_close(whole @ (whole.T @ block), block, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rank", "size", "expected"), [(1, 100, 9), (50, 3072, 62), (5, 6, 6), (4, 4, 4)])
def test_a_block_is_a_quarter_wider_than_the_rank(rank, size, expected):
    assert block_width(rank, size) == expected
