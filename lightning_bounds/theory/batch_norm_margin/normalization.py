"""What batch normalization divides by: the seminorm of the data, ``N(v)``, and the effective rows ``v / N(v)``."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative
from lightning_bounds.theory.batch_norm_margin.arguments import as_directions, as_inputs

# Standard deviations below this many roundings of |v| |x| are rounding, not signal.
_ROUNDINGS = 16.0


class Statistics(NamedTuple):
    """Statistics of a whole training set, which the theory uses for training and for evaluation.

    Attributes:
        mean: ``μ``, shape ``(d,)``.
        deviations: Rows ``x_i - μ``, shape ``(n, d)``, a square root of ``n Σ``.
    """

    mean: Tensor
    deviations: Tensor

    @property
    def covariance(self) -> Tensor:
        """``Σ = 1/n Σ_i (x_i - μ)(x_i - μ)ᵀ``, shape ``(d, d)``: divided by ``n``, unlike running averages of torch."""
        return self.deviations.mT @ self.deviations / len(self.deviations)


def whole_set_statistics(inputs: Tensor) -> Statistics:
    """Mean and deviations of a training set.

    Args:
        inputs: Shape ``(n, d)``, rows are samples, ``n >= 2``.

    Raises:
        ValueError: If there are fewer than two samples, or an entry is not finite.

    References:
        Section 1.3.

    Example:
        >>> whole_set_statistics(torch.tensor([[1.0], [3.0]])).covariance
        tensor([[1.]], dtype=torch.float64)
    """
    inputs = as_inputs(inputs)
    mean = inputs.mean(dim=0)
    return Statistics(mean, inputs - mean)


def unit_ball(inputs: Tensor) -> Tensor:
    """Inputs centered, then divided by their largest norm, so that ``max_i |x_i - μ| = 1``.

    Args:
        inputs: Shape ``(n, d)``; constant features become zeros.

    Raises:
        ValueError: If all samples are equal, or an argument is wrong.

    References:
        Section 1.3; appendix A.2 divides without centering, which leaves ``|x_i - μ| <= 2`` only (erratum E304).

    Example:
        >>> unit_ball(torch.tensor([[1.0], [5.0]])).flatten()
        tensor([-1.,  1.], dtype=torch.float64)
    """
    # E304: the theory needs CENTERED norms of at most 1.
    deviations = whole_set_statistics(inputs).deviations
    largest = deviations.norm(dim=1).max()
    if not bool(largest > 0):
        raise ValueError("Expected samples that differ, but all inputs are equal; there is nothing to normalize.")
    return deviations / largest


def data_seminorm(directions: Tensor, inputs: Tensor) -> Tensor:
    """``|v|_Σ = √(vᵀ Σ v)``, the standard deviation of ``<v, x>`` over the training set (divided by ``n``).

    Args:
        directions: ``V``, shape ``(m, d)``.
        inputs: Shape ``(n, d)``; centered here.

    Returns:
        Shape ``(m,)``, float64; exactly 0 where nothing but rounding is left.

    References:
        Section 1.3, Lemma B.1: ``|Σv| <= |v|_Σ <= |v|`` for data in the unit ball.

    Example:
        >>> data_seminorm(torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        tensor([2.], dtype=torch.float64)
    """
    return variance(directions, inputs).sqrt()


def normalization(directions: Tensor, inputs: Tensor, eps: float = 0.0) -> Tensor:
    """``N(v) = √(vᵀ Σ v + ε)``, which batch normalization divides ``<v, x - μ>`` by.

    Args:
        directions: ``V``, rows are directions, shape ``(m, d)``.
        inputs: Training inputs, rows are samples, shape ``(n, d)``; centered here.
        eps: ``ε``, the constant of batch normalization (1e-5 in torch).

    Returns:
        Shape ``(m,)``, float64; 0 where ``ε = 0`` and ``v`` is orthogonal to all deviations.

    Raises:
        ValueError: If shapes do not match, there are fewer than two samples, or a number is out of range.

    References:
        Section 1.3.

    Example:
        >>> normalization(torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0, 7.0], [3.0, 7.0]]), eps=5.0)
        tensor([3.], dtype=torch.float64)
    """
    check_not_negative("eps", eps)
    return (variance(directions, inputs) + eps).sqrt()


def inverse_normalization(directions: Tensor, inputs: Tensor, eps: float = 0.0) -> float:
    """``ε_N = max_j 1 / N(v_j)``, measured on a draw of ``V``; infinite if an ``N(v_j)`` is 0.

    Args:
        directions: ``V``, shape ``(m, d)``.
        inputs: Shape ``(n, d)``; centered here.
        eps: ``ε``.

    References:
        Assumption 1.1; at most ``1/√ε`` for ``ε > 0``.

    Example:
        >>> inverse_normalization(torch.tensor([[2.0], [0.5]]), torch.tensor([[1.0], [3.0]]))
        2.0
    """
    least = float(normalization(directions, inputs, eps).min())
    return 1 / least if least > 0 else math.inf


def typical_inverse_normalization(dim: int, eps: float = 0.0) -> float:
    """``1/√(1/d + ε)``, which ``ε_N`` is at least in the mean square: ``E N(v)² <= 1/d + ε`` in the unit ball.

    Example:
        >>> typical_inverse_normalization(49)
        7.0
    """
    check_count("dim", dim)
    check_not_negative("eps", eps)
    return 1 / math.sqrt(1 / dim + eps)


def effective_directions(directions: Tensor, inputs: Tensor, eps: float = 0.0) -> Tensor:
    """Effective rows ``v_j / N(v_j)``, on which alone the network depends; 0 where ``N(v_j)`` is 0.

    Args:
        directions: ``V``, shape ``(m, d)``.
        inputs: Shape ``(n, d)``; centered here.
        eps: ``ε``.

    Returns:
        Shape ``(m, d)``, float64.

    Example:
        >>> effective_directions(torch.tensor([[2.0], [0.5]]), torch.tensor([[1.0], [3.0]])).flatten()
        tensor([1., 1.], dtype=torch.float64)
    """
    normalizers = normalization(directions, inputs, eps).unsqueeze(1)
    dead = normalizers == 0
    return torch.where(dead, 0.0, directions.detach().double() / torch.where(dead, 1.0, normalizers))


def displacement(rows: Tensor, initial_rows: Tensor) -> float:
    """``Δ_V = √(1/m Σ_j |v̄_j - v_j / N(v_j)|²)``, how far effective rows are from the initial ones.

    Args:
        rows: ``v̄``, effective rows, shape ``(m, d)``: of another matrix, or free.
        initial_rows: ``v_j / N(v_j)``, shape ``(m, d)``, see :func:`effective_directions`.

    Raises:
        ValueError: If the shapes do not match or an entry is not finite.

    References:
        Assumption 1.2 and Lemma D.3; with effective rows on both sides (erratum E302).

    Example:
        >>> displacement(torch.zeros(4, 2), torch.ones(4, 2)) == 2**0.5
        True
    """
    initial_rows = as_directions(initial_rows, initial_rows.shape[-1], "initial_rows")
    rows = as_directions(rows, initial_rows.shape[1], "rows")
    if rows.shape != initial_rows.shape:
        raise ValueError(f"Expected as many rows as initially, {len(initial_rows)}, but got {len(rows)}.")
    # E302: effective rows, not v' divided by the normalizer of v.
    return float((rows - initial_rows).square().sum(dim=1).mean().sqrt())


def variance(directions: Tensor, inputs: Tensor) -> Tensor:
    """``vᵀ Σ v`` from the deviations themselves, which keeps the digits of small ones; rounding becomes 0."""
    inputs = as_inputs(inputs)
    mean, deviations = whole_set_statistics(inputs)
    directions = as_directions(directions, inputs.shape[1])
    return projected_variance(directions, deviations @ directions.mT, Statistics(mean, deviations))


def projected_variance(directions: Tensor, projections: Tensor, statistics: Statistics) -> Tensor:
    """Variances of ``<v_j, x_i - μ>``, given as ``(n, m)``, in any precision and differentiable."""
    variances = projections.square().mean(dim=0)
    size = statistics.mean.norm() + statistics.deviations.norm(dim=1).max()
    noise = _ROUNDINGS * torch.finfo(variances.dtype).eps * directions.norm(dim=1) * size
    return torch.where(variances > noise.square(), variances, torch.zeros_like(variances))
