"""How closely gradient descent on a nonlinear model follows the linearized one around a reference Jacobian."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.information_space.checks import checked_coefficients
from lightning_bounds.theory.information_space.early_stopping import (
    StoppingTime,
    early_stopping_distance,
    early_stopping_limits,
    stopping_time,
)


@dataclass(frozen=True)
class Tracking:
    """What the meta theorem guarantees for all ``t <= T``, and for the residual at ``T``.

    Attributes:
        stopping: ``T``, and the whole number of steps.
        radius: ``R``: the Jacobian has to stay close to the initial one within it.
        residual_deviation: Bound on ``|r_t - r~_t|`` between the model and the linearized one.
        parameter_deviation: Bound on ``|θ_t - θ~_t|``.
        distance: Bound on ``|θ_t - θ_0|``, ``R / 2``.
        sharp_distance: The same with the early stopping distance, before it is bounded in turn.
        residual: Bound on ``|r_T|``, as printed.
        sharp_residual: The same with the factor 3/5 that the proof gives.
        conditions: What the theorem assumes.
    """

    stopping: StoppingTime
    radius: float
    residual_deviation: float
    parameter_deviation: float
    distance: float
    sharp_distance: float
    residual: float
    sharp_residual: float
    conditions: tuple[Condition, ...]

    @property
    def valid(self) -> bool:
        """Whether no condition is violated."""
        return all(item.holds is not False for item in self.conditions)


def meta_theorem(
    singular_values: Tensor,
    coefficients: Tensor,
    *,
    cutoff: float,
    Gamma: float,
    tolerance: float,
    learning_rate: float,
    spectral_bound: float,
    reference_deviation: float = 0.0,
    jacobian_deviation: float | None = None,
) -> Tracking:
    """Gradient descent follows the linearized model until ``T = Γ / (η α²)``.

    For all ``t <= T``: ``|r_t - r~_t| <= 3/5 δα/β |r_0|``, ``|θ_t - θ~_t| <= δΓ/α |r_0|``, ``|θ_t - θ_0| <= R/2`` with
    ``R = 2 (|J_I⁺ r_0| + Γ/α |Π_N r_0| + δΓ/α |r_0|)``; and ``|r_T| <= e^-Γ |Π_I r_0| + |Π_N r_0| + δα/β |r_0|``.

    ``T`` is no whole number in general: with ``Gamma=stopping_time(...).effective_gamma`` it is one.

    Args:
        singular_values: ``λ`` of the reference Jacobian, shape ``(N,)``, any order.
        coefficients: ``a = U^T r_0``, shape ``(N,)``, in the same order.
        cutoff: ``α``.
        Gamma: ``Γ >= 1``.
        tolerance: ``δ`` in (0, 1].
        learning_rate: ``η``, of the summed loss.
        spectral_bound: ``β``, which no ``|J(θ)|`` exceeds.
        reference_deviation: ``ε_0`` of the reference Jacobian; 0 if it is the initial Jacobian itself.
        jacobian_deviation: ``ε`` with ``|J(θ) - J(θ_0)| <= ε/2`` on the ball of radius ``R``; unknown by default.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Theorem 5.3, Eq. (5.10) to (5.14).

    Example:
        >>> import torch
        >>> arguments = {"cutoff": 1.0, "Gamma": 2.0, "learning_rate": 0.25, "spectral_bound": 2.0}
        >>> tracking = meta_theorem(torch.tensor([2.0, 0.5]), torch.ones(2), tolerance=0.1, **arguments)
        >>> tracking.stopping.steps, round(tracking.distance, 3), tracking.valid
        (8, 2.783, True)
    """
    values, a = checked_coefficients(singular_values, coefficients)
    check_not_negative("cutoff", cutoff)
    check_not_negative("reference_deviation", reference_deviation)
    check_positive("spectral_bound", spectral_bound)
    if not 1 <= Gamma < math.inf:
        raise ValueError(f"Expected `Gamma` of at least 1, but got {Gamma}.")
    if not 0 < tolerance <= 1:
        raise ValueError(f"Expected `tolerance` in (0, 1], but got {tolerance}.")
    stopping = stopping_time(cutoff=cutoff, Gamma=Gamma, learning_rate=learning_rate)
    inside = values >= cutoff
    norm, information, nuisance = (float(part.norm()) for part in (a, a * inside, a * ~inside))
    deviation = tolerance * Gamma * norm / cutoff if cutoff > 0 else math.inf
    limit = float(early_stopping_limits(values, a, cutoff=cutoff, Gamma=Gamma).distance_upper)
    follow = tolerance * cutoff / spectral_bound * norm
    linear = math.exp(-Gamma) * information + nuisance
    largest = float(values.max())
    allowed_reference = min(tolerance * cutoff, math.sqrt(tolerance * cutoff**3 / (Gamma * spectral_bound))) / 5
    allowed = tolerance * cutoff**3 / (5 * Gamma * spectral_bound**2)  # (5.11)
    if jacobian_deviation is None:
        moved = Condition(
            "jacobian_deviation", "not given", "<=", allowed, None, note="Eq. (5.11), epsilon on the ball"
        )
    else:
        check_not_negative("jacobian_deviation", jacobian_deviation)
        moved = condition("jacobian_deviation", jacobian_deviation, "<=", allowed, note="Eq. (5.11), epsilon")
    return Tracking(
        stopping=stopping,
        radius=2 * (limit + deviation),  # (5.10)
        residual_deviation=0.6 * follow,  # (5.12)
        parameter_deviation=deviation,
        distance=limit + deviation,  # (5.13)
        sharp_distance=float(early_stopping_distance(values, a, cutoff=cutoff, Gamma=Gamma)) + deviation,
        residual=linear + follow,  # (5.14)
        sharp_residual=linear + 0.6 * follow,
        conditions=(
            condition("cutoff", cutoff, "<=", largest, note="Definition 5.2"),
            condition("spectral_bound", largest, "<=", spectral_bound, rtol=1e-9, note="Definition 5.1"),
            condition("learning_rate", learning_rate, "<=", 1 / spectral_bound**2, rtol=1e-9, note="1 / beta^2"),
            condition(
                "reference_deviation", reference_deviation, "<=", allowed_reference, note="Eq. (5.11), epsilon_0"
            ),
            moved,
        ),
    )


def perturbation_bound(
    information: float, nuisance: float, *, cutoff: float, Gamma: float, growth: float, epsilon: float
) -> float:
    """Bound ``2 Θ (ρ_+ + Γ ρ_-) / α²`` on ``e_t`` for all ``t <= T``; infinite unless ``α >= √(2Γ) ε``.

    It holds for sequences with ``e_0 = 0``, ``e_t <= (1 + η ε²) e_{t-1} + η Θ r_{t-1}`` and
    ``r_t <= (1 - η α²)^t ρ_+ + ρ_-``, as long as ``η <= 1 / α²``.

    Args:
        information: ``ρ_+``.
        nuisance: ``ρ_-``.
        cutoff: ``α``, positive.
        Gamma: ``Γ``, positive.
        growth: ``Θ``.
        epsilon: ``ε``.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Lemma 6.8, Eq. (6.16), with the root over ``2Γ`` alone (erratum A11).

    Example:
        >>> perturbation_bound(1.0, 0.5, cutoff=1.0, Gamma=2.0, growth=0.1, epsilon=0.5)
        0.4
        >>> perturbation_bound(1.0, 0.5, cutoff=1.0, Gamma=2.0, growth=0.1, epsilon=0.6)
        inf
    """
    check_positive("cutoff", cutoff)
    check_positive("Gamma", Gamma)
    for name, number in {
        "information": information,
        "nuisance": nuisance,
        "growth": growth,
        "epsilon": epsilon,
    }.items():
        check_not_negative(name, number)
    if cutoff < math.sqrt(2 * Gamma) * epsilon:  # A11: not sqrt(2 Γ ε)
        return math.inf
    return 2 * growth * (information + Gamma * nuisance) / cutoff**2
