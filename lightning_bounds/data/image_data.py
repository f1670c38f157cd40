"""Labeled images with a training and a test part: what every data source returns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class ImageData(NamedTuple):
    """Training and test images with their classes.

    Attributes:
        train_inputs: Training images, shape ``(n, C, H, W)``; float32 in [0, 1] from the loaders of this package.
        train_labels: Classes ``0 .. num_classes-1`` of the training images, int64, shape ``(n,)``.
        test_inputs: Test images, shape ``(n_test, C, H, W)``, of the same kind.
        test_labels: Classes of the test images, int64, shape ``(n_test,)``.
        num_classes: Number of classes, whether or not all of them occur.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int


def checked(data: ImageData) -> ImageData:
    """The same data, once it is known to be well formed: shapes, types, finite pixels and classes in range.

    Args:
        data: Images and classes from any source.

    Returns:
        ``data`` itself.

    Raises:
        ValueError: If a part is empty, its images are not finite floats of shape ``(n, C, H, W)``, its labels are not
            one int64 class in ``0 .. num_classes-1`` per image, or training and test images differ in shape.

    Example:
        >>> import torch
        >>> images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
        >>> checked(ImageData(images, labels, images[:1], labels[:1], num_classes=2)).num_classes
        2
    """
    _check_part("training", data.train_inputs, data.train_labels, data.num_classes)
    _check_part("test", data.test_inputs, data.test_labels, data.num_classes)
    if data.train_inputs.shape[1:] != data.test_inputs.shape[1:]:
        raise ValueError(
            f"Expected training and test images of equal shape (C, H, W), "
            f"but got {tuple(data.train_inputs.shape[1:])} and {tuple(data.test_inputs.shape[1:])}."
        )
    return data


def random_split(
    inputs: Tensor, labels: Tensor, num_classes: int, test_fraction: float = 0.2, seed: int = 0
) -> ImageData:
    """Split of one set of images into a training and a test part, by a seeded permutation without stratification.

    The permuted order stays, so that data that came sorted by class does not remain so.

    Args:
        inputs: All images, shape ``(n, C, H, W)``.
        labels: Their classes, shape ``(n,)``.
        num_classes: Number of classes.
        test_fraction: The test part has ``ceil(test_fraction * n)`` images, as in scikit-learn's ``train_test_split``.
        seed: Seed of the permutation; the global random state is not used.

    Returns:
        The two parts, checked by :func:`checked`.

    Raises:
        ValueError: If ``test_fraction`` leaves one of the parts empty, or the data is not well formed.

    Example:
        >>> import torch
        >>> data = random_split(torch.rand(10, 1, 2, 2), torch.arange(10) % 2, num_classes=2, test_fraction=0.25)
        >>> len(data.train_inputs), len(data.test_inputs)
        (7, 3)
    """
    n = len(inputs)
    if not 0 < test_fraction < 1 or math.ceil(test_fraction * n) >= n:
        raise ValueError(
            f"Expected `test_fraction` in (0, 1) such that neither part of the {n} images is empty, "
            f"but got {test_fraction}."
        )
    if len(labels) != n:
        raise ValueError(f"Expected one label per image, but got {n} images and {len(labels)} labels.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    num_train = n - math.ceil(test_fraction * n)
    train, test = order[:num_train], order[num_train:]
    return checked(ImageData(inputs[train], labels[train], inputs[test], labels[test], num_classes))


def _check_part(part: str, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
    if inputs.dim() != 4 or inputs.numel() == 0 or not inputs.is_floating_point():
        raise ValueError(
            f"Expected {part} images as floats of shape (n, C, H, W) with at least one pixel, "
            f"but got {inputs.dtype} of shape {tuple(inputs.shape)}."
        )
    if labels.shape != inputs.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"Expected {part} labels as one int64 class for each of the {len(inputs)} images, "
            f"but got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    finite = inputs.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"Expected finite {part} images, but samples {bad[:10]} have NaN or infinite pixels; remove or fix them."
        )
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        sample = int(outside.nonzero()[0])
        raise ValueError(
            f"Expected {part} labels in 0..{num_classes - 1}, as there are {num_classes} classes, "
            f"but sample {sample} has label {int(labels[sample])}."
        )
