"""What is left of the deviation where the initial weights vanish."""

import math

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.nearly_linear.arguments import as_times, check_setting


def vanishing_training_time(*, strength: float, growth: float) -> float:
    """``ln(r) / (2s)``, the limit of ``t*_α`` of two layers for ``α = (r/s) β²`` and ``β → 0``.

    Raises:
        ValueError: If ``s`` is not in (0, 1] or ``r`` not above 1.

    Example:
        >>> round(vanishing_training_time(strength=0.65, growth=1.3), 6)
        0.201819
    """
    check_positive("strength", strength, most=1.0)
    _check_growth(growth)
    return math.log(growth) / (2 * strength)


def vanishing_deviation(
    *,
    strength: float,
    rho: float,
    epsilon: float,
    depth: int,
    growth: float,
    divisor: float,
    printed: bool = False,
) -> float:
    """Limit for ``β → 0`` of ``L u^{L-1} v / γ`` at ``t*_α``, where ``α = (r/s) β^L`` and ``γ = α / q``.

    Times ``Φ_κ ε^κ / L`` it is the limit of the deviation term. With ``σ = s̄_ρ / s̄`` and ``s̄`` at ``β = 0``:

    * two layers: ``(s/s̄) q r^{s̄/s - 1} σ² ln(r^{s̄/s} c)``, with ``c = 1``, or ``σ²`` as printed;
    * more: ``(q s/r) (1/s̄) L(L-1)/(2-L) b^{(2L-2)/(2-L)} (b - c)`` with ``b = σ^{2-L} - (s̄/s) (1 - r^{2/L-1})`` and
      ``c = σ^{2-L}``, or 1 as printed; infinite for ``b ≤ 0``, where ``t*_α`` is past the blow-up.

    Args:
        strength: ``s``, positive.
        rho: ``ρ``, at least 1.
        epsilon: ``ε`` in [0, 1].
        depth: ``L``, at least 2.
        growth: ``r``, above 1: by what factor ``ū^L`` has grown.
        divisor: ``q``.
        printed: Whether ``v`` subtracts ``w(β)`` as printed (erratum E404).

    Raises:
        ValueError: If a number is out of range.

    References:
        Eq. (17) to (19), (102) and (103), errata E402, E404, E408, E411, E420.

    Example:
        >>> setting = dict(strength=0.65, rho=2.5, epsilon=0.05, growth=1.3, divisor=10.0)
        >>> [round(vanishing_deviation(**setting, depth=2, printed=printed), 5) for printed in (True, False)]
        [5.8536, 3.26936]
    """
    rate, ratio = _rates(strength, rho, epsilon, depth)
    _check_growth(growth)
    check_positive("divisor", divisor)
    relative = rate / strength
    try:
        if depth == 2:
            logarithm = relative * math.log(growth) + (2 * math.log(ratio) if printed else 0.0)
            # E408: the exponent of r is sb / s.
            return divisor / relative * growth ** (relative - 1) * ratio**2 * logarithm
        start = ratio ** (2 - depth)
        base = start - relative * (1 - growth ** (2 / depth - 1))
        if base <= 0:
            return math.inf
        factor = divisor * strength / growth / rate * depth * (depth - 1) / (2 - depth)
        return factor * base ** ((2 * depth - 2) / (2 - depth)) * (base - (1.0 if printed else start))
    except OverflowError:
        return math.inf


def vanishing_deviation_at(
    time: float, *, strength: float, rho: float, epsilon: float, divisor: float, printed: bool = False
) -> float:
    """``2 q σ² e^{2 s̄ t} t``, the limit of ``2 u v / γ`` of two layers for ``γ = β²/q``, a fixed time and ``β → 0``.

    Times ``Φ_κ ε^κ / 2`` it is the limit of the deviation term. As printed ``t + ln(σ) / s̄`` stands in the place of
    ``t``. For more layers the limit is 0.

    Raises:
        ValueError: If a number is out of range.

    References:
        Section 6, whose ``q`` is not that of section 5.3 (erratum E420), and erratum E404.

    Example:
        >>> setting = dict(strength=0.65, rho=2.5, epsilon=0.05, divisor=10.0)
        >>> [round(vanishing_deviation_at(1.0, **setting, printed=printed), 4) for printed in (True, False)]
        [109.0395, 94.038]
    """
    rate, ratio = _rates(strength, rho, epsilon, 2)
    check_positive("divisor", divisor)
    elapsed = float(as_times(time))
    try:
        front = 2 * divisor * ratio**2 * math.exp(2 * rate * elapsed)
    except OverflowError:
        return math.inf
    return front * (elapsed + (math.log(ratio) / rate if printed else 0.0))


def _rates(strength: float, rho: float, epsilon: float, depth: int) -> tuple[float, float]:
    """``s̄`` and ``s̄_ρ / s̄`` at ``β = 0``."""
    check_positive("strength", strength)
    check_setting(strength=strength, rho=rho, beta=1.0, epsilon=epsilon, depth=depth)
    rate = (1 - epsilon) * strength + epsilon * (depth - 1)
    # E402: the factor r; printed sqrt(r).
    return rate, 1 + epsilon * (depth - 1) * (rho - 1) / rate


def _check_growth(growth: float) -> None:
    check_positive("growth", growth)
    if growth <= 1:
        raise ValueError(f"Expected `growth`, r, above 1, but got {growth!r}; at 1 the training has not begun.")
