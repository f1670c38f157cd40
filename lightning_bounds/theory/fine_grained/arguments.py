"""What the functions of this topic accept, checked once and brought to float64."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def as_gram(gram: Tensor) -> Tensor:
    """A symmetric matrix ``(n, n)`` in float64.

    Raises:
        ValueError: If it is not square, is empty, not finite or not symmetric.
    """
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1] or gram.numel() == 0 or gram.is_complex():
        raise ValueError(f"Expected a real `gram` of shape (n, n), but got {tuple(gram.shape)} of {gram.dtype}.")
    tolerance = torch.finfo(gram.dtype).eps ** 0.75 if gram.is_floating_point() else 0.0
    gram = gram.detach().double()
    if not bool(gram.isfinite().all()):
        raise ValueError("Expected a finite `gram`, but got NaN or infinite entries.")
    asymmetry, largest = float((gram - gram.mT).abs().max()), float(gram.abs().max())
    if asymmetry > tolerance * largest:
        raise ValueError(
            f"Expected a symmetric `gram`, but got entries that differ by {asymmetry:.3g} from their mirror images."
        )
    return gram


def as_steps(steps: Iterable[float] | Tensor) -> list[float]:
    """Numbers of steps: integers of at least 0, or infinity.

    Raises:
        ValueError: If there is none, or one is negative, NaN or not an integer.
    """
    if isinstance(steps, int | float) or (isinstance(steps, Tensor) and steps.dim() != 1):
        raise ValueError(f"Expected `steps` as a list of numbers of steps, but got {steps!r}; write `[{steps}]`.")
    counts = [float(step) for step in steps]
    if not counts or not all(count >= 0 and (math.isinf(count) or count.is_integer()) for count in counts):
        raise ValueError(
            f"Expected `steps` to be integers of at least 0, or infinity, at least one, but got {counts[:10]}."
        )
    return counts
