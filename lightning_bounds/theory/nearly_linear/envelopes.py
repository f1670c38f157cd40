"""What the norms of the weights, and of their derivatives in epsilon, are at most: ``u`` and ``v`` of Theorem 5.2."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.nearly_linear.arguments import as_given, as_times, check_setting
from lightning_bounds.theory.nearly_linear.incomplete_gamma import log_gamma_increment, upper_incomplete_gamma

# "theorem": with E402 and E404; "w_beta": with E402, but w(beta); "printed": neither.
FORMS = ("theorem", "w_beta", "printed")
# exp of more is never needed: what it multiplies is infinite.
_LARGEST_LOG = 300.0
# In the place of a rate of 0, which only weights of 1e-150 and less can have without any signal.
_SMALLEST_RATE = 1e-300


class Envelope(NamedTuple):
    """Constants of Theorem 5.2, tensors of one shape.

    Attributes:
        one: ``1 + ρ β^L``.
        rate: ``s̄``.
        scale: ``ŝ``.
        log_beta: ``log β``.
        log_ratio: ``log s̄_ρ / s̄``, so that ``log β̄`` is the sum of both.
        rho: ``ρ``.
        depth: ``L``.
    """

    one: Tensor
    rate: Tensor
    scale: Tensor
    log_beta: Tensor
    log_ratio: Tensor
    rho: Tensor
    depth: Tensor

    @property
    def log_start(self) -> Tensor:
        """``log β̄ = log u(0)``."""
        return self.log_beta + self.log_ratio


def envelope(
    strength: Tensor, rho: Tensor, beta: Tensor, epsilon: Tensor, depth: Tensor, *, root: bool = False
) -> Envelope:
    """The constants for float64 tensors whose shapes broadcast; ``root`` puts ``√ρ`` in the place of ``ρ``, as printed.

    Example:
        >>> numbers = [torch.tensor(x, dtype=torch.float64) for x in (0.65, 3.7, 0.1, 0.1, 2.0)]
        >>> constants = envelope(*numbers)
        >>> [round(float(x), 8) for x in (constants.rate, constants.scale, constants.log_start.exp())]
        [0.722, 0.30723404, 0.13877978]
    """
    strength, rho, beta, epsilon, depth = torch.broadcast_tensors(strength, rho, beta, epsilon, depth)
    power = (depth * beta.log()).clamp_max(_LARGEST_LOG).exp()
    one = 1 + rho * power
    # E401: s with 1/m; E403: rho beta^L, which the appendix drops.
    rate = (1 - epsilon) * (strength + rho * power) + epsilon * (depth - 1) * one
    rate = rate.clamp_min(_SMALLEST_RATE)
    # E402: the factor r; printed sqrt(r).
    excess = (rho.sqrt() if root else rho) - 1
    ratio = epsilon * (depth - 1) * excess * one / rate
    return Envelope(one, rate, depth * rate / (1 + (depth - 1) * rho), beta.log(), torch.log1p(ratio), rho, depth)


def scalar_envelope(
    strength: float, rho: float, beta: float, epsilon: float, depth: int, *, root: bool = False
) -> Envelope:
    """The constants of one setting, checked."""
    check_setting(strength=strength, rho=rho, beta=beta, epsilon=epsilon, depth=depth)
    numbers = (torch.tensor(float(number), dtype=torch.float64) for number in (strength, rho, beta, epsilon, depth))
    return envelope(*numbers, root=root)


def log_growth(constants: Envelope, times: Tensor) -> Tensor:
    """``log u(t) / β̄``, infinite from the blow-up on.

    Example:
        >>> log_growth(scalar_envelope(0.65, 1.0, 0.1, 0.0, 2), torch.tensor(2.0))
        tensor(1.3200, dtype=torch.float64)
    """
    deep = constants.depth > 2
    excess = torch.where(deep, constants.depth - 2, 1.0)
    # Eq. (9): u^{2-L} = bb^{2-L} - (L-2) sb t, relative to the start.
    spent = ((excess * constants.rate * times).log() + excess * constants.log_start).exp().clamp_max(1.0)
    return torch.where(deep, -torch.log1p(-spent) / excess, constants.rate * times)


def log_derivative_norm(constants: Envelope, growth: Tensor, *, from_beta: bool = False) -> Tensor:
    """``log v`` where ``u = β̄ e^growth``; ``from_beta`` subtracts ``w(β)`` in the place of ``w(β̄)``, as printed.

    ``v = (L-1) u^{L-1} ∫_0^t exp((u^L - u(z)^L) / ŝ) (1 + ρ β^L + ρ u(z)^L) dz``, which is Eq. (10) with nothing
    subtracted, in ``y = u^L / ŝ``.
    """
    one, rate, scale, log_beta, log_ratio, rho, depth = constants
    # E404: v(0) = 0 requires w(bb), as u(0) = bb; printed w(beta).
    log_lower = depth * (log_beta if from_beta else constants.log_start) - scale.log()
    climb = depth * (growth + log_ratio if from_beta else growth)
    lower = log_lower.exp()
    rise = torch.where(climb < 1, lower * torch.expm1(climb), (log_lower + climb).exp() - lower)
    first = one.log() + log_gamma_increment((2 - depth) / depth, log_lower, climb)
    second = (rho * scale).log() + log_gamma_increment(2 / depth, log_lower, climb)
    front = (depth - 1).log() - (depth * rate).log() + (2 - depth) / depth * scale.log()
    value = front + (depth - 1) * (constants.log_start + growth) + rise + torch.logaddexp(first, second)
    # Where even the start is beyond all numbers, the smallest time is too long.
    value = torch.where(log_lower > _LARGEST_LOG, math.inf, value)
    return torch.where(climb == 0, -math.inf, value)


def check_form(form: str) -> None:
    """Raise ValueError unless the form of the envelope is known."""
    if form not in FORMS:
        raise ValueError(f"Expected `form` among {', '.join(FORMS)}, but got {form!r}.")


def weight_norm_bound(
    time: float | Tensor,
    *,
    strength: float,
    rho: float,
    beta: float,
    epsilon: float,
    depth: int,
    form: str = "theorem",
) -> float | Tensor:
    """``u(t)``: ``|W_l(t)| ≤ u(t)`` for every layer, and ``|W_1(t) X̃|_F / √n ≤ ρ u(t)``.

    ``β̄ e^{s̄ t}`` for two layers, ``(β̄^{2-L} - (L-2) s̄ t)^{1/(2-L)}`` for more.

    Args:
        time: Time of the gradient flow, step size times steps; a number or a tensor.
        strength: ``s``, see :func:`~lightning_bounds.theory.nearly_linear.strength`.
        rho: ``ρ = |W_1(0)|_F / |W_1(0)|``, at least 1.
        beta: ``β``, largest spectral norm of an initial layer.
        epsilon: ``ε`` in [0, 1]: the slope of LeakyReLU is ``1 - ε``.
        depth: ``L``, number of layers, at least 2.
        form: ``"theorem"``; ``"w_beta"``, the same here; ``"printed"``, with ``√ρ`` in ``s̄_ρ`` (erratum E402).

    Returns:
        A number for a number, a float64 tensor for a tensor; infinite from the blow-up on.

    Raises:
        ValueError: If a number is out of range or not finite.

    References:
        Theorem 5.2, Eq. (9), errata E401, E402, E403.

    Example:
        >>> round(weight_norm_bound(1.0, strength=0.65, rho=3.7, beta=0.1, epsilon=0.1, depth=2), 9)
        0.285684584
    """
    check_form(form)
    constants = scalar_envelope(strength, rho, beta, epsilon, depth, root=form == "printed")
    growth = log_growth(constants, as_times(time))
    return as_given((constants.log_start + growth).exp(), time)


def derivative_norm_bound(
    time: float | Tensor,
    *,
    strength: float,
    rho: float,
    beta: float,
    epsilon: float,
    depth: int,
    form: str = "theorem",
) -> float | Tensor:
    """``v(t)``, which is to bound ``|dW_l / dτ|`` for the networks of every ``τ ≤ ε``.

    For the first layer, and for all where ``ρ = 1``, it does; for the others where ``ρ > 1`` it need not (erratum
    E410): see :func:`~lightning_bounds.theory.nearly_linear.corrected_derivative_norms`.

    Args:
        time: As in :func:`weight_norm_bound`, like all others.
        strength: ``s``.
        rho: ``ρ``.
        beta: ``β``.
        epsilon: ``ε``.
        depth: ``L``.
        form: ``"theorem"``, with ``w(β̄)`` (erratum E404); ``"w_beta"``, with ``w(β)``; ``"printed"``, also with ``√ρ``
            in ``s̄_ρ`` (erratum E402).

    Returns:
        A number for a number, a float64 tensor for a tensor; infinite where it exceeds all numbers.

    Raises:
        ValueError: If a number is out of range or not finite.

    References:
        Theorem 5.2, Eq. (10) and (11), errata E402, E403, E404, E407, E410.

    Example:
        >>> setting = dict(strength=0.65, rho=3.7, beta=0.1, epsilon=0.1, depth=2)
        >>> [round(derivative_norm_bound(1.0, **setting, form=form), 9) for form in ("theorem", "w_beta")]
        [0.386891936, 0.562833078]
    """
    check_form(form)
    constants = scalar_envelope(strength, rho, beta, epsilon, depth, root=form == "printed")
    growth = log_growth(constants, as_times(time))
    return as_given(log_derivative_norm(constants, growth, from_beta=form != "theorem").exp(), time)


def blow_up_time(*, strength: float, rho: float, beta: float, epsilon: float, depth: int) -> float:
    """``β̄^{2-L} / ((L-2) s̄)``, from which on ``u`` is infinite; never for two layers.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> round(blow_up_time(strength=0.65, rho=2.0, beta=0.3, epsilon=0.1, depth=3), 8)
        3.15895881
    """
    constants = scalar_envelope(strength, rho, beta, epsilon, depth)
    if depth == 2:
        return math.inf
    return float(((2 - depth) * constants.log_start - ((depth - 2) * constants.rate).log()).exp())


def norm_antiderivative(norm: float, *, strength: float, rho: float, beta: float, epsilon: float, depth: int) -> float:
    """``w(z) = -(1 + ρ β^L)/s̄ Γ((2-L)/L, z^L/ŝ) - ρ ŝ/s̄ Γ(2/L, z^L/ŝ)``, of which ``v`` takes a difference.

    Args:
        norm: ``z``, positive.
        strength: As in :func:`weight_norm_bound`, like all others.
        rho: ``ρ``.
        beta: ``β``.
        epsilon: ``ε``.
        depth: ``L``.

    Raises:
        ValueError: If a number is out of range.

    References:
        Theorem 5.2, Eq. (11), errata E407, E408.

    Example:
        >>> round(norm_antiderivative(0.3, strength=0.65, rho=1.0, beta=0.3, epsilon=0.05, depth=4), 4)
        -22.655
    """
    check_positive("norm", norm)
    one, rate, scale, *_ = (float(number) for number in scalar_envelope(strength, rho, beta, epsilon, depth))
    argument = math.exp(min(depth * math.log(norm) - math.log(scale), _LARGEST_LOG))
    # E407: one in the first term, which (67) drops.
    first = one / rate * float(upper_incomplete_gamma((2 - depth) / depth, argument))
    return -first - rho * scale / rate * float(upper_incomplete_gamma(2 / depth, argument))
