"""Images of two groups of classes, whitened by the training images: the data of the nearly-linear networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lightning_bounds.data.image_data import ImageData
from lightning_bounds.data.module import ImageDataModule
from lightning_bounds.data.transforms import Samples
from lightning_bounds.theory.nearly_linear.whitening import Whitening, whiten

# The sign is not said in the paper; the first group has the label -1 where a network has a single output.
LARGE_AND_SMALL_DIGITS = ((5, 6, 7, 8, 9), (0, 1, 2, 3, 4))


class WhitenedImageDataModule(ImageDataModule):
    """Images ``x`` as whitened vectors ``T x`` with ``1/n Σᵢ (T xᵢ)(T xᵢ)ᵀ = I``, in two groups of classes.

    Prepared in this order: groups, subsample, block means, flattening, label noise, whitening. ``T`` comes from the
    training inputs, without centering, in float64, and is applied to the test inputs as well. It maps to the span of
    the training inputs: there are as many features as that has dimensions, and what of a test input lies outside is
    dropped.

    Args:
        source: See :class:`ImageDataModule`, as for ``train_samples`` and all that follows.
        groups: Classes of each new label: the digits 5 to 9 against 0 to 4 by default. Classes in no group are left
            out.
        train_samples: Number of training samples to draw; all by default.
        test_samples: Number of test samples to draw; all by default.
        size: Height and width to reduce the images to by block means; 7 and 14 in the paper.
        label_noise: Portion of the training labels that is drawn again.
        batch_size: Samples per batch; the whole set, for gradient descent, by default.
        seed: Non-negative seed of all draws.

    Attributes:
        whitening: ``T`` and the rank, see :func:`~lightning_bounds.theory.nearly_linear.whiten`; known, as what
            follows, after ``setup``.
        test_energy: ``1/n Σ ‖T x‖² / rank`` over the test inputs: 1 for inputs whose covariance is that of the training
            inputs. The bound takes it to be 1 (E413).
        test_energy_outside: Share of ``Σ ‖x‖²`` over the test inputs that lies outside the span.

    Raises:
        ValueError: If groups are not disjoint, one is empty or does not occur, or an argument does not fit the data.

    References:
        A generalization bound for nearly-linear networks, sections 4 and 6.

    Example:
        >>> from lightning_bounds.data import digits
        >>> data = WhitenedImageDataModule(digits.load, size=4)
        >>> data.setup()
        >>> data.num_classes, data.in_features, data.test_labels.unique()
        (2, 16, tensor([0, 1]))
        >>> torch.allclose(data.train_inputs.T @ data.train_inputs / len(data.train_inputs), torch.eye(16), atol=1e-6)
        True
    """

    whitening: Whitening
    test_energy: float
    test_energy_outside: float

    def __init__(
        self,
        source: Callable[[], ImageData],
        groups: Sequence[Sequence[int]] = LARGE_AND_SMALL_DIGITS,
        train_samples: int | None = None,
        test_samples: int | None = None,
        size: int | None = None,
        label_noise: float = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source,
            train_samples=train_samples,
            test_samples=test_samples,
            size=size,
            unit_norm=False,
            label_noise=label_noise,
            batch_size=batch_size,
            seed=seed,
        )
        classes = [label for group in groups for label in group]
        if len(groups) < 2 or not all(len(group) for group in groups) or len(set(classes)) < len(classes):
            raise ValueError(f"Expected `groups` of at least two disjoint lists of classes, but got {groups!r}.")
        self.groups = [list(group) for group in groups]
        self.source = partial(_grouped, self.source, self.groups)

    def setup(self, stage: str | None = None) -> None:
        """Load, prepare and whiten the data, the first time that this is called.

        Args:
            stage: Lightning's stage, which makes no difference.

        Raises:
            ValueError: If the data is not well formed, or an argument does not fit it.
        """
        if "train_inputs" in vars(self):
            return
        super().setup(stage)
        self.whitening = whiten(self.train_inputs)
        self.test_energy = self.whitening.mean_square_norm(self.test_inputs) / self.whitening.rank
        self.test_energy_outside = self.whitening.energy_outside(self.test_inputs)
        self.test_inputs = self.whitening.apply(self.test_inputs).to(self.test_inputs.dtype)
        self.train_inputs = self.whitening.inputs.to(self.train_inputs.dtype)
        self.in_features, self.input_shape = self.whitening.rank, (self.whitening.rank,)

    def train_dataloader(self) -> DataLoader:
        """Loader of the training set; a batch of the whole set is taken at once, not sample by sample."""
        if self.batch_size is not None:
            return super().train_dataloader()
        train_set = _WholeSet(self.train_inputs, self.train_labels, self.original_labels)
        return DataLoader(train_set, len(train_set), generator=torch.Generator(), collate_fn=_collated)


def group_classes(inputs: Tensor, labels: Tensor, groups: Sequence[Sequence[int]]) -> Samples:
    """The samples of the classes in any group, in their order, with the number of the group as the new label.

    Args:
        inputs: Inputs, shape ``(n, ...)``.
        labels: Classes, integers, shape ``(n,)``.
        groups: Disjoint lists of classes.

    Returns:
        The samples of these classes, with labels ``0 .. len(groups)-1``.

    Raises:
        ValueError: If a group has no sample.

    Example:
        >>> group_classes(torch.arange(5), torch.tensor([7, 1, 3, 8, 3]), groups=[[3], [7, 8]])
        Samples(inputs=tensor([0, 2, 3, 4]), labels=tensor([1, 0, 1, 0]))
    """
    member = torch.stack([torch.isin(labels, labels.new_tensor(list(group))) for group in groups], dim=1)
    empty = [list(group) for group, any_member in zip(groups, member.any(dim=0), strict=True) if not any_member]
    if empty:
        raise ValueError(f"Expected samples of each group, but got none of {empty} among {labels.unique().tolist()}.")
    kept = member.any(dim=1)
    return Samples(inputs[kept], member[kept].long().argmax(dim=1))


def _grouped(source: Callable[[], ImageData], groups: Sequence[Sequence[int]]) -> ImageData:
    data = source()
    if not isinstance(data, ImageData):
        return data
    train, test = (
        group_classes(inputs, labels, groups)
        for inputs, labels in ((data.train_inputs, data.train_labels), (data.test_inputs, data.test_labels))
    )
    return ImageData(*train, *test, num_classes=len(groups))


class _WholeSet(TensorDataset):
    """A set that hands out many samples at once."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return self[torch.tensor(indices)]


def _collated(samples: Any) -> Any:
    return list(samples) if isinstance(samples, tuple) else default_collate(samples)
