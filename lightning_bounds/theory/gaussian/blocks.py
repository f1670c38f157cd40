"""Kernel matrices filled tile by tile, so that little more than the result itself is ever in memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs

# Rows and columns of a tile: large enough for a fast product, small enough for the cache.
TILE = 1024


class Rows(NamedTuple):
    """Rows in float64, split into ``norms``, shape ``(n,)``, and ``directions`` of norm 1, shape ``(n, d)``."""

    norms: Tensor
    directions: Tensor


def checked_rows(inputs: Tensor, name: str = "inputs") -> Rows:
    """Norms and directions of the rows.

    Raises:
        ValueError: As :func:`as_inputs`, or if a row is zero, which has no direction, or its norm is out of range.
    """
    inputs = as_inputs(inputs, name)
    largest = inputs.abs().amax(dim=1)
    zero = (largest == 0).nonzero().flatten()
    if len(zero):
        raise ValueError(
            f"Expected `{name}` without zero rows, but samples {zero[:5].tolist()} are zero and have no direction; "
            "leave them out."
        )
    # Divided by the largest entry first, so that no square underflows.
    directions = inputs / largest.unsqueeze(1)
    relative = directions.norm(dim=1)
    norms = largest * relative
    if not bool(norms.square().isfinite().all()):
        raise ValueError(f"Expected norms of `{name}` below 1e154, but got {float(norms.max()):.3g}; rescale them.")
    return Rows(norms, directions.div_(relative.unsqueeze(1)))


def map_gram(left: Tensor, right: Tensor | None, entries: Callable[[Tensor, slice, slice], Tensor]) -> Tensor:
    """Matrix whose tiles are ``entries(left[rows] @ right[columns].T, rows, columns)``.

    Args:
        left: Shape ``(n, d)``.
        right: Shape ``(m, d)``, or None for ``left`` again: then only the lower triangle is computed, and mirrored.
        entries: Turns a tile of inner products, which it may overwrite, into a tile of the result.

    Returns:
        Shape ``(n, m)``.

    Example:
        >>> import torch
        >>> map_gram(torch.eye(2), None, lambda products, rows, columns: products + 1)
        tensor([[2., 1.],
                [1., 2.]])
    """
    columns_of = left if right is None else right
    result = left.new_empty(len(left), len(columns_of))
    for rows in tiles(len(left)):
        for columns in tiles(len(columns_of)):
            if right is None and columns.start > rows.start:
                break
            tile = entries(left[rows] @ columns_of[columns].T, rows, columns)
            if right is None and columns.start == rows.start:
                tile = tile.tril() + tile.tril(-1).T
            result[rows, columns] = tile
            if right is None and columns.start < rows.start:
                result[columns, rows] = tile.T
    return result


def tiles(count: int, size: int = TILE) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(count)``, in order.

    Example:
        >>> [(part.start, part.stop) for part in tiles(5, size=2)]
        [(0, 2), (2, 4), (4, 5)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
