"""Bounds on the error on fresh data: the theorem, and a certificate in which no constant is hidden."""

import math
from collections.abc import Mapping

from torch import Tensor

from lightning_bounds.theory.arguments import (
    as_labels,
    check_count,
    check_not_negative,
    check_positive,
    check_probability,
)
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.fine_grained.complexity import kernel_summary
from lightning_bounds.theory.fine_grained.conditions import (
    check_factors,
    data_conditions,
    descent_conditions,
    hidden,
)
from lightning_bounds.theory.fine_grained.rademacher import rademacher_bound

_CAVEATS = (
    "The samples are independent draws from a distribution for which lambda_0 is exceeded with probability "
    "1 - delta/3; one sample cannot tell.",
    "The width is to exceed a polynomial that the paper does not state; that of Theorem 3.1, which the proof uses, "
    "stands in for it.",
)


def generalization_bound(
    inputs: Tensor,
    labels: Tensor,
    *,
    delta: float,
    width: int | None = None,
    kappa: float | None = None,
    learning_rate: float | None = None,
    steps: int | None = None,
    hidden_factors: Mapping[str, float] | None = None,
) -> Bound:
    """``L_D ≤ √(2 y^T H_infinity⁻¹ y / n) + O(√(log(n / (λ_0 δ)) / n))`` of the network that gradient descent finds.

    ``L_D`` is the mean on fresh data of any loss in [0, 1] that is 1-Lipschitz and 0 at the label; for labels ±1 also
    the probability of error. The factor that the second term hides is taken as 1 unless it is given, which the
    assumptions of the bound say.

    Args:
        inputs: Training inputs of norm 1, shape ``(n, d)``.
        labels: ``y`` in [-1, 1], shape ``(n,)``.
        delta: Probability of failure.
        width: ``m``.
        kappa: ``κ``, standard deviation of the initial weights.
        learning_rate: ``η``, for the sum loss.
        steps: How many steps gradient descent makes.
        hidden_factors: Those of ``"second_term"``, ``"kappa"``, ``"width"``, ``"learning_rate"`` and ``"steps"``, as
            far as they are known; the conditions of the others stay undecided.

    Raises:
        ValueError: If a shape does not match, a number is not finite or out of range, or a row of the inputs is zero.

    References:
        Arora et al. 2019, Theorem 5.1, Eq. (9), and Corollary 5.2.

    Example:
        >>> import torch
        >>> bound = generalization_bound(torch.eye(4), torch.ones(4), delta=0.1)
        >>> {name: round(value, 4) for name, value in bound.terms.items()}, bound.vacuous
        ({'complexity': 2.0, 'confidence': 1.0467}, True)
    """
    check_probability("delta", delta)
    factors = dict(hidden_factors or {})
    check_factors(factors)
    if width is not None:
        check_count("width", width)
    if kappa is not None:
        check_positive("kappa", kappa)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    if steps is not None:
        check_not_negative("steps", steps)
    summary = kernel_summary(inputs, labels)
    n, lambda_0 = summary.num_samples, summary.smallest_eigenvalue
    # Only rows longer than the theorem allows can make the logarithm negative.
    logarithm = math.log(max(over(n, lambda_0 * delta), 1.0))
    factors.setdefault("second_term", 1.0)
    confidence_term = factors["second_term"] * math.sqrt(logarithm / n)
    least_steps = math.inf
    steps_note = "Theorem 5.1: log(n / delta) / (eta lambda_0)"
    if learning_rate is not None:
        least_steps = over(math.log(n / delta), learning_rate * lambda_0)
    else:
        steps_note += "; needs `learning_rate`"
    conditions = [
        *data_conditions(summary),
        hidden("kappa", kappa, "<=", lambda_0 * delta / n, factors, "Theorem 5.1: lambda_0 delta / n"),
        *descent_conditions(
            summary, delta=delta, width=width, kappa=kappa, learning_rate=learning_rate, factors=factors
        ),
        hidden("steps", steps if learning_rate is not None else None, ">=", least_steps, factors, steps_note),
    ]
    signs = bool((as_labels(labels, n).abs() == 1).all())
    meaning = "Corollary 5.2, probability of error" if signs else "labels other than -1 and +1: no probability of error"
    return Bound(
        "fine_grained_generalization",
        summary.complexity + confidence_term,
        (
            Term("complexity", summary.complexity, "sqrt(2 y^T H^-1 y / n)", "labels along top eigenvectors"),
            Term("confidence", confidence_term, "sqrt(log(n / (lambda_0 delta)) / n)", "more samples"),
        ),
        conditions,
        confidence=1 - delta,
        source=f"Arora et al. 2019, Theorem 5.1, Eq. (9); {meaning}",
        assumptions=factors,
        caveats=_CAVEATS,
    )


