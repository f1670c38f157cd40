"""Adding products of rows to a Gram matrix, tile by tile, in the precision of the Gram matrix."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.jacobian.multiplication import add_product, matmul
from lightning_bounds.jacobian.scratch import Scratch
from lightning_bounds.jacobian.separation import Separated, separated

# Fewest and most rows of a symmetric product that are made together, from the first column to the diagonal.
_STRIP = 128, 256
# Tiles per side where products are made for pairs of samples.
_TILES = 8
# Columns that are added up at once before they are added to what there is.
_COLUMNS = 2048


class Pairs(NamedTuple):
    """What outer products are made of, for all samples.

    Attributes:
        left: Gradients by the outputs of a layer, shape ``(K, groups, n * S, o)``; with weights the same for all ``K``,
            shape ``(1, groups, n * S, o)``.
        right: Inputs of the layer, shape ``(groups, n * S, i)``.
        places: ``S``.
        bias: Whether the layer adds a bias, whose gradients are those by the outputs.
        weights: What ``left`` is multiplied with for each output, shape ``(K, groups, o)``, see :func:`separated`.
    """

    left: Tensor
    right: Tensor
    places: int
    bias: bool
    weights: Tensor | None = None


def add_rows(gram: Tensor, rows: Tensor, other: Tensor | None, work_bytes: int, scratch: Scratch) -> None:
    """Add ``R R'^T`` to a Gram matrix: to its lower triangle alone if there is no other ``R'``.

    Args:
        gram: Shape ``(N, N')``.
        rows: ``R``, shape ``(N, columns)``.
        other: ``R'``, shape ``(N', columns)``; ``R`` itself if not given.
        work_bytes: Bytes for copies in the precision of ``gram``.
        scratch: Where those are put.
    """
    height = gram.shape[0] if other is None else sum(gram.shape)
    width = max(64, work_bytes // (height * gram.element_size()))
    if rows.dtype == gram.dtype:
        width = min(width, _COLUMNS)
    for first in range(0, rows.shape[1], width):
        block = _dense(rows[:, first : first + width], gram, "rows", scratch)
        if other is not None:
            add_product(gram, block, _dense(other[:, first : first + width], gram, "other rows", scratch).T)
            continue
        _add_lower(gram, block, block)


def _add_lower(gram: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``A B^T`` on and below the diagonal, in strips of rows, and what little of a strip lies above it."""
    fewest, most = _STRIP
    for start, stop in _spans(gram.shape[0], min(most, max(fewest, gram.shape[0] // 10))):
        add_product(gram[start:stop, :stop], left[start:stop], right[:stop].T)


def _dense(block: Tensor, like: Tensor, purpose: str, scratch: Scratch) -> Tensor:
    """The block in the precision of ``like``, without gaps between its rows."""
    if block.is_contiguous():
        return _converted(block, like, purpose, scratch)
    return scratch.take(purpose, block.shape, like).copy_(block)


def _converted(block: Tensor, like: Tensor, purpose: str, scratch: Scratch) -> Tensor:
    return block if block.dtype == like.dtype else scratch.take(purpose, block.shape, like).copy_(block)


def add_pairs(gram: Tensor, pairs: Pairs, other: Pairs | None, work_bytes: int, scratch: Scratch) -> None:
    """Add ``Σ_st (x_is · x_jt) (g_ias · g_jbt)`` to entry ``(ia, jb)`` of a Gram matrix, as :func:`add_rows` does.

    Args:
        gram: Shape ``(n * K, n' * K)``.
        pairs: Gradients ``g`` and inputs ``x``.
        other: Those of the other samples; the same if not given.
        work_bytes: Bytes for tiles and copies.
        scratch: Where those are put.
    """
    outputs, factors = pairs.left.shape[0], separated(pairs.left) if other is None else None
    if factors is not None and pairs.places == 1:
        _add_separated(gram, factors, pairs, work_bytes, scratch)
        return
    if factors is not None:
        pairs = pairs._replace(left=factors.base[None], weights=factors.weights)
    second = other or pairs
    others = outputs if other is None else other.left.shape[0]
    tiles = gram.unflatten(0, (-1, outputs)).unflatten(2, (-1, others))
    height, width = _sides(pairs, gram.dtype, outputs, tiles.shape[0], work_bytes)
    for start, stop in _spans(tiles.shape[0], height):
        rows = _part(pairs, start, stop, gram, "rows", scratch)
        for begin, end in _spans(tiles.shape[2] if other is not None else stop, width):
            columns = _part(second, begin, end, gram, "other rows", scratch)
            blocks = _blocks(rows, columns, scratch)
            tiles[start:stop, :, begin:end] += blocks.permute(2, 0, 3, 1)


def _add_separated(gram: Tensor, factors: Separated, pairs: Pairs, work_bytes: int, scratch: Scratch) -> None:
    """The same for ``g_iar = w_ar d_ir``: block ``(a, b)`` is ``Σ_r w_ar w_br d_ir d_jr`` times ``x_i · x_j``.

    It is symmetric in ``i`` and ``j``, and made once for ``(a, b)`` and ``(b, a)``, on and below the diagonal alone.
    """
    outputs, groups, o = factors.weights.shape
    tiles = gram.unflatten(0, (-1, outputs)).unflatten(2, (-1, outputs))
    samples, room = tiles.shape[0], work_bytes // gram.element_size()
    # Largest h with so many entries for blocks and products of inputs, and for what goes into them.
    squares, lines = (2 if groups > 1 else 1) * outputs**2 + 2, 2 * outputs * min(o, _chunk(o))
    side = max(1, int(((lines**2 + 4 * squares * room) ** 0.5 - lines) / (2 * squares)))
    side = -(-samples // -(-samples // side))
    for start, stop in _spans(samples, side):
        for begin, end in _spans(stop, side):
            blocks = _separated_blocks(gram, factors, pairs, slice(start, stop), slice(begin, end), scratch)
            tiles[start:stop, :, begin:end] += blocks.permute(2, 0, 3, 1)


def _separated_blocks(
    like: Tensor, factors: Separated, pairs: Pairs, rows: slice, columns: slice, scratch: Scratch
) -> Tensor:
    """The part that belongs to two sets of samples, shape ``(K, K, m, m')``; its lower half if they are the same."""
    outputs, groups, o = factors.weights.shape
    shape = (outputs, outputs, rows.stop - rows.start, columns.stop - columns.start)
    blocks = scratch.take("blocks", shape, like)
    weights = factors.weights.to(like.dtype)

    def added(total: Tensor, left: Tensor, right: Tensor) -> None:
        if rows == columns:
            _add_lower(total, left, right)
        else:
            add_product(total, left, right.T)

    def weighted(part: slice, g: int, units: slice, purpose: str) -> Tensor:
        base = factors.base[g, part, units].to(like.dtype)
        out = scratch.take(purpose, (outputs, *base.shape), like)
        return torch.mul(weights[:, g, None, units], base, out=out)

    for g in range(groups):
        totals = (blocks if g == 0 else scratch.take("totals", shape, like)).zero_()
        # One long sum of m products loses sqrt(m) roundings.
        for start, stop in _spans(o, _chunk(o)):
            left = right = weighted(rows, g, slice(start, stop), "weighted")
            if rows != columns:
                right = weighted(columns, g, slice(start, stop), "other weighted")
            for a, b in combinations_with_replacement(range(outputs), 2):
                added(totals[a, b], left[a], right[b])
        inputs = like.new_zeros(shape[2:])
        added(inputs, pairs.right[g, rows].to(like.dtype), pairs.right[g, columns].to(like.dtype))
        if pairs.bias:
            inputs += 1
        for a, b in combinations_with_replacement(range(outputs), 2):
            totals[a, b] *= inputs
            if g > 0:
                blocks[a, b] += totals[a, b]
            blocks[b, a] = blocks[a, b]
    return blocks


def _sides(pairs: Pairs, dtype: torch.dtype, outputs: int, samples: int, work_bytes: int) -> tuple[int, int]:
    """Samples along the rows and the columns of a tile: copies of what it needs, its products and itself fit."""
    _, groups, _, o = pairs.left.shape
    whole = pairs.left.dtype == dtype and pairs.weights is None
    copied = 0 if whole else pairs.places * groups * (outputs * o + pairs.right.shape[2])
    room = work_bytes // dtype.itemsize
    height = min(-(-samples // _TILES), 256, max(1, room // 4 // max(1, copied)))
    entries = outputs**2 + 2 * pairs.places**2
    return max(1, height), max(1, room // 2 // (copied + max(1, height) * entries))


def _part(pairs: Pairs, start: int, stop: int, like: Tensor, purpose: str, scratch: Scratch) -> Pairs:
    """What belongs to some samples, in the precision of ``like``."""
    span = slice(start * pairs.places, stop * pairs.places)
    left, right = pairs.left[:, :, span], pairs.right[:, span]
    if pairs.weights is not None:
        weights = pairs.weights[:, :, None].to(like.dtype)
        base = left.to(like.dtype)
        shape = (len(weights), *base.shape[1:])
        left = torch.mul(base, weights, out=scratch.take(purpose, shape, like))
    return pairs._replace(left=_converted(left, like, purpose, scratch), right=right.to(like.dtype))


def _blocks(rows: Pairs, columns: Pairs, scratch: Scratch) -> Tensor:
    """The part of a Gram matrix that belongs to two sets of samples, shape ``(K, K', m, m')``."""
    outputs, groups, height, _ = rows.left.shape
    others, _, width, _ = columns.left.shape
    # Block (b, a) equals block (a, b).
    mirrored = rows.weights is not None
    blocks = scratch.take("blocks", (outputs, others, height // rows.places, width // columns.places), rows.left)
    for g in range(groups):
        inputs = _product(rows.right[g], columns.right[g])
        if rows.bias:
            inputs += 1
        for a in range(outputs):
            for b in range(a if mirrored else 0, others):
                block = _product(rows.left[a, g], columns.left[b, g]).mul_(inputs)
                if max(rows.places, columns.places) > 1:
                    block = block.unflatten(1, (-1, columns.places)).unflatten(0, (-1, rows.places)).sum((1, 3))
                if g == 0:
                    blocks[a, b] = block
                else:
                    blocks[a, b] += block
    if mirrored:
        for a in range(outputs):
            for b in range(a):
                blocks[a, b] = blocks[b, a]
    return blocks


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``A B^T``, added up in balanced parts: one long sum of ``m`` products loses ``sqrt(m)`` roundings."""
    width = _chunk(left.shape[1])
    total = matmul(left[:, :width], right[:, :width].T)
    for first in range(width, left.shape[1], width):
        add_product(total, left[:, first : first + width], right[:, first : first + width].T)
    return total


def _chunk(width: int) -> int:
    """Columns that are added up at once, so that sums are balanced."""
    return max(_COLUMNS, round(width ** (2 / 3)))


def mirror(gram: Tensor) -> Tensor:
    """Copy the lower triangle onto the upper one, in place."""
    for start, stop in _spans(gram.shape[0], 1024):
        gram[:start, start:stop] = gram[start:stop, :start].T
        corner = gram[start:stop, start:stop]
        corner.copy_(corner.tril() + corner.tril(-1).T)
    return gram


def _spans(size: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)
