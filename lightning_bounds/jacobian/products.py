"""Products with ``J J^T`` and ``J^T J`` for a block of vectors: from rows in memory, or from rows made anew each time.

A sum over rows is taken only in a product or in ``inner``, so that rows may one day lie in several places.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.jacobian.multiplication import add_product, matmul
from lightning_bounds.jacobian.operator import JacobianOperator

# Bytes of rows made at a time, and of columns worked on at a time; samples of a spot check; most columns of a sketch.
ROW_BYTES, TILE_BYTES, _SPOT, _SKETCH = 2**27, 2**23, 16, 2**13
# Columns over which a product sums at most, of a copy and of a whole matrix; parts in which all rows are made.
_COPIED, _WHOLE, _PARTS = 2**13, 2**16, 4
# Epsilons that a product loses, of its largest possible length: with some room above what was measured.
_PRODUCT_ROUNDING = 4.0


class Pass(NamedTuple):
    """What one pass over the rows gives for ``V``: ``J V``, shape ``(n*K, b)``, and ``J^T J V``, shape ``(p, b)``."""

    image: Tensor
    product: Tensor


class RecomputedRows:
    """Rows made anew, some samples at a time, for every product; or no rows at all where samples see each other.

    Args:
        jacobian: The Jacobian.
        block_bytes: How much of its rows there may be at a time.

    Raises:
        FloatingPointError: If an entry is not finite.

    Attributes:
        frobenius_norm: ``|J|_F``.
        row_precision: Machine epsilon of the rows, see :func:`gram_spectrum`.
        product_precision: Rounding of ``J v`` and ``J^T u`` as a fraction of ``σ_1``, of ``J J^T u`` of ``σ_1²``.

    Example:
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> RecomputedRows(J).left(torch.eye(2, dtype=torch.float64))
        tensor([[9., 0.],
                [0., 4.]], dtype=torch.float64)
    """

    def __init__(self, jacobian: JacobianOperator, block_bytes: int = ROW_BYTES) -> None:
        self.jacobian, self.block_bytes = jacobian, block_bytes
        self.working = jacobian.dtype
        self.row_precision = jacobian.row_precision
        self.product_precision = _PRODUCT_ROUNDING * torch.finfo(self.working).eps
        self._norm: float | None = None

    @property
    def frobenius_norm(self) -> float:
        """``|J|_F``, from the first pass over the rows."""
        if self._norm is None:
            self._norm = sum(_squares(blocks) for _, blocks in self._passed()) ** 0.5
        return self._norm

    def left(self, vectors: Tensor) -> Tensor:
        """``J J^T U``, float64, for ``U`` of shape ``(n*K, b)``: two passes."""
        product = self.transposed(vectors)
        if self.jacobian.coupled:
            return (self.jacobian @ product).double()
        columns = product.split(self.jacobian.sizes)
        return torch.cat([_image(blocks, columns) for _, blocks in self._passed()])

    def right(self, vectors: Tensor) -> Pass:
        """``J V`` and ``J^T J V`` for ``V`` of shape ``(p, b)``: one pass, in which each row is made once."""
        vectors = vectors.to(self.working)
        if self.jacobian.coupled:
            image = self.jacobian @ vectors
            return Pass(image, self.jacobian.T @ image)
        image = vectors.new_empty(self.jacobian.shape[0], vectors.shape[1])
        product, columns, squares = torch.zeros_like(vectors), vectors.split(self.jacobian.sizes), 0.0
        for start, blocks in self._passed():
            part = image[start : start + len(blocks[0])].copy_(_image(blocks, columns))
            for block, place in zip(blocks, product.split(self.jacobian.sizes), strict=True):
                add_product(place, block.T, part)
            squares += _squares(blocks) if self._norm is None else 0.0
        self._norm = squares**0.5 if self._norm is None else self._norm
        return Pass(image, product)

    def transposed(self, vectors: Tensor) -> Tensor:
        """``J^T U``, shape ``(p, b)``: one pass."""
        vectors = vectors.to(self.working)
        if self.jacobian.coupled:
            return self.jacobian.T @ vectors
        product = vectors.new_zeros(self.jacobian.shape[1], vectors.shape[1])
        for start, blocks in self._passed():
            for block, place in zip(blocks, product.split(self.jacobian.sizes), strict=True):
                add_product(place, block.T, vectors[start : start + len(block)])
        return product

    def _passed(self) -> Iterator[tuple[int, list[Tensor]]]:
        return row_blocks(self.jacobian, self.block_bytes)


class HeldRows:
    """All rows in memory, one matrix for each parameter, in the Jacobian's type or a shorter one.

    In float16 each row of a matrix is divided by its largest entry and multiplied by 2^14, so that its entries keep 11
    bits down to 4e-9 of the largest; columns are widened again a few at a time. What the shorter type changes is
    measured by :meth:`storage_errors`.

    Args:
        jacobian: The Jacobian.
        dtype: In which it is held; its own if not given.
        block_bytes: How much of the rows there may be at a time in their own type, on the way to a shorter one.

    Raises:
        FloatingPointError: If an entry is not finite.

    Attributes:
        frobenius_norm: ``|J|_F``.
        row_precision: Machine epsilon of the rows, see :func:`gram_spectrum`.
        product_precision: Rounding of ``J v`` and ``J^T u`` as a fraction of ``σ_1``, of ``J J^T u`` of ``σ_1²``.

    Example:
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> HeldRows(J, torch.float16).left(torch.eye(2, dtype=torch.float64))
        tensor([[9., 0.],
                [0., 4.]], dtype=torch.float64)
    """

    def __init__(
        self, jacobian: JacobianOperator, dtype: torch.dtype | None = None, block_bytes: int = ROW_BYTES
    ) -> None:
        self.jacobian, rows, device = jacobian, jacobian.shape[0], jacobian.device
        dtype = dtype or jacobian.dtype
        self.lossy = dtype != jacobian.dtype
        self.working = torch.promote_types(dtype, torch.float32)
        self.row_precision = jacobian.row_precision
        self.product_precision = _PRODUCT_ROUNDING * torch.finfo(self.working).eps
        self.matrices = [torch.empty(rows, size, dtype=dtype, device=device) for size in jacobian.sizes]
        self.scales = [torch.ones(rows, dtype=self.working, device=device) for _ in self.matrices]
        squares = 0.0
        for start, blocks in row_blocks(jacobian, block_bytes, None if self.lossy else self.matrices):
            squares += _squares(blocks)
            span = slice(start, start + len(blocks[0]))
            for block, matrix, scale in zip(blocks, self.matrices, self.scales, strict=True):
                if dtype == torch.float16:
                    scale[span] = _largest(block) / 2**14
                if self.lossy:
                    matrix[span] = block.div_(scale[span, None])
        self.frobenius_norm = squares**0.5

    def left(self, vectors: Tensor) -> Tensor:
        """``J J^T U``, float64, for ``U`` of shape ``(n*K, b)``: each tile of columns is read once."""
        # Both products have the few vectors as rows: with few columns matrix products are up to a third slower.
        across = vectors.to(self.working).T.contiguous()
        product = torch.zeros(across.shape, dtype=torch.float64, device=vectors.device)
        for _, tile, scale in self._tiles():
            # Tiles are added up in float64: one float32 sum over all columns would round more.
            scaled = across * scale if self.lossy else across
            image = matmul(matmul(scaled, tile), tile.T)
            product += image.mul_(scale) if self.lossy else image
        return product.T.contiguous()

    def right(self, vectors: Tensor) -> Pass:
        """``J V`` and ``J^T J V`` for ``V`` of shape ``(p, b)``."""
        vectors = vectors.to(self.working)
        image = torch.zeros(self.jacobian.shape[0], vectors.shape[1], dtype=torch.float64, device=vectors.device)
        for start, tile, scale in self._tiles():
            image += matmul(tile, vectors[start : start + tile.shape[1]]).mul_(scale[:, None])
        return Pass(image.to(self.working), self.transposed(image))

    def transposed(self, vectors: Tensor) -> Tensor:
        """``J^T U``, shape ``(p, b)``."""
        across = vectors.to(self.working).T.contiguous()
        product = across.new_empty(self.jacobian.shape[1], vectors.shape[1])
        for start, tile, scale in self._tiles():
            product[start : start + tile.shape[1]] = matmul(across * scale if self.lossy else across, tile).T
        return product

    def sketch(self, generator: torch.Generator, columns: int | None = None) -> Tensor | None:
        """``J S`` with every column of ``J`` added to one of a few, with a random sign; None if ``p`` is not larger.

        They are as many as :func:`sketch_columns` says if not given. ``E[J S S^T J^T] = J J^T``, and the leading left
        vectors of ``J S`` are near those of ``J``.

        References:
            Clarkson & Woodruff, Low rank approximation and regression in input sparsity time, STOC 2013.
        """
        rows, total = self.jacobian.shape
        columns = columns or sketch_columns(rows, total)
        if not 0 < 4 * columns <= total:
            return None
        signs = torch.randint(0, 2, (total,), generator=generator).to(self.scales[0]).mul_(2).sub_(1)
        sketch = self.scales[0].new_zeros(rows, columns)
        offset = 0
        for start, tile, scale in self._tiles(columns):
            width = tile.shape[1]
            offset = offset if offset + width <= columns else 0
            signed = signs[start : start + width]
            weights = torch.outer(scale, signed) if self.lossy else signed.expand_as(tile)
            sketch[:, offset : offset + width].addcmul_(tile, weights)
            offset += width
        return sketch

    def storage_errors(self, right_vectors: Tensor, generator: torch.Generator) -> Tensor:
        """How far the shorter type moves singular values: ``|E v_s|`` with ``E`` what it does to the rows, float64.

        Estimated on the exact rows of some random samples. To first order a singular value moves by ``u_s^T E v_s``,
        which is smaller. Zeros if nothing was shortened.

        Args:
            right_vectors: Unit columns ``v_s``, shape ``(p, r)``.
            generator: For the choice of samples.
        """
        squares = torch.zeros(right_vectors.shape[1], dtype=torch.float64, device=right_vectors.device)
        n, K = self.jacobian.num_samples, self.jacobian.num_outputs
        samples = torch.randperm(n, generator=generator)[:_SPOT].tolist() if self.lossy else []
        for i in samples:
            rows = slice(i * K, (i + 1) * K)
            pairs = zip(self.matrices, self.scales, strict=True)
            held = [matrix[rows].to(self.working) * scale[rows, None] for matrix, scale in pairs]
            change = self.jacobian.rows(i, i + 1) - torch.cat(held, dim=1)
            squares += matmul(change.to(right_vectors), right_vectors).double().square().sum(dim=0)
        return (squares * n / max(len(samples), 1)).sqrt()

    def _tiles(self, columns: int | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Some columns at a time, in the type that is computed in: the number of the first, and the scale of rows.

        Args:
            columns: How many at most. If not given they lie without gaps, as products are faster so: a whole matrix,
                or a copy of some of its columns.
        """
        rows, first = self.jacobian.shape[0], 0
        widest = min(columns or _COPIED, max(self.jacobian.sizes), max(1, TILE_BYTES // (self.working.itemsize * rows)))
        held = self.matrices[0].dtype
        buffer = self.scales[0].new_empty(0)
        for matrix, scale in zip(self.matrices, self.scales, strict=True):
            # A float32 sum over more columns than that would round more.
            whole = columns is None and held == self.working and matrix.shape[1] <= _WHOLE
            step = matrix.shape[1] if whole else widest
            for start in range(0, matrix.shape[1], step):
                tile = matrix[:, start : start + step]
                if held != self.working or (columns is None and not tile.is_contiguous()):
                    buffer = buffer if buffer.numel() else self.scales[0].new_empty(rows * widest)
                    tile = buffer[: tile.numel()].view(tile.shape).copy_(tile)
                yield first + start, tile, scale
            first += matrix.shape[1]


def sketch_columns(rows: int, columns: int) -> int:
    """Columns of a sketch, fewer where there are many rows; 0 if ``J`` has hardly more.

    Example:
        >>> sketch_columns(3072, 268579), sketch_columns(12288, 268579), sketch_columns(3072, 20000)
        (8192, 2730, 0)
    """
    wanted = max(1, min(_SKETCH, 2**25 // rows))
    return wanted if columns >= 4 * wanted else 0


def row_blocks(
    jacobian: JacobianOperator, block_bytes: int, out: Sequence[Tensor] | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """Rows of some samples at a time, a matrix for each parameter, with the number of the first row.

    They are made in the same buffers each time, or in ``out``, matrices that have room for all rows.

    Raises:
        FloatingPointError: If an entry is not finite.
    """
    n, K = jacobian.num_samples, jacobian.num_outputs
    # What is written to its place needs no memory on the way, and few parts need few checks.
    most = -(-n // _PARTS) if out else block_bytes // (K * jacobian.shape[1] * jacobian.dtype.itemsize)
    step = max(1, min(n, most))
    buffers = out or [
        torch.empty(step * K, size, dtype=jacobian.dtype, device=jacobian.device) for size in jacobian.sizes
    ]
    for start in range(0, n, step):
        stop = min(start + step, n)
        span = slice(start * K, stop * K) if out else slice(0, (stop - start) * K)
        yield start * K, jacobian.row_blocks(start, stop, out=[buffer[span] for buffer in buffers])


def _image(blocks: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """``J_c V`` for some rows, added up over parameters in float64."""
    image = torch.zeros(blocks[0].shape[0], columns[0].shape[1], dtype=torch.float64, device=blocks[0].device)
    for block, part in zip(blocks, columns, strict=True):
        image += matmul(block, part)
    return image


def _squares(blocks: Sequence[Tensor]) -> float:
    """Sum of squares: of each row in its own type, of the rows in float64."""
    total = sum(float(torch.linalg.vector_norm(block, dim=1).double().square().sum()) for block in blocks)
    if not total < float("inf"):
        raise FloatingPointError("Expected a finite Jacobian, but its rows hold NaN or infinity.")
    return total


def _largest(block: Tensor) -> Tensor:
    low, high = block.aminmax(dim=1)
    return torch.maximum(-low, high).clamp_min(torch.finfo(torch.float32).tiny * 2**15)
