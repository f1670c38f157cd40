"""A probe picks the same samples every time, and picking them disturbs neither random streams nor data sets."""

import copy
import dataclasses
import random
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from lightning_bounds import Probe
from lightning_bounds.probe import inputs_and_targets


def streams():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
    )


def table(size=10):
    return TensorDataset(torch.arange(size * 2.0).reshape(size, 2), torch.arange(size))


class Indexed(Dataset):
    """Sample ``i`` is ``i`` and what ``draw`` gives."""

    def __init__(self, draw=lambda: 0.0, **state):
        self.draw = draw
        self.__dict__.update(state)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return float(index), float(self.draw())


class OwnStream(Indexed):
    """Augments by a random stream of its own."""

    def __init__(self, generator, **state):
        super().__init__(**state)
        self.generator = generator

    def __getitem__(self, index):
        noise = torch.rand((), generator=self.generator) if isinstance(self.generator, torch.Generator) else None
        return float(index), float(self.generator.random() if noise is None else noise)


class Stream(IterableDataset):
    def __init__(self, iterator):
        self.iterator = iterator

    def __iter__(self):
        return self.iterator


OWN_GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "numpy": lambda: np.random.default_rng(3),
    "python": lambda: random.Random(3),
}
WRAPPED = {
    "bare": lambda dataset: dataset,
    "subset": lambda dataset: Subset(dataset, list(range(15))),
    "concatenated": lambda dataset: ConcatDataset([dataset, Indexed()]),
    "subset_of_concatenated": lambda dataset: Subset(ConcatDataset([dataset]), list(range(15))),
}


def test_equal_probes_are_equal_and_hash_alike_whatever_sequence_names_the_layers():
    from_list, from_tuple = Probe(layers=["a", "b"]), Probe(layers=("a", "b"))
    assert from_list == from_tuple
    assert hash(from_list) == hash(from_tuple)
    assert from_list.layers == ("a", "b")


@pytest.mark.parametrize(
    "other", [{"num_samples": 2}, {"seed": 1}, {"mode": "train"}, {"layers": ()}, {"split": "val"}]
)
def test_probes_that_look_differently_differ(other):
    assert Probe() != Probe(**other)


def test_a_probe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Probe().seed = 3


@pytest.mark.parametrize("name", ["num_samples", "seed"])
@pytest.mark.parametrize("value", [1.0, "3", None, True])
def test_numbers_that_are_not_integers_are_refused(name, value):
    with pytest.raises(TypeError) as caught:
        Probe(**{name: value})
    assert str(caught.value) == f"Expected `{name}` to be an integer, but got {value!r}."


@pytest.mark.parametrize(("name", "value", "least"), [("num_samples", 0, 1), ("num_samples", -1, 1), ("seed", -1, 0)])
def test_numbers_that_are_too_small_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f"Expected `{name}` of {least} or more, but got {value}"):
        Probe(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("split", "test", ("train", "val")),
        ("mode", "training", ("eval", "train")),
        ("dtype", "bfloat16", ("float64", "float32")),
        ("dtype", torch.float32, ("float64", "float32")),
    ],
)
def test_choices_that_do_not_exist_are_refused(name, value, allowed):
    with pytest.raises(ValueError, match=f"Expected `{name}`") as caught:
        Probe(**{name: value})
    assert str(caught.value) == f"Expected `{name}` to be one of {allowed}, but got {value!r}."


def test_one_string_of_layers_is_refused():
    with pytest.raises(ValueError, match="`layers` to be a sequence of patterns, but got the string 'hidden'"):
        Probe(layers="hidden")


@pytest.mark.parametrize(
    ("budget", "size"),
    [
        (1, 1),
        (2048, 2048),
        ("2048", 2048),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        (" 1.5KiB ", 1536),
        ("512MiB", 512 * 2**20),
        ("3mb", 3 * 10**6),
        ("1GiB", 2**30),
        ("7B", 7),
    ],
)
def test_memory_is_read_in_decimal_and_binary_units(budget, size):
    assert Probe(memory_budget=budget).memory_bytes == size


