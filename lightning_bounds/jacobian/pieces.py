"""How a Gram matrix is cut into pieces that fit into memory: what of which layer is held at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_bounds.jacobian.chunk import Layering
from lightning_bounds.jacobian.groups import Group

# Multiplying entry by entry takes about as long as so many multiplications inside a matrix product.
_ENTRYWISE = 8
# Samples that are differentiated together: more gains nothing.
_CHUNK = 256
# Bytes for those samples, and for copies in another precision, where no budget is given.
_WORK = 2**28


@dataclass(frozen=True, eq=False)
class Piece:
    """Some of the columns of the Jacobian.

    Attributes:
        name: The parameter that they belong to.
        group: By which rule; none for those that automatic differentiation takes.
        pairs: Whether products of the layer's inputs and of its gradients are multiplied for each pair of samples, in
            the place of products of rows.
        first: First column within the group, or, with pairs, first output of the layer.
        count: How many columns or outputs.
        late: Whether rows are made when they are multiplied, because what they are made of takes less room.
    """

    name: str
    group: Group | None
    pairs: bool
    first: int
    count: int
    late: bool = False


@dataclass(frozen=True)
class Cut:
    """The order of work.

    Attributes:
        passes: Pieces that are held at the same time.
        chunk: Samples that are differentiated together.
        work_bytes: Bytes for copies in another precision.
    """

    passes: list[list[Piece]]
    chunk: int
    work_bytes: int


def multiplications(group: Group, samples: int, outputs: int, pairs: bool) -> float:
    """Multiplications that a group adds to a symmetric Gram matrix of ``samples * outputs`` rows."""
    assert group.shape is not None
    groups, o, i = group.shape
    rows, places = samples * outputs, group.places
    if pairs:
        each = places**2 * (i / outputs**2 + o + _ENTRYWISE)
        return 0.5 * groups * rows**2 * each
    return groups * o * (rows * places * i + 0.5 * rows**2 * i)


def gram_multiplications(layering: Layering, sizes: dict[str, int], samples: int, outputs: int) -> float:
    """Multiplications of a whole symmetric Gram matrix, without making the gradients."""
    rows = samples * outputs
    absorbed = {group.bias for group in layering.groups if group.bias and takes_pairs(group, samples, outputs)}
    total = 0.5 * rows**2 * sum(sizes[name] for name in layering.plain)
    for group in layering.groups:
        if group.shape is not None:
            total += multiplications(group, samples, outputs, takes_pairs(group, samples, outputs))
        elif group not in absorbed:
            total += 0.5 * rows**2 * group.size
    return total


def made_columns(layering: Layering, sizes: dict[str, int], samples: int, outputs: int) -> int:
    """Columns of the Jacobian whose rows a Gram matrix makes; the rest goes by pairs."""
    by_pairs = [group for group in layering.groups if takes_pairs(group, samples, outputs)]
    return sum(sizes.values()) - sum(group.size + (group.bias.size if group.bias else 0) for group in by_pairs)


def takes_pairs(group: Group, samples: int, outputs: int) -> bool:
    """Whether a group is cheaper by pairs of samples than by rows."""
    if group.shape is None:
        return False
    return multiplications(group, samples, outputs, True) < multiplications(group, samples, outputs, False)


def cut(
    layering: Layering,
    sizes: dict[str, int],
    samples: int,
    outputs: int,
    itemsize: int,
    free: float,
) -> Cut:
    """Pieces and passes within some bytes beside the Gram matrix.

    Args:
        layering: How each parameter is differentiated.
        sizes: Number of entries of each parameter.
        samples: ``n``, of all sets of samples together.
        outputs: ``K``.
        itemsize: Bytes of a number in the network's precision.
        free: Bytes for everything but the Gram matrix; may be infinite.
    """
    held, work = 0.45 * free, int(min(_WORK, free / 5))
    absorbed = {group.bias for group in layering.groups if group.bias and takes_pairs(group, samples, outputs)}
    pieces: list[tuple[Piece, float]] = []
    for group in layering.groups:
        if group in absorbed:
            continue
        if takes_pairs(group, samples, outputs):
            pieces += _pair_pieces(group, samples, outputs, itemsize, held)
        else:
            pieces += _made_pieces(group, samples, outputs, itemsize, held)
    for name in layering.plain:
        pieces += _row_pieces(name, None, sizes[name], samples * outputs * itemsize, held)
    passes = _packed(pieces, held)
    plain = max((sum(sizes[name] for name in {p.name for p in part if p.group is None}) for part in passes), default=0)
    return Cut(passes, chunk_size(layering, outputs, itemsize, work, plain), work)


def chunk_size(layering: Layering, outputs: int, itemsize: int, work_bytes: int = _WORK, plain: int = 0) -> int:
    """Samples that are differentiated together, of which automatic differentiation makes rows of ``plain`` entries."""
    # The largest gradients of one sample that are made whole.
    whole = max((group.size for group in layering.groups if group.shape is None), default=0)
    # Rows without a rule are made, put together and split.
    sample_bytes = layering.sample_bytes + outputs * (2 * whole + 3 * plain) * itemsize
    return max(1, min(_CHUNK, work_bytes // max(1, sample_bytes)))


def _made_pieces(group: Group, samples: int, outputs: int, itemsize: int, held: float) -> list[tuple[Piece, float]]:
    """Rows of a group, or, where that is less and fits, what they are made of."""
    if group.shape is not None:
        groups, o, _ = group.shape
        size = samples * itemsize * (group.inputs + outputs * groups * o * group.places)
        if size < min(held, samples * outputs * group.size * itemsize):
            return [(Piece(group.name, group, False, 0, group.size, late=True), size)]
    return _row_pieces(group.name, group, group.size, samples * outputs * itemsize, held)


def _row_pieces(name: str, group: Group | None, size: int, column_bytes: int, held: float) -> list[tuple[Piece, float]]:
    # Rows of outer products are made output by output of the layer.
    unit = group.shape[2] if group is not None and group.shape is not None and group.shape[0] == 1 else 1
    width = max(unit, int(min(held / column_bytes, size)) // unit * unit)
    return [
        (Piece(name, group, False, first, min(width, size - first)), min(width, size - first) * column_bytes)
        for first in range(0, size, width)
    ]


def _pair_pieces(group: Group, samples: int, outputs: int, itemsize: int, held: float) -> list[tuple[Piece, float]]:
    assert group.shape is not None
    groups, o, i = group.shape
    places = samples * groups * group.places * itemsize
    width = max(1, min(o, int((held / places - i) / outputs) if math.isfinite(held) else o))
    return [
        (Piece(group.name, group, True, first, min(width, o - first)), places * (i + outputs * min(width, o - first)))
        for first in range(0, o, width)
    ]


def _packed(pieces: Sequence[tuple[Piece, float]], held: float) -> list[list[Piece]]:
    passes: list[list[Piece]] = []
    room = 0.0
    for piece, size in pieces:
        if not passes or size > room:
            passes.append([])
            room = held
        passes[-1].append(piece)
        room -= size
    return passes
