"""Gaussian mixtures on the sphere: several clusters for each class, the data of a kernel of low rank."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from lightning_bounds.data.image_data import ImageData, checked
from lightning_bounds.theory.arguments import check_count, check_not_negative

# Directions that are drawn for each center before the sphere counts as full.
_DRAWS_PER_CENTER = 1000


class MixtureSamples(NamedTuple):
    """Samples of a mixture.

    Attributes:
        inputs: ``x ~ N(μ, σ²/d I)``, float64, shape ``(n, d)``; their norms are ``√(1 + σ²)`` in the mean square.
        labels: The class of each sample's cluster, int64, shape ``(n,)``.
        clusters: The row of its center, int64, shape ``(n,)``.
    """

    inputs: Tensor
    labels: Tensor
    clusters: Tensor


def mixture_centers(
    num_classes: int, clusters_per_class: int, num_features: int, *, min_distance: float = 0.5, seed: int = 0
) -> Tensor:
    """Random centers ``M`` of norm 1, any two of them at least ``min_distance`` apart.

    Directions are uniform on the sphere; one that is too close to an earlier center is drawn again.

    Args:
        num_classes: ``K``.
        clusters_per_class: ``C``.
        num_features: ``d``.
        min_distance: Least Euclidean distance, in [0, 2]; the default is that of Figure 4.
        seed: Seed of the draws; the global random state is not used.

    Returns:
        Shape ``(K*C, d)``, float64; row ``k*C + c`` is cluster ``c`` of class ``k``.

    Raises:
        ValueError: If an argument is out of range, or so many centers do not fit so far apart.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Definition 3.4 and Figure 4.

    Example:
        >>> centers = mixture_centers(num_classes=3, clusters_per_class=2, num_features=10)
        >>> centers.shape, round(float(centers.norm()) ** 2, 6)
        (torch.Size([6, 10]), 6.0)
    """
    counts = {"num_classes": num_classes, "clusters_per_class": clusters_per_class, "num_features": num_features}
    for name, count in counts.items():
        check_count(name, count)
    check_count("seed", seed, least=0)
    check_not_negative("min_distance", min_distance)
    generator = Generator().manual_seed(seed)
    centers = torch.zeros(num_classes * clusters_per_class, num_features, dtype=torch.float64)
    placed = 0
    for _ in range(_DRAWS_PER_CENTER * len(centers)):
        drawn = torch.randn(num_features, generator=generator, dtype=torch.float64)
        drawn /= drawn.norm()
        if bool(((centers[:placed] - drawn).norm(dim=1) >= min_distance).all()):
            centers[placed] = drawn
            placed += 1
            if placed == len(centers):
                return centers
    raise ValueError(
        f"Expected {len(centers)} centers at least {min_distance:g} apart in {num_features} dimensions, but got room "
        f"for {placed}; lower `min_distance` or the number of clusters, or raise `num_features`."
    )


def mixture_samples(
    centers: Tensor, *, num_classes: int, num_samples: int, sigma: float, seed: int = 0
) -> MixtureSamples:
    """Independent samples: a cluster with probability ``1 / KC`` each, then ``x ~ N(μ, σ²/d I)``.

    Args:
        centers: ``M``, shape ``(K*C, d)``, those of class ``k`` in the rows ``k*C .. (k+1)*C - 1``.
        num_classes: ``K``.
        num_samples: ``n``.
        sigma: ``σ``.
        seed: Seed of the draws; the global random state is not used. With the same seed, fewer samples are the first
            ones of more, and another ``sigma`` stretches the same noise.

    Returns:
        Inputs that are not normalized, classes and clusters.

    Raises:
        ValueError: If the centers are no such matrix, or a number is out of range.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Definition 3.4.

    Example:
        >>> samples = mixture_samples(torch.eye(4), num_classes=2, num_samples=3, sigma=0.0)
        >>> samples.labels.equal(samples.clusters // 2), samples.inputs.sum(dim=1)
        (True, tensor([1., 1., 1.], dtype=torch.float64))
    """
    for name, count in {"num_classes": num_classes, "num_samples": num_samples}.items():
        check_count(name, count)
    check_count("seed", seed, least=0)
    check_not_negative("sigma", sigma)
    if centers.dim() != 2 or centers.numel() == 0 or len(centers) % num_classes or not bool(centers.isfinite().all()):
        raise ValueError(
            f"Expected finite centers (K*C, d), equally many for each of {num_classes} classes, "
            f"but got shape {tuple(centers.shape)}."
        )
    M = centers.detach().double()
    # Streams of their own for clusters and noise, sample by sample: fewer samples are the first ones of more.
    cluster_seed, noise_seed = np.random.SeedSequence(seed).generate_state(2)
    clusters = torch.randint(len(M), (num_samples,), generator=Generator().manual_seed(int(cluster_seed)))
    noise_generator = Generator().manual_seed(int(noise_seed))
    noise = torch.stack(
        [torch.randn(M.shape[1], generator=noise_generator, dtype=torch.float64) for _ in range(num_samples)]
    )
    inputs = M[clusters] + sigma / M.shape[1] ** 0.5 * noise
    return MixtureSamples(inputs, clusters // (len(M) // num_classes), clusters)


def load(
    num_classes: int = 3,
    clusters_per_class: int = 4,
    num_features: int = 50,
    sigma: float = 0.1,
    min_distance: float = 0.5,
    train_samples: int = 240,
    test_samples: int = 1000,
    seed: int = 0,
) -> ImageData:
    """Training and test samples of one mixture, as a source of the image data module.

    That module divides the inputs by their norms unless told otherwise, which the theorems for rows of norm 1 need as
    soon as ``sigma > 0``. The defaults are those of Figure 4, with ``n = 60 C``, where the paper states them; it does
    not tell ``C`` and ``d``.

    Args:
        num_classes: ``K``, at least 2.
        clusters_per_class: ``C``.
        num_features: ``d``.
        sigma: ``σ``, noise ``N(0, σ²/d)`` on each feature.
        min_distance: Least distance of two centers.
        train_samples: ``n``.
        test_samples: Samples of the test part.
        seed: Seed of all draws. The centers are ``mixture_centers(..., seed=seed)``, and the test samples do not
            depend on ``train_samples``.

    Returns:
        Inputs ``(n, 1, 1, d)``, float32, and their classes.

    Raises:
        ValueError: If an argument is out of range, or the centers do not fit.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Definition 3.4 and Figure 4.

    Example:
        >>> data = load(num_classes=2, num_features=20)
        >>> data.train_inputs.shape, data.test_inputs.shape
        (torch.Size([240, 1, 1, 20]), torch.Size([1000, 1, 1, 20]))
    """
    check_count("num_classes", num_classes, least=2)
    centers = mixture_centers(num_classes, clusters_per_class, num_features, min_distance=min_distance, seed=seed)
    train, test = (
        mixture_samples(centers, num_classes=num_classes, num_samples=count, sigma=sigma, seed=int(word))
        for count, word in zip(
            (train_samples, test_samples), np.random.SeedSequence(seed).generate_state(2), strict=True
        )
    )
    return checked(ImageData(*_images(train), *_images(test), num_classes))


def _images(samples: MixtureSamples) -> tuple[Tensor, Tensor]:
    return samples.inputs.float()[:, None, None], samples.labels
