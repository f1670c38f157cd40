"""Labels on the eigenvectors of a Gram matrix."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import eigenspace_energies, label_projections, relu_gram, worst_case_labels
from lightning_bounds.theory.fine_grained.projections import eigenvectors


@pytest.fixture
def gram():
    return relu_gram(torch.randn(12, 5))


def repeated_gram():
    """Eigenvalues 3, 3, 2, 1, 1, 1 in a random basis."""
    basis = torch.linalg.qr(torch.randn(6, 6)).Q
    return basis @ torch.diag(torch.tensor([3.0, 3.0, 2.0, 1.0, 1.0, 1.0])) @ basis.T, basis


def test_projections_are_the_coefficients_of_the_labels_in_an_eigenbasis(gram):
    labels = torch.randn(12)
    eigenvalues, projections = label_projections(gram, labels)
    values, vectors = torch.linalg.eigh(gram)
    torch.testing.assert_close(eigenvalues, values.flip(0), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(projections.abs(), (vectors.T @ labels).flip(0).abs(), rtol=1e-8, atol=1e-10)


def test_energies_of_the_projections_add_up_to_the_squared_norm_and_to_the_quadratic_form(gram):
    labels = torch.randn(12)
    eigenvalues, projections = label_projections(gram, labels)
    assert float(projections.square().sum()) == pytest.approx(float(labels @ labels), rel=1e-12)
    assert float((eigenvalues * projections.square()).sum()) == pytest.approx(float(labels @ gram @ labels), rel=1e-12)


def test_projections_do_not_depend_on_the_order_of_the_samples(gram):
    labels, order = torch.randn(12), torch.randperm(12)
    _, projections = label_projections(gram, labels)
    _, permuted = label_projections(gram[order][:, order], labels[order])
    torch.testing.assert_close(permuted.abs(), projections.abs(), rtol=1e-8, atol=1e-10)


def test_energies_of_eigenspaces_do_not_depend_on_the_eigenvectors():
    gram, basis = repeated_gram()
    labels = torch.randn(6)
    spaces = eigenspace_energies(gram, labels)
    parts = (basis.T @ labels).square()
    torch.testing.assert_close(spaces.eigenvalues, torch.tensor([3.0, 2.0, 1.0]))
    assert spaces.multiplicities.tolist() == [2, 1, 3]
    torch.testing.assert_close(spaces.energies, torch.stack([parts[:2].sum(), parts[2], parts[3:].sum()]))


def test_energies_of_simple_eigenvalues_are_the_squared_projections(gram):
    labels = torch.randn(12)
    eigenvalues, projections = label_projections(gram, labels)
    spaces = eigenspace_energies(gram, labels)
    torch.testing.assert_close(spaces.eigenvalues, eigenvalues)
    torch.testing.assert_close(spaces.energies, projections.square())


@pytest.mark.parametrize(("norm", "expected"), [(None, math.sqrt(12)), (1.0, 1.0)])
def test_worst_case_labels_are_an_eigenvector_of_the_smallest_eigenvalue(gram, norm, expected):
    labels = worst_case_labels(gram, norm)
    smallest = torch.linalg.eigvalsh(gram)[0]
    torch.testing.assert_close(gram @ labels, smallest * labels, rtol=1e-9, atol=1e-12)
    assert float(labels.norm()) == pytest.approx(expected, rel=1e-12)
    assert float(labels[labels.abs().argmax()]) > 0


def test_worst_case_labels_have_the_largest_inverse_form_of_their_norm(gram):
    def inverse_form(labels):
        return float(labels @ torch.linalg.solve(gram, labels))

    others = torch.randn(50, 12)
    others = others / others.norm(dim=1, keepdim=True)
    assert inverse_form(worst_case_labels(gram, 1.0)) >= max(inverse_form(y) for y in others)


def test_rounding_below_zero_is_zero():
    eigenvalues = eigenvectors(torch.ones(40, 40)).eigenvalues
    assert float(eigenvalues.min()) == 0.0


def test_labels_may_be_integers_and_a_column(gram):
    signs = torch.tensor([1, -1] * 6)
    expected = label_projections(gram, signs.double()).projections
    assert torch.equal(label_projections(gram, signs).projections, expected)
    assert torch.equal(label_projections(gram, signs.unsqueeze(1)).projections, expected)


@pytest.mark.parametrize(
    ("gram", "labels", "message"),
    [
        (torch.ones(2, 3), torch.ones(2), "shape"),
        (torch.ones(0, 0), torch.ones(0), "shape"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.ones(2), "symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2), "positive semi-definite"),
        (torch.full((2, 2), math.nan), torch.ones(2), "finite"),
        (torch.eye(2), torch.ones(3), "labels"),
        (torch.eye(2), torch.ones(2, 2), "labels"),
        (torch.eye(2), torch.tensor([1.0, math.inf]), "finite"),
    ],
)
def test_bad_matrices_and_labels_are_refused(gram, labels, message):
    with pytest.raises(ValueError, match=message):
        label_projections(gram, labels)


def test_other_numbers_out_of_range_are_refused(gram):
    with pytest.raises(ValueError, match="rtol"):
        eigenspace_energies(gram, torch.ones(12), rtol=-1.0)
    with pytest.raises(ValueError, match="norm"):
        worst_case_labels(gram, norm=0.0)
