"""The linear model of the paper's introduction: what early stopping gains when features and labels are noisy."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative

# Singular values of the clean features up to this share of the largest count as zero.
_RANK_TOLERANCE = 1e-10


class PopulationLoss(NamedTuple):
    """Expected test loss, and its parts on the information and the nuisance space, which add up to it."""

    total: Tensor
    information: Tensor
    nuisance: Tensor


def population_loss(
    weights: Tensor, *, features: Tensor, clean_labels: Tensor, feature_noise: float, label_noise: float
) -> PopulationLoss:
    """Expected loss ``E 1/2 |X w - y|²`` over fresh noise, on the column space of the clean features and off it.

    ``X = X̄ + Z`` with ``Z ~ N(0, σ_x²/n)`` and ``y = ȳ + z`` with ``z ~ N(0, σ_y²/n)``, independently:

    * ``E L_I = 1/2 |X̄ w - ȳ|² + r/(2n) (σ_x² |w|² + σ_y²)``,
    * ``E L_N = 1/2 (1 - r/n) (σ_x² |w|² + σ_y²)``,

    where ``r`` is the rank of ``X̄``; the first falls as ``w`` is fitted, the second rises with ``|w|``.

    Args:
        weights: ``w``, shape ``(d,)``, or ``(m, d)`` for several.
        features: ``X̄``, shape ``(n, d)``, of low rank.
        clean_labels: ``ȳ``, in the column space of ``X̄``, shape ``(n,)``.
        feature_noise: ``σ_x``.
        label_noise: ``σ_y``.

    Returns:
        Scalars, or shape ``(m,)`` each.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or ``ȳ`` leaves the column space.

    References:
        Oymak et al. 2019, section 2.1, with 1/2 in front of all of ``L_I`` (erratum A14).

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> noise = {"feature_noise": 1.0, "label_noise": 2.0}
        >>> population_loss(torch.ones(2), features=features, clean_labels=torch.tensor([3.0, 0.0]), **noise)
        PopulationLoss(total=tensor(5., dtype=torch.float64), information=tensor(3.5000, dtype=torch.float64),
                       nuisance=tensor(1.5000, dtype=torch.float64))
    """
    check_not_negative("feature_noise", feature_noise)
    check_not_negative("label_noise", label_noise)
    w, X, y = (tensor.detach().double() for tensor in (weights, features, clean_labels))
    if X.dim() != 2 or w.dim() not in (1, 2) or w.shape[-1:] != X.shape[1:] or y.shape != X.shape[:1] or not y.numel():
        raise ValueError(
            f"Expected features (n, d), weights (d,) or (m, d) and labels (n,), "
            f"but got {tuple(X.shape)}, {tuple(w.shape)} and {tuple(y.shape)}."
        )
    if not bool(w.isfinite().all() & X.isfinite().all() & y.isfinite().all()):
        raise ValueError("Expected finite features, weights and labels, but some are NaN or infinite.")
    left, values, _ = torch.linalg.svd(X, full_matrices=False)
    basis = left[:, values > _RANK_TOLERANCE * values[0]]
    outside = float((y - basis @ (basis.T @ y)).norm())
    if outside > 1e-6 * max(float(y.norm()), 1e-300):
        raise ValueError(
            f"Expected clean labels in the column space of the features, but {outside:.3g} of {float(y.norm()):.3g} "
            "lies outside; pass the labels without noise."
        )
    n, rank = len(y), basis.shape[1]
    misfit = 0.5 * (w @ X.T - y).square().sum(dim=-1)
    noise = 0.5 * (feature_noise**2 * w.square().sum(dim=-1) + label_noise**2)
    return PopulationLoss(misfit + noise, misfit + rank / n * noise, (1 - rank / n) * noise)
