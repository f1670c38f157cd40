"""Rademacher complexity of the networks near their initial weights, and what it says of losses."""

import math
from typing import NamedTuple

from torch import Tensor

from lightning_bounds.theory.arguments import (
    as_labels,
    check_count,
    check_not_negative,
    check_positive,
    check_probability,
)


class RademacherBound(NamedTuple):
    """The bound of Lemma 5.4 as ``printed``, and with the slightly smaller constant of its ``proof``."""

    printed: float
    proof: float


def rademacher_bound(
    distance: float, row_distance: float, *, num_samples: int, width: int, kappa: float, delta: float
) -> RademacherBound:
    """Empirical Rademacher complexity of the networks with ``|W - W(0)|_F ≤ B`` and ``|w_r - w_r(0)| ≤ R`` for all r.

    ``B/√(2n) (1 + (2 log(2/δ) / m)^¼) + 2 R² √m / κ + R √(2 log(2/δ))``, with probability ``1 - δ`` over the initial
    weights for all ``B`` at once, but for an ``R`` that is fixed before; for unit rows.

    Args:
        distance: ``B``.
        row_distance: ``R``.
        num_samples: ``n``.
        width: ``m``.
        kappa: ``κ``, standard deviation of the initial weights.
        delta: Probability of failure.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Lemma 5.4; its proof has ``2 √(2/π)`` for the 2 of the middle term (erratum C4).

    Example:
        >>> bound = rademacher_bound(5.0, 0.0, num_samples=5000, width=10**8, kappa=1.0, delta=0.1)
        >>> round(bound.printed, 4), bound.printed == bound.proof
        (0.0508, True)
    """
    check_not_negative("distance", distance)
    check_not_negative("row_distance", row_distance)
    check_count("num_samples", num_samples)
    check_count("width", width)
    check_positive("kappa", kappa)
    check_probability("delta", delta)
    log_term = 2 * math.log(2 / delta)
    linear = distance / math.sqrt(2 * num_samples) * (1 + (log_term / width) ** 0.25)
    crossing, sampling = row_distance**2 * math.sqrt(width) / kappa, row_distance * math.sqrt(log_term)
    # C4: the proof's 2 sqrt(2 / pi) = 1.596 is rounded up to 2.
    return RademacherBound(linear + 2 * crossing + sampling, linear + 2 * math.sqrt(2 / math.pi) * crossing + sampling)


def uniform_deviation(
    rademacher: float, *, num_samples: int, delta: float, lipschitz: float = 1.0, largest_loss: float = 1.0
) -> float:
    """``sup_f (L_D(f) - L_S(f)) ≤ 2 ρ R_S + 3 c √(log(2/δ) / 2n)`` with probability ``1 - δ`` over the sample.

    Args:
        rademacher: ``R_S``, the empirical Rademacher complexity of the functions, or a bound on it.
        num_samples: ``n``.
        delta: Probability of failure.
        lipschitz: ``ρ``, the Lipschitz constant of the loss in the output.
        largest_loss: ``c``: the loss lies in ``[0, c]``.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Theorem B.1.

    Example:
        >>> round(uniform_deviation(0.1, num_samples=1000, delta=0.05), 4)
        0.3288
    """
    check_not_negative("rademacher", rademacher)
    check_count("num_samples", num_samples)
    check_probability("delta", delta)
    check_positive("lipschitz", lipschitz)
    check_positive("largest_loss", largest_loss)
    return 2 * lipschitz * rademacher + 3 * largest_loss * math.sqrt(math.log(2 / delta) / (2 * num_samples))


def ramp_loss(outputs: Tensor, labels: Tensor) -> float:
    """Mean of ``clip(1 - u y, 0, 1)`` for labels ±1: in [0, 1], 1-Lipschitz, and at least the share of errors.

    Raises:
        ValueError: If the shapes do not match or a label is not ±1.

    References:
        Arora et al. 2019, proof of Corollary 5.2; an output of 0 counts as an error.

    Example:
        >>> import torch
        >>> ramp_loss(torch.tensor([2.0, 0.5, 0.0, -3.0]), torch.tensor([1.0, 1.0, -1.0, 1.0]))
        0.625
    """
    outputs = as_labels(outputs, outputs.numel(), "outputs")
    labels = as_labels(labels, len(outputs)).to(outputs)
    if not bool((labels.abs() == 1).all()):
        raise ValueError(f"Expected labels -1 and +1, but got {labels.unique().tolist()[:10]}.")
    return float((1 - outputs * labels).clamp(0, 1).mean())


def truncated_absolute_loss(outputs: Tensor, labels: Tensor) -> float:
    """Mean of ``min(1, |u - y|)``, the absolute loss as far as Theorem 5.1 covers it (erratum C9).

    Raises:
        ValueError: If the shapes do not match.

    Example:
        >>> import torch
        >>> truncated_absolute_loss(torch.tensor([0.5, 4.0]), torch.tensor([1.0, 1.0]))
        0.75
    """
    outputs = as_labels(outputs, outputs.numel(), "outputs")
    return float((outputs - as_labels(labels, len(outputs)).to(outputs)).abs().clamp_max(1).mean())
