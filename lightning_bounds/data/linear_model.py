"""The linear model in which early stopping gains: features of low rank, which hold the labels, under noise."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from lightning_bounds.data.regression import RegressionData
from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive


class LinearModel(NamedTuple):
    """The model without noise, in float64.

    Attributes:
        features: ``X̄ = U V^T``, shape ``(n, d)``, with ``r`` singular values 1.
        weights: ``w*``, in the row space of ``X̄``, shape ``(d,)``.
        labels: ``ȳ = X̄ w*``, shape ``(n,)``.
        information_basis: ``U``, shape ``(n, r)``: the information space; what is orthogonal to it is nuisance.
    """

    features: Tensor
    weights: Tensor
    labels: Tensor
    information_basis: Tensor


class Observation(NamedTuple):
    """What is seen of the model: ``features`` ``X = X̄ + Z``, shape ``(n, d)``, and ``labels`` ``y = ȳ + z``."""

    features: Tensor
    labels: Tensor


def linear_model(
    num_samples: int = 200, num_features: int = 500, rank: int = 5, *, weight_norm: float = 1.0, seed: int = 0
) -> LinearModel:
    """Clean features ``X̄ = U V^T`` of rank ``r``, and clean labels ``ȳ = X̄ w*``.

    ``U`` and ``V`` have uniformly random orthonormal columns, so ``Σ = I``. ``w*`` is uniform in the row space, of norm
    ``weight_norm``; the paper does not tell how it is drawn.

    Args:
        num_samples: ``n``.
        num_features: ``d``.
        rank: ``r``, at most ``n`` and ``d``.
        weight_norm: ``|w*|``, which is ``|ȳ|`` too.
        seed: Seed of the draws; the global random state is not used.

    Raises:
        ValueError: If a number is out of range.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 2.1; the defaults are those of Figure 2.

    Example:
        >>> model = linear_model(num_samples=6, num_features=8, rank=2)
        >>> torch.linalg.svdvals(model.features).round(decimals=6).abs()[:3], round(float(model.labels.norm()), 6)
        (tensor([1., 1., 0.], dtype=torch.float64), 1.0)
    """
    for name, count in {"num_samples": num_samples, "num_features": num_features, "rank": rank}.items():
        check_count(name, count)
    check_count("seed", seed, least=0)
    check_positive("weight_norm", weight_norm)
    if rank > min(num_samples, num_features):
        raise ValueError(
            f"Expected `rank` of at most {min(num_samples, num_features)}, as the features are "
            f"{num_samples} x {num_features}, but got {rank}."
        )
    generator = Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64)).Q
        for size in (num_samples, num_features)
    )
    direction = torch.randn(rank, generator=generator, dtype=torch.float64)
    coefficients = weight_norm * direction / direction.norm()
    return LinearModel(features=U @ V.T, weights=V @ coefficients, labels=U @ coefficients, information_basis=U)


def observation(model: LinearModel, *, feature_noise: float, label_noise: float, seed: int = 0) -> Observation:
    """One observation: ``X = X̄ + Z`` with ``Z ~ N(0, σ_x²/n)``, and ``y = ȳ + z`` with ``z ~ N(0, σ_y²/n)``.

    Args:
        model: The clean features and labels.
        feature_noise: ``σ_x``.
        label_noise: ``σ_y``.
        seed: Seed of the noise; the global random state is not used.

    Raises:
        ValueError: If a number is out of range.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 2.1.

    Example:
        >>> model = linear_model(num_samples=6, num_features=8, rank=2)
        >>> observation(model, feature_noise=0.0, label_noise=0.0).labels.equal(model.labels)
        True
    """
    check_not_negative("feature_noise", feature_noise)
    check_not_negative("label_noise", label_noise)
    check_count("seed", seed, least=0)
    n, d = model.features.shape
    generator = Generator().manual_seed(seed)
    Z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z = torch.randn(n, generator=generator, dtype=torch.float64)
    return Observation(
        model.features + feature_noise / n**0.5 * Z,
        model.labels + label_noise / n**0.5 * z,
    )


def load(
    num_samples: int = 200,
    num_features: int = 500,
    rank: int = 5,
    feature_noise: float = 0.2,
    label_noise: float = 2.0,
    weight_norm: float = 1.0,
    seed: int = 0,
) -> RegressionData:
    """An observation to train on, and one with fresh noise to test on, of the same clean features and labels.

    The expected loss on fresh noise is
    :func:`~lightning_bounds.theory.information_space.linear_model.population_loss`.

    Args:
        num_samples: ``n``, in either part.
        num_features: ``d``.
        rank: ``r``.
        feature_noise: ``σ_x``.
        label_noise: ``σ_y``.
        weight_norm: ``|w*|``.
        seed: Seed of all draws; the clean model is ``linear_model(..., seed=seed)``.

    Returns:
        Samples in float32; the clean labels are ``ȳ`` in both parts.

    Raises:
        ValueError: If a number is out of range.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 2.1 and Figure 2, whose parameters are the defaults.

    Example:
        >>> data = load()
        >>> data.train_inputs.shape, data.test_clean_labels.equal(data.train_clean_labels)
        (torch.Size([200, 500]), True)
    """
    model = linear_model(num_samples, num_features, rank, weight_norm=weight_norm, seed=seed)
    train, test = (
        observation(model, feature_noise=feature_noise, label_noise=label_noise, seed=int(word))
        for word in np.random.SeedSequence(seed).generate_state(2)
    )
    clean = model.labels.float()
    return RegressionData(
        train.features.float(), train.labels.float(), clean, test.features.float(), test.labels.float(), clean
    )
