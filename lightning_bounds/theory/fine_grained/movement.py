"""How far the weights of the two-layer network move from their initial values."""

import math
from collections.abc import Mapping

from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive, check_probability
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Bound, Condition, Term
from lightning_bounds.theory.fine_grained.complexity import KernelSummary
from lightning_bounds.theory.fine_grained.conditions import (
    check_factors,
    data_conditions,
    descent_conditions,
)


def row_movement(summary: KernelSummary, initial_residual_norm: float, *, width: int) -> float:
    """``max_r |w_r(k) - w_r(0)| ≤ 4 √n |y - u(0)| / (√m λ_0)`` for all ``k``, under the assumptions of Theorem 3.1.

    Args:
        summary: Of ``H_infinity`` and the labels.
        initial_residual_norm: ``|y - u(0)|``.
        width: ``m``.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Lemma C.1 and Lemma 5.3, first part.

    Example:
        >>> import torch
        >>> from lightning_bounds.theory.fine_grained.complexity import kernel_summary
        >>> round(row_movement(kernel_summary(torch.eye(4), torch.ones(4)), 2.0, width=100), 6)
        3.2
    """
    check_not_negative("initial_residual_norm", initial_residual_norm)
    check_count("width", width)
    numerator = 4 * math.sqrt(summary.num_samples) * initial_residual_norm
    return over(numerator, math.sqrt(width) * summary.smallest_eigenvalue)


def movement_bound(
    summary: KernelSummary,
    *,
    width: int,
    kappa: float,
    delta: float,
    learning_rate: float | None = None,
    initialization_factor: float = 1.0,
    width_polynomial: float = 0.0,
    hidden_factors: Mapping[str, float] | None = None,
) -> Bound:
    """``|W(k) - W(0)|_F ≤ √(y^T H⁻¹ y) + O(n κ / (λ_0 δ)) + poly(n, 1/λ_0, 1/δ) / (m^¼ κ^½)`` for all ``k``.

    Args:
        summary: Of ``H_infinity`` and the labels.
        width: ``m``.
        kappa: ``κ``, standard deviation of the initial weights.
        delta: Probability of failure.
        learning_rate: ``η``, for the sum loss; only for the condition on it.
        initialization_factor: The factor that the second term hides; the paper does not tell it.
        width_polynomial: The value of the polynomial of the third term. The paper does not tell it; 0, the value for a
            width without limit, leaves the term out.
        hidden_factors: Those of ``"width"`` and ``"learning_rate"``, if they are known.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Lemma 5.3, second part.

    Example:
        >>> import torch
        >>> from lightning_bounds.theory.fine_grained.complexity import kernel_summary
        >>> bound = movement_bound(kernel_summary(torch.eye(2), torch.ones(2)), width=10**4, kappa=0.01, delta=0.1)
        >>> {name: round(value, 6) for name, value in bound.terms.items()}
        {'auxiliary': 2.0, 'initialization': 0.4, 'width': 0.0}
    """
    factors = dict(hidden_factors or {})
    check_count("width", width)
    check_positive("kappa", kappa)
    check_probability("delta", delta)
    check_positive("initialization_factor", initialization_factor)
    check_not_negative("width_polynomial", width_polynomial)
    check_factors(factors)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    n, lambda_0 = summary.num_samples, summary.smallest_eigenvalue
    terms = (
        Term("auxiliary", math.sqrt(summary.inverse_form), "sqrt(y^T H^-1 y)", "labels along top eigenvectors"),
        Term(
            "initialization",
            initialization_factor * over(n * kappa, lambda_0 * delta),
            "n kappa / (lambda_0 delta)",
            "a smaller kappa",
        ),
        Term(
            "width", width_polynomial / (width**0.25 * math.sqrt(kappa)), "poly / (m^1/4 kappa^1/2)", "a larger width"
        ),
    )
    unknown = Condition(
        "width_polynomial", width_polynomial, "==", "poly(n, 1/lambda_0, 1/delta)", None, note="Lemma 5.3: not stated"
    )
    return Bound(
        "movement",
        math.fsum(term.value for term in terms),
        terms,
        [
            *data_conditions(summary),
            *descent_conditions(
                summary, delta=delta, width=width, kappa=kappa, learning_rate=learning_rate, factors=factors
            ),
            unknown,
        ],
        confidence=1 - delta,
        source="Arora et al. 2019, Lemma 5.3",
        assumptions={"initialization_factor": initialization_factor, **factors},
        trivial=math.inf,
    )


def movement_ratio(summary: KernelSummary, *, width: int, kappa: float) -> float:
    """``ρ = √(y^T H⁻¹ y) / (κ √m)``: the mean movement of a unit over the size of its initial pre-activations.

    How far a network departs from the linear recursion grows about in proportion to it: a smaller ``κ`` at a fixed
    width makes the prediction of the loss worse, although the theorem wants ``κ`` small.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_bounds.theory.fine_grained.complexity import kernel_summary
        >>> round(movement_ratio(kernel_summary(torch.eye(2), torch.ones(2)), width=10**4, kappa=0.1), 6)
        0.2
    """
    check_count("width", width)
    check_positive("kappa", kappa)
    return math.sqrt(summary.inverse_form / width) / kappa
