"""Integrals over one and two Gaussian variables, refined until they no longer change."""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian.blocks import tiles

# Gauss-Legendre nodes per panel; a panel is halved until the integral stands still.
_NODES = 16
# Gaussian density beyond it: 1e-37, below the rounding of what is inside even after a factor exp(x²/4).
_HALF_WIDTH = 13.0
_MAX_LEVEL = 5
_MAX_PAIR_LEVEL = 3
# How often the panels of a two-dimensional integral halve towards the origin and the rays, on the first level.
_GRADING = 3
# How many numbers of an integrand over pairs may be in memory at once.
_BUDGET = 2**23
# Pairs that are refined together.
_PAIRS = 512


@cache
def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] that integrate polynomials of degree ``2 count - 1``.

    References:
        Golub & Welsch 1969: eigenvalues of the Jacobi matrix.

    Example:
        >>> nodes, weights = gauss_legendre(2)
        >>> nodes
        tensor([-0.5774,  0.5774], dtype=torch.float64)
    """
    k = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = k / (4 * k.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return nodes, 2 * vectors[0].square()


def panels(ends: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on consecutive intervals, each cut into ``count`` panels.

    Args:
        ends: Ascending ends of the intervals, shape ``(..., s + 1)``.
        count: Panels per interval.

    Returns:
        Nodes and weights, shape ``(..., s * count * 16)``.
    """
    nodes, weights = (rule.to(ends) for rule in gauss_legendre(_NODES))
    widths = ends.diff().unsqueeze(-1) / count
    starts = ends[..., :-1].unsqueeze(-1) + widths * torch.arange(count).to(ends)
    widths = widths.unsqueeze(-1) / 2
    return (
        (starts.unsqueeze(-1) + widths * (nodes + 1)).flatten(-3),
        (widths * weights).expand(*starts.shape, _NODES).flatten(-3),
    )


@cache
def gaussian_rule(level: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of ``E f(g)``, with a panel border at 0, where activations have their kinks.

    Example:
        >>> nodes, weights = gaussian_rule(0)
        >>> round(float(weights @ nodes**4), 12)
        3.0
    """
    half_width = _HALF_WIDTH + level
    ends = torch.tensor([-half_width, 0.0, half_width], dtype=torch.float64)
    nodes, weights = panels(ends, math.ceil(2 * half_width) << level)
    return nodes, weights * (-nodes.square() / 2).exp() / math.sqrt(2 * math.pi)


def refine(
    integral: Callable[[int], Tensor], tolerance: float, scale: Tensor, what: str, max_level: int = _MAX_LEVEL
) -> Tensor:
    """``integral(level)`` at the first level at which it agrees with the level before.

    Args:
        integral: The integral, with panels halved ``level`` times.
        tolerance: Largest change, relative to ``scale``.
        scale: What changes are relative to, of the shape of the integral.
        what: Name of the integral, for the error.
        max_level: How often panels may be halved.

    Raises:
        ArithmeticError: If it does not settle.
    """
    before = integral(0)
    change = math.inf
    for level in range(1, max_level + 1):
        after = integral(level)
        change = float(((after - before).abs() / scale).max())
        if change <= tolerance:  # False for NaN
            return after
        before = after
    raise ArithmeticError(
        f"Expected {what} to settle within {tolerance:.1g}, but it still changes by {change:.2g}; the function may "
        "have kinks other than at 0, or grow too fast: pass a named activation, or estimate by Monte Carlo."
    )


def pair_expectation(
    function: Callable[[Tensor], Tensor],
    first_norms: Tensor,
    second_norms: Tensor,
    angles: Tensor,
    scales: Tensor,
    tolerance: float,
) -> Tensor:
    """``E[f(x·w) f(x'·w)]`` for pairs of inputs, from their norms and angles, by two-dimensional quadrature.

    In polar coordinates of the plane of ``x`` and ``x'``, in which a kink of ``f`` at 0 is two rays: the panels end on
    them. Meant for the pairs that are too close to parallel for the Hermite series.

    Args:
        function: ``f``, entrywise, smooth except at 0.
        first_norms: ``|x|``, shape ``(m,)``.
        second_norms: ``|x'|``, shape ``(m,)``.
        angles: Shape ``(m,)``, in [0, π].
        scales: ``√(E f(x·w)² E f(x'·w)²)``, what the tolerance is relative to, shape ``(m,)``.
        tolerance: Largest error.

    Returns:
        Shape ``(m,)``.

    Raises:
        ArithmeticError: If the quadrature does not converge.
    """

    def integral(first: Tensor, second: Tensor, theta: Tensor, level: int) -> Tensor:
        # Panels shrink towards the origin and the rays, where steep functions change within 1 / (norm * radius).
        splits, fractions = (1 << level) // 2 or 1, _graded(_GRADING + 2 * level).to(theta)
        inner, outer = fractions[fractions <= 0.5] * 2, torch.arange(2.0, _HALF_WIDTH + level + 1).to(theta)
        radii, radial = panels(torch.cat([inner, outer]), splits)
        radial = radial * radii * (-radii.square() / 2).exp() / (2 * math.pi)
        quarter = torch.full_like(theta, math.pi / 2)
        rays = torch.stack([-quarter, theta - quarter, quarter, theta + quarter, 3 * quarter], dim=1)
        between = rays[:, :-1].unsqueeze(-1) + rays.diff(dim=1).unsqueeze(-1) * fractions[:-1]
        directions, angular = panels(torch.cat([between.flatten(1), rays[:, -1:]], dim=1), splits)
        total = torch.zeros_like(theta)
        for part in tiles(len(radii), max(1, _BUDGET // directions.numel())):
            r = radii[part].view(-1, 1, 1)
            left = function(r * (first.unsqueeze(1) * directions.cos()))
            right = function(r * (second.unsqueeze(1) * (directions - theta.unsqueeze(1)).cos()))
            total += torch.einsum("r,rmt,mt->m", radial[part], left * right, angular)
        return total

    result = torch.empty_like(angles)
    for part in tiles(len(angles), _PAIRS):
        integrals = partial(integral, first_norms[part], second_norms[part], angles[part])
        result[part] = refine(integrals, tolerance, scales[part], "the two-dimensional quadrature", _MAX_PAIR_LEVEL)
    return result


def _graded(depth: int) -> Tensor:
    """Ends of panels on [0, 1] that halve ``depth`` times towards both ends.

    Example:
        >>> _graded(2)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    halves = 0.5 ** torch.arange(depth, 0, -1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([zero, halves, 1 - halves[:-1].flip(0), 1 - zero])
