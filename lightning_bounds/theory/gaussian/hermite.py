"""Normalized Hermite coefficients of activations, and the constants that the theorems take from them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function, derivative_bounds
from lightning_bounds.theory.gaussian.blocks import tiles
from lightning_bounds.theory.gaussian.quadrature import gaussian_rule, refine

MAX_ORDER = 512
_TOLERANCE = 1e-12


class HermiteExpansion(NamedTuple):
    """Hermite expansions of ``f(s g)`` for several ``s``.

    ``coefficients`` are ``μ_r``, shape ``(order + 1, m)``, ``energies`` are ``E f(s g)²``, shape ``(m,)``, and
    ``tails`` are what the series up to ``r`` leaves of them, ``Σ_{q > r} μ_q²``, shape ``(order + 1, m)``.
    """

    coefficients: Tensor
    energies: Tensor
    tails: Tensor


class ActivationConstants(NamedTuple):
    """Constants of an activation in Oymak & Soltanolkotabi 2019.

    ``mu = E[g φ'(g)]`` and ``mean_derivative = E φ'(g)`` (``μ_φ`` and ``μ̃_φ``, Lemma 6.4), ``gamma``, which is
    ``γ_φ = E[φ(g)(g² - 1)]/√2`` (Theorem 3.2), and ``bound``, ``B``, the largest of ``sup |φ'|``, ``sup |φ''|`` and
    ``|φ(0)|``.
    """

    mu: float
    mean_derivative: float
    gamma: float
    bound: float


def hermite_coefficient(activation: str | Elementwise, order: int, derivative: int = 0) -> float:
    """Coefficient ``μ_r(φ^(m)) = E[φ^(m)(g) h_r(g)]``, with ``h_r`` the normalized Hermite polynomial, ``E h_r² = 1``.

    A derivative is the weak one, ``μ_r(φ^(m)) = √((r+m)! / r!) μ_{r+m}(φ)``, so that a kink or jump of ``φ`` counts.

    Args:
        activation: A name, or an entrywise function that is smooth except at 0.
        order: ``r``, 0 to 500.
        derivative: ``m``, 0 to 10.

    Raises:
        ValueError: If the activation is unknown, or an order is out of range.
        ArithmeticError: If the quadrature does not converge.

    References:
        Oymak & Soltanolkotabi 2019, Appendix H (erratum B7: ``μ̃_φ = μ_0(φ')`` and ``μ_φ = μ_1(φ')``).

    Example:
        >>> round(hermite_coefficient("softplus", 1, derivative=1), 5)
        0.20662
    """
    for name, value, largest in (("order", order, MAX_ORDER - 12), ("derivative", derivative, 10)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
            raise ValueError(f"Expected `{name}` to be an integer from 0 to {largest}, but got {value!r}.")
    function = activation_function(activation).function
    factor = math.prod(math.sqrt(order + step) for step in range(1, derivative + 1))
    norm = torch.ones(1, dtype=torch.float64)
    return factor * float(hermite_expansion(function, norm, order + derivative).coefficients[-1])


def activation_constants(activation: str | Elementwise) -> ActivationConstants:
    """The constants of an activation; arguments and errors as in :func:`hermite_coefficient`.

    Example:
        >>> [round(constant, 4) for constant in activation_constants("tanh")]
        [0.0, 0.6057, 0.0, 1.0]
    """
    return ActivationConstants(
        hermite_coefficient(activation, 1, derivative=1),
        hermite_coefficient(activation, 0, derivative=1),
        hermite_coefficient(activation, 2),
        derivative_bounds(activation).bound,
    )


@torch.no_grad()
def hermite_expansion(function: Callable[[Tensor], Tensor], norms: Tensor, order: int = MAX_ORDER) -> HermiteExpansion:
    """Expansions of ``g -> f(s g)`` up to an order, for every norm ``s`` of shape ``(m,)``, by adaptive quadrature.

    Raises:
        ArithmeticError: If the quadrature does not converge.
    """
    distinct = norms[:1] if norms.stride(0) == 0 else norms
    parts = [_expansion(function, distinct[part], order) for part in tiles(len(distinct), 256)]
    stacked = torch.cat(parts, dim=1).expand(-1, len(norms))
    coefficients, energies = stacked[:-1], stacked[-1]
    # From the energy down: a sum of squares from below would not see tails under its rounding, 1e-16 of the energy.
    squares = torch.cat(parts, dim=1)[:-1].square()
    beyond = (energies - squares.sum(dim=0)).clamp(min=0.0)
    from_top = squares.flip(0).cumsum(0).flip(0)
    tails = beyond + torch.cat([from_top[1:], torch.zeros_like(from_top[:1])]).expand(-1, len(norms))
    return HermiteExpansion(coefficients, energies, tails)


def _expansion(function: Callable[[Tensor], Tensor], norms: Tensor, order: int) -> Tensor:
    """Coefficients, and the energy in the last row, shape ``(order + 2, m)``."""

    def values_at(level: int) -> tuple[Tensor, Tensor, Tensor]:
        nodes, weights = (rule.to(norms) for rule in gaussian_rule(level))
        return nodes, weights, function(nodes.unsqueeze(1) * norms)

    def integral(level: int) -> Tensor:
        nodes, weights, values = values_at(level)
        energy = weights @ values.square()
        return torch.cat([(_hermite_polynomials(nodes, order) * weights) @ values, energy.unsqueeze(0)])

    _, weights, values = values_at(0)
    energy = (weights @ values.square()).clamp(min=1e-300)
    scale = torch.cat([energy.sqrt().expand(order + 1, -1), energy.unsqueeze(0)])
    return refine(integral, _TOLERANCE, scale, "the Hermite coefficients")


def _hermite_polynomials(x: Tensor, order: int) -> Tensor:
    """Normalized ``h_0`` to ``h_order`` at the points ``x``, by ``√(r+1) h_{r+1} = x h_r - √r h_{r-1}``."""
    polynomials = torch.ones(order + 1, len(x)).to(x)
    if order:
        polynomials[1] = x
    for r in range(1, order):
        polynomials[r + 1] = (x * polynomials[r] - math.sqrt(r) * polynomials[r - 1]) / math.sqrt(r + 1)
    return polynomials
