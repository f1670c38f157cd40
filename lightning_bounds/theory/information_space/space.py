"""Information and nuisance space of a Jacobian (Oymak, Fabian, Li, Soltanolkotabi 2019).

The left singular vectors of the Jacobian with large singular values span the information space: what the network
learns fast and generalizes. The rest is the nuisance space: what it can only memorize slowly.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from lightning_bounds.theory.information_space.checks import RANK_TOLERANCE

# Relative rounding of a sum of squares: it must neither push energy = 1 past the end nor look like energy left over.
_ROUNDING = 1e-12


class Alignment(NamedTuple):
    """How a vector lies to an information space; the ratios of Tables 1 to 3 of Oymak et al. 2019.

    ``information = |Π_I v| / |v|`` and ``nuisance = |Π_N v| / |v|`` (their squares add up to 1), and
    ``pinv = |J_I⁺ v| / |v|``, the shortest parameter step that moves the outputs by ``Π_I v``.
    """

    information: Tensor
    nuisance: Tensor
    pinv: Tensor


@dataclass(frozen=True, eq=False)
class InformationSpace:
    """Span of the left singular vectors of a Jacobian whose singular values reach a cut-off.

    Attributes:
        basis: Orthonormal columns ``U_I``, shape ``(n*K, r)``, sample-major rows.
        singular_values: The ``r`` largest singular values, descending.
        cutoff: The cut-off ``α``; if a rank was asked for, the smallest singular value inside, ``σ_r``.
        cutoff_interval: ``(σ_{r+1}, σ_r)``: every cut-off above the first and up to the second gives this space. Where
            ``σ_{r+1}`` is not known, the first is what it can be at most.
        tied: Whether ``σ_r`` and ``σ_{r+1}`` are known to be closer than the noise floor: then the Jacobian does not
            determine the space.
        noise_floor: Singular values below it are not resolved, and are left out of the pseudo-inverse.

    References:
        Oymak et al. 2019, Definitions 2.1 and 5.2, with ties on the information side (erratum A5).
    """

    basis: Tensor
    singular_values: Tensor
    cutoff: float
    cutoff_interval: tuple[float, float]
    tied: bool
    noise_floor: float

    @property
    def dimension(self) -> int:
        """Dimension ``r`` of the space."""
        return self.basis.shape[1]

    def project(self, vector: Tensor) -> Tensor:
        """``Π_I v = U_I U_I^T v``, for ``v`` of shape ``(n*K,)`` or ``(n*K, b)``.

        Raises:
            ValueError: If the vector has another length.
        """
        return self.basis @ (self.basis.T @ self._checked(vector))

    def alignment(self, vector: Tensor) -> Alignment:
        """The three ratios of a vector of shape ``(n*K,)``.

        Raises:
            ValueError: If the vector has another length, or is zero or not finite, so that the ratios are undefined.

        References:
            Oymak et al. 2019, Tables 1 to 3 (with the pseudo-inverse, erratum A2).

        Example:
            >>> import torch
            >>> J = torch.diag(torch.tensor([2.0, 1.0, 0.1]))
            >>> space = information_space(torch.diagonal(J), torch.eye(3), rank=2)
            >>> [round(float(ratio), 3) for ratio in space.alignment(torch.tensor([1.0, 0.0, 1.0]))]
            [0.707, 0.707, 0.354]
        """
        vector = self._checked(vector)
        norm = vector.norm()
        if vector.dim() != 1 or not bool(norm.isfinite()) or float(norm) == 0.0:
            raise ValueError(
                f"Expected one finite vector other than zero to align, "
                f"but got shape {tuple(vector.shape)} and norm {float(norm):.3g}."
            )
        coefficients = self.basis.T @ vector
        # Zeros of a decomposition are rounding, and the pseudo-inverse drops them whatever the floor.
        largest = float(self.singular_values[0]) if self.dimension else 0.0
        resolved = self.singular_values > max(self.noise_floor, RANK_TOLERANCE * largest)
        inverted = coefficients[resolved] / self.singular_values[resolved]
        nuisance = vector - self.basis @ coefficients
        return Alignment(coefficients.norm() / norm, nuisance.norm() / norm, inverted.norm() / norm)

    def energies(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies ``|Π_I v|²`` and ``|Π_N v|²`` of each column of ``vectors``, shape ``(n*K, b)``; two ``(b,)``.

        References:
            Oymak et al. 2019, Figures 6 to 8 (divided there by ``|r_0|²``).
        """
        vectors = self._checked(vectors)
        information = self.basis @ (self.basis.T @ vectors)
        return information.square().sum(dim=0), (vectors - information).square().sum(dim=0)

    def _checked(self, vector: Tensor) -> Tensor:
        if vector.dim() == 0 or vector.shape[0] != self.basis.shape[0]:
            raise ValueError(
                f"Expected a vector with {self.basis.shape[0]} entries, one per sample and output "
                f"(sample-major), but got shape {tuple(vector.shape)}."
            )
        return vector.detach().to(self.basis)


class LeftVectors(Protocol):
    """Left vectors that are made when they are asked for."""

    shape: tuple[int, int]

    def leading(self, count: int) -> Tensor:
        """The first ``count``, shape ``(n*K, count)``."""


