"""Inputs and label sets of a data module, in float64: the true labels, the noisy ones, random and worst ones."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lightning_bounds.data import ImageDataModule
from lightning_bounds.data.label_noise import flip_labels
from lightning_bounds.data.transforms import subsample
from lightning_bounds.theory.labels import label_matrix


class LabelSet(NamedTuple):
    """Labels of one kind.

    Attributes:
        columns: Labels of a single output by name, each of shape ``(n,)``: one sign per sample, or a real target.
        coded: The same for a network of ``K`` outputs, shape ``(n, K)``; None for the worst labels.
    """

    columns: dict[str, Tensor]
    coded: Tensor | None

    @property
    def matrix(self) -> Tensor:
        """All columns, shape ``(n, number of columns)``."""
        return torch.stack(list(self.columns.values()), dim=1)


class Samples(NamedTuple):
    """Inputs ``(n, d)`` and sets of labels by name: ``true``, ``noisy`` if there is noise, ``random``."""

    inputs: Tensor
    label_sets: dict[str, LabelSet]


def samples_of(datamodule: ImageDataModule, num_samples: int | None, random_seeds: Sequence[int]) -> Samples:
    """The training data, or a random part of it that depends on the number alone.

    Two classes are one column of signs, with +1 for the second; more are a column for each, one against the rest.
    Random labels are classes drawn again uniformly, or a permutation of real targets.

    Raises:
        ValueError: If there are fewer than two samples, a number is out of range, or all labels of a column are 0.
    """
    inputs = datamodule.train_inputs.detach().double().flatten(1)
    if num_samples is not None and num_samples < 2:
        raise ValueError(f"Expected `num_samples` of at least 2, or null for all, but got {num_samples}.")
    if not random_seeds or not all(isinstance(seed, int) and seed >= 0 for seed in random_seeds):
        raise ValueError(f"Expected `random_seeds`, one non-negative integer at least, but got {list(random_seeds)}.")
    chosen = torch.arange(len(inputs))
    if num_samples is not None and num_samples < len(inputs):
        chosen = subsample(chosen, chosen, num_samples, seed=0).inputs
    true, noisy, K = datamodule.original_labels[chosen], datamodule.train_labels[chosen], datamodule.num_classes
    sets = {"true": _label_set(true, K)}
    if not torch.equal(true, noisy):
        sets["noisy"] = _label_set(noisy, K)
    drawn = [_random_labels(true, K, seed) for seed in random_seeds]
    columns = {
        f"seed {seed}{', ' * bool(name)}{name}": column
        for seed, labels in zip(random_seeds, drawn, strict=True)
        for name, column in _columns(labels, K).items()
    }
    sets["random"] = LabelSet(columns, _coded(drawn[0], K))
    for name, label_set in sets.items():
        if bool((label_set.matrix == 0).all(dim=0).any()):
            raise ValueError(f"Expected labels other than 0, but got a column of zeros in the {name} labels.")
    return Samples(inputs[chosen], sets)


def _label_set(labels: Tensor, num_classes: int) -> LabelSet:
    return LabelSet(_columns(labels, num_classes), _coded(labels, num_classes))


def _coded(labels: Tensor, num_classes: int) -> Tensor:
    if labels.is_floating_point():
        return labels.double().reshape(-1, 1)
    return label_matrix(labels, 1 if num_classes == 2 else num_classes, torch.float64)


def _columns(labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    coded = _coded(labels, num_classes)
    if coded.shape[1] == 1:
        return {"": coded[:, 0]}
    return {f"class {c}": 2 * coded[:, c] - 1 for c in range(num_classes)}


def _random_labels(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    if labels.is_floating_point():
        return labels[torch.randperm(len(labels), generator=Generator().manual_seed(seed))]
    return flip_labels(labels, 1.0, num_classes, "uniform", seed).labels
