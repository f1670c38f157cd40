"""Callbacks with equal probes share one snapshot per step; nothing large outlives its step."""

import gc
import weakref
from contextlib import nullcontext
from types import FunctionType, ModuleType

import pytest
import torch
from small_training import CALLBACKS, SMALL, Module, every_callback, fit, loader, measured_steps, mlp, series
from torch import nn
from torch.utils.data import Dataset

from lightning_bounds import (
    JacobianOperator,
    JacobianSpectrum,
    MarginMonitor,
    Probe,
    ResidualProjection,
    Schedule,
    Snapshot,
)
from lightning_bounds.lightning import pl

STEPS = Schedule(every_n_steps=2)


@pytest.fixture
def grams(monkeypatch):
    """A list that grows with every Gram matrix that is computed; the computation itself stays what it is."""
    counted = []
    gram = JacobianOperator.gram

    def counting(operator, *arguments, **options):
        counted.append(operator)
        return gram(operator, *arguments, **options)

    monkeypatch.setattr(JacobianOperator, "gram", counting)
    return counted


class Counting(Module):
    """Counts the samples that pass through its network outside of training and validation steps."""

    def __init__(self):
        super().__init__()
        self.probed, self.stepping = 0, False

    def forward(self, inputs):
        self.probed += 0 if self.stepping else len(inputs)
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        self.stepping = True
        loss = super().training_step(batch, batch_idx)
        self.stepping = False
        return loss

    def validation_step(self, batch, batch_idx):
        self.stepping = True
        super().validation_step(batch, batch_idx)
        self.stepping = False


def spectrum(**options):
    return JacobianSpectrum(**{"probe": SMALL, "schedule": STEPS, **options})


def projection(**options):
    options = {"probe": SMALL, "splits": ["train"], "schedule": STEPS, "bases": ["initial", "current"], **options}
    return ResidualProjection(rank=2, **options)


def grams_of(grams, callbacks, **options):
    grams.clear()
    fit(callbacks, **options)
    return len(grams)


@pytest.mark.parametrize("moments", [{"every_n_steps": 2}, {"every_n_epochs": 1}, {"every_n_epochs": 5}], ids=str)
def test_equal_probes_cost_one_gram_matrix_per_step(grams, moments):
    schedule = Schedule(**moments)
    alone = grams_of(grams, [spectrum(schedule=schedule)])
    assert alone == len(measured_steps(spectrum_of_last(grams, schedule)))
    together = [spectrum(schedule=schedule), spectrum(schedule=schedule, name="b"), projection(schedule=schedule)]
    assert grams_of(grams, together) == alone


def spectrum_of_last(grams, schedule):
    callback = spectrum(schedule=schedule)
    grams_of(grams, [callback])
    return callback


def test_equal_probes_cost_one_set_of_forward_passes_per_step():
    alone, together = Counting(), Counting()
    fit([spectrum()], alone)
    fit([spectrum(), spectrum(name="b"), spectrum(name="c")], together)
    assert together.probed == alone.probed > 0


def test_a_callback_that_looks_at_outputs_alone_costs_no_gram_matrix(grams):
    assert grams_of(grams, [MarginMonitor(probe=SMALL, schedule=STEPS)]) == 0


def test_the_final_basis_shares_the_gram_matrix_of_the_last_epochs_end(grams):
    schedule = Schedule(every_n_epochs=1)
    alone = grams_of(grams, [spectrum(schedule=schedule)])
    callbacks = [spectrum(schedule=schedule), projection(schedule=schedule, bases=["final"])]
    assert grams_of(grams, callbacks) == alone
    assert measured_steps(callbacks[1]) == [0, 3, 6, 6]


@pytest.mark.parametrize("first", ["spectrum", "projection"])
def test_at_the_end_all_callbacks_share_whichever_measures_first(grams, first):
    schedule = Schedule(every_n_epochs=5)
    pair = [spectrum(schedule=schedule), projection(schedule=schedule, bases=["final"])]
    # Once before training for the spectrum alone, once at the end for both.
    assert grams_of(grams, pair if first == "spectrum" else pair[::-1]) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"probe": Probe(num_samples=5, seed=1)},
        {"probe": Probe(num_samples=4)},
        {"probe": Probe(num_samples=5, layers=["network.0"])},
        {"probe": Probe(num_samples=5, mode="train")},
        {"probe": Probe(num_samples=5, dtype="float32")},
        {"splits": ["val"]},
        {"output_fn": torch.sin},
    ],
    ids=str,
)
def test_different_probes_are_not_mixed_up(grams, other):
    alone = spectrum(name="b", **other)
    expected_grams = grams_of(grams, [alone]) + grams_of(grams, [spectrum()])
    beside = spectrum(name="b", **other)
    assert grams_of(grams, [spectrum(), beside]) == expected_grams
    key = f"b/{other.get('splits', ['train'])[0]}/sigma_max"
    assert series(beside, key) == series(alone, key)


def test_probes_of_equal_value_are_one_probe(grams):
    expected = grams_of(grams, [spectrum()])
    assert grams_of(grams, [spectrum(probe=Probe(num_samples=5)), spectrum(probe=Probe(5), name="b")]) == expected


