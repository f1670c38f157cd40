import math

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.models import cross_entropy, least_squares, logistic
from lightning_bounds.theory.labels import label_matrix

n, K = 7, 4


@pytest.fixture
def outputs():
    return torch.randn(n, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def classes():
    return torch.randint(K, (n,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def signs(classes):
    return 2 * (classes % 2) - 1


def test_least_squares_equals_its_definition_summed_in_a_loop(outputs, classes):
    by_hand = 0.0
    for i in range(n):
        for c in range(K):
            by_hand += 0.5 * (float(outputs[i, c]) - float(c == classes[i])) ** 2
    assert_close(float(least_squares(outputs, classes)), by_hand)


def test_cross_entropy_equals_its_definition_summed_in_a_loop(outputs, classes):
    by_hand = 0.0
    for i in range(n):
        normalization = sum(math.exp(float(outputs[i, c])) for c in range(K))
        by_hand -= math.log(math.exp(float(outputs[i, classes[i]])) / normalization)
    assert_close(float(cross_entropy(outputs, classes)), by_hand)


def test_logistic_equals_its_definition_summed_in_a_loop(outputs, signs):
    by_hand = sum(math.log(1 + math.exp(-float(signs[i]) * float(outputs[i, 0]))) for i in range(n))
    assert_close(float(logistic(outputs[:, 0], signs)), by_hand)


def test_gradient_of_least_squares_is_the_residual(outputs, classes):
    gradient = torch.func.grad(least_squares)(outputs, classes)
    assert_close(gradient, outputs - label_matrix(classes, K, torch.float64))


def test_gradient_of_cross_entropy_is_softmax_minus_labels(outputs, classes):
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(outputs, classes), outputs)
    assert_close(gradient, outputs.softmax(dim=1) - label_matrix(classes, K, torch.float64))


def test_gradient_of_logistic_is_minus_label_times_sigmoid_of_minus_margin(outputs, signs):
    single = outputs[:, 0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(logistic(single, signs), single)
    assert_close(gradient, -signs * torch.sigmoid(-signs * outputs[:, 0]))


def test_mean_of_least_squares_is_torch_mse_times_half_the_outputs(outputs, classes):
    mse = torch.nn.MSELoss()(outputs, label_matrix(classes, K, torch.float64))
    assert_close(least_squares(outputs, classes, reduction="mean"), mse * K / 2)


def test_mean_of_cross_entropy_is_torch_cross_entropy(outputs, classes):
    assert_close(cross_entropy(outputs, classes, reduction="mean"), torch.nn.CrossEntropyLoss()(outputs, classes))


def test_cross_entropy_of_probabilities_is_torch_cross_entropy(outputs, classes):
    probabilities = outputs.flip(0).softmax(dim=1)
    assert_close(
        cross_entropy(outputs, probabilities, reduction="mean"), torch.nn.CrossEntropyLoss()(outputs, probabilities)
    )


def test_cross_entropy_of_two_outputs_is_logistic_of_their_difference(outputs, signs):
    difference = outputs[:, 1] - outputs[:, 0]
    assert_close(cross_entropy(outputs[:, :2], (signs + 1) // 2), logistic(difference, signs))


@pytest.mark.parametrize("loss", [least_squares, cross_entropy])
def test_sum_is_the_number_of_samples_times_the_mean(loss, outputs, classes):
    assert_close(loss(outputs, classes), n * loss(outputs, classes, reduction="mean"))


@pytest.mark.parametrize("loss", [least_squares, cross_entropy])
def test_loss_does_not_depend_on_the_order_of_samples_and_classes(loss, outputs, classes):
    samples = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    relabeling = torch.randperm(K, generator=torch.Generator().manual_seed(3))
    assert_close(loss(outputs[samples], classes[samples]), loss(outputs, classes))
    assert_close(loss(outputs[:, relabeling], relabeling.argsort()[classes]), loss(outputs, classes))


@pytest.mark.parametrize("loss", [least_squares, logistic])
def test_a_single_output_may_be_a_vector_or_a_column_and_labels_signs_or_classes(loss, outputs, signs):
    expected = loss(outputs[:, 0], signs)
    assert_close(loss(outputs[:, :1], signs), expected)
    assert_close(loss(outputs[:, :1], (signs + 1) // 2), expected)
    assert_close(loss(outputs[:, 0], signs.double()), expected)


def test_least_squares_takes_real_targets(outputs):
    assert_close(least_squares(outputs, outputs + 2), torch.tensor(n * K * 2.0, dtype=torch.float64))


@pytest.mark.parametrize("loss", [cross_entropy, least_squares])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_summed_in_float32(loss, dtype, outputs, classes):
    half = outputs.to(dtype)
    assert_close(loss(half, classes), loss(half.float(), classes), rtol=0, atol=0)


@pytest.mark.parametrize("output", [1e4, -1e4])
def test_logistic_is_exact_for_large_margins(output):
    loss = logistic(torch.tensor([output], dtype=torch.float64), torch.tensor([1]))
    assert_close(float(loss), max(-output, 0.0))


def test_logistic_has_no_threshold():
    loss = logistic(torch.tensor([-25.0], dtype=torch.float64), torch.tensor([1]))
    assert float(loss) == 25 + math.exp(-25)


@pytest.mark.parametrize(
    ("loss", "shape", "targets", "message"),
    [
        (least_squares, (2, 3), [0, 1, 2], "targets of the same n"),
        (least_squares, (2, 3, 1), [0, 1], r"Expected outputs \(n, K\) or \(n,\)"),
        (least_squares, (0, 3), [], "at least one sample"),
        (least_squares, (2, 3), 1, "targets of the same n"),
        (least_squares, (2, 3), [0, 3], "sample 1 has label 3"),
        (cross_entropy, (2, 1), [0, 1], "use `logistic` for one output"),
        (cross_entropy, (2, 2), [[0.5, 0.5], [2.0, -1.0]], "rows of probabilities .* between -1 and 2"),
        (cross_entropy, (2, 2), [[0.5, 0.5], [0.5, 0.4]], "sums from 0.9 to 1"),
        (logistic, (2, 2), [0, 1], "got 2; use `cross_entropy` for several"),
        (logistic, (2, 1), [0.3, 1.0], r"Expected labels -1 and \+1"),
    ],
)
def test_outputs_and_targets_that_do_not_match_are_refused(loss, shape, targets, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(shape), torch.tensor(targets))


@pytest.mark.parametrize(("loss", "K"), [(least_squares, 2), (cross_entropy, 2), (logistic, 1)])
def test_an_unknown_reduction_is_refused_with_the_nearest(loss, K):
    with pytest.raises(ValueError, match="one of 'sum', 'mean', but got 'means'; did you mean 'mean'"):
        loss(torch.zeros(2, K), torch.tensor([0, 1]), reduction="means")
