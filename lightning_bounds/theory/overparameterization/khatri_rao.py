"""How diverse the inputs are: Khatri-Rao products with themselves, and the separation of pairs."""

import math

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, check_count
from lightning_bounds.theory.gaussian.blocks import tiles

# Rounding of a squared distance that is taken from inner products, and from where on it matters, as parts of the norms.
_ROUNDING = 1e-14
_NEARLY_EQUAL = 1e-3


def smallest_eigenvalue(gram: Tensor, accuracy: float = 0.0) -> float:
    """Smallest eigenvalue of a positive semidefinite matrix ``(n, n)``; 0 where rounding leaves no digit of it.

    Below ``n ε λ_max``, and below ``n`` times the error of an entry, it cannot be told from 0.

    Args:
        gram: The matrix.
        accuracy: Largest error of an entry, relative to the largest entry of the diagonal.

    Example:
        >>> smallest_eigenvalue(torch.tensor([[2.0, 0.0], [0.0, 1.0]])), smallest_eigenvalue(torch.ones(2, 2))
        (1.0, 0.0)
    """
    eigenvalues = torch.linalg.eigvalsh(gram.to(torch.float64))
    rounding = torch.finfo(torch.float64).eps * float(eigenvalues[-1])
    floor = len(gram) * max(rounding, accuracy * float(gram.diagonal().max()))
    smallest = float(eigenvalues[0])
    return smallest if smallest > floor else 0.0


def khatri_rao_sigma_min(inputs: Tensor, order: int = 2) -> float:
    """``σ_min(X^{*r})``, the smallest singular value of the matrix with rows ``x_i ⊗ ... ⊗ x_i`` (``r`` factors).

    From ``X^{*r} (X^{*r})^T = (X X^T)^{∘r}``, so the ``n x d^r`` matrix is never formed. It is 0 if ``n`` exceeds
    ``C(d+r-1, r)``, the dimension of the symmetric tensors, and where rounding leaves no digit: below ``√(n ε)``,
    about 1e-6, of the largest singular value.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        order: ``r``, at least 1; 2 is ``X * X``.

    Raises:
        ValueError: If the inputs are no finite matrix, or the order is no positive integer.

    References:
        Oymak & Soltanolkotabi 2019, section 1.3, Lemma 6.4, Appendix H.

    Example:
        >>> khatri_rao_sigma_min(torch.eye(3)), khatri_rao_sigma_min(torch.randn(4, 2))
        (1.0, 0.0)
    """
    inputs = as_inputs(inputs)
    check_count("order", order)
    n, d = inputs.shape
    if n > math.comb(d + order - 1, order):
        return 0.0
    # Entries at most 1, so that no power overflows.
    scale = float(inputs.norm(dim=1).max()) or 1.0
    products = inputs / scale
    return math.sqrt(smallest_eigenvalue((products @ products.T).pow_(order))) * scale**order


def separation(inputs: Tensor) -> float:
    """Separation ``δ = min_{i<j} min(|x_i - x_j|, |x_i + x_j|)``, at most ``√2`` for rows of norm 1; 0 for duplicates.

    Args:
        inputs: ``X``, shape ``(n, d)``, with at least two rows. The theorems assume rows of norm 1.

    Raises:
        ValueError: If the inputs are no finite matrix, or there is a single row.

    References:
        Oymak & Soltanolkotabi 2019, Assumption 1.

    Example:
        >>> round(separation(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.8, 0.6]])), 4)
        0.6325
    """
    inputs = as_inputs(inputs)
    if len(inputs) < 2:
        raise ValueError(f"Expected at least two inputs to separate, but got {len(inputs)}.")
    norms = inputs.square().sum(dim=1)
    smallest = math.inf
    for rows in tiles(len(inputs)):
        for columns in tiles(rows.stop):
            products = (inputs[rows] @ inputs[columns].T).abs_()
            sums = norms[rows].unsqueeze(1) + norms[columns]
            squares = sums - 2 * products
            if rows == columns:
                squares.fill_diagonal_(math.inf)
            smallest = min(smallest, _closest(squares, sums, inputs[rows], inputs[columns]))
            if smallest == 0.0:
                return 0.0
    return smallest


def _closest(squares: Tensor, sums: Tensor, left: Tensor, right: Tensor) -> float:
    """Smallest distance in a tile: of all pairs that may be it, the differences are taken themselves."""
    least = float(squares.amin())
    if math.isinf(least):
        return least
    doubtful = (squares <= least + _ROUNDING * sums).nonzero()
    smallest = math.inf
    for part in tiles(len(doubtful)):
        x, other = left[doubtful[part, 0]], right[doubtful[part, 1]]
        smallest = min(smallest, float(torch.minimum((x - other).norm(dim=1), (x + other).norm(dim=1)).min()))
        if smallest == 0.0 or least > _NEARLY_EQUAL * float(sums.amin()):
            break
    return smallest
