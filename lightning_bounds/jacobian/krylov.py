"""The largest eigenvalues of a symmetric matrix that is known by its products, each with an error bar."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# A Ritz pair with a larger relative residual says where the unseen part of the spectrum begins.
_UNRESOLVED = 0.3


class RitzPairs(NamedTuple):
    """Approximate eigenpairs of a symmetric positive semi-definite matrix, largest first.

    Attributes:
        values: ``θ_s``, Rayleigh quotients, so that ``λ_s >= θ_s``; shape ``(m,)``, the ``rank`` wanted and some more.
        vectors: Orthonormal columns, shape ``(size, m)``.
        residual_norms: ``|A q_s - θ_s q_s|``, shape ``(m,)``.
        errors: Error bars of ``sqrt(θ_s)``, shape ``(rank,)``, see :func:`leading_pairs`.
        companions: What came with the products ``A q_s``, shape ``(extra, m)``.
        products: With how many vectors ``A`` was multiplied.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    errors: Tensor
    companions: Tensor
    products: int


def leading_pairs(
    multiply: Callable[[Tensor], Tensor],
    start: Tensor,
    rank: int,
    tolerance: float,
    *,
    rounding: float,
    max_columns: int,
    max_steps: int = 200,
) -> RitzPairs:
    """Leading eigenpairs by a block Krylov method with full orthogonalization, restarted where memory ends.

    Each step adds to the basis the residuals of the Ritz pairs that still matter, which are those beyond ``rank`` and
    those whose error bar, or whose residual as a fraction of ``θ_1``, is above the tolerance; without a restart and
    with all of them, that is block Lanczos. It stops when every error bar of ``sqrt(θ_s)``, ``s <= rank``, is at most
    ``tolerance`` times itself, or times what rounding resolves, if that is more.

    The bar is ``sqrt(θ + δ) - sqrt(θ)`` with ``δ = min(ρ, 2 ρ² / (θ - μ))``, the largest ``δ`` of those whose
    intervals ``θ ± ρ`` overlap, with ``ρ`` the residual norm. That an eigenvalue lies within ``ρ`` is a theorem. That
    it lies within ``ρ² / (θ - μ)`` is one to second order, with ``μ`` the largest eigenvalue that the basis has not
    found; for that the first unresolved Ritz value beyond ``rank`` is taken, and the 2 covers that it may be too small.
    That no eigenvalue was missed altogether rests on a start with some random columns.

    Args:
        multiply: ``Q -> A Q``, shape ``(size, b)``; rows beyond ``size`` are linear in ``Q`` and come along.
        start: First block, any independent columns, at least one, shape ``(size, b)``; its type is that of the basis.
        rank: How many are wanted.
        tolerance: Relative, of the square roots.
        rounding: Rounding of a product, as a fraction of the largest eigenvalue.
        max_columns: Columns of the basis that fit memory, at least ``2 b``.
        max_steps: When to give up.

    Raises:
        ArithmeticError: If it does not converge.

    References:
        Parlett, The Symmetric Eigenvalue Problem, 1998, theorems 4.5.1 and 11.7.1; Li & Li, A note on eigenvalues of
        perturbed Hermitian matrices, 2005.

    Example:
        >>> A = torch.diag(torch.arange(8.0, dtype=torch.float64) ** 2)
        >>> pairs = leading_pairs(lambda Q: A @ Q, torch.ones(8, 1).double(), 1, 1e-6, rounding=1e-15, max_columns=8)
        >>> round(float(pairs.values[0]), 6)
        49.0
    """
    size, keep = start.shape[0], min(start.shape[1], start.shape[0])
    basis = orthonormal(start)
    image = multiply(basis)
    products = basis.shape[1]
    for _ in range(max_steps):
        coefficients = inner(basis, image[:size])
        theta, rotation = torch.linalg.eigh((coefficients + coefficients.T) / 2)
        theta, rotation = theta.flip(0)[:keep].clamp_min(0), rotation.flip(1)[:, :keep]
        vectors, images = basis @ rotation.to(basis), image @ rotation.to(image)
        residuals = images[:size] - vectors.to(images) * theta.to(images)
        norms = inner_norms(residuals)
        # Below it a residual is rounding.
        floor = rounding * theta[0]
        errors = _error_bars(theta, norms, rank, full=basis.shape[1] == size)
        target = tolerance * torch.maximum(theta[:rank], 5 * floor).sqrt()
        if len(theta) >= rank and bool(((errors <= target) | (norms[:rank] <= floor)).all()):
            return RitzPairs(theta, vectors, norms, errors, images[size:], products)
        relative = residuals / torch.maximum(theta, 5 * floor).clamp_min(torch.finfo(theta.dtype).tiny).to(residuals)
        if basis.shape[1] + keep > max_columns:
            basis, image = vectors, images
        pending = torch.ones_like(theta, dtype=torch.bool)
        pending[:rank] = (errors > target) | (norms[:rank] > tolerance * theta[0])
        new = orthonormal(relative[:, pending].to(basis), basis, drop=0.1 * tolerance**0.5)
        if new.shape[1] == 0:
            return RitzPairs(theta, vectors, norms, errors, images[size:], products)
        products += new.shape[1]
        # Where vectors are long these are most of the memory, beside which the product has to fit.
        del vectors, images, residuals, relative
        image = torch.cat([image, multiply(new)], dim=1)
        basis = torch.cat([basis, new], dim=1)
    raise ArithmeticError(
        f"Expected {rank} singular values to {tolerance:g}, but after {products} products their error bars reach "
        f"{float((errors / theta[:rank].sqrt()).max()):.3g}; raise `tolerance`, or use method='gram'."
    )


