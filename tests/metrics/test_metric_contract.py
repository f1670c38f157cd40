"""What every metric promises to a stream of batches, whatever it measures."""

import pickle
import warnings

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.metrics import FittedFlips, MarginDistribution, Misclassification

METRICS = [Misclassification, FittedFlips, MarginDistribution]


@pytest.fixture(params=METRICS, ids=lambda metric: metric.__name__)
def metric_class(request):
    return request.param


@pytest.fixture
def samples(metric_class):
    labels, original_labels = torch.randint(3, (23,)), torch.randint(3, (23,))
    return (torch.randn(23, 3), labels, original_labels)[: 3 if metric_class is FittedFlips else 2]


def updated(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return metric


@pytest.mark.parametrize("batch_size", [1, 5, 22])
def test_batches_of_any_size_give_the_value_of_all_samples_at_once(metric_class, samples, batch_size):
    batches = zip(*(part.split(batch_size) for part in samples), strict=True)
    assert_close(updated(metric_class(), *batches).compute(), updated(metric_class(), samples).compute())


def test_merged_states_of_two_parts_are_the_state_of_the_whole(metric_class, samples):
    metric = updated(metric_class(), [part[:7] for part in samples])
    metric.merge_state(updated(metric_class(), [part[7:] for part in samples]))
    assert_close(metric.compute(), updated(metric_class(), samples).compute())


def test_reset_forgets_everything(metric_class, samples):
    metric = updated(metric_class(), [part[:7] for part in samples])
    metric.compute()
    metric.reset()
    rest = [part[7:] for part in samples]
    assert_close(updated(metric, rest).compute(), updated(metric_class(), rest).compute())


def test_value_can_be_read_between_batches(metric_class, samples):
    metric = updated(metric_class(), [part[:7] for part in samples])
    metric.compute()
    assert_close(updated(metric, [part[7:] for part in samples]).compute(), updated(metric_class(), samples).compute())


def test_pickling_keeps_the_state(metric_class, samples):
    metric = updated(metric_class(), samples)
    assert_close(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_outputs_may_have_any_precision(metric_class, samples, dtype):
    outputs, *labels = samples
    rounded = outputs.to(dtype)
    value = updated(metric_class(), (rounded, *labels)).compute()
    assert_close(value, updated(metric_class(), (rounded.double(), *labels)).compute(), rtol=1e-6, atol=1e-6)


def test_outputs_may_require_a_gradient_and_nothing_of_the_graph_is_kept(metric_class, samples):
    outputs, *labels = samples
    metric = updated(metric_class(), (outputs.requires_grad_(), *labels))
    values = metric.compute()
    tensors = values.values() if isinstance(values, dict) else [values]
    assert not any(value.requires_grad for value in tensors)


def test_states_are_not_saved_with_the_module_that_holds_the_metric(metric_class, samples):
    assert updated(metric_class(), samples).state_dict() == {}


def test_metric_says_what_it_is(metric_class):
    assert (metric_class.full_state_update, metric_class.is_differentiable) == (False, False)
    assert metric_class.higher_is_better is (None if metric_class is MarginDistribution else False)


def test_updating_and_reading_warn_of_nothing(metric_class, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        updated(metric_class(), samples).compute()
