"""Reference Jacobians: matrices close to the initial Jacobian whose spectrum is known."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class ReferenceDeviation(NamedTuple):
    """How far a reference Jacobian is from a Jacobian; ``epsilon`` is the smallest ``ε_0`` of its definition."""

    spectral_norm: float
    gram: float
    jacobian: float
    epsilon: float


def reference_jacobian(jacobian: Tensor, gram: Tensor) -> Tensor:
    """The matrix ``Y = S^{1/2} Q`` with ``Y Y^T = S`` next to a Jacobian ``J``, with ``Q`` the polar factor of ``J``.

    ``|Y - J| <= 2 √|J J^T - S|``, which ``S^{1/2}`` itself does not fulfill in general.

    Args:
        jacobian: ``J``, shape ``(N, p)``; zero columns are added up to ``N``.
        gram: ``S``, positive semi-definite, shape ``(N, N)``, such as ``k Var(V) Σ(X)`` (erratum A1).

    Returns:
        ``Y``, shape ``(N, max(N, p))``.

    Raises:
        ValueError: If the shapes do not match, an entry is not finite, or ``gram`` is not positive semi-definite.

    References:
        Oymak et al. 2019, Lemma 6.4.

    Example:
        >>> reference_jacobian(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[9.0]]))
        tensor([[3., 0., 0.]], dtype=torch.float64)
    """
    padded, gram = _padded(jacobian), gram.detach().double()
    if gram.shape != (padded.shape[0], padded.shape[0]) or not bool(gram.isfinite().all()):
        raise ValueError(f"Expected a finite `gram` ({padded.shape[0]},) * 2, but got shape {tuple(gram.shape)}.")
    eigenvalues, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    if float(eigenvalues[0]) < -1e-9 * float(eigenvalues.abs().max()):
        raise ValueError(f"Expected a positive semi-definite `gram`, but its least eigenvalue is {eigenvalues[0]:.3g}.")
    root = (vectors * eigenvalues.clamp_min(0).sqrt()) @ vectors.T
    left, _, right = torch.linalg.svd(padded, full_matrices=False)
    return root @ left @ right


def reference_deviation(jacobian: Tensor, reference: Tensor) -> ReferenceDeviation:
    """``|J|``, ``|J(θ_0) J(θ_0)^T - J J^T|``, ``|J(θ_0) - J|``, and ``ε_0 = max(√second, third)``.

    Args:
        jacobian: ``J(θ_0)``, shape ``(N, p)``.
        reference: ``J``, shape ``(N, max(N, p))``.

    Raises:
        ValueError: If the shapes do not match or an entry is not finite.

    References:
        Oymak et al. 2019, Definition 5.1.

    Example:
        >>> reference_deviation(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]])).jacobian
        1.0
    """
    padded, reference = _padded(jacobian), reference.detach().double()
    if reference.shape != padded.shape or not bool(reference.isfinite().all()):
        raise ValueError(f"Expected a finite `reference` {tuple(padded.shape)}, but got {tuple(reference.shape)}.")
    norms = [
        float(torch.linalg.matrix_norm(matrix, 2))
        for matrix in (reference, padded @ padded.T - reference @ reference.T, padded - reference)
    ]
    return ReferenceDeviation(norms[0], norms[1], norms[2], max(math.sqrt(norms[1]), norms[2]))


def _padded(jacobian: Tensor) -> Tensor:
    if jacobian.dim() != 2 or jacobian.numel() == 0 or not bool(jacobian.isfinite().all()):
        raise ValueError(f"Expected a finite Jacobian (n*K, p), but got shape {tuple(jacobian.shape)}.")
    return torch.nn.functional.pad(jacobian.detach().double(), (0, max(0, jacobian.shape[0] - jacobian.shape[1])))
