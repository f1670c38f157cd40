"""Memory that is used again and again: fresh memory of tens of megabytes costs more than what is computed in it."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Scratch:
    """One buffer for each purpose; what was taken is valid until the same purpose is asked for again.

    Example:
        >>> scratch = Scratch()
        >>> first = scratch.take("patches", (2, 3), torch.zeros(1))
        >>> scratch.take("patches", (3,), torch.zeros(1)).data_ptr() == first.data_ptr()
        True
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, purpose: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialized tensor of this shape, in the precision and on the device of ``like``."""
        size, buffer = math.prod(shape), self._buffers.get(purpose)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[purpose] = buffer
        return buffer[:size].view(tuple(shape))


def joined(join: Callable[..., Tensor], parts: Sequence[Tensor], dim: int, scratch: Scratch | None) -> Tensor:
    """Parts beside each other by ``torch.cat`` or ``torch.stack``, in memory that is used again."""
    if len(parts) == 1:
        return parts[0] if join is torch.cat else parts[0].unsqueeze(dim)
    if scratch is None:
        return join(parts, dim=dim)
    shape = list(parts[0].shape)
    if join is torch.stack:
        shape.insert(dim, len(parts))
    else:
        shape[dim] *= len(parts)
    return join(parts, dim=dim, out=scratch.take("gradients", shape, parts[0]))
