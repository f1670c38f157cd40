"""The distribution of all singular values by stochastic Lanczos quadrature, where a Gram matrix is too large."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.jacobian.products import HeldRows, RecomputedRows


class Estimate(NamedTuple):
    """Estimates and their standard errors, from the spread over the random vectors."""

    value: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The singular values of ``J`` as weighted points, one set from each random vector.

    For a random unit vector ``z`` with components of equal size in every direction, ``Σ_k w_k f(τ_k²)`` of its Lanczos
    matrix estimates ``trace f(J J^T) / N``; ``count`` times that counts singular values. Counts are right within their
    errors for intervals wider than the distance between points; structure finer than that is not resolved.

    Attributes:
        nodes: ``τ_k``, shape ``(probes, steps)``.
        weights: ``w_k``, each row adds up to one, shape ``(probes, steps)``.
        count: ``N = n*K``, the number of singular values, with the zeros that fewer columns leave.
        frobenius_norm: ``|J|_F``, exact, to compare :meth:`energy` with.

    References:
        Ubaru, Chen & Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 2017, algorithm 1.
    """

    nodes: Tensor
    weights: Tensor
    count: int
    frobenius_norm: float

    @property
    def energy(self) -> Estimate:
        """``Σ σ² = |J|_F²``, scalar; its distance from the exact one is a check."""
        return self._estimate((self.weights * self.nodes.square()).sum(dim=1))

    def histogram(self, edges: Tensor) -> Estimate:
        """How many singular values lie in each ``[e_j, e_{j+1})``; ``edges`` ascending, shape ``(bins + 1,)``.

        Raises:
            ValueError: If there are fewer than two edges, or they do not ascend.
        """
        if edges.dim() != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
            raise ValueError(f"Expected two or more ascending edges, but got {edges}.")
        bins = torch.bucketize(self.nodes, edges.to(self.nodes), right=True)
        totals = self.nodes.new_zeros(len(self.nodes), len(edges) + 1).scatter_add_(1, bins, self.weights)
        return self._estimate(totals[:, 1:-1])

    def quantiles(self) -> Estimate:
        """The ``N`` singular values that the estimated distribution has, descending, shape ``(N,)``."""
        levels = (torch.arange(self.count, dtype=torch.float64, device=self.nodes.device) + 0.5) / self.count
        nodes, order = self.nodes.sort(dim=1, descending=True)
        reached = self.weights.gather(1, order).cumsum(dim=1)
        places = torch.searchsorted(reached, levels.expand(len(nodes), -1).contiguous())
        each = nodes.gather(1, places.clamp_max(nodes.shape[1] - 1))
        return Estimate(each.mean(dim=0), each.std(dim=0) / len(each) ** 0.5)

    def _estimate(self, values: Tensor) -> Estimate:
        values = self.count * values
        return Estimate(values.mean(dim=0), values.std(dim=0) / len(values) ** 0.5)


def spectral_density(
    rows: HeldRows | RecomputedRows, probes: int = 8, steps: int = 40, seed: int = 0
) -> SpectralDensity:
    """Distribution of all ``n*K`` singular values from ``steps`` products of ``probes`` random vectors with ``J J^T``.

    Args:
        rows: The Jacobian.
        probes: Random sign vectors, at least two; errors shrink as ``1 / sqrt(probes)``.
        steps: Products of each, so points of each; at most ``n*K`` are used.
        seed: Of the random vectors.

    Raises:
        ValueError: If there are fewer than two probes or no step.
        FloatingPointError: If the Jacobian is not finite.

    Example:
        >>> from lightning_bounds.jacobian.operator import JacobianOperator
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> density = spectral_density(HeldRows(J))
        >>> density.histogram(torch.tensor([0.0, 2.5, 5.0])).value.round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)
    """
    if probes < 2 or steps < 1:
        raise ValueError(f"Expected two probes or more and a step or more, but got {probes} and {steps}.")
    size, steps = rows.jacobian.shape[0], min(steps, rows.jacobian.shape[0])
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size, probes), generator=generator, dtype=torch.float64).mul_(2).sub_(1)
    current = signs.to(rows.jacobian.device) / size**0.5
    # basis[j] holds the Lanczos vectors of probe j.
    basis = torch.zeros(probes, size, steps, dtype=torch.float64, device=current.device)
    tridiagonal = torch.zeros(probes, steps, steps, dtype=torch.float64, device=current.device)
    for k in range(steps):
        basis[:, :, k] = current.T
        image = rows.left(current)
        tridiagonal[:, k, k] = (current * image).sum(dim=0)
        known = basis[:, :, : k + 1]
        following = image.T[:, :, None]
        for _ in range(2):
            following = following - known @ (known.mT @ following)
        lengths = following[:, :, 0].norm(dim=1)
        # A probe that lies in a smaller invariant subspace is done: what follows is zero, and weighs nothing.
        lengths = torch.where(lengths > 10 * rows.product_precision * tridiagonal[:, 0, 0], lengths, 0.0)
        if k + 1 < steps:
            tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = lengths
            tiny = torch.finfo(torch.float64).tiny
            current = torch.where(lengths > 0, following[:, :, 0].T / lengths.clamp_min(tiny), 0.0)
    eigenvalues, eigenvectors = torch.linalg.eigh(tridiagonal)
    return SpectralDensity(eigenvalues.clamp_min(0).sqrt(), eigenvectors[:, 0, :].square(), size, rows.frobenius_norm)
