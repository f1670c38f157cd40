"""What is looked at: which samples, by which parameters, in which mode and precision."""

import contextlib
import copy
import itertools
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from lightning_bounds.jacobian.budget import budget_bytes
from lightning_bounds.jacobian.forward import Inputs
from lightning_bounds.jacobian.guard import preserved_rng

BatchFn = Callable[[Any], tuple[Inputs, Tensor]]

# What copying raises for open files, locks, generators and tensors in the middle of a graph.
_UNCOPYABLE = (TypeError, RuntimeError, NotImplementedError, pickle.PicklingError)


@dataclass(frozen=True)
class Probe:
    """The same samples through the same glasses, for the whole run and for every callback with an equal probe.

    Args:
        num_samples: How many samples; a smaller data set is used whole. 256 samples of 10 classes give a Gram matrix
            of 2560 x 2560, seconds of work on two cores.
        split: ``"train"`` or ``"val"``: which of the Trainer's data loaders they come from.
        seed: Which samples: the seed of their random choice, independent of the training's random streams.
        layers: Patterns of the parameters that the Jacobian is taken by; all if not given.
        mode: ``"eval"`` or ``"train"``: batch norm with running statistics or those of the probe itself.
        dtype: ``"float64"`` or ``"float32"``: in which precision Gram matrices are added up.
        memory_budget: Bytes that a Gram matrix and its blocks may take, as a number or like ``"2GB"``.

    Raises:
        ValueError: If a value is not one of those.
        TypeError: If ``num_samples`` or ``seed`` is not an integer.

    Example:
        >>> Probe(num_samples=3).indices(10) == Probe(num_samples=3).indices(10)
        True
        >>> Probe(memory_budget="512MB").memory_bytes
        512000000
    """

    num_samples: int = 256
    split: str = "train"
    seed: int = 0
    layers: Sequence[str] | None = None
    mode: str = "eval"
    dtype: str = "float64"
    memory_budget: str | int = "2GB"

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Expected `{name}` to be an integer, but got {value!r}.")
            if value < least:
                raise ValueError(f"Expected `{name}` of {least} or more, but got {value}.")
        choices = {"split": ("train", "val"), "mode": ("eval", "train"), "dtype": ("float64", "float32")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Expected `{name}` to be one of {allowed}, but got {getattr(self, name)!r}.")
        if isinstance(self.layers, str):
            raise ValueError(f"Expected `layers` to be a sequence of patterns, but got the string {self.layers!r}.")
        object.__setattr__(self, "layers", None if self.layers is None else tuple(self.layers))
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return budget_bytes(self.memory_budget)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of Gram matrices."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def indices(self, size: int) -> list[int]:
        """Which samples of a data set of this size are looked at, ascending."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(size, generator=generator)[: self.num_samples].sort().values.tolist()

    def batch(self, dataset: Dataset, collate_fn: Callable[[list[Any]], Any]) -> Any:
        """The probe's samples of a data set as one batch.

        No loader is iterated and no random stream moves: random augmentation is drawn from the probe's own seed, and
        a data set that may keep a stream of its own is copied first. Of an iterable data set the first samples of a
        copy are taken.

        Raises:
            TypeError: If an iterable data set cannot be copied.
            ValueError: If the data set is empty.
        """
        with preserved_rng():
            # Not torch.manual_seed: where CUDA is not used yet it would leave this seed for when it will be.
            torch.default_generator.manual_seed(self.seed)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(self.seed)
            random.seed(self.seed)
            np.random.seed(self.seed % 2**32)
            samples = self._samples(dataset)
            if not samples:
                raise ValueError(f"Expected {self.split} data to look at, but the data set is empty.")
            return collate_fn(samples)

    def _samples(self, dataset: Any) -> list[Any]:
        if isinstance(dataset, IterableDataset):
            try:
                dataset = copy.deepcopy(dataset)
            except _UNCOPYABLE as error:
                raise TypeError(
                    f"Expected an iterable data set that can be copied, so that looking at its first samples does not "
                    f"use them up, but got {type(dataset).__name__}; use a data set with `__getitem__`."
                ) from error
            return list(itertools.islice(dataset, self.num_samples))
        indices = self.indices(len(dataset))
        dataset = dataset if _is_stateless(dataset) else _copied(dataset)
        return [dataset[index] for index in indices]


def inputs_and_targets(batch: Any) -> tuple[Inputs, Tensor]:
    """Inputs and targets of the usual kinds of batch: ``(inputs, targets, ...)``, or a mapping with ``labels``.

    Raises:
        TypeError: If the batch is neither.

    Example:
        >>> inputs_and_targets({"tokens": torch.zeros(2, 3), "labels": torch.ones(2)})
        ({'tokens': tensor([[0., 0., 0.], [0., 0., 0.]])}, tensor([1., 1.]))
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), Tensor):
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, Sequence) and len(batch) >= 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    found = {k: type(v).__name__ for k, v in batch.items()} if isinstance(batch, Mapping) else type(batch).__name__
    if isinstance(batch, Sequence):
        found = f"{found} of {[type(part).__name__ for part in batch]}"
    raise TypeError(
        f"Expected a batch (inputs, targets) or a mapping with 'labels', but got {found}; "
        "pass `batch_fn` to the callback, which makes (inputs, targets) out of it."
    )


def _copied(dataset: Any) -> Any:
    """A copy with random streams of its own; open files and locks, which indexing does not disturb, are shared."""
    try:
        return copy.deepcopy(dataset)
    except _UNCOPYABLE:
        copied = copy.copy(dataset)
        for name, value in getattr(dataset, "__dict__", {}).items():
            with contextlib.suppress(*_UNCOPYABLE):
                vars(copied)[name] = _copied_part(value)
        return copied


def _copied_part(value: Any) -> Any:
    if isinstance(value, Dataset):
        return _copied(value)
    if isinstance(value, list) and all(isinstance(part, Dataset) for part in value):  # of a ConcatDataset
        return [_copied(part) for part in value]
    return copy.deepcopy(value)


def _is_stateless(dataset: Any) -> bool:
    if type(dataset) is Subset:
        return _is_stateless(dataset.dataset)
    return type(dataset) is TensorDataset
