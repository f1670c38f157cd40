import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.metrics import MarginDistribution
from lightning_bounds.theory.margin import output_margins


def distribution(outputs, targets, **arguments):
    metric = MarginDistribution(**arguments)
    metric.update(outputs, targets)
    return metric.compute()


@pytest.mark.parametrize("n", [1, 2, 20, 101])
@pytest.mark.parametrize("q", [0.0, 0.05, 0.25, 0.333, 0.5, 0.75, 0.95, 1.0])
def test_quantiles_are_those_of_torch(n, q):
    outputs, targets = torch.randn(n, 4), torch.randint(4, (n,))
    (_, quantile) = distribution(outputs, targets, quantiles=(q,)).values()
    assert_close(quantile, torch.quantile(output_margins(outputs, targets), q))


def test_mean_minimum_and_maximum_equal_a_loop():
    outputs, signs = torch.randn(30), 2 * torch.randint(2, (30,)) - 1
    margins = [float(f) * float(y) for f, y in zip(outputs, signs, strict=True)]
    values = distribution(outputs, signs)
    assert_close(float(values["mean"]), sum(margins) / 30)
    assert float(values["minimum"]) == min(margins)
    assert float(values["maximum"]) == max(margins)


def test_default_names_are_in_the_order_of_the_quantiles():
    names = ["minimum", "quantile_05", "quantile_25", "quantile_50", "quantile_75", "quantile_95", "maximum"]
    assert list(distribution(torch.randn(5), torch.ones(5))) == ["mean", *names]


@pytest.mark.parametrize(
    ("q", "name"),
    [(0.025, "quantile_02_5"), (0.999, "quantile_99_9"), (0.29, "quantile_29"), (1e-6, "quantile_00_0001")],
)
def test_name_of_a_quantile_is_its_percentage(q, name):
    assert list(distribution(torch.randn(5), torch.ones(5), quantiles=(q,))) == ["mean", name]


def test_margins_scale_with_the_outputs_and_do_not_depend_on_the_order():
    outputs, targets, order = torch.randn(50, 4), torch.randint(4, (50,)), torch.randperm(50)
    expected = {name: 3 * value for name, value in distribution(outputs, targets).items()}
    assert_close(distribution(3 * outputs[order] + 1, targets[order]), expected)


@pytest.mark.slow
def test_more_margins_than_torch_quantile_takes_are_no_problem():
    n = 2**24 + 1
    values = distribution(torch.arange(n, dtype=torch.float32), torch.ones(1, dtype=torch.long).expand(n))
    assert float(values["quantile_25"]) == (n - 1) / 4


def test_margins_of_bfloat16_outputs_are_not_rounded_again():
    outputs, targets = torch.randn(50, 4).bfloat16(), torch.randint(4, (50,))
    assert_close(distribution(outputs, targets), distribution(outputs.double(), targets), rtol=0, atol=0)


@pytest.mark.parametrize("quantiles", [(), (0.5, 0.5), (-0.1,), (1.5,), (float("nan"),)])
def test_quantiles_that_are_none_or_repeated_or_out_of_range_are_refused(quantiles):
    with pytest.raises(ValueError, match=r"Expected `quantiles` to be different numbers in \[0, 1\], but got"):
        MarginDistribution(quantiles)


@pytest.mark.parametrize("output", [float("nan"), float("inf")])
def test_margins_that_are_not_finite_are_refused(output):
    with pytest.raises(ValueError, match=r"but 2 of 3 are NaN or infinite; the outputs of the network have diverged"):
        distribution(torch.tensor([output, 1.0, output]), torch.ones(3))


def test_a_distribution_of_no_samples_is_refused():
    with pytest.raises(ValueError, match="Expected at least one sample, but got none"):
        distribution(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
