"""Labels are coded in one way only, and what is no coding is refused by name."""

import pytest
import torch

from lightning_bounds.theory.labels import class_indices, label_matrix


def one_hot_by_loop(classes, num_outputs):
    rows = [[1.0 if c == label else 0.0 for c in range(num_outputs)] for label in classes]
    return torch.tensor(rows)


# Labels as a matrix.


@pytest.mark.parametrize("num_outputs", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_classes_become_one_hot_rows(num_outputs, dtype, shape):
    classes = torch.randint(num_outputs, (7,))
    labels = label_matrix(classes.to(dtype).reshape(shape), num_outputs)
    assert torch.equal(labels, one_hot_by_loop(classes.tolist(), num_outputs))


def test_booleans_are_two_classes():
    assert torch.equal(label_matrix(torch.tensor([True, False]), 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([0, 1, 1], [-1, 1, 1]),
        ([-1, 1, 1], [-1, 1, 1]),
        ([False, True, True], [-1, 1, 1]),
        ([1, 1], [1, 1]),
        ([0, 0], [-1, -1]),
        ([-1, -1], [-1, -1]),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_classes_of_a_single_output_become_signs(targets, expected, shape):
    labels = label_matrix(torch.tensor(targets).reshape(shape), 1)
    assert torch.equal(labels, torch.tensor(expected, dtype=torch.float64).unsqueeze(1))


@pytest.mark.parametrize(
    ("shape", "num_outputs"), [((4,), 1), ((4, 1), 1), ((4, 6), 6), ((4, 2, 3), 6), ((4, 1, 1), 1)]
)
def test_real_targets_stay_sample_major(shape, num_outputs):
    targets = torch.randn(shape)
    assert torch.equal(label_matrix(targets, num_outputs), targets.reshape(4, num_outputs))


def test_real_zeros_and_ones_of_a_single_output_stay_real_numbers():
    assert torch.equal(label_matrix(torch.tensor([0.0, 1.0]), 1), torch.tensor([[0.0], [1.0]]))


@pytest.mark.parametrize(
    ("targets", "dtype", "expected"),
    [
        (torch.tensor([0, 1]), None, torch.float64),
        (torch.tensor([0, 1]), torch.float32, torch.float32),
        (torch.zeros(2, 2, dtype=torch.float32), None, torch.float32),
        (torch.zeros(2, 2, dtype=torch.float32), torch.float64, torch.float64),
    ],
)
def test_type_is_the_one_asked_for_or_that_of_real_targets_or_the_default(targets, dtype, expected):
    assert label_matrix(targets, 2, dtype).dtype == expected


@pytest.mark.parametrize("num_outputs", [2, 5])
def test_one_hot_labels_have_unit_rows_and_sign_labels_the_same_norm(num_outputs):
    classes = torch.randint(2, (9,))
    assert float(label_matrix(classes, num_outputs).norm()) == pytest.approx(9**0.5)
    assert float(label_matrix(classes, 1).norm()) == pytest.approx(9**0.5)


@pytest.mark.parametrize(
    ("targets", "num_outputs", "message"),
    [
        (torch.zeros(4), 3, r"3 numbers per sample, .* shape \(4,\); for classes pass an integer tensor"),
        (torch.zeros(4, 2), 3, r"3 numbers per sample, .* shape \(4, 2\)"),
        (torch.zeros(0, 3), 3, r"shape \(0, 3\)"),
        (torch.tensor(1.0), 1, r"shape \(\)"),
        (torch.tensor([0.0, float("nan"), 1.0, float("inf")]), 1, r"samples \[1, 3\] are NaN or infinite"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), 2, r"samples \[1\] are NaN or infinite"),
    ],
)
def test_real_targets_that_do_not_fit_are_refused(targets, num_outputs, message):
    with pytest.raises(ValueError, match=message):
        label_matrix(targets, num_outputs)


# Labels as classes.


@pytest.mark.parametrize("num_outputs", [1, 2, 7])
def test_classes_come_back_from_their_coding(num_outputs):
    classes = torch.randint(max(num_outputs, 2), (20,))
    assert torch.equal(class_indices(label_matrix(classes, num_outputs), num_outputs), classes)


@pytest.mark.parametrize(
    "rows", [[[0.1, 0.9], [0.8, 0.2]], [[-1, 1], [1, -1]], [[False, True], [True, False]], [[-9.0, -8.0], [0.0, -1.0]]]
)
def test_the_largest_entry_of_a_coded_row_is_its_class(rows):
    assert class_indices(torch.tensor(rows), 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("rows", "samples"),
    [
        ([[1, 1, 0], [0, 1, 0]], "0"),
        ([[0, 1, 0], [0, 0, 0]], "1"),
        ([[0.5, 0.5, 0.0], [0.2, 0.2, 0.1]], "0, 1"),
        ([[0.0, 1.0, 0.0], [0.0, float("nan"), 1.0]], "1"),
    ],
)
def test_rows_without_one_largest_entry_are_no_classes(rows, samples):
    with pytest.raises(ValueError, match=rf"one largest entry each, .* samples \[{samples}\] have several or NaN"):
        class_indices(torch.tensor(rows), 3)


def test_several_labels_per_sample_are_not_coded_as_one():
    with pytest.raises(ValueError, match=r"samples \[0\] have several or NaN; for several labels .* there is no class"):
        label_matrix(torch.tensor([[1, 1, 0], [0, 1, 0]]), 3)


@pytest.mark.parametrize(
    ("targets", "num_outputs", "message"),
    [
        ([0, 2, 3], 3, "classes in 0..2, as the network has 3 outputs, but sample 2 has label 3"),
        ([-100, 0], 3, "sample 0 has label -100"),
        ([0.0, 1.0], 2, r"integer classes for 2 outputs, but got torch.float64; convert them with `.long\(\)`"),
        ([0, 2], 1, r"labels -1 and \+1, or integer classes 0 and 1, .* but got \[0, 2\]"),
        ([-1, 0, 1], 1, r"but got \[-1, 0, 1\]"),
        ([0.0, 1.0], 1, r"but got \[0.0, 1.0\]"),
        ([1.0, float("nan")], 1, "but got .*nan"),
        ([[0, 1, 2], [0, 1, 2]], 2, r"one class per sample, shape \(n,\), or coded rows \(n, 2\), .* shape \(2, 3\)"),
        (3, 4, r"shape \(\)"),
    ],
)
def test_what_codes_no_classes_is_refused(targets, num_outputs, message):
    with pytest.raises(ValueError, match=message):
        class_indices(torch.tensor(targets), num_outputs)
