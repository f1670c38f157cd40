"""Norms of weights as matrices: one row per output of the layer."""

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_matrix(weight: Tensor) -> Tensor:
    """A weight of two or more dimensions as a matrix, shape ``(outputs, all other dimensions)``, in float64.

    Raises:
        ValueError: If the weight has fewer dimensions.

    Example:
        >>> weight_matrix(torch.zeros(8, 3, 5, 5)).shape
        torch.Size([8, 75])
    """
    if weight.dim() < 2:
        raise ValueError(f"Expected a weight of two or more dimensions, but got shape {tuple(weight.shape)}.")
    return weight.detach().double().flatten(1)


def spectral_norm(weight: Tensor) -> Tensor:
    """``|W|``, the largest singular value of the weight as a matrix.

    For a convolution that is the norm of the matrix of its kernels, not of the map on whole images.

    Example:
        >>> spectral_norm(torch.diag(torch.tensor([3.0, 4.0])))
        tensor(4., dtype=torch.float64)
    """
    matrix = weight_matrix(weight)
    # The small Gram matrix has the same largest singular value, at full precision, for a fraction of the work.
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt()


def norm_products(weights: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """``Π_l |W_l|`` and ``Π_l |W_l|_F`` over the weights of two or more dimensions.

    Margins divided by the first cannot be made larger by scaling the weights of a homogeneous network.

    References:
        Bartlett, Foster, Telgarsky 2017, Theorem 1.1 (spectral); Neyshabur et al. 2015 (Frobenius).

    Example:
        >>> norm_products([torch.eye(2), 3 * torch.eye(2), torch.ones(2)])
        (tensor(3., dtype=torch.float64), tensor(6., dtype=torch.float64))
    """
    matrices = [weight for weight in weights if weight.dim() >= 2]
    one = torch.ones((), dtype=torch.float64)
    spectral = torch.stack([one, *(spectral_norm(weight).cpu() for weight in matrices)])
    frobenius = torch.stack([one, *(weight_matrix(weight).norm().cpu() for weight in matrices)])
    return spectral.prod(), frobenius.prod()
