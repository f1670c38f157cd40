"""Early stopping value and distance: how far gradient descent goes until it has fitted the information space.

All of it is for the summed loss ``L = 1/2 |f - y|²``; a mean over ``n`` samples divides the learning rate by ``n``, and
torch's ``MSELoss`` over ``(n, K)`` outputs by ``n K / 2``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.information_space.checks import checked_coefficients, rank_deficient


class EarlyStoppingLimits(NamedTuple):
    """What the early stopping value and distance lie between; ``value_crude`` holds for ``Γ >= 1`` only."""

    value_lower: Tensor
    value_upper: Tensor
    value_crude: Tensor
    distance_upper: Tensor


class StoppingTime(NamedTuple):
    """``T = Γ / (η α²)``, the whole number of steps that reaches it, and the ``Γ`` to which that number belongs."""

    time: float
    steps: float
    effective_gamma: float


def early_stopping_value(singular_values: Tensor, coefficients: Tensor, *, cutoff: float, Gamma: float) -> Tensor:
    """Early stopping value ``B² = Σ_{s in I} α²/λ_s² a_s² + Γ² Σ_{s in N} λ_s²/α² a_s²``.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order; those of at least ``cutoff`` are inside.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``.
        Gamma: ``Γ > 0``.

    Returns:
        Scalar; infinite for ``cutoff = 0`` if a singular value is zero.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Definition 6.1, Eq. (6.1).

    Example:
        >>> early_stopping_value(torch.tensor([2.0, 0.5]), torch.ones(2), cutoff=1.0, Gamma=2.0)
        tensor(1.1180, dtype=torch.float64)
    """
    values, a = checked_coefficients(singular_values, coefficients)
    check_not_negative("cutoff", cutoff)
    check_positive("Gamma", Gamma)
    if cutoff == 0:
        return torch.full_like(a[0], torch.inf if rank_deficient(values) else 0.0)
    inside = values >= cutoff
    factors = torch.where(inside, cutoff / values.clamp_min(cutoff), Gamma * values / cutoff)  # (6.1)
    return torch.where(a == 0, 0.0, factors * a).norm()


def early_stopping_distance(singular_values: Tensor, coefficients: Tensor, *, cutoff: float, Gamma: float) -> Tensor:
    """Early stopping distance ``D = B / α``: how far the linearized gradient descent goes in ``T = Γ / (η α²)`` steps.

    Where the information space is everything, it is ``|J⁺ r_0|``, also for ``cutoff = 0``.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``.
        Gamma: ``Γ > 0``.

    Returns:
        Scalar; infinite for ``cutoff = 0`` if a singular value is zero.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Definition 6.1 and Corollary 6.6.

    Example:
        >>> early_stopping_distance(torch.tensor([2.0, 0.5]), torch.ones(2), cutoff=0.5, Gamma=2.0)
        tensor(2.0616, dtype=torch.float64)
    """
    value = early_stopping_value(singular_values, coefficients, cutoff=cutoff, Gamma=Gamma)
    if cutoff > 0 or not bool(value.isfinite()):
        return value / cutoff if cutoff > 0 else value
    values, a = checked_coefficients(singular_values, coefficients)
    return (a / values).norm()


def early_stopping_limits(
    singular_values: Tensor, coefficients: Tensor, *, cutoff: float, Gamma: float
) -> EarlyStoppingLimits:
    """Limits ``α/λ_1 |Π_I r_0| <= B <= √(|Π_I r_0|² + Γ² |Π_N r_0|²) <= Γ |r_0|``, ``D <= |J_I⁺ r_0| + Γ/α |Π_N r_0|``.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``.
        Gamma: ``Γ > 0``.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Lemma 6.2, Eq. (6.2) and (6.3).

    Example:
        >>> limits = early_stopping_limits(torch.tensor([2.0, 0.5]), torch.ones(2), cutoff=1.0, Gamma=2.0)
        >>> [round(float(limit), 3) for limit in limits]
        [0.5, 2.236, 2.828, 2.5]
    """
    values, a = checked_coefficients(singular_values, coefficients)
    check_not_negative("cutoff", cutoff)
    check_positive("Gamma", Gamma)
    inside = values >= cutoff
    information, nuisance = (a * inside).norm(), (a * ~inside).norm()
    largest = float(values.max())
    lower = cutoff / largest * information if largest > 0 else torch.zeros_like(information)
    if cutoff == 0:
        distance = early_stopping_distance(singular_values, coefficients, cutoff=cutoff, Gamma=Gamma)
    else:
        distance = (a[inside] / values[inside]).norm() + Gamma * nuisance / cutoff
    return EarlyStoppingLimits(lower, torch.hypot(information, Gamma * nuisance), Gamma * a.norm(), distance)


def stopping_time(*, cutoff: float, Gamma: float, learning_rate: float) -> StoppingTime:
    """Stopping time ``T = Γ / (η α²)``, and what to do as it is not a whole number.

    The residual is small from ``T`` on, so run ``steps = ceil(T)``. Distances are bounded up to ``T``, so bound them
    with ``effective_gamma = η α² steps``, for which ``steps`` is the stopping time itself.

    Args:
        cutoff: ``α``; for 0 the time is infinite.
        Gamma: ``Γ > 0``.
        learning_rate: ``η > 0``, of the summed loss.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Theorem 5.3.

    Example:
        >>> stopping_time(cutoff=1.0, Gamma=2.0, learning_rate=0.8)
        StoppingTime(time=2.5, steps=3, effective_gamma=2.4000000000000004)
    """
    check_not_negative("cutoff", cutoff)
    check_positive("Gamma", Gamma)
    check_positive("learning_rate", learning_rate)
    rate = learning_rate * cutoff * cutoff
    time = Gamma / rate if rate > 0 else math.inf
    if math.isinf(time):
        return StoppingTime(time, time, Gamma)
    return StoppingTime(time, math.ceil(time), rate * math.ceil(time))
