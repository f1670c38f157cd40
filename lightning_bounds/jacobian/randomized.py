"""The leading singular values and left vectors by accelerated subspace iteration on ``J^T J``."""

import torch
from torch import Tensor

from lightning_bounds.jacobian.decomposition import Spectrum
from lightning_bounds.jacobian.krylov import leading_pairs
from lightning_bounds.jacobian.lanczos import block_width, finished, random_columns
from lightning_bounds.jacobian.products import HeldRows, RecomputedRows


def randomized_spectrum(
    rows: HeldRows | RecomputedRows,
    rank: int,
    tolerance: float = 1e-3,
    seed: int = 0,
    start: Tensor | None = None,
    max_columns: int | None = None,
) -> Spectrum:
    """Leading part of the spectrum of ``J`` from products with ``J^T J``, one pass over its rows each.

    Started from the right vectors that the last call in a training found, one or two passes are enough. The last
    residual block is kept beside the subspace (:func:`leading_pairs` with room for three blocks), which converges
    faster than iterating the subspace alone. Error bars and noise floor are as in :func:`lanczos_spectrum`.

    Args:
        rows: The Jacobian.
        rank: How many singular values, at most ``min(n*K, p)``.
        tolerance: Relative error of each singular value at which it stops.
        seed: Of the random columns.
        start: Right vectors near the leading ones, shape ``(p, b)``.
        max_columns: Columns of the basis at most; three blocks if not given.

    Raises:
        ArithmeticError: If it does not converge.
        FloatingPointError: If the Jacobian is not finite.

    References:
        Halko, Martinsson & Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.

    Example:
        >>> from lightning_bounds.jacobian.operator import JacobianOperator
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> randomized_spectrum(RecomputedRows(J), rank=1).singular_values.round(decimals=6)
        tensor([3.], dtype=torch.float64)
    """
    generator = torch.Generator().manual_seed(seed)
    size, width = rows.jacobian.shape[1], block_width(rank, rows.jacobian.shape[1])
    first = random_columns(size, width, generator, rows.jacobian.device, start).to(rows.working)
    limit = max(2 * first.shape[1], max_columns or 3 * width)
    pairs = leading_pairs(
        lambda vectors: torch.cat(list(reversed(rows.right(vectors)))),
        first,
        rank,
        tolerance,
        rounding=rows.product_precision,
        max_columns=limit,
    )
    images = pairs.companions[:, :rank]
    return finished("randomized", rows, pairs, _left_vectors(images), images, generator)


def _left_vectors(images: Tensor) -> Tensor:
    """``J v_s / σ_s``, made orthonormal in descending order, so that those of zeros are some completion."""
    orthogonal, triangle = torch.linalg.qr(images.double())
    return orthogonal * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
