"""What is held of some columns of a Jacobian, for all samples, until it is multiplied."""

from collections.abc import Sequence

from torch import Tensor

from lightning_bounds.jacobian.chunk import Chunk
from lightning_bounds.jacobian.contraction import Pairs, add_pairs, add_rows
from lightning_bounds.jacobian.pieces import Piece
from lightning_bounds.jacobian.scratch import Scratch


class RowStore:
    """Rows by one or more pieces, side by side."""

    def __init__(self, pieces: Sequence[Piece], samples: int, outputs: int, like: Tensor) -> None:
        self.pieces, self.outputs = pieces, outputs
        self.rows = like.new_empty(samples * outputs, sum(piece.count for piece in pieces))

    def write(self, chunk: Chunk | None, plain: dict[str, Tensor], start: int, stop: int) -> None:
        """Take the samples ``start .. stop-1``."""
        block, first = self.rows[start * self.outputs : stop * self.outputs], 0
        for piece in self.pieces:
            part = block[:, first : first + piece.count]
            first += piece.count
            if piece.group is None:
                part.copy_(plain[piece.name][:, piece.first : piece.first + piece.count])
                continue
            assert chunk is not None
            whole = piece.group.shape is None or piece.group.shape[0] > 1
            if part.is_contiguous() and (piece.count == piece.group.size or not whole):
                chunk.write_rows(piece.group, part.view(stop - start, self.outputs, -1), piece.first)
            else:
                size, offset = (piece.group.size, 0) if whole else (piece.count, piece.first)
                made = part.new_empty(stop - start, self.outputs, size)
                chunk.write_rows(piece.group, made, offset)
                part.copy_(made[:, :, piece.first - offset :][:, :, : piece.count].flatten(0, 1))

    def add_to(self, gram: Tensor, other: "RowStore | None", work_bytes: int, scratch: Scratch) -> None:
        """Add the products of these rows, see :func:`add_rows`."""
        add_rows(gram, self.rows, None if other is None else other.rows, work_bytes, scratch)


class PairStore:
    """Inputs of a layer and gradients by some of its outputs, to be multiplied for each pair of samples."""

    def __init__(self, piece: Piece, samples: int, outputs: int, like: Tensor) -> None:
        assert piece.group is not None
        assert piece.group.shape is not None
        self.piece, self.group, self.outputs = piece, piece.group, outputs
        (groups, _, i), places = piece.group.shape, piece.group.places
        left = like.new_empty(outputs, groups, samples * places, piece.count)
        right = like.new_empty(groups, samples * places, i)
        self.pairs = Pairs(left, right, places, piece.group.bias is not None)

    def write(self, chunk: Chunk | None, _: dict[str, Tensor], start: int, stop: int) -> None:
        """Take the samples ``start .. stop-1``."""
        assert chunk is not None
        span, count = slice(start * self.pairs.places, stop * self.pairs.places), stop - start
        left, right = chunk.factors(self.group)
        left = left.unflatten(2, (self.outputs, -1))[:, :, :, self.piece.first : self.piece.first + self.piece.count]
        self.pairs.left[:, :, span].unflatten(2, (count, -1)).copy_(left.permute(2, 1, 0, 4, 3))
        self.pairs.right[:, span].unflatten(1, (count, -1)).copy_(right.transpose(0, 1))

    def add_to(self, gram: Tensor, other: "PairStore | None", work_bytes: int, scratch: Scratch) -> None:
        """Add the products of pairs, see :func:`add_pairs`."""
        add_pairs(gram, self.pairs, None if other is None else other.pairs, work_bytes, scratch)


class LateStore:
    """What a layer's rows are made of, which takes less room than they do, so that they are made when they are used."""

    def __init__(self, piece: Piece, samples: int, outputs: int, like: Tensor) -> None:
        assert piece.group is not None
        assert piece.group.shape is not None
        self.group, self.shape = piece.group, piece.group.shape
        self.samples, self.outputs, self.like = samples, outputs, like
        self.chunks: list[tuple[int, Chunk]] = []

    def write(self, chunk: Chunk | None, _: dict[str, Tensor], start: int, stop: int) -> None:  # noqa: ARG002
        """Take the samples ``start .. stop-1``."""
        assert chunk is not None
        self.chunks.append((start, chunk.kept(self.group)))

    def add_to(self, gram: Tensor, other: "LateStore | None", work_bytes: int, scratch: Scratch) -> None:
        """Add the products of the rows, made for as many outputs of the layer at a time as fit."""
        groups, o, i = self.shape
        samples = self.samples + (0 if other is None else other.samples)
        room = work_bytes // (samples * self.outputs * self.like.element_size() * i)
        step = o if groups > 1 else max(1, min(o, room))
        for first in range(0, o, step):
            count = groups * min(step, o - first) * i
            rows = self._rows(first * i, count, "late rows", scratch)
            others = None if other is None else other._rows(first * i, count, "other late rows", scratch)
            add_rows(gram, rows, others, work_bytes, scratch)

    def _rows(self, first: int, count: int, purpose: str, scratch: Scratch) -> Tensor:
        rows = scratch.take(purpose, (self.samples, self.outputs, count), self.like)
        for start, chunk in self.chunks:
            chunk.write_rows(self.group, rows[start : start + chunk.num_samples], first)
        return rows.flatten(0, 1)


Store = RowStore | PairStore | LateStore


def stores_of(pieces: Sequence[Piece], samples: int, outputs: int, like: Tensor, narrow: int = 512) -> list[Store]:
    """Room for some pieces; rows of few columns are joined, because products of so few are slow."""
    joined = [piece for piece in pieces if not piece.pairs and not piece.late and piece.count < narrow]
    stores: list[Store] = []
    for piece in pieces:
        if piece.pairs:
            stores.append(PairStore(piece, samples, outputs, like))
        elif piece.late:
            stores.append(LateStore(piece, samples, outputs, like))
        elif piece not in joined:
            stores.append(RowStore([piece], samples, outputs, like))
    return [*stores, RowStore(joined, samples, outputs, like)] if joined else stores
