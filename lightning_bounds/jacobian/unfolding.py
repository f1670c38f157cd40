"""The patches of images that a convolution sees, for any number of dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from lightning_bounds.jacobian.scratch import Scratch


def tuple_of(value: Any, dims: int) -> tuple[int, ...]:
    """One number per dimension.

    Example:
        >>> tuple_of(2, 3), tuple_of((1,), 2)
        ((2, 2, 2), (1, 1))
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def padding_of(options: Mapping[str, Any], kernel: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each dimension; ``"same"`` puts the odd one after."""
    padding = options["padding"]
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(options["dilation"], kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in padding)


def patches(
    images: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    scratch: Scratch | None = None,
) -> Tensor:
    """What each place of the output sees: shape ``(n, channels * |kernel|, places)``.

    Args:
        images: Shape ``(n, channels, *size)``.
        kernel: Size of the kernel.
        stride: Step between two places, per dimension.
        padding: Zeros before and after, per dimension.
        dilation: Step within the kernel, per dimension.
        scratch: Where the patches may be put.

    Example:
        >>> import torch
        >>> patches(torch.arange(4.0).reshape(1, 1, 4), (2,), (1,), ((0, 0),), (1,))
        tensor([[[0., 1., 2.],
                 [1., 2., 3.]]])
    """
    if any(amount for pair in padding for amount in pair):
        images = functional.pad(images, [amount for pair in reversed(padding) for amount in pair])
    sizes = [
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(images.shape[2:], kernel, stride, dilation, strict=True)
    ]
    return _view(images, kernel, sizes, stride, dilation, scratch)


def transposed_patches(
    gradient: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """What each place of the input of a transposed convolution writes to: ``(n, channels * |kernel|, places)``.

    Args:
        gradient: Gradient by the output, shape ``(n, channels, *output_size)``.
        kernel: Size of the kernel.
        stride: Step between two places of the input in the output, per dimension.
        padding: Taken off on both sides, per dimension.
        dilation: Step within the kernel, per dimension.
        size: Size of the input.
    """
    amounts = []
    for length, k, s, p, d, count in zip(gradient.shape[2:], kernel, stride, padding, dilation, size, strict=True):
        reached = (count - 1) * s + d * (k - 1) + 1
        amounts.append((p, reached - p - length))
    # Negative amounts cut off what output padding has added.
    padded = functional.pad(gradient, [amount for pair in reversed(amounts) for amount in pair])
    return _view(padded, kernel, size, stride, dilation, None)


def _view(
    images: Tensor,
    kernel: Sequence[int],
    sizes: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    scratch: Scratch | None,
) -> Tensor:
    steps = images.stride()
    inner = [step * d for step, d in zip(steps[2:], dilation, strict=True)]
    outer = [step * s for step, s in zip(steps[2:], stride, strict=True)]
    view = images.as_strided(
        (*images.shape[:2], *kernel, *sizes), (*steps[:2], *inner, *outer), images.storage_offset()
    )
    if scratch is not None and math.prod(kernel) > 1:
        view = scratch.take("patches", view.shape, images).copy_(view)
    return view.flatten(1, 1 + len(kernel)).flatten(2)