def certificate(
    training_loss: float,
    distance: float,
    row_distance: float,
    *,
    row_radius: float,
    num_radii: int,
    num_samples: int,
    width: int,
    kappa: float,
    delta: float,
) -> Bound:
    """``L_D ≤ L_S + 2 R_S(⌈B⌉) + 3 √(log(4N/δ) / 2n)``, from how far the weights of a trained network have moved.

    Nothing is hidden: Lemma 5.4 with ``δ/2``, and Theorem B.1 with ``δ/2`` shared among the radii 1, 2, ..., N that
    ``B`` is rounded up to. It holds for any training, so long as the loss lies in [0, 1] and is 1-Lipschitz, such as
    :func:`~lightning_bounds.theory.fine_grained.rademacher.ramp_loss`, which bounds the probability of error.

    Args:
        training_loss: ``L_S``, the mean of that loss on the training data.
        distance: ``B = |W - W(0)|_F``, measured.
        row_distance: ``max_r |w_r - w_r(0)|``, measured.
        row_radius: ``R``, a bound on it that is chosen before the data are seen.
        num_radii: ``N``, the largest ``B`` that is covered, chosen before as well.
        num_samples: ``n``, inputs of norm 1.
        width: ``m``.
        kappa: ``κ``, standard deviation of the initial weights.
        delta: Probability of failure.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, proof of Theorem 5.1 (D.3), Lemma 5.4 with the constant of its proof (erratum C4), Theorem
        B.1.

    Example:
        >>> sizes = dict(num_samples=10**6, width=10**8, kappa=1.0, delta=0.1)
        >>> round(certificate(0.0, 2.5, 1e-4, row_radius=2e-4, num_radii=100, **sizes).value, 4)
        0.0128
    """
    check_not_negative("training_loss", training_loss)
    check_not_negative("distance", distance)
    check_not_negative("row_distance", row_distance)
    check_not_negative("row_radius", row_radius)
    check_count("num_radii", num_radii)
    check_probability("delta", delta)
    radius = max(math.ceil(distance), 1)
    whole, rows = (
        rademacher_bound(b, row_radius, num_samples=num_samples, width=width, kappa=kappa, delta=delta / 2).proof
        for b in (radius, 0.0)
    )
    covered = radius <= num_radii and row_distance <= row_radius
    terms = (
        Term("training_loss", training_loss, "L_S", "longer training"),
        Term("distance", 2 * (whole - rows) if covered else math.inf, "2 R_S, of ceil(B)", "weights that move less"),
        Term("row_distance", 2 * rows, "2 R_S, of R", "a larger width"),
        # D.3 with halves: delta / 2 for the sample, shared among N classes.
        Term(
            "confidence",
            3 * math.sqrt(math.log(4 * num_radii / delta) / (2 * num_samples)),
            "3 sqrt(log(4 N / delta) / 2n)",
            "more samples",
        ),
    )
    return Bound(
        "fine_grained_certificate",
        math.fsum(term.value for term in terms),
        terms,
        (
            condition("distance", radius, "<=", num_radii, note="N, the largest radius"),
            condition("row_distance", row_distance, "<=", row_radius, note="R, chosen before the data are seen"),
            condition("training_loss", training_loss, "<=", 1.0, note="a loss in [0, 1]"),
            condition("kappa_range", kappa, "<=", 1.0, note="section 3.1: 0 < kappa <= 1"),
            Condition("inputs", "not given", "", "norm 1, independent draws", None, note="section 3.1"),
        ),
        confidence=1 - delta,
        source="Arora et al. 2019, Lemma 5.4 and Theorem B.1 over a grid of radii",
        caveats=("`row_radius` and `num_radii` must not depend on the data or on the initial weights.",),
    )
