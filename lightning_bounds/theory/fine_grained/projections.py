"""Labels seen from the eigenvectors of a Gram matrix: along the top ones they are learned fast."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_labels, check_positive
from lightning_bounds.theory.fine_grained.arguments import as_gram


class LabelProjections(NamedTuple):
    """``eigenvalues`` ``λ_i``, descending, and ``projections`` ``v_i·y`` of the labels on their eigenvectors, ``(n,)``.

    The sign of a projection is that of its eigenvector, so it means nothing; the squares add up to ``|y|²``.
    """

    eigenvalues: Tensor
    projections: Tensor


class EigenspaceEnergies(NamedTuple):
    """Different ``eigenvalues``, descending, their ``multiplicities``, and the ``energies`` ``|Π y|²`` of labels."""

    eigenvalues: Tensor
    multiplicities: Tensor
    energies: Tensor


class Eigenvectors(NamedTuple):
    """``eigenvalues``, descending, orthonormal ``vectors`` as columns, and the ``noise_floor`` of the eigenvalues."""

    eigenvalues: Tensor
    vectors: Tensor
    noise_floor: float


def eigenvectors(gram: Tensor) -> Eigenvectors:
    """Eigenvalues and eigenvectors of a positive semi-definite matrix ``(n, n)``.

    The noise floor is ``n ε λ_1``, with the ``ε`` of the type that the matrix came in. Eigenvalues below zero by no
    more than that are zero.

    Raises:
        ValueError: If the matrix is not square, not finite, not symmetric, or an eigenvalue is below minus the floor.

    Example:
        >>> import torch
        >>> eigenvectors(torch.ones(2, 2, dtype=torch.float64)).eigenvalues.round(decimals=6).abs()
        tensor([2., 0.], dtype=torch.float64)
    """
    epsilon = torch.finfo(gram.dtype if gram.is_floating_point() else torch.float64).eps
    ascending, vectors = torch.linalg.eigh(as_gram(gram))
    floor = len(ascending) * epsilon * float(ascending.abs().max())
    if float(ascending[0]) < -floor:
        raise ValueError(
            f"Expected a positive semi-definite `gram`, but got the eigenvalue {float(ascending[0]):.3g}, "
            f"below the rounding of {floor:.3g}; form it in float64."
        )
    return Eigenvectors(ascending.clamp_min(0).flip(0), vectors.flip(1), floor)


def label_projections(gram: Tensor, labels: Tensor) -> LabelProjections:
    """Eigenvalues ``λ_i`` of the Gram matrix and the projections ``v_i·y`` of the labels on its eigenvectors.

    Of a repeated eigenvalue only the summed energy means anything: see :func:`eigenspace_energies`.

    Args:
        gram: ``H``, shape ``(n, n)``, positive semi-definite.
        labels: ``y``, shape ``(n,)`` or ``(n, 1)``.

    Raises:
        ValueError: If a shape does not match, a number is not finite, or the matrix is not positive semi-definite.

    References:
        Arora et al. 2019, section 4 and Figure 1(b), (d).

    Example:
        >>> import torch
        >>> eigenvalues, projections = label_projections(torch.diag(torch.tensor([1.0, 2.0])), torch.tensor([3.0, 4.0]))
        >>> eigenvalues, projections.abs()
        (tensor([2., 1.], dtype=torch.float64), tensor([4., 3.], dtype=torch.float64))
    """
    eigenvalues, vectors, _ = eigenvectors(gram)
    return LabelProjections(eigenvalues, vectors.T @ as_labels(labels, len(gram)).to(vectors))


def eigenspace_energies(gram: Tensor, labels: Tensor, rtol: float = 1e-10) -> EigenspaceEnergies:
    """Energy ``|Π y|²`` of the labels in each eigenspace, which no choice of eigenvectors changes.

    Args:
        gram: ``H``, shape ``(n, n)``, positive semi-definite.
        labels: ``y``, shape ``(n,)`` or ``(n, 1)``.
        rtol: Neighboring eigenvalues closer than this, relative to the largest, belong to one eigenspace; its
            eigenvalue is their mean.

    Raises:
        ValueError: As :func:`label_projections`, or if ``rtol`` is negative.

    Example:
        >>> import torch
        >>> eigenspace_energies(torch.diag(torch.tensor([1.0, 2.0, 1.0])), torch.tensor([3.0, 1.0, 4.0])).energies
        tensor([ 1., 25.], dtype=torch.float64)
    """
    if not rtol >= 0:
        raise ValueError(f"Expected `rtol` of at least 0, but got {rtol}.")
    eigenvalues, projections = label_projections(gram, labels)
    begins = torch.ones_like(eigenvalues, dtype=torch.bool)
    begins[1:] = -eigenvalues.diff() > rtol * eigenvalues[0]
    space = begins.long().cumsum(0) - 1
    multiplicities = space.bincount()
    sums = torch.stack([eigenvalues, projections.square()]).new_zeros(2, len(multiplicities))
    sums.index_add_(1, space, torch.stack([eigenvalues, projections.square()]))
    return EigenspaceEnergies(sums[0] / multiplicities, multiplicities, sums[1])


def worst_case_labels(gram: Tensor, norm: float | None = None) -> Tensor:
    """Labels that are learned the slowest: an eigenvector of the smallest eigenvalue, its largest entry positive.

    Args:
        gram: ``H``, shape ``(n, n)``, positive semi-definite.
        norm: ``|y|``; by default ``√n``, that of labels ±1. The paper does not tell which it plots (erratum C9).

    Returns:
        Shape ``(n,)``, float64.

    Raises:
        ValueError: If the norm is not positive, or the matrix is not positive semi-definite.

    References:
        Arora et al. 2019, Figure 1(a), (c).

    Example:
        >>> import torch
        >>> worst_case_labels(torch.diag(torch.tensor([1.0, 2.0])), norm=3.0)
        tensor([3., 0.], dtype=torch.float64)
    """
    vector = eigenvectors(gram).vectors[:, -1]
    norm = math.sqrt(len(vector)) if norm is None else norm
    check_positive("norm", norm)
    # Adding 0 makes -0 a 0.
    return norm * vector * vector[vector.abs().argmax()].sign() / vector.norm() + 0.0