def inner(left: Tensor, right: Tensor) -> Tensor:
    """``X^T Y``, added up in float64 some rows at a time, shape ``(a, b)``."""
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for x, y in zip(left.split(2**14), right.split(2**14), strict=True):
        total += x.double().T @ y.double()
    return total


def inner_norms(columns: Tensor) -> Tensor:
    """Norms of the columns in float64, shape ``(b,)``."""
    return torch.linalg.vector_norm(columns, dim=0).double()


def orthonormal(block: Tensor, basis: Tensor | None = None, drop: float = 0.0) -> Tensor:
    """Orthonormal columns that span a block, without its part in the span of ``basis``; dependent ones are dropped.

    Args:
        block: Shape ``(size, b)``.
        basis: Orthonormal columns, shape ``(size, m)``.
        drop: Directions in which the block is shorter than this are left out, unless all are within ten times of it.

    Example:
        >>> orthonormal(torch.tensor([[3.0, 3.0], [0.0, 0.0]])).abs()
        tensor([[1.],
                [0.]])
    """
    smallest = 100 * torch.finfo(block.dtype).eps
    for repeat in range(3):
        if basis is not None:
            block = block - basis @ inner(basis, block).to(block)
        squares, directions = torch.linalg.eigh(inner(block, block))
        lengths = squares.clamp_min(0).sqrt()
        longest = float(lengths[-1]) if len(lengths) else 0.0
        limit = max(min(drop, 0.1 * longest), smallest * longest) if repeat == 0 else 0.5
        kept = lengths > limit
        block = block @ (directions[:, kept] / lengths[kept]).to(block)
    return block


def _error_bars(theta: Tensor, norms: Tensor, rank: int, full: bool) -> Tensor:
    wanted, radii = theta[:rank], norms[:rank]
    shift = radii
    if len(theta) > rank and not full:
        beyond = (norms[rank:] > _UNRESOLVED * theta[rank:]).nonzero().flatten()
        unseen = theta[rank + int(beyond[0])] if len(beyond) else theta[-1]
        gap = wanted - unseen
        resolved = (gap > 0) & (radii < _UNRESOLVED * wanted)
        quadratic = 2 * radii.square() / gap.clamp_min(torch.finfo(gap.dtype).tiny)
        shift = torch.where(resolved, torch.minimum(radii, quadratic), radii)
    # Which of several eigenvalues a Ritz value belongs to is open where their intervals overlap.
    overlap = (wanted[:, None] - wanted).abs() <= radii[:, None] + radii
    return (wanted + (overlap * shift).amax(dim=1)).sqrt() - wanted.sqrt()
