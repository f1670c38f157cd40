import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.metrics import FittedFlips


def flips(outputs, labels, original_labels):
    metric = FittedFlips()
    metric.update(outputs, labels, original_labels)
    return metric


def test_fraction_is_of_the_flipped_samples_only_in_a_loop():
    outputs, labels, original = torch.randn(60, 3), torch.randint(3, (60,)), torch.randint(3, (60,))
    fitted, flipped = 0, 0
    for i in range(60):
        if labels[i] != original[i]:
            flipped += 1
            fitted += int(max(range(3), key=lambda c: outputs[i, c]) == labels[i])
    metric = flips(outputs, labels, original)
    assert (int(metric.fitted), int(metric.flipped)) == (fitted, flipped)
    assert_close(float(metric.compute()), fitted / flipped, rtol=1e-6, atol=0)


@pytest.mark.parametrize("K", [1, 4])
def test_a_network_that_outputs_the_labels_fits_all_flips_and_one_that_outputs_the_original_labels_none(K):
    original = torch.randint(max(K, 2), (40,))
    labels = (original + 1) % max(K, 2)
    coded = torch.nn.functional.one_hot(labels, K).double() if K > 1 else 2.0 * labels - 1
    clean = torch.nn.functional.one_hot(original, K).double() if K > 1 else 2.0 * original - 1
    assert flips(coded, labels, original).compute() == 1
    assert flips(clean, labels, original).compute() == 0


def test_a_wrong_prediction_that_is_not_the_flipped_label_is_not_fitted():
    assert flips(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([1]), torch.tensor([0])).compute() == 0


@pytest.mark.parametrize("output", [[1.0, 1.0], [float("nan"), 0.0]])
def test_ties_and_nan_fit_nothing(output):
    metric = flips(torch.tensor([output]), torch.tensor([1]), torch.tensor([0]))
    assert (int(metric.fitted), int(metric.flipped)) == (0, 1)


@pytest.mark.parametrize("n", [0, 5])
def test_without_flips_the_fraction_is_zero(n):
    labels = torch.zeros(n, dtype=torch.long)
    assert flips(torch.randn(n, 3), labels, labels).compute() == 0


def test_fraction_does_not_depend_on_order_or_on_samples_without_a_flip():
    outputs, labels, original = torch.randn(60, 3), torch.randint(3, (60,)), torch.randint(3, (60,))
    fraction, flipped = flips(outputs, labels, original).compute(), (labels != original).nonzero().flatten().flip(0)
    assert flips(outputs[flipped], labels[flipped], original[flipped]).compute() == fraction


def test_labels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"of the same shape, but got \(2,\) and \(1,\)"):
        FittedFlips().update(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="sample 1 has label 3"):
        FittedFlips().update(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0, 3]))
