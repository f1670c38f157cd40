"""Label noise with the truth kept: which samples were chosen, and which labels are wrong."""

from typing import NamedTuple

import torch
from torch import Tensor


class NoisyLabels(NamedTuple):
    """Labels after the noise.

    Attributes:
        labels: All labels, shape ``(n,)``.
        flipped: Indices of the samples whose label is another than before, ascending.
        selected: Indices of the samples that were chosen to be drawn again, ascending; contains ``flipped``.
    """

    labels: Tensor
    flipped: Tensor
    selected: Tensor


def flip_labels(
    labels: Tensor, fraction: float, num_classes: int, convention: str = "different", seed: int = 0
) -> NoisyLabels:
    """Labels of which a random portion is drawn again.

    Exactly ``round(fraction * n)`` samples are chosen without replacement. The papers draw their new labels in two
    ways, so that 50% noise is not the same in both:

    * ``"different"``: uniformly from the ``K - 1`` other classes; every chosen label is wrong;
    * ``"uniform"``: uniformly from all ``K`` classes; about ``1 / K`` of the chosen labels stay right.

    With the same seed, the noise of a smaller fraction is part of the noise of a larger one.

    Args:
        labels: Classes ``0 .. num_classes-1``, integers, shape ``(n,)``; not changed.
        fraction: Portion of the samples to choose, in [0, 1].
        num_classes: ``K``, at least 2.
        convention: ``"different"`` or ``"uniform"``.
        seed: Seed of all draws; the global random state is not used.

    Returns:
        The labels, with the samples that changed and the samples that were chosen.

    Raises:
        ValueError: If an argument is out of its range, or a label is no class.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 4, "Experiments with 50% label corruption" (different);
        Arora et al. 2019, appendix A and Figure 2 (uniform).

    Example:
        >>> noisy = flip_labels(torch.tensor([0, 1, 0, 1]), fraction=0.5, num_classes=2)
        >>> len(noisy.flipped), noisy.labels[noisy.flipped] == 1 - torch.tensor([0, 1, 0, 1])[noisy.flipped]
        (2, tensor([True, True]))
    """
    check_noise(fraction, convention)
    if num_classes < 2:
        raise ValueError(f"Expected `num_classes` of at least 2, or no label can be wrong, but got {num_classes}.")
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"Expected integer classes of shape (n,), but got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        sample = int(outside.nonzero()[0])
        raise ValueError(
            f"Expected labels in 0..{num_classes - 1}, as there are {num_classes} classes, "
            f"but sample {sample} has label {int(labels[sample])}."
        )
    n, count = len(labels), round(fraction * len(labels))
    generator = torch.Generator().manual_seed(seed)
    # One draw per sample, chosen or not: a larger fraction keeps the noise of a smaller one.
    order = torch.randperm(n, generator=generator).to(labels.device)
    lowest = 1 if convention == "different" else 0
    shifts = torch.randint(lowest, num_classes, (n,), generator=generator).to(labels.device)
    # A uniform shift modulo K is a uniform class; without the shift 0, a uniform other class.
    chosen = order[:count]
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shifts[:count]) % num_classes
    return NoisyLabels(noisy, flipped=(noisy != labels).nonzero().flatten(), selected=chosen.sort().values)


def check_noise(fraction: float, convention: str) -> None:
    """Refuse a fraction or a convention that :func:`flip_labels` does not know, before there are labels.

    Args:
        fraction: Portion of the samples to choose.
        convention: How their new labels are drawn.

    Raises:
        ValueError: If ``fraction`` is outside [0, 1], or ``convention`` is not one of the two.

    Example:
        >>> check_noise(0.25, "different")
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"Expected `fraction`, the portion of noisy labels, in [0, 1], but got {fraction}.")
    if convention not in ("different", "uniform"):
        raise ValueError(f"Expected `convention` 'different' or 'uniform', but got {convention!r}.")
