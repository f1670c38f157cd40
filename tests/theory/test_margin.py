"""Margins by their definition, as a test of correctness, and under every change that must not matter."""

import numpy as np
import pytest
import torch

from lightning_bounds.theory.labels import label_matrix
from lightning_bounds.theory.margin import QUANTILES, check_quantiles, margin_statistics, output_margins


def margins_by_loop(outputs, classes):
    rows = zip(outputs.tolist(), classes.tolist(), strict=True)
    return torch.tensor([row[c] - max(f for k, f in enumerate(row) if k != c) for row, c in rows])


@pytest.fixture(params=[2, 3, 10])
def outputs(request):
    return torch.randn(12, request.param)


@pytest.fixture
def classes(outputs):
    return torch.randint(outputs.shape[1], (12,))


def test_margin_is_the_lead_over_the_best_other_class(outputs, classes):
    assert torch.equal(output_margins(outputs, classes), margins_by_loop(outputs, classes))


def test_margin_of_a_single_output_is_its_product_with_the_label():
    outputs, signs = torch.randn(6), torch.tensor([1, -1, 1, -1, -1, 1])
    assert torch.equal(output_margins(outputs, signs), outputs * signs)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("coding", [lambda c: c, lambda c: 2 * c - 1, lambda c: c.bool(), lambda c: 2.0 * c - 1])
def test_a_single_output_takes_every_coding_of_two_classes(shape, coding):
    outputs, classes = torch.randn(5), torch.tensor([0, 1, 1, 0, 1])
    expected = outputs * torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0])
    assert torch.equal(output_margins(outputs.reshape(shape), coding(classes).reshape(shape)), expected)


def test_coded_rows_give_the_margins_of_their_classes(outputs, classes):
    expected = output_margins(outputs, classes)
    assert torch.equal(output_margins(outputs, label_matrix(classes, outputs.shape[1])), expected)


def test_margin_is_positive_exactly_where_the_class_is_right(outputs, classes):
    assert torch.equal(output_margins(outputs, classes) > 0, outputs.argmax(dim=1) == classes)


def test_a_tie_with_another_class_is_a_margin_of_zero():
    assert output_margins(torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([0])).tolist() == [0.0]


def test_two_outputs_have_the_margin_of_their_difference_as_a_single_output():
    outputs, classes = torch.randn(6, 2), torch.randint(2, (6,))
    single = output_margins(outputs[:, 1] - outputs[:, 0], classes)
    torch.testing.assert_close(output_margins(outputs, classes), single)


def test_margins_do_not_change_with_a_shift_of_all_outputs_of_a_sample(outputs, classes):
    shifted = outputs + torch.randn(12, 1)
    torch.testing.assert_close(output_margins(shifted, classes), output_margins(outputs, classes))


@pytest.mark.parametrize("factor", [1e-3, 8.0])
def test_margins_scale_with_the_outputs(outputs, classes, factor):
    torch.testing.assert_close(output_margins(factor * outputs, classes), factor * output_margins(outputs, classes))


def test_margins_do_not_change_when_classes_are_renamed(outputs, classes):
    order = torch.randperm(outputs.shape[1])
    renamed = order.argsort()[classes]
    assert torch.equal(output_margins(outputs[:, order], renamed), output_margins(outputs, classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_margins_have_the_type_of_the_outputs(outputs, classes, dtype):
    assert output_margins(outputs.to(dtype), classes).dtype == dtype


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.ones(3, 2), torch.ones(4).long(), r"outputs \(n, K\) and targets of the same n, .*\(3, 2\) and \(4,\)"),
        (torch.ones(3, 2, 2), torch.ones(3).long(), r"but got \(3, 2, 2\)"),
        (torch.ones(3, 2), torch.tensor(1), r"and \(\)"),
        (torch.ones(2, 2), torch.tensor([0, 2]), "sample 1 has label 2"),
        (torch.ones(2), torch.tensor([0.0, 1.0]), r"labels -1 and \+1"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        output_margins(outputs, targets)


# Statistics.


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("quantiles", [QUANTILES, (0.5,), (1.0, 0.0), (0.025, 1 / 3)])
def test_statistics_equal_those_of_torch_and_numpy(n, quantiles):
    margins = torch.randn(n)
    statistics = margin_statistics(margins, quantiles)
    values = torch.stack(list(statistics.values())[1:])
    torch.testing.assert_close(values, torch.quantile(margins, torch.tensor(quantiles)))
    torch.testing.assert_close(values, torch.from_numpy(np.quantile(margins.numpy(), quantiles)))
    assert float(statistics["mean"]) == pytest.approx(float(np.mean(margins.numpy())))


def test_quantiles_of_equally_spaced_margins_are_read_off():
    statistics = margin_statistics(torch.linspace(-1, 1, 21)[torch.randperm(21)])
    expected = [0, -1, -0.9, -0.5, 0, 0.5, 0.9, 1]
    assert [float(value) for value in statistics.values()] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("quantile", "name"),
    [
        (0, "minimum"),
        (0.0, "minimum"),
        (1, "maximum"),
        (0.05, "quantile_05"),
        (0.1, "quantile_10"),
        (0.5, "quantile_50"),
        (0.29, "quantile_29"),
        (0.025, "quantile_02_5"),
        (0.001, "quantile_00_1"),
        (0.999, "quantile_99_9"),
    ],
)
def test_quantiles_are_named_by_percent(quantile, name):
    assert list(margin_statistics(torch.ones(3), [quantile])) == ["mean", name]


def test_statistics_do_not_depend_on_order_and_shift_and_scale_with_the_margins():
    margins = torch.randn(30)
    statistics = margin_statistics(margins)
    changed = margin_statistics(3 * margins[torch.randperm(30)] - 2)
    torch.testing.assert_close(changed, {name: 3 * value - 2 for name, value in statistics.items()})


@pytest.mark.slow
def test_quantiles_of_more_margins_than_torch_takes():
    margins = torch.arange(2**24 + 1, dtype=torch.float32)
    assert float(margin_statistics(margins, [0.5])["quantile_50"]) == 2**23


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        (torch.ones(0), "at least one sample, but got none"),
        (torch.tensor([1.0, float("nan")]), "finite margins, but 1 of 2 are NaN or infinite"),
        (torch.tensor([float("inf"), float("-inf"), 0.0]), "2 of 3 are NaN or infinite"),
    ],
)
def test_statistics_of_no_numbers_are_refused(margins, message):
    with pytest.raises(ValueError, match=message):
        margin_statistics(margins)


@pytest.mark.parametrize("quantiles", [(), (0.5, 0.5), (-0.1,), (1.1,), (float("nan"),), (0, 0.0)])
@pytest.mark.parametrize("function", [check_quantiles, lambda quantiles: margin_statistics(torch.ones(2), quantiles)])
def test_quantiles_other_than_different_numbers_from_0_to_1_are_refused(quantiles, function):
    with pytest.raises(ValueError, match=r"`quantiles` to be different numbers in \[0, 1\], but got \("):
        function(quantiles)
