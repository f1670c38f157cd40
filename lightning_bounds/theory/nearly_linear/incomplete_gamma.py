"""The upper incomplete gamma function for every first argument, and increments of it without cancellation."""

import math

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian.quadrature import panels
from lightning_bounds.theory.nearly_linear.arguments import as_given

# 1/k! is below rounding from here on.
_SERIES = 20
# exp(-x) is below rounding from here on.
_REACH = 45.0
# Ends of the panels, relative to the reach: where exp(-x) has changed little, and where not much is left.
_PANELS = (0.0, 1 / _REACH, 6 / _REACH, 1.0)


def upper_incomplete_gamma(a: float | Tensor, x: float | Tensor) -> float | Tensor:
    """``Γ(a, x) = ∫_x^∞ y^{a-1} e^{-y} dy``, for ``a`` of any sign.

    The gamma functions of scipy and torch give NaN for ``a < 0``.

    Args:
        a: Any real numbers.
        x: Numbers of at least 0, infinity included; shapes broadcast.

    Returns:
        A number for two numbers, a float64 tensor otherwise; infinite for ``x = 0`` and ``a <= 0``.

    Raises:
        ValueError: If ``a`` is not finite or ``x`` is negative or NaN.

    References:
        Theorem 5.2, Eq. (11) and its footnote.

    Example:
        >>> round(upper_incomplete_gamma(-0.5, 2.0), 10)
        0.0300987571
    """
    orders = torch.as_tensor(a, dtype=torch.float64)
    lower = torch.as_tensor(x, dtype=torch.float64)
    if not bool(orders.isfinite().all()) or not bool((lower >= 0).all()):
        raise ValueError(f"Expected finite `a` and `x` of at least 0, but got {a} and {x}.")
    orders, lower = torch.broadcast_tensors(orders, lower)
    small = orders <= 1
    # Γ(a, x) of torch is right for a > 0, and for a <= 1 the integral has no peak inside.
    above = torch.where(small, 2.0, orders)
    large_order = torch.special.gammaincc(above, lower) * torch.lgamma(above).exp()
    inside = small & (lower > 0) & lower.isfinite()
    logs = torch.where(inside, lower, 1.0).log()
    increments = log_gamma_increment(torch.where(small, orders, 1.0), logs, torch.full_like(logs, math.inf))
    values = torch.where(inside, (increments - lower).exp(), torch.where(lower.isinf(), 0.0, math.inf))
    positive_at_zero = small & (orders > 0) & (lower == 0)
    values = torch.where(positive_at_zero, torch.lgamma(torch.where(positive_at_zero, orders, 1.0)).exp(), values)
    values = torch.where(small, values, large_order)
    return as_given(values, a if isinstance(a, Tensor) else x)


def log_gamma_increment(a: Tensor, log_lower: Tensor, growth: Tensor) -> Tensor:
    """``log ∫ y^{a-1} e^{y_0 - y} dy`` from ``y_0`` to ``y_0 e^D``, which is ``e^{y_0} (Γ(a, y_0) - Γ(a, y_1))``.

    Nothing is subtracted that could cancel: up to 1 every power of the series is integrated by itself, above 1 the
    integral is taken by Gauss-Legendre quadrature.

    Args:
        a: Exponents of at most 1.
        log_lower: ``log y_0``, finite.
        growth: ``D``, from 0 to infinity.

    Returns:
        ``-inf`` for ``D = 0``.

    Example:
        >>> log_gamma_increment(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.5)).exp()  # 1 - exp(1 - sqrt(e))
        tensor(0.4773, dtype=torch.float64)
    """
    a, log_lower, growth = torch.broadcast_tensors(a.double(), log_lower.double(), growth.double())
    below = torch.minimum(growth, (-log_lower).clamp_min(0.0))
    log_below = log_lower + below
    scale = a * torch.where(a > 0, log_below, log_lower)
    total = torch.zeros_like(growth)
    for k in range(_SERIES):
        c = a + k
        size = torch.where(c == 0, 1.0, c.abs())
        moment = torch.where(c == 0, below, -torch.expm1(-size * below) / size)
        # The moment is that of y^{c-1}, relative to its larger end.
        end = c * torch.where(c > 0, log_below, log_lower)
        total = total + (-1) ** k / math.factorial(k) * (end - scale).clamp_max(0.0).exp() * moment
    lower = log_lower.exp()
    start = lower.clamp_min(1.0)
    lowest = torch.where(log_lower < 0, (log_lower + growth).exp() - 1, lower * torch.expm1(growth)).clamp_min(0.0)
    # y^{a-1} alone is below rounding from the second number on.
    reach = torch.where(a < 1, start * torch.expm1(_REACH / (1 - a).clamp_min(1e-3)), _REACH).clamp_max(_REACH)
    span = torch.minimum(lowest, reach)
    nodes, weights = panels(torch.tensor(_PANELS, dtype=torch.float64), 2)
    x = span.unsqueeze(-1) * nodes
    integrand = ((a - 1).unsqueeze(-1) * torch.log1p(x / start.unsqueeze(-1)) - x).exp()
    above = span * (integrand @ weights)
    return torch.logaddexp(
        scale + total.log() + lower.clamp_max(1.0), (a - 1) * start.log() + lower - start + above.log()
    )
