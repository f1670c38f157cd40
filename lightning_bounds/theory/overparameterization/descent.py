"""Gradient descent on any nonlinear least-squares problem, from its Jacobian at the start."""

import math

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.guarantee import Guarantee


def smooth_descent_guarantee(
    sigma_min: float,
    norm_bound: float,
    lipschitz: float,
    initial_residual: float,
    learning_rate: float | None = None,
) -> Guarantee:
    """Convergence where the Jacobian is Lipschitz, from its smallest singular value at the start, ``2 α``.

    If ``α² / (4 L) >= |r_0|`` and ``η <= 1 / (2 β²)``: ``|r_t|² <= (1 - η α²/2)^t |r_0|²``,
    ``(α/4) |θ_t - θ_0| + |r_t| <= |r_0|``, and the path is at most ``4 |r_0| / α`` long.

    Args:
        sigma_min: ``σ_min(J(θ_0)) = 2 α``.
        norm_bound: ``β >= |J(θ)|`` for every ``θ``.
        lipschitz: ``L``, of ``θ -> J(θ)`` in the spectral norm.
        initial_residual: ``|r_0|``.
        learning_rate: ``η``, of the summed loss; by default the largest, ``1 / (2 β²)``.

    Raises:
        ValueError: If a number is negative or not finite, or ``norm_bound`` is 0.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 6.10 and Corollary 6.11.

    Example:
        >>> smooth_descent_guarantee(sigma_min=2.0, norm_bound=2.0, lipschitz=0.1, initial_residual=1.0).rate
        0.0625
    """
    _check(sigma_min=sigma_min, norm_bound=norm_bound, lipschitz=lipschitz, initial_residual=initial_residual)
    alpha, beta, largest = sigma_min / 2, norm_bound, 1 / (2 * norm_bound**2)
    eta = _step(learning_rate, largest)
    rate = eta * alpha**2 / 2
    return Guarantee(
        name="gradient descent, Lipschitz Jacobian",
        source="Oymak & Soltanolkotabi 2019, Theorem 6.10, Corollary 6.11",
        learning_rate=eta,
        rate=rate,
        initial_residual=initial_residual,
        distance_coefficient=alpha / 4,
        path_length=_path(initial_residual, alpha / 4),
        conditions=[
            *_spectrum(sigma_min, beta, eta, largest),
            condition("alpha^2 / (4 L)", over(alpha**2, 4 * lipschitz), ">=", initial_residual, note="Eq. (6.13)"),
        ],
    )


def nonsmooth_descent_guarantee(
    sigma_min: float,
    norm_bound: float,
    initial_residual: float,
    learning_rate: float | None = None,
    jacobian_change: float | None = None,
) -> Guarantee:
    """Convergence where the Jacobian may jump, but stays within ``α/3`` of the start, with ``σ_min(J(θ_0)) = 2 α``.

    With ``η <= 1 / (3 β²)`` and ``|J(θ) - J(θ_0)| <= α/3`` wherever ``|θ - θ_0| <= 3 |r_0| / α``:
    ``|r_t| <= (1 - η α²)^t |r_0|``, ``(α/3) |θ_t - θ_0| + |r_t| <= |r_0|``, and, in the proof, a path of at most
    ``3 |r_0| / α``.

    Args:
        sigma_min: ``σ_min(J(θ_0)) = 2 α``.
        norm_bound: ``β >= |J(θ)|`` for every ``θ``.
        initial_residual: ``|r_0|``.
        learning_rate: ``η``, of the summed loss; by default the largest, ``1 / (3 β²)``.
        jacobian_change: The largest change of the Jacobian on that ball; unknown by default.

    Raises:
        ValueError: If a number is negative or not finite, or ``norm_bound`` is 0.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 6.13 (erratum B10: the Euclidean distance as well).

    Example:
        >>> round(nonsmooth_descent_guarantee(sigma_min=2.0, norm_bound=2.0, initial_residual=1.0).printed_rate, 4)
        0.0833
    """
    _check(sigma_min=sigma_min, norm_bound=norm_bound, initial_residual=initial_residual)
    alpha, largest = sigma_min / 2, 1 / (3 * norm_bound**2)
    eta = _step(learning_rate, largest)
    printed_rate = eta * alpha**2
    if jacobian_change is None:
        change = Condition("change of the Jacobian", "not given", "<=", alpha / 3, None, note="Assumption 4")
    else:
        change = condition("change of the Jacobian", jacobian_change, "<=", alpha / 3, note="Assumption 4")
    return Guarantee(
        name="gradient descent, nonsmooth",
        source="Oymak & Soltanolkotabi 2019, Theorem 6.13 (erratum B10)",
        learning_rate=eta,
        rate=printed_rate * (2 - printed_rate),
        printed_rate=printed_rate,
        initial_residual=initial_residual,
        distance_coefficient=alpha / 3,
        path_length=_path(initial_residual, alpha / 3),
        conditions=[*_spectrum(sigma_min, norm_bound, eta, largest), change],
    )


def _check(**numbers: float) -> None:
    if not all(0 <= value < math.inf for value in numbers.values()) or numbers["norm_bound"] == 0:
        raise ValueError(f"Expected finite numbers, 0 or more, and a positive `norm_bound`, but got {numbers}.")


def _step(learning_rate: float | None, largest: float) -> float:
    if learning_rate is None:
        return largest
    check_positive("learning_rate", learning_rate)
    return learning_rate


def _path(initial_residual: float, coefficient: float) -> float:
    return over(initial_residual, coefficient) if initial_residual > 0 else 0.0


def _spectrum(sigma_min: float, norm_bound: float, eta: float, largest: float) -> list[Condition]:
    return [
        condition("sigma_min", sigma_min, ">", 0.0, note="Jacobian at the start"),
        condition("sigma_min at most beta", sigma_min, "<=", norm_bound, rtol=1e-9),
        condition("learning_rate", eta, "<=", largest, rtol=1e-9),
    ]
