"""The linear network of the same shape, started on the direction that it learns: its weights, and how long it takes."""

import math

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_positive, check_probability
from lightning_bounds.theory.gaussian.quadrature import panels
from lightning_bounds.theory.nearly_linear.arguments import as_given, as_times, check_fraction

# Beyond it, x and exp(x) stand for the logistic function and its logarithm.
_FAR = 40.0
_PANELS = 24
_BISECTIONS = 80


def training_time(*, strength: float, beta: float, depth: int, fraction: float) -> float:
    """``t*_α``, when the product ``ū^L`` of the norms of the linear network's layers reaches ``α s``.

    ``1/(2s) ln(α (s - β²) / ((1 - α) β²))`` for two layers; for more, the same integral ``∫ dū / (ū^{L-1} (s - ū^L))``
    from ``β``, which the paper writes with hypergeometric functions.

    Args:
        strength: ``s``, positive.
        beta: ``β``, norm of each initial layer, with ``β^L < α s``.
        depth: ``L``, at least 2.
        fraction: ``α``, in (0, 1).

    Returns:
        Time of the gradient flow; infinite where it exceeds all numbers.

    Raises:
        ValueError: If a number is out of range, or the network starts beyond ``α s``.

    References:
        Section 5.3, Eq. (12) and (13), and appendix D.2.

    Example:
        >>> round(training_time(strength=0.65, beta=0.05, depth=2, fraction=0.9), 11)
        5.96465587618
    """
    check_probability("fraction", fraction)
    start = _start(strength, beta, depth)
    end = math.log(fraction / (1 - fraction))
    if not start < end:
        raise ValueError(
            f"Expected `beta` with beta^depth < fraction * strength = {fraction * strength:.6g}, where the training "
            f"has not passed yet, but got beta^depth = {beta**depth:.6g}; take a smaller `beta` or a larger `fraction`."
        )
    return float(_time_between(_scalar(start), _scalar(end), strength, depth))


def linear_weight_norm(time: float | Tensor, *, strength: float, beta: float, depth: int) -> float | Tensor:
    """``ū(t)``, norm of every layer of the linear network: ``ū' = ū^{L-1} (s - ū^L)`` from ``β``.

    For two layers ``ū² = s e^{2st} / (e^{2st} - 1 + s/β²)``.

    Args:
        time: Time of the gradient flow, a number or a tensor.
        strength: ``s``, positive.
        beta: ``β``, with ``β^L < s``.
        depth: ``L``, at least 2.

    Returns:
        A number for a number, a float64 tensor for a tensor.

    Raises:
        ValueError: If a number is out of range, or the network starts beyond its limit ``s``.

    References:
        Eq. (12) and (14), where the square is missing (erratum E405).

    Example:
        >>> round(linear_weight_norm(5.96465587618, strength=0.65, beta=0.05, depth=2) ** 2 / 0.65, 6)
        0.9
    """
    start = _start(strength, beta, depth)
    times = as_times(time)
    if depth == 2:
        # E405: (14) gives the square.
        logits = start + 2 * strength * times
    else:
        lower = torch.full_like(times, start)
        # The logit never grows faster than at the end.
        upper = lower + depth * strength ** (2 - 2 / depth) * times
        for _ in range(_BISECTIONS):
            middle = (lower + upper) / 2
            early = _time_between(_scalar(start), middle, strength, depth) < times
            lower, upper = torch.where(early, middle, lower), torch.where(early, upper, middle)
        logits = (lower + upper) / 2
    norms = ((torch.nn.functional.logsigmoid(logits) + math.log(strength)) / depth).exp()
    return as_given(norms, time)


def _scalar(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _start(strength: float, beta: float, depth: int) -> float:
    """``log(q / (1 - q))`` of ``q = β^L / s``."""
    check_fraction("strength", strength)
    check_positive("strength", strength)
    check_positive("beta", beta)
    check_count("depth", depth, least=2)
    log_share = depth * math.log(beta) - math.log(strength)
    if log_share >= 0:
        raise ValueError(
            f"Expected `beta` with beta^depth < strength = {strength:.6g}, but got beta = {beta:.6g}, depth {depth}; "
            "take a smaller `beta`."
        )
    return log_share - math.log(-math.expm1(log_share))


def _time_between(start: Tensor, end: Tensor, strength: float, depth: int) -> Tensor:
    """``s^{2/L-2} / L ∫ σ(x)^{2/L-1} dx``, the time between two logits of ``ū^L / s``."""
    start, end = torch.broadcast_tensors(start.double(), end.double())
    power = 1 - 2 / depth
    # Far below, σ(x) = e^x.
    early = torch.minimum(end, torch.full_like(end, -_FAR))
    length = (early - start).clamp_min(0.0)
    far_below = length if power == 0 else (-power * start).exp() * -torch.expm1(-power * length) / power
    # Far above, σ(x) = 1.
    far_above = end.clamp_min(_FAR) - start.clamp_min(_FAR)
    nodes, weights = panels(torch.tensor([0.0, 1.0], dtype=torch.float64), _PANELS)
    lower, upper = start.clamp(-_FAR, _FAR), end.clamp(-_FAR, _FAR)
    x = lower.unsqueeze(-1) + (upper - lower).unsqueeze(-1) * nodes
    between = (upper - lower) * ((-power * torch.nn.functional.logsigmoid(x)).exp() @ weights)
    return strength ** (2 / depth - 2) / depth * (far_below + between + far_above)