@pytest.mark.parametrize("budget", [0, -1, "0GB", "GB", "", "2TBB", "two", "1e9", "-3MB", None, True, "1.MB", "0.5B"])
def test_memory_that_is_no_size_is_refused(budget):
    with pytest.raises(ValueError, match="Expected `memory_budget`") as caught:
        Probe(memory_budget=budget)
    assert str(caught.value).endswith(f"in bytes or like '2GB' or '512MiB', but got {budget!r}.")


@pytest.mark.parametrize(("name", "dtype"), [("float64", torch.float64), ("float32", torch.float32)])
def test_precision_by_name(name, dtype):
    assert Probe(dtype=name).torch_dtype == dtype


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_indices_depend_on_the_seed_and_not_on_the_global_stream(seed):
    probe = Probe(num_samples=20, seed=seed)
    first = probe.indices(1000)
    torch.manual_seed(12345)
    before = streams()
    assert probe.indices(1000) == first
    assert streams() == before


def test_indices_are_ascending_different_and_in_range():
    indices = Probe(num_samples=50).indices(60)
    assert indices == sorted(set(indices))
    assert len(indices) == 50
    assert set(indices) <= set(range(60))


def test_another_seed_chooses_other_samples():
    assert Probe(num_samples=20, seed=0).indices(1000) != Probe(num_samples=20, seed=1).indices(1000)


@pytest.mark.parametrize("size", [1, 3, 256])
def test_a_data_set_that_is_not_larger_is_used_whole(size):
    assert Probe(num_samples=256).indices(size) == list(range(size))


def test_fewer_samples_are_among_more_of_the_same_seed():
    assert set(Probe(num_samples=5).indices(100)) <= set(Probe(num_samples=20).indices(100))


def test_batch_of_a_tensor_data_set_holds_the_rows_of_the_indices():
    data, probe = table(), Probe(num_samples=4)
    inputs, targets = probe.batch(data, default_collate)
    assert targets.tolist() == probe.indices(10)
    assert torch.equal(inputs, data.tensors[0][targets])


def test_batch_of_a_subset_takes_its_rows():
    subset, probe = Subset(table(), [7, 1, 5, 2]), Probe(num_samples=3)
    assert probe.batch(subset, default_collate)[1].tolist() == [[7, 1, 5, 2][index] for index in probe.indices(4)]


def test_batch_does_not_share_memory_with_the_data():
    data = table()
    Probe().batch(data, default_collate)[0].zero_()
    assert torch.equal(data.tensors[0], table().tensors[0])


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, lambda: torch.rand(()), lambda: torch.randn(3).sum(), lambda: random.gauss(0, 1)],
    ids=["python", "numpy", "torch", "torch_normal", "python_normal"],
)
def test_random_augmentation_is_the_same_every_time_and_leaves_the_global_streams(draw):
    data, probe = Indexed(draw), Probe(num_samples=5)
    first = probe.batch(data, default_collate)
    torch.rand(3), random.random(), np.random.rand()
    before = streams()
    second = probe.batch(data, default_collate)
    assert streams() == before
    assert torch.equal(first[1], second[1])
    assert len(set(first[1].tolist())) == 5


