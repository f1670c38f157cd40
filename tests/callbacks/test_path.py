"""Lengths of paths against naive sums in float64, whatever the weights' sizes and types."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from lightning_bounds import TrajectoryMonitor
from lightning_bounds.callbacks.trajectory.path import Path, Weights, distance, norm

SHAPES = {"kernel": (3, 2, 5), "bias": (3,), "scale": (), "table": (1100, 1000), "last": (2, 7)}


def travel(shapes, dtypes, steps=5, seed=0):
    """The weights of each step: a random walk of steps of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    weights = {n: torch.randn(s, generator=generator).to(d) for (n, s), d in zip(shapes.items(), dtypes, strict=True)}
    yield weights
    for step in range(steps):
        moves = {n: torch.randn(w.shape, generator=generator) * 10.0**-step for n, w in weights.items()}
        weights = {n: w + moves[n].to(w) for n, w in weights.items()}
        yield weights


def naive(first, second):
    parts = [(first[n].double() - second[n].double()).flatten() for n in first]
    return float(torch.cat(parts).norm())


@pytest.mark.parametrize(
    "dtypes",
    [
        [torch.float32] * 5,
        [torch.float64] * 5,
        [torch.float16] * 5,
        [torch.bfloat16] * 5,
        [torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float16],
    ],
    ids=["float32", "float64", "float16", "bfloat16", "mixed"],
)
def test_a_path_is_as_long_as_its_steps(dtypes):
    places = list(travel(SHAPES, dtypes))
    path = Path(places[0], length=2.0)
    for weights in places[1:]:
        path.walk(weights)
    expected = 2.0 + sum(naive(b, a) for a, b in itertools.pairwise(places))
    assert float(path.length) == pytest.approx(expected, rel=1e-6 if torch.float32 in dtypes else 1e-5)
    assert path.length.dtype == torch.float64
    assert list(path.last()) == list(SHAPES)
    for name, weight in path.last().items():
        assert torch.equal(weight, places[-1][name])
        assert weight.dtype == places[-1][name].dtype


def test_a_large_weight_is_not_copied_beside_small_ones():
    weights = {"first": torch.zeros(3), "large": torch.zeros(2**21), "second": torch.zeros(4)}
    path = Path(weights)
    assert path._gathered == [["first", "second"], ["large"]]
    assert list(path.last()) == list(weights)


def test_short_steps_of_float64_weights_keep_their_digits():
    first = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    path = Path(first)
    path.walk({"a": first["a"] + 2.0**-45, "b": first["b"]})
    assert float(path.length) == pytest.approx(2.0**-45 * math.sqrt(2), rel=1e-12)


def test_the_weights_of_a_training_may_be_overwritten_after_a_step():
    weights = {"large": torch.zeros(2**20), "small": torch.zeros(2), "other": torch.zeros(3)}
    path = Path(weights)
    for _ in range(3):
        for weight in weights.values():
            weight += 1
        path.walk(weights)
    assert float(path.length) == pytest.approx(3 * math.sqrt(2**20 + 5), rel=1e-12)


def test_the_weights_of_a_small_training_may_be_overwritten_too():
    weights = {"one": torch.zeros(3)}
    path = Path(weights)
    for _ in range(500):
        weights["one"] += 1
        path.walk(weights)
        weights["one"] *= 1.0
    assert float(path.length) == pytest.approx(500 * math.sqrt(3), rel=1e-12)
    assert torch.equal(path.last()["one"], weights["one"])


def test_a_path_with_a_lost_step_has_no_length():
    path = Path({"a": torch.zeros(1)})
    path.walk({"a": torch.ones(1)})
    path.lose()
    path.walk({"a": torch.zeros(1)})
    assert math.isnan(float(path.length))


def test_weights_that_are_gone_are_left_out_from_then_on():
    path = Path({"a": torch.zeros(1), "b": torch.zeros(1)})
    path.walk({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    path.walk({"a": torch.tensor([5.0])})
    assert float(path.length) == 5.0 + 2.0
    assert list(path.last()) == ["a"]
    empty = Path({})
    empty.walk({})
    assert float(empty.length) == 0.0


def test_weights_are_found_by_their_names_also_after_they_were_replaced():
    module = nn.Sequential(nn.Linear(2, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 1))
    module[2].weight = module[0].bias  # shared: named once, as by named_parameters
    weights = Weights(module)
    assert list(weights.now()) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        assert weights.now()[name].data_ptr() == parameter.data_ptr()
        assert not weights.now()[name].requires_grad
    module[0].weight = nn.Parameter(torch.full((3, 2), 7.0))
    assert torch.equal(weights.now()["0.weight"], torch.full((3, 2), 7.0))
    del module[2].bias
    assert "2.bias" not in weights.now()
    assert list(Weights(module, ["0.weight", "missing"]).now()) == ["0.weight"]


def test_the_wrapper_of_a_compiled_module_is_not_in_the_names():
    module = nn.Module()
    module.add_module("network", nn.Module())
    module.network.add_module("_orig_mod", nn.Linear(1, 1))
    assert list(Weights(module).now()) == ["network.weight", "network.bias"]


def test_distance_and_norm_in_half_precision():
    first, second = {"w": torch.tensor([1000.0, 2.0]).half()}, {"w": torch.tensor([999.5, -1.0]).half()}
    assert distance(first, second) == math.hypot(0.5, 3.0)
    assert norm([]) == 0.0


def test_a_copy_of_the_callback_leaves_the_network_behind():
    callback = TrajectoryMonitor()
    callback._weights = Weights(nn.Linear(2, 1))
    assert copy.deepcopy(callback)._weights is None
