"""Histograms of measured vectors, such that every logger accepts them: clean, in float64 and with few bins."""

from typing import NamedTuple

import torch
from torch import Tensor


class Histogram(NamedTuple):
    """Counts of values in adjacent bins.

    Attributes:
        counts: How many values lie in each bin, shape ``(bins,)``, integers.
        edges: Borders of the bins, strictly ascending, shape ``(bins + 1,)``, float64; bin ``i`` is
            ``[edges[i], edges[i + 1])``, and the last one includes its upper edge.
        nonfinite: How many values were NaN or infinite; they are in no bin.
    """

    counts: Tensor
    edges: Tensor
    nonfinite: int


def histogram(values: Tensor, bins: int = 64) -> Histogram:
    """Counts ``#{j : edges[i] <= valuesⱼ < edges[i + 1]}`` in equal bins between the least and the largest value.

    Constant values get bins from half a unit below to half a unit above them (more if they are so large that the bins
    would coincide), and no values at all the bins between 0 and 1, as in ``numpy.histogram``.

    Args:
        values: Numbers of any real type and on any device, shape ``(n,)``; NaN and infinite ones are counted apart.
        bins: Number of bins, from 1 to 512, which is the most that Weights & Biases accepts.

    Returns:
        Counts and edges on the CPU; ``counts.sum() + nonfinite`` is ``n``.

    Raises:
        ValueError: If ``values`` is not one-dimensional or is complex, or ``bins`` is out of range.

    Example:
        >>> counts, edges, nonfinite = histogram(torch.tensor([0.0, 1.0, 1.0, float("nan"), 4.0]), bins=2)
        >>> counts.tolist(), edges.tolist(), nonfinite
        ([3, 1], [0.0, 2.0, 4.0], 1)
    """
    if values.dim() != 1 or values.is_complex():
        raise ValueError(
            f"Expected real numbers of shape (n,), but got {values.dtype} of shape {tuple(values.shape)}; "
            "flatten them first."
        )
    if not 1 <= bins <= 512:
        raise ValueError(f"Expected `bins` in 1..512, the most that Weights & Biases shows, but got {bins}.")
    numbers = values.detach().to(device="cpu", dtype=torch.float64)
    finite = numbers[numbers.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    edges = _edges(low, high, bins)
    if not bool((edges.diff() > 0).all()):
        half = max(0.5, abs(low) / 2)
        largest = torch.finfo(torch.float64).max
        edges = _edges(max(low - half, -largest), min(high + half, largest), bins)
    bin_of_value = torch.bucketize(finite, edges[1:-1], right=True)
    counts = torch.bincount(bin_of_value, minlength=bins)
    return Histogram(counts=counts, edges=edges, nonfinite=len(numbers) - len(finite))


def _edges(low: float, high: float, bins: int) -> Tensor:
    # Halves, because `high - low` may overflow; the ends exactly, because halving may round.
    edges = 2 * torch.linspace(low / 2, high / 2, bins + 1, dtype=torch.float64)
    edges[0], edges[-1] = low, high
    return edges
