"""The leading singular values and left vectors by a block Krylov method on ``J J^T``."""

import torch
from torch import Tensor

from lightning_bounds.jacobian.decomposition import Spectrum
from lightning_bounds.jacobian.krylov import RitzPairs, leading_pairs, orthonormal
from lightning_bounds.jacobian.multiplication import matmul
from lightning_bounds.jacobian.products import HeldRows, RecomputedRows

# Power iterations on the sketch, whose products cost next to nothing.
_SKETCH_STEPS = 4


def lanczos_spectrum(
    rows: HeldRows | RecomputedRows,
    rank: int,
    tolerance: float = 1e-3,
    seed: int = 0,
    start: Tensor | None = None,
    max_columns: int | None = None,
) -> Spectrum:
    """Leading part of the spectrum of ``J`` from products with ``J J^T``, to a relative tolerance.

    The first block is what the last call found (``start``), or the leading left vectors of a sketch ``J S`` of held
    rows, or random; then see :func:`leading_pairs`. A singular value is ``|J^T u_s|``. Its error bar is that of its
    Ritz value, and what a shorter type of held rows (:meth:`HeldRows.storage_errors`) and rounding add: ``ε_J σ_1`` as
    in :func:`gram_spectrum`, and ``4 ε σ_1`` in products of the type with the epsilon ``ε``. The noise floor is ten
    times rounding, 6e-6 of the largest singular value in float32, or the largest singular value whose error bar is
    above a tenth of itself: small ones may need a finer type to converge, as ``J J^T`` squares them.

    Args:
        rows: The Jacobian.
        rank: How many singular values, at most ``min(n*K, p)``.
        tolerance: Relative error of each singular value at which it stops.
        seed: Of the random columns.
        start: Left vectors near the leading ones, shape ``(n*K, b)``.
        max_columns: Columns of the Krylov basis at most; eight blocks if not given.

    Raises:
        ArithmeticError: If it does not converge.
        FloatingPointError: If the Jacobian is not finite.

    Example:
        >>> from lightning_bounds.jacobian.operator import JacobianOperator
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> lanczos_spectrum(HeldRows(J), rank=1).singular_values
        tensor([3.], dtype=torch.float64)
    """
    generator = torch.Generator().manual_seed(seed)
    size, width = rows.jacobian.shape[0], block_width(rank, rows.jacobian.shape[0])
    first = start if start is not None else _sketched(rows, width, generator)
    first = random_columns(size, width, generator, rows.jacobian.device, first)
    limit = max(2 * first.shape[1], max_columns or 8 * width)
    pairs = leading_pairs(rows.left, first, rank, tolerance, rounding=rows.product_precision, max_columns=limit)
    left_vectors = pairs.vectors[:, :rank]
    return finished("lanczos", rows, pairs, left_vectors, rows.transposed(left_vectors), generator)


def finished(
    method: str,
    rows: HeldRows | RecomputedRows,
    pairs: RitzPairs,
    left_vectors: Tensor,
    images: Tensor,
    generator: torch.Generator,
) -> Spectrum:
    """The spectrum from Ritz pairs, with singular values ``|J^T u_s|`` or ``|J v_s|``, the lengths of ``images``.

    They are right to rounding of ``σ_1``, where ``sqrt(θ_s)`` would be right to rounding of ``σ_1² / σ_s``.
    """
    rank = left_vectors.shape[1]
    values, order = torch.linalg.vector_norm(images.double(), dim=0).sort(descending=True, stable=True)
    stored = torch.zeros_like(values)
    if isinstance(rows, HeldRows) and rows.lossy:
        tiny = torch.finfo(images.dtype).tiny
        right = images / values.clamp_min(tiny).to(images) if method == "lanczos" else pairs.vectors[:, :rank]
        stored = rows.storage_errors(right, generator)
    rounding = (rows.row_precision + rows.product_precision) * values[0]
    errors = (pairs.errors + stored)[order] + rounding
    floor = 10 * (float(rounding) + float(stored.min()))
    unresolved = values[errors > 0.1 * values]
    return Spectrum(
        singular_values=values,
        vectors=left_vectors[:, order],
        frobenius_norm=rows.frobenius_norm,
        noise_floor=max(floor, float(unresolved.max()) if len(unresolved) else 0.0),
        method=method,
        errors=errors,
        residual_norms=pairs.residual_norms[:rank][order],
        subspace=pairs.vectors,
    )


def block_width(rank: int, size: int) -> int:
    """Columns of a block: the rank and a quarter more, at least eight, so that the last ones wanted converge too.

    Example:
        >>> block_width(50, 3072), block_width(5, 6)
        (62, 6)
    """
    return min(rank + max(8, rank // 4), size)


def random_columns(
    size: int, width: int, generator: torch.Generator, device: torch.device, known: Tensor | None = None
) -> Tensor:
    """A block of ``width`` columns or more, float64, shape ``(size, width)``: the known ones, and random ones.

    To known columns at least two are added: where they lie in an invariant subspace that is no longer the leading
    one, products alone would never leave it.
    """
    columns = 0 if known is None else known.shape[1]
    added = width if known is None else max(2, width - columns)
    added = min(added, max(size - columns, 0)) if columns < size else 0
    new = torch.randn(size, added, generator=generator, dtype=torch.float64).to(device)
    return new if known is None else torch.cat([known.to(new), new], dim=1)


def _sketched(rows: HeldRows | RecomputedRows, width: int, generator: torch.Generator) -> Tensor | None:
    sketch = rows.sketch(generator) if isinstance(rows, HeldRows) else None
    if sketch is None:
        return None
    vectors = torch.randn(sketch.shape[0], width, generator=generator, dtype=torch.float64).to(sketch.device)
    for _ in range(_SKETCH_STEPS):
        vectors = orthonormal(matmul(sketch, matmul(sketch.T, vectors.to(sketch))).double())
    return vectors
