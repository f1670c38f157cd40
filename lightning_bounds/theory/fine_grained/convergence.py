"""That gradient descent on the two-layer network converges, and how closely it follows the linear recursion."""

import math
from collections.abc import Mapping

from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive, check_probability
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Bound, Term
from lightning_bounds.theory.fine_grained.complexity import KernelSummary, gram_summary
from lightning_bounds.theory.fine_grained.conditions import (
    check_factors,
    data_conditions,
    descent_conditions,
    hidden,
)
from lightning_bounds.theory.fine_grained.trajectory import predicted_residual_norm


def initial_output_norm(num_samples: int, kappa: float, *, delta: float) -> float:
    """``|u(0)| ≤ κ √(n / 2δ)`` with probability ``1 - δ``, for unit rows: Markov's inequality for its mean square.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Eq. (29), where ``E|u(0)|² = n κ²/2`` gives ``1/√δ`` for the printed ``1/δ`` (erratum C8).

    Example:
        >>> initial_output_norm(200, kappa=0.1, delta=0.01)
        10.0
    """
    check_count("num_samples", num_samples)
    check_positive("kappa", kappa)
    check_probability("delta", delta)
    # C8: sqrt(n / delta) kappa, not sqrt(n) kappa / delta.
    return kappa * math.sqrt(num_samples / (2 * delta))


def linear_convergence(
    summary: KernelSummary,
    initial_loss: float,
    *,
    learning_rate: float,
    steps: int,
    width: int,
    kappa: float,
    delta: float,
    hidden_factors: Mapping[str, float] | None = None,
) -> Bound:
    """``Φ(k) ≤ (1 - η λ_0 / 2)^k Φ(0)``: the sum loss falls at least as fast as its slowest component.

    Args:
        summary: Of ``H_infinity`` and the labels.
        initial_loss: ``Φ(0) = ½ |y - u(0)|²``.
        learning_rate: ``η``, for the sum loss.
        steps: ``k``.
        width: ``m``.
        kappa: Standard deviation of the initial weights.
        delta: Probability of failure.
        hidden_factors: Those of ``"width"`` and ``"learning_rate"``, if they are known.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Theorem 3.1 (Du, Zhai, Poczos, Singh 2018).

    Example:
        >>> import torch
        >>> from lightning_bounds.theory.fine_grained.complexity import kernel_summary
        >>> summary = kernel_summary(torch.eye(2), torch.ones(2))
        >>> settings = dict(learning_rate=0.4, width=100, kappa=1.0, delta=0.1)
        >>> round(linear_convergence(summary, 1.0, steps=2, **settings).value, 6)
        0.81
    """
    factors = dict(hidden_factors or {})
    _check_descent(learning_rate, width, kappa, delta, factors)
    check_not_negative("initial_loss", initial_loss)
    check_not_negative("steps", steps)
    # A factor below 0 is a step size that the theorem excludes: it then says nothing.
    factor = 1 - learning_rate * summary.smallest_eigenvalue / 2
    value = initial_loss * factor**steps if factor >= 0 and summary.smallest_eigenvalue > 0 else math.inf
    conditions = data_conditions(summary) + descent_conditions(
        summary, delta=delta, width=width, kappa=kappa, learning_rate=learning_rate, factors=factors
    )
    return Bound(
        "linear_convergence",
        value,
        (Term("loss", value, "(1 - eta lambda_0 / 2)^k Phi(0)", "more steps"),),
        conditions,
        confidence=1 - delta,
        source="Arora et al. 2019, Theorem 3.1",
        assumptions=factors,
        trivial=max(initial_loss, 5e-324),
    )


def trajectory_bound(
    gram: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    steps: int,
    width: int,
    kappa: float,
    epsilon: float,
    delta: float,
    norm_deviation: float | None = None,
    hidden_factors: Mapping[str, float] | None = None,
) -> Bound:
    """``|y - u(k)| ≤ √(Σ_i (1 - η λ_i)^{2k} (v_i·y)²) + ε``, and at least the same minus ``ε``.

    Args:
        gram: ``H_infinity``, shape ``(n, n)``.
        labels: ``y``, shape ``(n,)``.
        learning_rate: ``η``, for the sum loss.
        steps: ``k``.
        width: ``m``.
        kappa: Standard deviation of the initial weights.
        epsilon: ``ε``, which the width and ``κ`` have to make room for.
        delta: Probability of failure.
        norm_deviation: ``max_i ||x_i| - 1|``, if it is known.
        hidden_factors: Those of ``"kappa"``, ``"width"`` and ``"learning_rate"``, if they are known.

    Raises:
        ValueError: If a shape does not match or a number is out of range.

    References:
        Arora et al. 2019, Theorem 4.1, Eq. (8).

    Example:
        >>> import torch
        >>> settings = dict(learning_rate=1.0, width=10_000, kappa=0.01, epsilon=0.1, delta=0.1)
        >>> round(trajectory_bound(torch.eye(2) / 2, torch.ones(2), steps=1, **settings).value, 4)
        0.8071
    """
    factors = dict(hidden_factors or {})
    _check_descent(learning_rate, width, kappa, delta, factors)
    check_positive("epsilon", epsilon)
    summary = gram_summary(gram, labels, norm_deviation)
    predicted = float(predicted_residual_norm(gram, labels, learning_rate, [steps])[0])
    n, lambda_0 = summary.num_samples, summary.smallest_eigenvalue
    conditions = descent_conditions(
        summary, delta=delta, width=width, kappa=kappa, learning_rate=learning_rate, factors=factors
    )
    least_width = over(n**7, lambda_0**4 * kappa**2 * delta**4 * epsilon**2)
    largest_kappa = epsilon * delta / math.sqrt(n)
    stronger = [
        hidden("kappa", kappa, "<=", largest_kappa, factors, "Theorem 4.1: epsilon delta / sqrt(n)"),
        hidden("width", width, ">=", least_width, factors, "Theorem 4.1: n^7 / (lambda_0^4 kappa^2 delta^4 epsilon^2)"),
    ]
    return Bound(
        "trajectory",
        predicted + epsilon,
        (
            Term("predicted_residual_norm", predicted, "sqrt(sum (1 - eta lambda_i)^2k (v_i y)^2)", "more steps"),
            Term("deviation", epsilon, "epsilon", "a larger width, a smaller kappa"),
        ),
        [*data_conditions(summary), *stronger, *(item for item in conditions if item.name != "width")],
        confidence=1 - delta,
        source="Arora et al. 2019, Theorem 4.1, Eq. (8)",
        assumptions=factors,
        trivial=max(summary.label_norm, 5e-324),
    )


def _check_descent(learning_rate: float, width: int, kappa: float, delta: float, factors: Mapping[str, float]) -> None:
    check_positive("learning_rate", learning_rate)
    check_count("width", width)
    check_positive("kappa", kappa)
    check_probability("delta", delta)
    check_factors(factors)
