"""Samples with real targets for a Lightning trainer, beside the targets before noise."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.data.module import ImageDataModule


class RegressionData(NamedTuple):
    """Training and test samples with one real target each.

    Attributes:
        train_inputs: Shape ``(n, d)``, float32 from the sources of this package.
        train_labels: Their targets, of the same type, shape ``(n,)``.
        train_clean_labels: The targets before noise, shape ``(n,)``.
        test_inputs: Shape ``(n_test, d)``.
        test_labels: Their targets, shape ``(n_test,)``.
        test_clean_labels: The targets before noise, shape ``(n_test,)``.
    """

    train_inputs: Tensor
    train_labels: Tensor
    train_clean_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    test_clean_labels: Tensor


class RegressionDataModule(ImageDataModule):
    """Samples with real targets, with the attributes and loaders of :class:`~lightning_bounds.data.ImageDataModule`.

    Every sample is ``(input, label, original_label)``, the second before noise. ``num_classes`` is 1, the number of
    outputs, and ``flipped`` is empty. The module that trains on it is told ``classification=False``.

    Args:
        source: Function that makes the samples, such as ``lightning_bounds.data.linear_model.load``; with arguments of
            its own as a ``functools.partial``, in YAML by ``_partial_: true``.
        batch_size: Samples per batch; ``None`` is the whole set, for gradient descent, as the papers have it.
        seed: Non-negative seed of the order of the batches.

    Raises:
        TypeError: If ``source`` is not a function that needs no further arguments, or does not return
            ``RegressionData``.
        ValueError: If an argument is out of its range, here; if the samples are not well formed, in ``setup``.

    Example:
        >>> from lightning_bounds.data import sphere
        >>> data = RegressionDataModule(sphere.load)
        >>> data.setup()
        >>> data.in_features, data.num_classes, data.train_labels.shape
        (20, 1, torch.Size([500]))
    """

    def __init__(self, source: Callable[[], RegressionData], batch_size: int | None = None, seed: int = 0) -> None:
        super().__init__(source, unit_norm=False, batch_size=batch_size, seed=seed)  # type: ignore[arg-type]

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 (all stages need the same data)
        """Make the samples, the first time that this is called.

        Args:
            stage: Lightning's stage, which makes no difference.

        Raises:
            TypeError: If ``source`` does not return ``RegressionData``.
            ValueError: If the samples are not well formed.
        """
        if "train_inputs" in vars(self):
            return
        data: object = self.source()
        if not isinstance(data, RegressionData):
            raise TypeError(f"Expected `source` to return RegressionData, but got {type(data).__name__}.")
        _check_part("training", data.train_inputs, data.train_labels, data.train_clean_labels)
        _check_part("test", data.test_inputs, data.test_labels, data.test_clean_labels)
        if data.train_inputs.shape[1] != data.test_inputs.shape[1]:
            raise ValueError(
                f"Expected training and test inputs with equally many features, "
                f"but got {data.train_inputs.shape[1]} and {data.test_inputs.shape[1]}."
            )
        self.in_features = data.train_inputs.shape[1]
        self.num_classes, self.input_shape = 1, (self.in_features,)
        self.test_inputs, self.test_labels, self.test_original_labels = data[3:]
        self.train_labels, self.original_labels = data.train_labels, data.train_clean_labels
        self.flipped = torch.zeros(0, dtype=torch.int64)
        self.train_inputs = data.train_inputs


def _check_part(part: str, inputs: Tensor, labels: Tensor, clean_labels: Tensor) -> None:
    if inputs.dim() != 2 or inputs.numel() == 0 or not inputs.is_floating_point():
        raise ValueError(
            f"Expected {part} inputs as floats of shape (n, d), but got {inputs.dtype} of shape {tuple(inputs.shape)}."
        )
    if not labels.shape == clean_labels.shape == inputs.shape[:1] or not labels.is_floating_point():
        raise ValueError(
            f"Expected {part} labels as one float for each of the {len(inputs)} samples, with and without noise, "
            f"but got {labels.dtype} of shapes {tuple(labels.shape)} and {tuple(clean_labels.shape)}."
        )
    if not all(bool(tensor.isfinite().all()) for tensor in (inputs, labels, clean_labels)):
        raise ValueError(f"Expected finite {part} inputs and labels, but some are NaN or infinite.")
