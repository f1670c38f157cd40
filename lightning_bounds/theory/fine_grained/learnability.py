"""Functions that wide two-layer ReLU networks provably learn: those whose labels have a bounded ``y^T H⁻¹ y``.

For unit inputs ``H_infinity`` is a sum of the Gram matrix ``K`` of the inputs and of its even entrywise powers with
positive weights, so what these span is learned; an odd power above 1 is not in it, and its ``y^T H⁻¹ y`` grows with the
number of samples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive, check_probability


class LearnabilityBound(NamedTuple):
    """Bounds ``M_g`` on ``y^T H_infinity⁻¹ y`` for any number of samples of norm 1.

    ``printed`` has the constants of the paper, ``sharper`` those of its proof: ``2 |α| |β|`` for the power 1 and
    ``√(2π) (p - 1) |α| |β|^p`` for even powers, in the place of ``3 p |α| |β|^p``.
    """

    printed: float
    sharper: float


def power_sum(coefficients: Sequence[float], directions: Tensor, powers: Sequence[int]) -> LearnabilityBound:
    """``M_g = (3 Σ_j p_j |α_j| |β_j|^{p_j})²`` for ``g(x) = Σ_j α_j (β_j·x)^{p_j}``.

    Args:
        coefficients: ``α_j``.
        directions: ``β_j`` as rows, shape ``(J, d)``.
        powers: ``p_j``, each 1 or even; odd powers of 3 and more are not learnable this way.

    Raises:
        ValueError: If the lengths differ, a number is not finite, or a power is neither 1 nor positive and even.

    References:
        Arora et al. 2019, Theorem 6.1, Corollary 6.2, with the square that section 6 defines ``M_g`` with (erratum C1).

    Example:
        >>> import torch
        >>> [round(bound, 4) for bound in power_sum([2.0, 1.0], torch.eye(2), powers=[1, 2])]
        [144.0, 42.3362]
    """
    if directions.dim() != 2 or not len(coefficients) == len(directions) == len(powers) > 0:
        raise ValueError(
            f"Expected a coefficient, a row of `directions` and a power for each term, at least one, but got "
            f"{len(coefficients)}, {tuple(directions.shape)} and {len(powers)}."
        )
    for power in powers:
        if isinstance(power, bool) or not isinstance(power, int) or power < 1 or (power > 1 and power % 2):
            raise ValueError(
                f"Expected powers of 1, or even and positive, but got {power}: H_infinity holds no other power of the "
                "inputs, so y^T H^-1 y has no bound that is free of the number of samples."
            )
    norms = directions.detach().double().norm(dim=1).tolist()
    if not all(math.isfinite(number) for number in [*coefficients, *norms]):
        raise ValueError("Expected finite coefficients and directions, but got NaN or infinity.")
    sizes = [abs(a) * _power(b, p) for a, b, p in zip(coefficients, norms, powers, strict=True)]
    printed = math.fsum(3 * p * size for p, size in zip(powers, sizes, strict=True))
    sharper = math.fsum(
        (2 if p == 1 else math.sqrt(2 * math.pi) * (p - 1)) * size for p, size in zip(powers, sizes, strict=True)
    )
    # C1: M_g is the square of what Theorem 6.1 bounds.
    return LearnabilityBound(_square(printed), _square(sharper))


def linear(direction: Tensor) -> LearnabilityBound:
    """``M_g = 9 |β|²`` for ``g(x) = β·x``; sharper ``4 |β|²``.

    References:
        Arora et al. 2019, Example 6.1.

    Example:
        >>> import torch
        >>> linear(torch.tensor([3.0, 4.0]))
        LearnabilityBound(printed=225.0, sharper=100.0)
    """
    _norm(direction)
    return power_sum([1.0], direction.unsqueeze(0), [1])


def quadratic(matrix: Tensor) -> LearnabilityBound:
    """``M_g = 36 |A|_*²`` for ``g(x) = x^T A x``, with the sum ``|A|_*`` of the singular values; sharper ``2π |A|_F²``.

    The sharper one is the proof of Theorem 6.1 for ``vec(A)`` at once: ``g(x) = vec(A)·(x ⊗ x)``, and ``H_infinity``
    is at least ``1/2π`` times the entrywise square of ``K``.

    Args:
        matrix: ``A``, shape ``(d, d)``, symmetric.

    Raises:
        ValueError: If the matrix is not square, not finite or not symmetric.

    References:
        Arora et al. 2019, Example 6.2, whose ``O(|A|_*)`` lacks the square (erratum C1).

    Example:
        >>> import torch
        >>> [round(bound, 4) for bound in quadratic(torch.diag(torch.tensor([1.0, -2.0])))]
        [324.0, 31.4159]
    """
    matrix = matrix.detach().double()
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not bool(matrix.isfinite().all()):
        raise ValueError(f"Expected a finite square `matrix`, but got shape {tuple(matrix.shape)}.")
    if not torch.allclose(matrix, matrix.T):
        raise ValueError("Expected a symmetric `matrix`, but got another; pass `(A + A.T) / 2`, the same function.")
    trace_norm = float(torch.linalg.svdvals(matrix).sum())
    # C1: squared.
    return LearnabilityBound(36 * trace_norm**2, 2 * math.pi * float(matrix.square().sum()))


def cosine(direction: Tensor) -> LearnabilityBound:
    """``M_g = (3 b sinh b)²`` for ``g(x) = cos(β·x) - 1`` and ``b = |β|``; sharper ``2π (b sinh b - cosh b + 1)²``.

    References:
        Arora et al. 2019, Example 6.3, which lacks the square (erratum C1).

    Example:
        >>> import torch
        >>> [round(bound, 4) for bound in cosine(torch.tensor([1.0, 0.0]))]
        [12.4299, 2.5106]
    """
    b = _norm(direction)
    if b > 350:
        return LearnabilityBound(math.inf, math.inf)  # the square of the hyperbolic sine exceeds all numbers
    # b sinh b - cosh b + 1 = Σ (2j - 1) b^{2j} / (2j)!, all of one sign: the closed form cancels for small b.
    sharper = math.fsum((2 * j - 1) * _over_factorial(b, 2 * j) for j in range(1, int(b) + 30))
    return LearnabilityBound(_square(3 * b * math.sinh(b)), _square(math.sqrt(2 * math.pi) * sharper))


def arctangent(direction: Tensor) -> LearnabilityBound:
    """``M_g = (3 Σ_j 2j 2^{1-2j} / (2j - 1) b^{2j})²`` for ``g(x) = z arctan(z/2)``, ``z = β·x`` and ``b = |β| ≤ 1``.

    With ``q = b/2`` the sum is ``2 (q² / (1 - q²) + q artanh q)``; the sharper one is ``2π (2 q² / (1 - q²))²``.

    Raises:
        ValueError: If the direction is no vector, not finite, or longer than 1.

    References:
        Arora et al. 2019, Example 6.4, which lacks the square (erratum C1).

    Example:
        >>> import torch
        >>> [round(bound, 4) for bound in arctangent(torch.tensor([1.0, 0.0]))]
        [13.3073, 2.7925]
    """
    b = _norm(direction)
    if b > 1 + 1e-9:
        raise ValueError(f"Expected a `direction` of norm at most 1, for which the series converges, but got {b:.6g}.")
    q = b / 2
    return LearnabilityBound(
        (6 * (q**2 / (1 - q**2) + q * math.atanh(q))) ** 2, 2 * math.pi * (2 * q**2 / (1 - q**2)) ** 2
    )


def sample_size(complexity: float, *, epsilon: float, delta: float, factor: float = 1.0) -> float:
    """``C (M_g + log(1/δ)) / ε²``, how many samples suffice for an error of ``ε`` with probability ``1 - δ``.

    Args:
        complexity: ``M_g``.
        epsilon: The error.
        delta: Probability of failure.
        factor: ``C``, which the paper does not tell.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, section 6.

    Example:
        >>> round(sample_size(9.0, epsilon=0.1, delta=0.1), 2)
        1130.26
    """
    check_not_negative("complexity", complexity)
    check_positive("epsilon", epsilon)
    check_probability("delta", delta)
    check_positive("factor", factor)
    return factor * (complexity + math.log(1 / delta)) / epsilon**2


def _norm(direction: Tensor) -> float:
    norm = float(direction.detach().double().norm()) if direction.dim() == 1 else math.nan
    if not math.isfinite(norm):
        raise ValueError(f"Expected a finite `direction` of shape (d,), but got shape {tuple(direction.shape)}.")
    return norm


def _over_factorial(base: float, power: int) -> float:
    return math.exp(power * math.log(base) - math.lgamma(power + 1)) if base > 0 else 0.0


def _power(base: float, power: int) -> float:
    try:
        return base**power
    except OverflowError:
        return math.inf


def _square(number: float) -> float:
    return number * number
