"""Preparation of images as pure functions of tensors: classes, subsamples, resolution and norm."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """Some of the samples of a data set.

    Attributes:
        inputs: Their inputs, shape ``(m, ...)``.
        labels: Their labels, shape ``(m,)``.
    """

    inputs: Tensor
    labels: Tensor


def select_classes(inputs: Tensor, labels: Tensor, classes: Sequence[int]) -> Samples:
    """The samples of the given classes, in their order, with new labels: ``classes[k]`` becomes ``k``.

    Args:
        inputs: Inputs, shape ``(n, ...)``.
        labels: Classes, integers, shape ``(n,)``.
        classes: Classes to keep, in the order of their new labels.

    Returns:
        The samples of these classes, with labels ``0 .. len(classes)-1``.

    Raises:
        ValueError: If no class is given, one is given twice, or one does not occur in ``labels``.

    Example:
        >>> select_classes(torch.arange(5), torch.tensor([7, 1, 3, 7, 3]), classes=[3, 7])
        Samples(inputs=tensor([0, 2, 3, 4]), labels=tensor([1, 0, 1, 0]))
    """
    available = labels.unique().tolist()
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(available):
        raise ValueError(f"Expected `classes` to be different classes among {available}, but got {list(classes)}.")
    matches = labels.unsqueeze(1) == torch.tensor(list(classes), device=labels.device)
    kept = matches.any(dim=1)
    return Samples(inputs[kept], matches[kept].long().argmax(dim=1))


def subsample(inputs: Tensor, labels: Tensor, count: int, seed: int) -> Samples:
    """Random ``count`` of the samples, drawn without replacement and kept in their order.

    With the same seed a smaller draw is part of a larger one, so that curves over the sample size are nested.

    Args:
        inputs: Inputs, shape ``(n, ...)``.
        labels: Labels, shape ``(n,)``.
        count: Number of samples to draw, ``1 .. n``.
        seed: Seed of the draw; the global random state is not used.

    Returns:
        The drawn samples.

    Raises:
        ValueError: If there are fewer than ``count`` samples, or ``count`` is not positive.

    Example:
        >>> subsample(torch.arange(5), torch.arange(5), count=5, seed=0).labels
        tensor([0, 1, 2, 3, 4])
    """
    n = len(labels)
    if not 1 <= count <= n:
        raise ValueError(f"Expected a number of samples in 1..{n}, as there are {n} samples, but got {count}.")
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    drawn = drawn.to(labels.device)
    return Samples(inputs[drawn], labels[drawn])


def unit_norm(inputs: Tensor) -> Tensor:
    """Inputs of Euclidean norm one: ``xᵢ / ‖xᵢ‖₂``, with the norm over all features of a sample.

    Args:
        inputs: Floating inputs, shape ``(n, ...)``.

    Returns:
        Inputs of the same shape and type.

    Raises:
        ValueError: If a sample is zero, which has no direction, or is not finite.

    References:
        Arora et al. 2019, section 3.1 and appendix A; Oymak, Fabian, Li, Soltanolkotabi 2019, Theorem 3.2.

    Example:
        >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, -2.0]]))
        tensor([[ 0.6000,  0.8000],
                [ 0.0000, -1.0000]])
    """
    # In float64, so that tiny and huge samples of a narrower type have a norm, too.
    norms = torch.linalg.vector_norm(inputs.flatten(1), dim=1, dtype=torch.float64)
    usable = norms.isfinite() & (norms > 0)
    if not bool(usable.all()):
        bad = (~usable).nonzero().flatten().tolist()
        raise ValueError(
            f"Expected samples with a positive, finite Euclidean norm, but samples {bad[:10]} are zero or not finite; "
            f"remove them, or do without the unit norm."
        )
    return (inputs / norms.view(-1, *[1] * (inputs.dim() - 1))).to(inputs.dtype)


def block_mean(inputs: Tensor, size: int) -> Tensor:
    """Images in a lower resolution: every pixel of the result is the mean of a block of pixels.

    Args:
        inputs: Images, shape ``(n, C, H, W)``.
        size: Height and width of the result; a divisor of both ``H`` and ``W``, such as 7 for 28.

    Returns:
        Images, shape ``(n, C, size, size)``.

    Raises:
        ValueError: If the inputs are not four-dimensional, or the blocks do not fit.

    Example:
        >>> block_mean(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), size=1)
        tensor([[[[4.]]]])
    """
    if inputs.dim() != 4:
        raise ValueError(f"Expected images of shape (n, C, H, W), but got shape {tuple(inputs.shape)}.")
    n, channels, height, width = inputs.shape
    sizes = [s for s in range(1, min(height, width) + 1) if height % s == 0 and width % s == 0]
    if size not in sizes:
        raise ValueError(f"Expected `size` among {sizes}, which divide {height} x {width} pixels, but got {size}.")
    blocks = inputs.reshape(n, channels, size, height // size, size, width // size)
    return blocks.mean(dim=(3, 5))