class Watch(pl.Callback):
    """Weak references to the snapshots that are held after each batch, and which of them live at the next start."""

    def __init__(self, watched):
        self.watched, self.seen, self.alive = watched, [], []

    def on_train_batch_start(self, *_):
        self.alive.append(sum(reference() is not None for reference in self.seen))

    def on_train_batch_end(self, *_):
        self.seen += [weakref.ref(snapshot) for snapshot in self.watched._shared._snapshots.values()]


@pytest.mark.parametrize("name", ["jacobian_spectrum", "residual_projection", "margins"])
def test_snapshots_are_freed_when_the_next_batch_starts(name):
    callback = CALLBACKS[name](schedule=Schedule(every_n_steps=1))
    watch = Watch(callback)
    gc.collect()
    gc.disable()  # Reference counts alone must do it.
    try:
        fit([callback, watch], max_epochs=1)
    finally:
        gc.enable()
    assert len(watch.seen) >= 3
    assert watch.alive == [0, 0, 0]


class FailsAt(Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, *_):
        if self.trainer.global_step == self.step:
            raise RuntimeError("the user's own")


def held_by(thing):
    """Everything that can be reached from an object, without what belongs to classes and functions."""
    found, left = {}, [thing]
    while left:
        one = left.pop()
        if id(one) not in found and not isinstance(one, type | FunctionType | ModuleType):
            found[id(one)] = one
            left += gc.get_referents(one)
    return list(found.values())


@pytest.mark.parametrize("step", [None, 3], ids=["ended", "broken_off"])
def test_after_training_no_callback_holds_network_or_samples(step):
    callbacks, module, train = every_callback(), FailsAt(step), loader()
    with nullcontext() if step is None else pytest.raises(RuntimeError, match="the user's own"):
        fit(callbacks, module, train)
    # Without `log` and `log_dict`, which Lightning hangs on every callback.
    held = held_by([callback.__getstate__() for callback in callbacks])
    assert [thing for thing in held if isinstance(thing, nn.Module | Dataset | Snapshot)] == []
    samples = train.dataset.tensors[0]
    assert [t for t in held if isinstance(t, torch.Tensor) and t.shape[1:] == samples.shape[1:] and len(t) == 5] == []


class SwapAtEnd(pl.Callback):
    """Puts other weights in the place of the trained ones, as weight averaging does, each in its own way."""

    def __init__(self, way):
        self.way = way

    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                if self.way == "in_place":
                    parameter.copy_(torch.full_like(parameter, 0.25))
                elif self.way == "data":
                    parameter.data.copy_(torch.full_like(parameter, 0.25))
                elif self.way == "new_data":
                    parameter.data = torch.full_like(parameter, 0.25)
            if self.way == "buffer":
                pl_module.network[1].running_var.data.fill_(9.0)


def batch_normalized():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("way", ["in_place", "data", "new_data", "buffer"])
def test_weights_that_are_swapped_between_two_hooks_of_a_step_are_seen_anew(way):
    before = spectrum(schedule=Schedule(every_n_steps=6))
    after = spectrum(schedule=Schedule(at_init=False), name="after")
    module = Module(batch_normalized())
    # `before` has measured the last step in `on_train_batch_end`; `after` measures it when the weights are swapped.
    fit([before, SwapAtEnd(way), after], module)
    fresh = spectrum(schedule=Schedule(at_end=False), name="fresh")
    fit([fresh], module, max_steps=1, max_epochs=-1)
    expected = series(fresh, "fresh/train/sigma_max")[0]
    assert series(after, "after/train/sigma_max") == {6: expected}
    assert series(before, "jacobian_spectrum/train/sigma_max")[6] != expected


def test_a_residual_of_swapped_weights_takes_the_place_of_the_one_before():
    callback = projection(bases=["final"], schedule=Schedule(every_n_epochs=1))
    module = Module()
    fit([SwapAtEnd("data"), callback], module)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(12, generator=generator)[:5].sort().values
        inputs, targets = loader().dataset[chosen]
        final = (module(inputs) - nn.functional.one_hot(targets, 2)).flatten()
    torch.testing.assert_close(callback.records["train"].residuals[-1], final)
    assert callback.records["train"].steps == [0, 3, 6]


def test_batch_statistics_are_shared_too(grams):
    probe = Probe(num_samples=5, mode="train")
    alone = grams_of(grams, [spectrum(probe=probe)], module=Module(batch_normalized()))
    pair = [spectrum(probe=probe), spectrum(probe=probe, name="b")]
    assert grams_of(grams, pair, module=Module(batch_normalized())) == alone


class Tensors(pl.Callback):
    """How many tensors there are, and how many of them hang on a graph, at the start of chosen steps."""

    def __init__(self, *steps):
        self.steps, self.counts, self.graphs = steps, [], []

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step in self.steps:
            gc.collect()
            tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
            self.counts.append(len(tensors))
            self.graphs.append(sum(tensor.grad_fn is not None for tensor in tensors))


def test_many_measurements_leave_no_tensors_and_no_graphs_behind():
    each = Schedule(every_n_steps=1)
    callbacks = [
        *(spectrum(schedule=each), projection(schedule=each)),
        *(CALLBACKS["margins"](schedule=each), CALLBACKS["trajectory"](schedule=each)),
    ]
    tensors = Tensors(7, 37)
    fit([*callbacks, tensors], Module(mlp(width=2)), val=False, max_epochs=13)
    # What stays of each of 30 steps: singular values, residual, and margins twice, as they are and normalized.
    assert tensors.counts[1] - tensors.counts[0] == 30 * 4
    assert tensors.graphs == [0, 0]
