"""A proved bound on the derivatives of the weights in epsilon, in the place of ``v`` where ``ρ > 1`` (erratum E410)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.nearly_linear.arguments import as_given, as_times
from lightning_bounds.theory.nearly_linear.envelopes import Envelope, log_growth, scalar_envelope

# Steps before and after the square of the norms starts to drive the growth.
# Powers of 2, as the steps are multiplied pairwise.
_EARLY_STEPS, _LATE_STEPS = 64, 256
# Exponents beyond which the steps would be too long to be stable; v is then given as infinite.
_LONGEST_CLIMB, _LARGEST_EXPONENT = 150.0, 320.0
# Settings that are solved at once, for the memory.
_BLOCK = 64


class DerivativeNorms(NamedTuple):
    """Norms at some times: numbers for a number, float64 tensors for a tensor.

    Attributes:
        first: ``v_1``: of ``|dW_1 / dτ|`` and of ``|d(W_1 X̃) / dτ|_F / √n``.
        later: ``v_2``: of ``|dW_l / dτ|`` for ``l ≥ 2``.
        input_norm: ``F``: of ``|W_1 X̃|_F / √n``.
    """

    first: float | Tensor
    later: float | Tensor
    input_norm: float | Tensor


class LogDerivativeNorms(NamedTuple):
    """``log v_1``, ``log v_2`` and ``F / u``."""

    first: Tensor
    later: Tensor
    input_ratio: Tensor


def corrected_derivative_norms(
    time: float | Tensor,
    *,
    strength: float,
    rho: float,
    beta: float,
    epsilon: float,
    depth: int,
    tight: bool = True,
) -> DerivativeNorms:
    """``v_1`` and ``v_2`` of a system that follows from the paper's own inequalities, for every ``ρ``.

    With ``G = (L-1) F u^{L-1} + v_1 u^{L-1} + (L-1) F v_2 u^{L-2}``, both 0 at time 0::

        v_1' = u^{L-1} (G + (L-1) 1̄) + (L-1) s̄ u^{L-2} v_2
        v_2' = F u^{L-2} (G + (L-1) 1̄) + s̄ u^{L-2} v_1 + (L-2) s̄ u^{L-2} v_2

    For ``ρ = 1`` both are ``v`` of the theorem.

    Args:
        time: Time of the gradient flow, a number or a tensor.
        strength: ``s``.
        rho: ``ρ``.
        beta: ``β``.
        epsilon: ``ε``.
        depth: ``L``.
        tight: Whether ``F = u + β ρ - β̄``, else ``F = ρ u``.

    Raises:
        ValueError: If a number is out of range or not finite.

    References:
        Section 7.3, Eq. (53) to (61), and appendix D.1, with the factors that erratum E410 restores.

    Example:
        >>> norms = corrected_derivative_norms(1.0, strength=0.65, rho=3.7, beta=0.1, epsilon=0.1, depth=2)
        >>> [round(number, 6) for number in norms]
        [0.476178, 0.695775, 0.516905]
    """
    constants = scalar_envelope(strength, rho, beta, epsilon, depth)
    growth = log_growth(constants, as_times(time))
    first, later, ratio = log_corrected_norms(constants, growth, tight=tight)
    norms = (first.exp(), later.exp(), ratio * (constants.log_start + growth).exp())
    return DerivativeNorms(*(as_given(norm, time) for norm in norms))


def log_corrected_norms(constants: Envelope, growth: Tensor, *, tight: bool = True) -> LogDerivativeNorms:
    """The system, solved in ``x = log u / β̄``, all settings and times at once.

    With ``v_i = u^{L-1} e^{E} y_i``, where ``E`` is the integral of the growth rate ``u^L / s̄ (1 + (L-1) F²/u²)``, what
    is left to solve neither grows nor has exponents, by the fourth-order Runge-Kutta method.
    """
    constants = Envelope(*torch.broadcast_tensors(*constants))
    shape = torch.broadcast_shapes(constants.one.shape, growth.shape)
    one, rate, _, log_beta, log_ratio, rho, depth = (part.expand(shape).reshape(-1) for part in constants)
    growth = growth.expand(shape).reshape(-1)
    log_start = log_beta + log_ratio
    # F / u at the start: tight F = u + rho beta - bb.
    gap = torch.expm1(rho.log() - log_ratio).clamp_min(0.0) if tight else rho - 1

    def ratio(x: Tensor, at: slice = slice(None)) -> Tensor:
        excess = _beside(gap[at], x)
        return 1 + (excess * (-x).exp() if tight else excess.expand_as(x))

    log_power = depth * log_start - rate.log()
    power = log_power.clamp_max(_LONGEST_CLIMB).exp()
    exponent = _exponent(power, gap, depth, tight)
    endless = (depth * growth > _LONGEST_CLIMB) & (log_power + depth * growth > math.log(_LARGEST_EXPONENT))
    endless = endless | growth.isinf() | ((log_power > _LONGEST_CLIMB) & (growth > 0))
    endless = endless | (exponent(torch.where(endless, 0.0, growth)) > _LARGEST_EXPONENT)
    # Until `middle` the growth rate is below 1, from there on the steps follow its root.
    middle = -(log_power + torch.log1p((depth - 1) * ratio(torch.zeros_like(growth)).square())) / depth
    middle = torch.minimum(middle.clamp_min(0.0), growth)
    endless = endless | (depth * middle > _LONGEST_CLIMB)
    end, middle = torch.where(endless, 0.0, growth), torch.where(endless, 0.0, middle)
    roots = (depth * (end - middle) / 2).exp() - 1

    def propagator(x: Tensor, speed: Tensor, at: slice) -> Tensor:
        """Of ``(y_1, y_2, 1)' = A (y_1, y_2, 1)`` along the places ``x``, shape ``(settings, 3, 3)``."""
        more = depth[at, None] - 1
        f = ratio(x, at)
        drive = power[at, None] * ((more + 1) * x).exp()
        source = more * (f * rate[at, None] * drive + one[at, None]) * ((1 - more) * x - exponent(x, at)).exp()
        decay, zero = drive * (1 + more * f.square()), torch.zeros_like(x)
        rows = [
            drive - decay - more, more * f * drive + more, source,
            f * drive + 1, more * f.square() * drive - decay - 1, f * source,
            zero, zero, zero,
        ]  # fmt: skip
        return _runge_kutta((speed * torch.stack(rows)).movedim(0, -1).unflatten(-1, (3, 3)))

    early_share, late_share = (
        torch.linspace(0, 1, 2 * steps + 1, dtype=torch.float64) for steps in (_EARLY_STEPS, _LATE_STEPS)
    )
    states = []
    for begin in range(0, len(end), _BLOCK):
        at = slice(begin, begin + _BLOCK)
        length, spread, scale = middle[at, None], roots[at, None], 2 / depth[at, None]
        early = propagator(early_share * length, length / _EARLY_STEPS, at)
        risen = late_share * spread
        late = propagator(length + scale * torch.log1p(risen), scale * spread / (1 + risen) / _LATE_STEPS, at)
        states.append((late @ early)[:, :2, 2])
    state = torch.cat(states)
    front = exponent(end) + (depth - 1) * (log_start + end) + (2 - depth) * log_start - rate.log()
    first, later = (torch.where(endless, math.inf, front + part.log()).reshape(shape) for part in state.unbind(1))
    return LogDerivativeNorms(first, later, ratio(growth).reshape(shape))


