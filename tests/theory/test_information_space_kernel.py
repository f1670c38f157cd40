"""The multiclass kernel: its two orders, its Kronecker structure, and the expectation that it stands for."""

import pytest
import torch

from lightning_bounds.theory import information_space as spaces
from lightning_bounds.theory.gaussian import neural_covariance
from lightning_bounds.theory.information_space.kernel import label_rows


def unit_rows(n, d):
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


@pytest.fixture
def kernel():
    return neural_covariance(unit_rows(5, 3), "erf")


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_spectrum_is_that_of_the_large_matrix(kernel, K):
    spectrum = spaces.kernel_spectrum(kernel, K)
    dense, vector = spaces.multiclass_kernel(kernel, K), torch.randn(5 * K)
    close(spectrum.singular_values, torch.linalg.eigvalsh(dense).flip(0).sqrt())
    close((spectrum.left_vectors * spectrum.singular_values**2) @ spectrum.left_vectors.T, dense)
    close(spectrum.coefficients(vector), spectrum.left_vectors.T @ vector)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_orders_are_permutations_of_each_other(kernel, K):
    rows, vector = torch.randn(5, K), torch.randn(5 * K)
    assert torch.equal(spaces.class_major(rows.flatten(), K), rows.T.flatten())
    assert torch.equal(spaces.sample_major(spaces.class_major(vector, K), K), vector)
    image = spaces.multiclass_kernel(kernel, K) @ vector
    by_class = spaces.multiclass_kernel(kernel, K, class_major=True) @ spaces.class_major(vector, K)
    close(spaces.sample_major(by_class, K), image)


def test_mixing_up_the_orders_changes_the_ratios(kernel):
    labels = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).double().flatten()
    eigenvalues, vectors = torch.linalg.eigh(spaces.multiclass_kernel(kernel, 3, class_major=True))
    space = spaces.information_space(eigenvalues.clamp_min(0).sqrt().flip(0), vectors.flip(1), rank=3)
    right = float(space.alignment(spaces.class_major(labels, 3)).information)
    spectrum = spaces.kernel_spectrum(kernel, 3)
    same = spaces.information_space(spectrum.singular_values, spectrum.left_vectors, rank=3)
    assert float(same.alignment(labels).information) == pytest.approx(right, rel=1e-9)
    assert abs(float(space.alignment(labels).information) - right) > 0.01


@pytest.mark.parametrize(("rank", "tied"), [(2, True), (3, False), (4, True), (6, False)])
def test_a_rank_splits_the_space_only_where_it_is_a_multiple_of_the_outputs(kernel, rank, tied):
    spectrum = spaces.kernel_spectrum(kernel, 3)
    space = spaces.information_space(spectrum.singular_values, spectrum.left_vectors, rank=rank)
    assert space.tied is tied


@pytest.mark.parametrize("cutoff_index", [0, 1, 3])
def test_a_cutoff_takes_all_copies_of_an_eigenvalue(kernel, cutoff_index):
    spectrum = spaces.kernel_spectrum(kernel, 3)
    cutoff = float(spectrum.roots[cutoff_index])
    space = spaces.information_space(spectrum.singular_values, spectrum.left_vectors, cutoff=cutoff)
    assert space.dimension == 3 * (cutoff_index + 1)


def test_expected_gram_of_the_jacobian_is_width_times_variance_times_the_kernel():
    # Erratum A1; the standard error of 40,000 draws is below 1 % of the diagonal.
    X, K, k, variance = unit_rows(4, 3), 2, 40_000, 0.09
    hidden, output = torch.randn(k, 3), variance**0.5 * (2.0 * torch.randint(2, (K, k)) - 1)
    gram = spaces.hidden_gram(X, hidden, output, "erf")
    expected = k * variance * spaces.multiclass_kernel(neural_covariance(X, "erf"), K)
    assert float((gram - expected).abs().max()) < 0.05 * float(expected.max())


def test_kernel_of_relu_is_that_of_arc_cosines():
    X = unit_rows(6, 4)
    cosines = (X @ X.T).clamp(-1, 1)
    close(neural_covariance(X, "relu"), cosines * (torch.pi - cosines.arccos()) / (2 * torch.pi), 1e-7)


@pytest.mark.parametrize("n", [3, 50])
def test_duplicates_lie_below_the_noise_floor(n):
    X = unit_rows(n, 30)
    spectrum = spaces.neural_spectrum(torch.cat([X, X[:2]]), "softplus", 1)
    assert int((spectrum.roots <= spectrum.noise_floor).sum()) == 2


@pytest.mark.parametrize(("entry_precision", "unresolved"), [(0.0, 0), (1e-9, 10)])
def test_entries_that_are_off_raise_the_noise_floor(entry_precision, unresolved):
    X, noise = unit_rows(20, 10), 1e-9 * (2 * torch.rand(20, 20) - 1)
    spectrum = spaces.kernel_spectrum(X @ X.T + noise @ noise.T * 1e8, 1, entry_precision=entry_precision)
    assert int((spectrum.roots <= spectrum.noise_floor).sum()) == unresolved


@pytest.mark.parametrize("labels", [torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.0, 0.0, 0.0, 1.0])])
def test_labels_are_rows_or_sample_major_vectors(labels):
    assert label_rows(labels, 2).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.ones(3), r"one row of K numbers for each of 2 inputs, but got shape \(3,\)"),
        (torch.ones(3, 2), r"but got shape \(3, 2\)"),
        (torch.ones(2, 1, 1), r"but got shape \(2, 1, 1\)"),
        (torch.ones(0), r"but got shape \(0,\)"),
        (torch.tensor([0, 1]), "class indices; code them with `label_matrix"),
        (torch.tensor([1.0, float("nan")]), r"samples \[1\] are NaN"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        label_rows(labels, 2)


@pytest.mark.parametrize(
    ("matrix", "K", "message"),
    [
        (torch.ones(2, 3), 1, r"square kernel \(n, n\), but got shape \(2, 3\)"),
        (torch.tensor([[float("nan")]]), 1, "finite square kernel"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1, "symmetric kernel"),
        (torch.diag(torch.tensor([1.0, -0.1])), 1, "positive semi-definite kernel, but its eigenvalues go from -0.1"),
        (torch.eye(2), 0, "`num_outputs` of at least 1, but got 0"),
    ],
)
def test_matrices_that_are_no_kernel_are_refused(matrix, K, message):
    with pytest.raises(ValueError, match=message):
        spaces.kernel_spectrum(matrix, K)


@pytest.mark.parametrize("function", [spaces.class_major, spaces.sample_major])
def test_vectors_of_a_wrong_length_are_refused(function):
    with pytest.raises(ValueError, match=r"a vector \(n \* 2,\), but got shape \(3,\)"):
        function(torch.ones(3), 2)
    with pytest.raises(ValueError, match=r"sample-major vector \(2,\), but got shape \(3,\)"):
        spaces.kernel_spectrum(torch.eye(2), 1).coefficients(torch.ones(3))
