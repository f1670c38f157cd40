import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.metrics import Misclassification


def error(outputs, targets):
    metric = Misclassification()
    metric.update(outputs, targets)
    return float(metric.compute())


def test_error_is_the_fraction_whose_largest_output_is_another_class():
    outputs, targets = torch.randn(50, 4), torch.randint(4, (50,))
    wrong = sum(max(range(4), key=lambda c: outputs[i, c]) != targets[i] for i in range(50))
    assert_close(error(outputs, targets), float(wrong) / 50, rtol=1e-6, atol=0)


def test_error_of_a_single_output_is_the_fraction_of_wrong_signs():
    outputs, signs = torch.randn(50), 2 * torch.randint(2, (50,)) - 1
    wrong = sum(float(f) * float(y) <= 0 for f, y in zip(outputs, signs, strict=True))
    assert_close(error(outputs, signs), wrong / 50, rtol=1e-6, atol=0)
    assert error(outputs.unsqueeze(1), (signs + 1) // 2) == error(outputs, signs)


def test_error_does_not_change_with_scale_and_shift_of_the_outputs_or_the_order():
    outputs, targets, order = torch.randn(50, 4), torch.randint(4, (50,)), torch.randperm(50)
    assert error(3 * outputs + 1, targets) == error(outputs, targets) == error(outputs[order], targets[order])


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ([[1.0, 1.0, 0.0]], [0]),
        ([[1.0, 1.0, 0.0]], [1]),
        ([0.0], [1]),
        ([0.0], [-1]),
        ([[float("nan"), 0.0]], [1]),
        ([float("nan")], [1]),
        ([[float("inf"), float("inf")]], [1]),
    ],
)
def test_ties_zeros_and_nan_are_errors(outputs, targets):
    assert error(torch.tensor(outputs), torch.tensor(targets)) == 1


@pytest.mark.parametrize("K", [2, 5])
def test_error_of_random_labels_is_one_minus_one_over_the_classes(K):
    rate, samples = 1 - 1 / K, 10_000
    standard_error = (rate * (1 - rate) / samples) ** 0.5
    assert abs(error(torch.randn(samples, K), torch.randint(K, (samples,))) - rate) <= 5 * standard_error


def test_outputs_that_do_not_match_the_targets_are_refused():
    with pytest.raises(ValueError, match="targets of the same n"):
        Misclassification().update(torch.zeros(2, 3), torch.tensor([0]))


def test_an_error_of_no_samples_is_refused():
    metric = Misclassification()
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="Expected at least one sample, but got none"):
        metric.compute()
