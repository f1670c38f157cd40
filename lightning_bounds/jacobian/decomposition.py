"""What is known of a Jacobian's spectrum, with the floor below which it means nothing; and how a Gram gives it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_bounds.jacobian.density import SpectralDensity
from lightning_bounds.jacobian.eigenpairs import Eigenpairs
from lightning_bounds.theory.information_space import InformationSpace, information_space


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values ``σ_1 ≥ σ_2 ≥ ...`` of a Jacobian and the left vectors that belong to them.

    A Jacobian with ``n*K`` rows has ``n*K`` singular values; where it has fewer columns the rest are zero.

    Attributes:
        singular_values: Shape ``(r,)``, descending.
        vectors: The left vectors, or from where they come once they are asked for.
        frobenius_norm: ``|J|_F``, of all singular values, also of those that were not asked for.
        noise_floor: Singular values below it are not resolved in the precision that was used: see the function that
            found them.
        method: How they were found.
        errors: Error bar of each singular value, shape ``(r,)``, absolute: see the function that found them.
        residual_norms: ``|J J^T u_s - σ_s² u_s|`` (``"lanczos"``) or ``|J^T J v_s - σ_s² v_s|`` (``"randomized"``),
            shape ``(r,)``; empty where the method is no iteration.
        reason: Why this method, where ``"auto"`` chose it.
        subspace: From where a later iteration may start: left vectors ``(n*K, b)`` of ``"lanczos"``, right vectors
            ``(p, b)`` of ``"randomized"``; None from other methods.
        density: The whole distribution, from ``"density"``.
    """

    singular_values: Tensor
    vectors: Tensor | Eigenpairs
    frobenius_norm: float
    noise_floor: float
    method: str
    errors: Tensor = field(default_factory=lambda: torch.empty(0))
    residual_norms: Tensor = field(default_factory=lambda: torch.empty(0))
    reason: str = ""
    subspace: Tensor | None = None
    density: SpectralDensity | None = None

    @property
    def left_vectors(self) -> Tensor:
        """Orthonormal columns, shape ``(n*K, r)``, sample-major rows; ``(n*K, 0)`` from ``"density"``."""
        return self.vectors if isinstance(self.vectors, Tensor) else self.vectors.leading(self.vectors.shape[1])

    def information_space(
        self,
        rank: int | None = None,
        cutoff: float | None = None,
        relative_cutoff: float | None = None,
        energy: float | None = None,
    ) -> InformationSpace:
        """Span of the leading left vectors by one rule, see :func:`~lightning_bounds.theory.information_space`.

        Raises:
            ValueError: If not exactly one rule is given, it is out of range, or there are no vectors.
        """
        return information_space(
            self.singular_values,
            self.vectors,
            rank=rank,
            cutoff=cutoff,
            relative_cutoff=relative_cutoff,
            energy=energy,
            frobenius_norm=self.frobenius_norm,
            noise_floor=self.noise_floor,
        )

    @property
    def nuisance_energy(self) -> float:
        """``|J|_F² - Σ σ_s²``, what the unknown singular values hold; 0 if it is below the noise floor squared."""
        if len(self.singular_values) == self.vectors.shape[0]:
            return 0.0
        rest = self.frobenius_norm**2 - float(self.singular_values.double().square().sum())
        return rest if rest > self.noise_floor**2 else 0.0

    @property
    def cutoff_interval(self) -> tuple[float, float]:
        """``(α_0, σ_1)``: a cut-off above ``α_0`` is answered by the known singular values; 0 if all are known.

        ``σ_{r+1}`` is at most ``σ_r``, and at most the root of what energy is left.
        """
        smallest = float(self.singular_values[-1])
        return min(smallest, self.nuisance_energy**0.5), float(self.singular_values[0])

    @property
    def resolved_rank(self) -> int:
        """How many singular values lie above the noise floor."""
        return int((self.singular_values > self.noise_floor).sum())

    @property
    def stable_rank(self) -> float:
        """``|J|_F² / σ_1²``, between 1 and the rank; 0 for a Jacobian of zeros."""
        largest = float(self.singular_values[0])
        return (self.frobenius_norm / largest) ** 2 if largest > 0 else 0.0

    @property
    def effective_rank(self) -> float:
        """``exp(-Σ p_s log p_s)`` with ``p_s = σ_s / Σ σ`` over the known values; 0 for a Jacobian of zeros.

        References:
            Roy & Vetterli, The effective rank, EUSIPCO 2007.
        """
        total = self.singular_values.sum()
        if float(total) == 0.0:
            return 0.0
        shares = self.singular_values / total
        return float(torch.special.entr(shares).sum().exp())


