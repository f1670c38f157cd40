"""Gradient descent on the linearized model ``f_lin(θ) = f(θ_0) + J (θ - θ_0)``, in closed form.

All of it is for the summed loss ``L = 1/2 |f - y|²``; a mean over ``n`` samples divides the learning rate by ``n``, and
torch's ``MSELoss`` over ``(n, K)`` outputs by ``n K / 2``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.information_space.checks import checked_coefficients, rank_deficient


def linearized_residual(
    singular_values: Tensor, coefficients: Tensor, *, learning_rate: float, steps: Sequence[int] | Tensor
) -> Tensor:
    """Coefficients ``(1 - η λ_s²)^t a_s`` of the residual of the linearized model on the left singular vectors.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        learning_rate: ``η > 0``, of the summed loss.
        steps: Whole numbers ``t``, ``(m,)``.

    Returns:
        Shape ``(m, N)``; ``r_t = U`` times a row, and ``|r_t|`` is the norm of the row.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Eq. (5.9), (6.5); with ``J J^T = H`` and ``r_0 = -y``, Eq. (7) and (8) of Arora et al. 2019.

    Example:
        >>> linearized_residual(torch.tensor([1.0, 0.0]), torch.ones(2), learning_rate=0.5, steps=[0, 2])
        tensor([[1.0000, 1.0000],
                [0.2500, 1.0000]], dtype=torch.float64)
    """
    values, a = checked_coefficients(singular_values, coefficients)
    return _scaled(a, _powers(values, learning_rate, steps))


def linearized_displacement(
    singular_values: Tensor, coefficients: Tensor, *, learning_rate: float, steps: Sequence[int] | Tensor
) -> Tensor:
    """Coefficients ``-a_s (1 - (1 - η λ_s²)^t) / λ_s`` of ``θ_t - θ_0`` on the right singular vectors.

    Nothing moves along a vector with ``λ_s = 0``.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        learning_rate: ``η > 0``, of the summed loss.
        steps: Whole numbers ``t``, ``(m,)``.

    Returns:
        Shape ``(m, N)``; the distance from the start is the norm of a row.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Lemma 6.5.

    Example:
        >>> linearized_displacement(torch.tensor([1.0, 0.0]), torch.ones(2), learning_rate=0.5, steps=[2])
        tensor([[-0.7500, -0.0000]], dtype=torch.float64)
    """
    values, a = checked_coefficients(singular_values, coefficients)
    times = _times(steps, a.device).unsqueeze(1)
    decay = learning_rate * values.square()
    # 1 - (1 - x)^t loses all digits for small x unless it is taken as one function.
    small = -torch.expm1(times * torch.log1p(-decay.clamp_max(0.5)))
    learned = torch.where(decay < 0.5, small, 1 - _powers(values, learning_rate, steps))
    resolved = values > 0
    return -_scaled(a, torch.where(resolved, learned / torch.where(resolved, values, 1.0), 0.0))


def linearized_distance_bound(
    singular_values: Tensor,
    coefficients: Tensor,
    *,
    cutoff: float,
    learning_rate: float,
    steps: Sequence[int] | Tensor,
) -> Tensor:
    """Bound ``√(Σ_I a_s²/λ_s² + t² η² Σ_N λ_s² a_s²)`` on ``|θ_t - θ_0|`` of the linearized model.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``.
        learning_rate: ``η``, of the summed loss, at most ``1 / λ_1²``.
        steps: Whole numbers ``t``, ``(m,)``.

    Returns:
        Shape ``(m,)``; infinite if zeros are inside, for ``cutoff = 0``.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Lemma 6.5, Eq. (6.6).
    """
    values, a = checked_coefficients(singular_values, coefficients)
    check_not_negative("cutoff", cutoff)
    _check_step(learning_rate, float(values.max()))
    times = _times(steps, a.device)
    inside = values >= cutoff
    if cutoff == 0 and rank_deficient(values):
        return torch.full_like(times, torch.inf)
    nuisance = (values * a * ~inside).norm()
    return torch.hypot((a[inside] / values[inside]).norm(), times * learning_rate * nuisance)


def linearized_residual_bound(
    singular_values: Tensor,
    coefficients: Tensor,
    *,
    cutoff: float,
    learning_rate: float,
    steps: Sequence[int] | Tensor,
) -> Tensor:
    """Bound ``(1 - η α²)^t |Π_I r_0| + |Π_N r_0|`` on ``|r_t|`` of the linearized model.

    Args:
        singular_values: ``λ``, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``, at most ``λ_1``, so that there is something inside.
        learning_rate: ``η``, of the summed loss, at most ``1 / λ_1²``.
        steps: Whole numbers ``t``, ``(m,)``.

    Returns:
        Shape ``(m,)``.

    Raises:
        ValueError: If a shape or range is wrong, or a number is not finite.

    References:
        Oymak et al. 2019, Corollary 6.6, Eq. (6.9); at ``t >= T`` the first factor is at most ``e^-Γ``, Eq. (6.10).
    """
    values, a = checked_coefficients(singular_values, coefficients)
    check_not_negative("cutoff", cutoff)
    _check_step(learning_rate, float(values.max()))
    inside = values >= cutoff
    shrink = _powers(values.new_full((1,), min(cutoff, float(values.max()))), learning_rate, steps)[:, 0]
    return shrink * (a * inside).norm() + (a * ~inside).norm()


def _powers(singular_values: Tensor, learning_rate: float, steps: Sequence[int] | Tensor) -> Tensor:
    """``(1 - η λ²)^t``, shape ``(m, N)``, by logarithms: right for any number of steps and any ``η λ²``."""
    check_positive("learning_rate", learning_rate)
    times = _times(steps, singular_values.device).unsqueeze(1)
    decay = learning_rate * singular_values.square()
    logarithm = torch.where(decay < 1, torch.log1p(-decay.clamp_max(1)), (decay - 1).log())
    magnitude = torch.where(times == 0, 1.0, (times * logarithm).exp())
    return torch.where((decay > 1) & (times % 2 == 1), -magnitude, magnitude)


def _times(steps: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    times = torch.as_tensor(steps, dtype=torch.float64, device=device)
    if times.dim() != 1 or not bool((times.isfinite() & (times >= 0) & (times == times.round())).all()):
        raise ValueError(f"Expected `steps` to be a list of whole numbers, 0 or more, but got {steps}.")
    return times


def _scaled(coefficients: Tensor, factors: Tensor) -> Tensor:
    """Products, with nothing from a coefficient of zero, however far its factor has diverged."""
    return torch.where(coefficients == 0, 0.0, coefficients * factors)


def _check_step(learning_rate: float, largest: float) -> None:
    check_positive("learning_rate", learning_rate)
    if learning_rate * largest**2 > 1 + 1e-9:
        raise ValueError(
            f"Expected `learning_rate` of at most 1 / sigma_max^2 = {1 / largest**2:.6g}, "
            f"for which the bound is proved, but got {learning_rate}."
        )
