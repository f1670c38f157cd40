"""Eigenvalues first, vectors later: against a whole decomposition, and against matrices that are known."""

import pytest
import torch

from lightning_bounds.jacobian.decomposition import gram_spectrum
from lightning_bounds.jacobian.eigenpairs import Eigenpairs

SIZE = 700


def with_eigenvalues(values):
    vectors = torch.linalg.qr(torch.randn(len(values), len(values))).Q
    matrix = vectors * values @ vectors.T
    return (matrix + matrix.T) / 2, vectors


SPECTRA = {
    "decaying": torch.logspace(0, -8, SIZE, dtype=torch.float64),
    "deficient": torch.cat([torch.linspace(2, 1, 200), torch.zeros(SIZE - 200)]).double(),
    "pairs": torch.linspace(3, 1, SIZE // 2, dtype=torch.float64).repeat_interleave(2),
    "all the same": torch.full((SIZE,), 5.0, dtype=torch.float64),
}


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("count", [1, 50, 170, 400, SIZE])
def test_values_and_vectors_are_those_of_the_matrix(values, count):
    matrix, _ = with_eigenvalues(values)
    before = matrix.clone()
    pairs = Eigenpairs(matrix, SIZE)
    torch.testing.assert_close(pairs.values, values, rtol=0, atol=1e-13 * float(values[0]))
    vectors = pairs.leading(count)
    assert pairs.shape == (SIZE, SIZE)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(count), rtol=0, atol=1e-13)
    assert float((matrix @ vectors - vectors * values[:count]).norm(dim=0).max()) < 1e-13 * float(values[0])
    assert torch.equal(matrix, before)


def test_leading_vectors_span_what_was_put_in():
    matrix, vectors = with_eigenvalues(torch.cat([torch.linspace(9, 5, 40), torch.linspace(1, 0, SIZE - 40)]))
    found = Eigenpairs(matrix, SIZE).leading(40)
    torch.testing.assert_close(found @ found.T, vectors[:, :40] @ vectors[:, :40].T, rtol=0, atol=1e-12)


def test_more_vectors_than_before_and_fewer():
    matrix, _ = with_eigenvalues(SPECTRA["decaying"])
    pairs = Eigenpairs(matrix, SIZE)
    first = pairs.leading(3)
    for count in (20, 5, 600, 20, SIZE):
        vectors = pairs.leading(count)
        assert vectors.shape == (SIZE, count)
        torch.testing.assert_close((vectors[:, :3] * first).sum(0).abs(), torch.ones(3))


def test_only_some_are_kept():
    matrix, _ = with_eigenvalues(SPECTRA["decaying"])
    pairs = Eigenpairs(matrix, 30)
    assert (pairs.values.shape, pairs.shape, pairs.leading(30).shape) == ((30,), (SIZE, 30), (SIZE, 30))
    torch.testing.assert_close(pairs.values, SPECTRA["decaying"][:30])


def test_single_precision_has_its_own_rounding():
    matrix, _ = with_eigenvalues(torch.linspace(4, 1, SIZE))
    pairs = Eigenpairs(matrix.float(), SIZE)
    assert pairs.values.dtype == pairs.leading(10).dtype == torch.float32
    torch.testing.assert_close(pairs.values.double(), torch.linspace(4, 1, SIZE), rtol=0, atol=2e-5)
    residual = matrix.float() @ pairs.leading(10) - pairs.leading(10) * pairs.values[:10]
    assert float(residual.norm(dim=0).max()) < 5e-5


@pytest.mark.parametrize("size", [1, 2, 3, 512, 513])
def test_sizes_on_either_side_of_the_limit(size):
    matrix, _ = with_eigenvalues(torch.linspace(2, 1, size))
    vectors = Eigenpairs(matrix, size).leading(1)
    assert float((matrix @ vectors - 2 * vectors).norm()) < 1e-12


def test_a_spectrum_makes_its_vectors_when_they_are_asked_for(monkeypatch):
    matrix, _ = with_eigenvalues(SPECTRA["decaying"])
    whole = gram_spectrum(matrix).left_vectors[:, :50]
    monkeypatch.setattr(torch.linalg, "eigh", None)
    spectrum = gram_spectrum(matrix)
    space = spectrum.information_space(rank=50)
    torch.testing.assert_close(space.basis @ space.basis.T, whole @ whole.T, rtol=0, atol=1e-9)
    monkeypatch.undo()
    assert spectrum.left_vectors.shape == (SIZE, SIZE)


def test_vectors_that_are_not_found_come_from_a_whole_decomposition(monkeypatch):
    import scipy.linalg

    def failing(*_, **__):
        raise scipy.linalg.LinAlgError("stemr did not converge")

    matrix, _ = with_eigenvalues(SPECTRA["decaying"])
    pairs = Eigenpairs(matrix, SIZE)
    monkeypatch.setattr(scipy.linalg, "eigh_tridiagonal", failing)
    vectors = pairs.leading(5)
    assert float((matrix @ vectors - vectors * SPECTRA["decaying"][:5]).norm()) < 1e-12