def _exponent(power: Tensor, gap: Tensor, depth: Tensor, tight: bool) -> Callable[..., Tensor]:
    """``E(x) = ∫ u^L / s̄ (1 + (L-1) F²/u²)``, from 0, in closed form."""

    def exponent(x: Tensor, at: slice = slice(None)) -> Tensor:
        g, a, layers = (_beside(part[at], x) for part in (power, gap, depth))
        if not tight:
            return g * (1 + (layers - 1) * (1 + a).square()) / layers * torch.expm1(layers * x)
        excess = torch.where(layers > 2, layers - 2, 1.0)
        last = torch.where(layers > 2, torch.expm1(excess * x) / excess, x)
        squares = (layers - 1) * a.square() * last
        return g * (torch.expm1(layers * x) + 2 * a * torch.expm1((layers - 1) * x) + squares)

    return exponent


def _beside(numbers: Tensor, x: Tensor) -> Tensor:
    """One number for each setting, beside one or several places ``x`` of each."""
    return numbers.unsqueeze(-1) if x.dim() > 1 else numbers


def _runge_kutta(matrices: Tensor) -> Tensor:
    """What fourth-order steps make of a linear system: the product of their propagators, shape ``(settings, 3, 3)``.

    Args:
        matrices: ``h A`` at the ends and middles of ``n`` steps, shape ``(settings, 2 n + 1, 3, 3)``.
    """
    identity = torch.eye(3, dtype=torch.float64)
    begin, middle, end = matrices[:, :-1:2], matrices[:, 1::2], matrices[:, 2::2]
    second = middle @ (identity + begin / 2)
    third = middle @ (identity + second / 2)
    steps = identity + (begin + 2 * second + 2 * third + end @ (identity + third)) / 6
    while steps.shape[1] > 1:
        steps = steps[:, 1::2] @ steps[:, ::2]
    return steps[:, 0]