def information_space(
    singular_values: Tensor,
    left_vectors: Tensor | LeftVectors,
    *,
    rank: int | None = None,
    cutoff: float | None = None,
    relative_cutoff: float | None = None,
    energy: float | None = None,
    frobenius_norm: float | None = None,
    noise_floor: float = 0.0,
) -> InformationSpace:
    """The information space by exactly one rule; singular values tied with the last one inside stay with it.

    Args:
        singular_values: ``σ``, shape ``(r,)``, descending.
        left_vectors: ``U``, shape ``(n*K, r)``, or what makes its first columns, if only those are to be made.
        rank: The given number of leading vectors (a tie is reported, not resolved).
        cutoff: All with ``σ ≥ α``; may give an empty space.
        relative_cutoff: All with ``σ ≥ ρ σ_1``.
        energy: The fewest with ``Σ σ² ≥ e |J|_F²``.
        frobenius_norm: ``|J|_F``, if not all singular values are given.
        noise_floor: Values closer than this are tied.

    Raises:
        ValueError: If not exactly one rule is given, it is out of range, the known singular values do not reach it, or
            they are not finite, non-negative and descending.

    References:
        Oymak et al. 2019, Definition 5.2 (erratum A5: the number of ``σ_s ≥ α``).

    Example:
        >>> import torch
        >>> information_space(torch.tensor([3.0, 1.0]), torch.eye(2), relative_cutoff=0.5).dimension
        1
    """
    given = {"rank": rank, "cutoff": cutoff, "relative_cutoff": relative_cutoff, "energy": energy}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(f"Expected exactly one of rank, cutoff, relative_cutoff and energy, but got {given}.")
    if singular_values.dim() != 1 or left_vectors.shape[1:] != singular_values.shape:
        raise ValueError(
            f"Expected r singular values and left vectors (n*K, r), "
            f"but got {tuple(singular_values.shape)} and {tuple(left_vectors.shape)}."
        )
    check_rule(rank, cutoff, relative_cutoff, energy)
    count = singular_values.numel()
    # NaN fails the first comparison, infinity the second.
    if not bool((singular_values >= 0).all() & singular_values.isfinite().all() & (singular_values.diff() <= 0).all()):
        raise ValueError(f"Expected finite singular values, 0 or more, descending, but got {singular_values}.")
    known = float(singular_values.double().square().sum())
    total = known if frobenius_norm is None else frobenius_norm**2
    largest = float(singular_values[0]) if count else 0.0
    if rank is not None:
        if rank > count:
            raise ValueError(f"Expected `rank` of at most {count}, the number of singular values, but got {rank}.")
        dimension, alpha = rank, float(singular_values[rank - 1])
    elif energy is not None:
        dimension = _dimension_of_energy(singular_values, energy, total)
        alpha = float(singular_values[dimension - 1])
    else:
        alpha = cutoff if cutoff is not None else float(relative_cutoff or 0.0) * largest
        dimension = int((singular_values >= alpha).sum())
    if rank is None and dimension:
        dimension = int((singular_values >= singular_values[dimension - 1] - noise_floor).sum())
    inside = float(singular_values[dimension - 1]) if dimension else float("inf")
    outside = float(singular_values[dimension]) if dimension < count else 0.0
    if dimension == count < left_vectors.shape[0]:
        # At most as large as the last known one, and as all that |J|_F leaves; below the floor it is rounding.
        rest = max(total * (1 - _ROUNDING) - known, 0.0) ** 0.5
        outside = min(rest, inside) if rest > noise_floor else 0.0
        if outside > 0 and outside >= alpha and rank is None and energy is None:
            raise ValueError(
                f"Expected a cut-off above {outside:.6g}, which singular values that are not known may reach, but got "
                f"{alpha:.6g}; only {count} are known, ask for more of the spectrum."
            )
    vectors = left_vectors if isinstance(left_vectors, Tensor) else left_vectors.leading(dimension)
    return InformationSpace(
        # Copies: a view would keep all vectors in memory, and write them into checkpoints.
        basis=vectors[:, :dimension].clone(),
        singular_values=singular_values[:dimension].clone(),
        cutoff=alpha,
        cutoff_interval=(outside, inside),
        tied=dimension < count and inside - outside <= noise_floor,
        noise_floor=noise_floor,
    )


def check_rule(rank: int | None, cutoff: float | None, relative_cutoff: float | None, energy: float | None) -> None:
    """Raise ValueError or TypeError if a rule for the information space is out of its range, whatever the Jacobian.

    Example:
        >>> check_rule(rank=None, cutoff=None, relative_cutoff=1.5, energy=None)
        Traceback (most recent call last):
        ValueError: Expected `relative_cutoff` in (0, 1], a fraction of sigma_max, but got 1.5.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise TypeError(f"Expected `rank` to be an integer, but got {rank!r}.")
    if rank is not None and rank < 1:
        raise ValueError(f"Expected `rank` of at least 1, but got {rank}.")
    if cutoff is not None and not 0.0 <= cutoff < float("inf"):
        raise ValueError(f"Expected `cutoff` to be a singular value, 0 or more, but got {cutoff}.")
    if relative_cutoff is not None and not 0.0 < relative_cutoff <= 1.0:
        raise ValueError(f"Expected `relative_cutoff` in (0, 1], a fraction of sigma_max, but got {relative_cutoff}.")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ValueError(f"Expected `energy` in (0, 1], a fraction of |J|_F^2, but got {energy}.")


def _dimension_of_energy(singular_values: Tensor, energy: float, total: float) -> int:
    partial = singular_values.double().square().cumsum(0)
    reached = partial >= energy * total * (1 - _ROUNDING)
    if not bool(reached.any()):
        known = float(partial[-1]) / total if total > 0 and partial.numel() else 0.0
        raise ValueError(
            f"Expected `energy` of at most {known:.6g}, what the {singular_values.numel()} known singular values hold, "
            f"but got {energy}; ask for more of the spectrum."
        )
    return int(reached.int().argmax()) + 1