def gram_spectrum(gram: Tensor, rank: int | None = None, row_precision: float = 0.0) -> Spectrum:
    """Spectrum of ``J`` from ``J J^T``, exact up to the noise floor.

    The floor is ``σ_1 (10 ε_J + sqrt(ε_G (30 + 2 sqrt(N))))``. Singular values above it are right to a tenth of the
    floor, so to 10 % at the floor and better as ``floor / σ`` above; at a tenth of the floor they may be off by more
    than themselves.

    * Rows of ``J`` rounded to ``ε_J`` are an ``E`` away from the exact ones, and by Weyl's inequality no singular value
      moves by more than ``|E|``. For networks of a usual scale, also deep ones, one measures ``|E| <= ε_J σ_1``, a
      tenth of the first term. A forward pass that amplifies rounding itself, such as tanh units with inputs in the
      hundreds, is less exact than that, and so are its singular values.
    * An ``N x N`` Gram matrix that is added up and decomposed in ``ε_G`` has small eigenvalues off by a ``δ`` of at
      most ``ε_G (6 + 0.4 sqrt(N)) σ_1²``: one or two ``ε_G`` from adding up, the rest from the solver, as measured for
      ``N`` up to 4000. Then ``σ = sqrt(λ)`` is off by ``δ / 2σ``, which is a tenth of ``σ`` at ``σ² = 5 δ``, the second
      term squared.

    In float32 that is 4.0e-3 of the largest for ``N = 2560``, in float64 1.7e-7, and 1.4e-6 for a float32 network
    whose Gram matrix is added up in float64. The error bars are ``ε_J σ_1 + min(δ / σ, sqrt(δ))``.

    Args:
        gram: ``J J^T``, shape ``(N, N)``.
        rank: How many leading singular values to keep.
        row_precision: Machine epsilon ``ε_J`` in which the rows of ``J`` were computed.

    Raises:
        ValueError: If the rank is out of range.
        FloatingPointError: If an entry is not finite.
        ArithmeticError: If the eigenvalues do not converge.

    Example:
        >>> gram_spectrum(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))).singular_values
        tensor([2., 1.], dtype=torch.float64)
    """
    size = gram.shape[0]
    if rank is not None and not 1 <= rank <= size:
        raise ValueError(f"Expected `rank` in 1..{size}, the number of samples times outputs, but got {rank}.")
    if not bool(gram.isfinite().all()):
        raise FloatingPointError("Expected a finite Gram matrix, but it holds NaN or infinity.")
    pairs = Eigenpairs(gram, size if rank is None else rank)
    singular_values = pairs.values.clamp_min(0).sqrt()
    precision = torch.finfo(gram.dtype).eps * (6 + 0.4 * size**0.5)
    largest = singular_values[0]
    shift = precision * largest.square()
    errors = torch.minimum(shift / singular_values.clamp_min(torch.finfo(gram.dtype).tiny), shift.sqrt())
    return Spectrum(
        singular_values=singular_values,
        vectors=pairs,
        frobenius_norm=float(gram.diagonal().double().sum().clamp_min(0).sqrt()),
        noise_floor=float(largest) * (10 * row_precision + (5 * precision) ** 0.5),
        method="gram",
        errors=errors + row_precision * largest,
    )
