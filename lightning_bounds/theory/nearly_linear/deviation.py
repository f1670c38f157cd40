"""The two parts of the gap of Theorem 5.2: how far network and proxy are apart, and how many proxies there are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_positive, check_probability
from lightning_bounds.theory.nearly_linear.arguments import as_given, as_times, check_order
from lightning_bounds.theory.nearly_linear.corrected import log_corrected_norms
from lightning_bounds.theory.nearly_linear.envelopes import (
    FORMS,
    Envelope,
    log_derivative_norm,
    log_growth,
    scalar_envelope,
)

# Those of the envelopes, and the system that is proved for every rho (E410).
VARIANTS = (*FORMS, "corrected_tight", "corrected_loose")


def counting_term(
    *,
    order: int,
    dim: int,
    samples: int,
    delta: float,
    precision_bits: int = 32,
    scanned: int = 1,
    strict: bool = False,
) -> float:
    """``Υ_κ = √((κ p d ln 2 + ln(K/δ)) / 2m)``, the gap of a class of ``2^{κ p d}`` functions.

    Args:
        order: ``κ``, 1 or 2.
        dim: ``d``, the rank of the inputs.
        samples: ``m``, at least 2.
        delta: ``δ``, probability of failure.
        precision_bits: ``p``, bits per number in training.
        scanned: ``K``, how many combinations share ``δ`` (erratum E419).
        strict: Whether to count the ``d (d+1) / 2`` numbers of a whitening map that is taken from the training inputs
            as well (erratum E413).

    Raises:
        ValueError: If a number is out of range.

    References:
        Theorem 5.2, Eq. (7), Lemma 7.2 and Eq. (28).

    Example:
        >>> [round(counting_term(order=2, dim=49, samples=60000, delta=0.01, strict=strict), 6) for strict in (0, 1)]
        [0.134732, 0.494551]
    """
    check_order(order)
    check_count("dim", dim)
    check_count("samples", samples, least=2)
    check_probability("delta", delta)
    check_count("precision_bits", precision_bits)
    check_count("scanned", scanned)
    numbers = order * dim + (dim * (dim + 1) // 2 if strict else 0)
    bits = precision_bits * numbers * math.log(2)
    return math.sqrt((bits + math.log(scanned) - math.log(delta)) / (2 * samples))


def deviation_factor(*, order: int, depth: int, dim: int, rho: float, input_norm: float | None = None) -> float:
    """``Φ_κ``: ``L √d + 1 + (L-1) ρ`` or ``(L-1) [(L + 1 + (L-1) ρ) √d + 2 (1 + (L-1) ρ)]``.

    Args:
        order: ``κ``, 1 or 2.
        depth: ``L``.
        dim: ``d``.
        rho: ``ρ``, at least 1.
        input_norm: Mean norm of whitened fresh inputs, in the place of ``√d`` (erratum E413).

    Raises:
        ValueError: If a number is out of range.

    References:
        Theorem 5.2, Eq. (8); called ``Λ_κ`` in Eq. (19) (erratum E411).

    Example:
        >>> deviation_factor(order=1, depth=2, dim=49, rho=1.0), deviation_factor(order=2, depth=2, dim=49, rho=1.0)
        (16.0, 32.0)
    """
    check_order(order)
    check_count("depth", depth, least=2)
    check_positive("rho", rho)
    norm = expected_norm(dim, input_norm)
    later = 1 + (depth - 1) * rho
    return depth * norm + later if order == 1 else (depth - 1) * ((depth + later) * norm + 2 * later)


def deviation_bound(
    time: float | Tensor,
    *,
    strength: float,
    rho: float,
    beta: float,
    epsilon: float,
    depth: int,
    dim: int,
    order: int,
    variant: str = "theorem",
    input_norm: float | None = None,
) -> float | Tensor:
    """``Δ_κ(t)``: mean distances of network and proxy on fresh and on training inputs add up to at most ``Δ_κ ε^κ``.

    ``Φ_κ v u^{L-1}`` in the theorem. With ``v_1, v_2, F`` of
    :func:`~lightning_bounds.theory.nearly_linear.corrected_derivative_norms` and ``f = F / u``::

        κ = 1:        u^{L-1} [√d (v_1 + (L-1) v_2) + v_1 + (L-1) v_2 f]
        κ = 2:  (L-1) u^{L-1} [√d (2 v_1 + (L-1) v_2 (1 + f)) + 2 (v_1 + (L-1) v_2 f)]

    Args:
        time: Time of the gradient flow, a number or a tensor.
        strength: ``s``.
        rho: ``ρ``.
        beta: ``β``.
        epsilon: ``ε``.
        depth: ``L``.
        dim: ``d``, the rank of the inputs.
        order: ``κ``, 1 or 2.
        variant: ``"theorem"``, with errata E402 and E404; ``"corrected_tight"`` or ``"corrected_loose"``, the system
            that is proved for every ``ρ`` with ``F = u + β ρ - β̄`` or ``ρ u``; ``"w_beta"`` and ``"printed"`` as in
            :func:`~lightning_bounds.theory.nearly_linear.derivative_norm_bound`.
        input_norm: Mean norm of whitened fresh inputs, in the place of ``√d`` (erratum E413).

    Returns:
        A number for a number, a float64 tensor for a tensor; infinite where it exceeds all numbers.

    Raises:
        ValueError: If a number is out of range or not finite.

    References:
        Theorem 5.2, Eq. (7), and Eq. (46) and (48) with erratum E410.

    Example:
        >>> setting = dict(strength=0.65, rho=3.7, beta=0.1, epsilon=0.1, depth=2, dim=49)
        >>> [round(deviation_bound(1.0, **setting, order=order), 8) for order in (1, 2)]
        [2.06689346, 6.22278618]
    """
    check_order(order)
    check_variant(variant)
    constants = scalar_envelope(strength, rho, beta, epsilon, depth, root=variant == "printed")
    logs = log_deviations(constants, as_times(time), expected_norm(dim, input_norm), (order,), variant)
    return as_given(logs[0].exp(), time)


def log_deviations(
    constants: Envelope, times: Tensor, input_norm: float, orders: Sequence[int], variant: str
) -> list[Tensor]:
    """``log Δ_κ`` of each order, for all settings and times at once; ``-inf`` at time 0."""
    rho, depth = constants.rho, constants.depth
    growth = log_growth(constants, times)
    front = (depth - 1) * (constants.log_start + growth)
    # exp(u^L / sh) overflows long before the bound is asked for: everything is a logarithm.
    if variant.startswith("corrected"):
        first, later, ratio = log_corrected_norms(constants, growth, tight=variant == "corrected_tight")
        layers = later + (depth - 1).log()
    else:
        first = log_derivative_norm(constants, growth, from_beta=variant != "theorem")
        layers, ratio = first + (depth - 1).log(), rho
    results = []
    for order in orders:
        later_share = layers + (1 + ratio).log() if order == 2 else layers
        fresh = math.log(input_norm) + torch.logaddexp(first + math.log(order), later_share)
        training = math.log(order) + torch.logaddexp(first, layers + ratio.log())
        twice = (depth - 1).log() if order == 2 else 0.0
        results.append(front + torch.logaddexp(fresh, training) + twice)
    return results


def check_variant(variant: str) -> None:
    """Raise ValueError unless the variant of the bound is known."""
    if variant not in VARIANTS:
        raise ValueError(f"Expected `variant` among {', '.join(VARIANTS)}, but got {variant!r}.")


def expected_norm(dim: int, input_norm: float | None) -> float:
    """Bound on the mean norm of whitened fresh inputs: ``√d`` unless it is given."""
    check_count("dim", dim)
    if input_norm is None:
        return math.sqrt(dim)
    check_positive("input_norm", input_norm)
    return float(input_norm)