def test_random_augmentation_depends_on_the_seed_of_the_probe():
    data = Indexed(lambda: torch.rand(()))
    first, second = (Probe(num_samples=20, seed=seed).batch(data, default_collate)[1] for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
def test_seeds_beyond_those_of_numpy_are_taken(seed):
    assert len(Probe(num_samples=3, seed=seed).batch(table(), default_collate)[1]) == 3


@pytest.mark.parametrize("own", OWN_GENERATORS.values(), ids=OWN_GENERATORS)
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("state", [{}, {"lock": threading.Lock()}], ids=["copyable", "with_a_lock"])
def test_a_stream_that_the_data_set_keeps_is_not_advanced(own, wrap, state):
    data = wrap(OwnStream(own(), **state))
    first, second = (Probe(num_samples=12).batch(data, default_collate)[1] for _ in range(2))
    assert torch.equal(first, second)


def test_a_data_set_with_a_lock_still_has_its_lock_and_its_generator():
    lock, generator = threading.Lock(), np.random.default_rng(0)
    data = OwnStream(generator, lock=lock)
    Probe().batch(data, default_collate)
    assert data.lock is lock
    assert data.generator is generator


def test_no_seed_is_left_for_a_device_that_is_not_in_use_yet(monkeypatch):
    # torch.manual_seed would queue it for CUDA's first use, in the place of the seed that the user had chosen.
    queued = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", queued.append)
    Probe(seed=3).batch(Indexed(), default_collate)
    assert queued == []


def test_the_streams_are_restored_when_the_data_set_fails():
    def fail():
        random.random(), np.random.rand(), torch.rand(1)
        raise KeyError("deliberate")

    before = streams()
    with pytest.raises(KeyError, match="deliberate"):
        Probe().batch(Indexed(fail), default_collate)
    assert streams() == before


@pytest.mark.parametrize("num_samples", [3, 100])
def test_first_samples_of_an_iterable_are_taken_and_not_used_up(num_samples):
    data, probe = Stream(iter([float(k) for k in range(8)])), Probe(num_samples=num_samples)
    expected = [float(k) for k in range(min(num_samples, 8))]
    assert probe.batch(data, default_collate).tolist() == expected
    assert probe.batch(data, default_collate).tolist() == expected
    assert list(data) == [float(k) for k in range(8)]


def test_an_iterable_that_cannot_be_copied_is_refused_and_not_used_up():
    data = Stream(k for k in range(3))
    with pytest.raises(
        TypeError, match=r"iterable data set that can be copied.*but got Stream; use a data set with `_"
    ):
        Probe().batch(data, default_collate)
    assert list(data) == [0, 1, 2]


def test_an_error_of_the_iterable_itself_is_passed_on():
    class Broken(IterableDataset):
        def __iter__(self):
            raise TypeError("deliberate")

    with pytest.raises(TypeError, match="deliberate"):
        Probe().batch(Broken(), default_collate)


@pytest.mark.parametrize("data", [table(0), Subset(table(), []), Stream(iter([]))], ids=["table", "subset", "iterable"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_data_set_is_refused(data, split):
    with pytest.raises(ValueError, match=f"Expected {split} data to look at, but the data set is empty"):
        Probe(split=split).batch(copy.copy(data), default_collate)


def test_the_collate_function_gets_the_list_of_samples():
    samples = Probe(num_samples=3).batch(table(), lambda samples: samples)
    assert isinstance(samples, list)
    assert [int(target) for _, target in samples] == Probe(num_samples=3).indices(10)


def test_a_random_collate_function_leaves_the_global_streams():
    before = streams()
    first, second = (
        Probe(num_samples=2).batch(table(), lambda samples: (torch.rand(2), random.random(), np.random.rand()))
        for _ in range(2)
    )
    assert streams() == before
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]


class Batch(list):
    """A sequence of its own type."""


X, Y = torch.ones(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        ((X, Y), X),
        ([X, Y], X),
        (Batch([X, Y]), X),
        ((X, Y, torch.zeros(2)), X),
        ((X, Y, "weights"), X),
        (([X, X], Y), [X, X]),
        (({"x": X}, Y), {"x": X}),
        ({"tokens": X, "mask": X, "labels": Y}, {"tokens": X, "mask": X}),
    ],
)
def test_inputs_and_targets_of_the_usual_batches(batch, inputs):
    found, targets = inputs_and_targets(batch)
    assert targets is Y
    torch.testing.assert_close(found, inputs, rtol=0, atol=0)


def test_a_mapping_keeps_its_labels():
    batch = {"tokens": X, "labels": Y}
    inputs_and_targets(batch)
    assert list(batch) == ["tokens", "labels"]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (X, "Tensor"),
        ((X,), "tuple of ['Tensor']"),
        ([X, 3], "list of ['Tensor', 'int']"),
        ([X, [Y, Y]], "list of ['Tensor', 'list']"),
        ([], "list of []"),
        ({"tokens": X, "target": Y}, "{'tokens': 'Tensor', 'target': 'Tensor'}"),
        ({"tokens": X, "labels": [0, 1]}, "{'tokens': 'Tensor', 'labels': 'list'}"),
        (None, "NoneType"),
    ],
)
def test_other_batches_are_refused_with_what_was_found(batch, found):
    with pytest.raises(TypeError) as caught:
        inputs_and_targets(batch)
    message = str(caught.value)
    assert message.startswith("Expected a batch (inputs, targets) or a mapping with 'labels', but got ")
    assert f"but got {found}; pass `batch_fn`" in message
