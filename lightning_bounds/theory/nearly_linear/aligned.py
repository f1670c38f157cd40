"""Which training samples the aligned linear network will fit with a margin, known before any training."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bounds.theory.labels import as_signs
from lightning_bounds.theory.nearly_linear.arguments import as_times
from lightning_bounds.theory.nearly_linear.training_time import linear_weight_norm
from lightning_bounds.theory.nearly_linear.whitening import whiten


def aligned_margin_risk(
    inputs: Tensor,
    labels: Tensor,
    *,
    times: Sequence[float] | Tensor,
    betas: Sequence[float],
    depths: Sequence[int] = (2,),
    divisors: Sequence[float] = (1.0, 10.0, 100.0),
) -> Tensor:
    """``R̂_γ`` of the linear network whose layers start aligned: the share of samples with ``y f(x̃) < γ``.

    Its outputs are ``f(x̃) = ū(t)^L w·x̃`` with ``w`` the direction of ``Y X̃ᵀ``. It stands for the risk that a training
    will find, which starts at other weights and is not quite linear: a prediction, no bound.

    Args:
        inputs: Raw or whitened training inputs, shape ``(n, d)``.
        labels: -1 and +1, shape ``(n,)``.
        times: Training times.
        betas: Norms of the initial layers, with ``β^L < s``.
        depths: Numbers of layers.
        divisors: ``q`` in ``γ = β^L / q``.

    Returns:
        Shape ``(times, betas, 1, depths, divisors, 1, 1)``: the grid of
        :func:`~lightning_bounds.theory.nearly_linear.apriori_scan`.

    Raises:
        ValueError: If inputs or labels are not as described, no direction tells the classes apart, or a number is out
            of range.

    References:
        Section 5.3 and Eq. (12), erratum E405.

    Example:
        >>> x, y = torch.tensor([[2.0], [1.0], [-1.0], [0.1]]), torch.tensor([1, 1, -1, -1])
        >>> risks = aligned_margin_risk(x, y, times=[0.1, 5.0], betas=[0.1], divisors=[1.0])
        >>> risks.shape, risks.flatten()  # one sample is on the wrong side; at first another is within the margin
        (torch.Size([2, 1, 1, 1, 1, 1, 1]), tensor([0.7500, 0.2500], dtype=torch.float64))
    """
    white = whiten(inputs).inputs
    signs = as_signs(labels, len(white)).to(white.device)
    direction = signs @ white / len(white)
    strength = min(float(direction.norm()), 1.0)
    if strength < 1e-12:
        raise ValueError("Expected labels that some direction of the inputs explains, but their strength is 0.")
    signed = (signs * (white @ direction) / strength).sort().values
    moments = as_times(torch.as_tensor(times, dtype=torch.float64)).flatten()
    q = torch.as_tensor(divisors, dtype=torch.float64)
    risks = torch.empty(len(moments), len(betas), 1, len(depths), len(q), 1, 1, dtype=torch.float64)
    for (row, beta), (column, depth) in itertools.product(enumerate(betas), enumerate(depths)):
        norms = torch.as_tensor(linear_weight_norm(moments, strength=strength, beta=beta, depth=depth))
        # y f < gamma where y w·x < (beta / ū)^L / q.
        limits = (beta / norms.to(signed)).pow(depth)[:, None] / q.to(signed)
        risks[:, row, 0, column, :, 0, 0] = torch.searchsorted(signed, limits).double().cpu() / len(signed)
    return risks
