"""Generalization of two-layer networks trained from a random initialization, in terms of the neural tangent kernel."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.information_space import assumptions
from lightning_bounds.theory.information_space.assumptions import Setting, width_condition
from lightning_bounds.theory.information_space.early_stopping import (
    StoppingTime,
    early_stopping_distance,
    stopping_time,
)
from lightning_bounds.theory.information_space.kernel import KernelSpectrum, label_rows, neural_spectrum


class RandomInitializationTrajectory(NamedTuple):
    """Bounds that hold with the probability of the theorem; the residual at ``T``, the distances for all ``t <= T``."""

    residual: float
    distance: float
    row_distance: float
    stopping: StoppingTime


@dataclass(frozen=True, eq=False)
class RandomInitialization:
    """Everything of Theorem 3.2 but the bound itself: the initialization, the cut-off, the split labels.

    Attributes:
        setting: Inputs and activation.
        spectrum: Of ``Σ(X)^{1/2}``.
        coefficients: ``U^T y``.
        label_norm: ``|y|``.
        nu: ``ν = ζ / (50 B √log(2K))``; the entries of ``V`` are ``±ν / √(k K)``.
        cutoff: ``α_0 = ᾱ n^{1/4} √(K |X|) B``.
        alpha_bar: ``ᾱ``.
        Gamma: ``Γ``.
        zeta: ``ζ``.
        learning_rate: ``η``; the largest that is allowed if none was given.
    """

    setting: Setting
    spectrum: KernelSpectrum
    coefficients: Tensor
    label_norm: float
    nu: float
    cutoff: float
    alpha_bar: float
    Gamma: float
    zeta: float
    learning_rate: float

    @property
    def inside(self) -> Tensor:
        """Which singular values reach the cut-off."""
        return self.spectrum.singular_values >= self.cutoff

    @property
    def information(self) -> float:
        """``|Π_I y|``."""
        return float(self.coefficients[self.inside].norm())

    @property
    def nuisance(self) -> float:
        """``|Π_N y|``."""
        return float(self.coefficients[~self.inside].norm())

    @property
    def pinv(self) -> float:
        """``|J_I⁺ y|``; infinite if the cut-off is 0 and the kernel singular."""
        if self.cutoff == 0 and float(self.spectrum.roots[-1]) <= self.spectrum.noise_floor:
            return math.inf
        return float((self.coefficients[self.inside] / self.spectrum.singular_values[self.inside]).norm())

    @property
    def distance(self) -> float:
        """Early stopping distance ``D`` of the labels at the cut-off ``α_0``."""
        if self.cutoff == 0:
            return self.pinv
        if math.isinf(self.cutoff):
            return math.inf
        values = self.spectrum.singular_values
        return float(early_stopping_distance(values, self.coefficients, cutoff=self.cutoff, Gamma=self.Gamma))

    @property
    def stopping(self) -> StoppingTime:
        """``T = Γ K / (η ν² α_0²)``."""
        if math.isinf(self.cutoff):
            return StoppingTime(0.0, 0.0, self.Gamma)
        cutoff = self.nu * self.cutoff / math.sqrt(self.spectrum.num_outputs)
        return stopping_time(cutoff=cutoff, Gamma=self.Gamma, learning_rate=self.learning_rate)

    def conditions(self, width: int | None) -> list[Condition]:
        """What Theorem 3.2 assumes, with the constants of its proof (erratum A6)."""
        n = self.setting.num_samples
        largest_step = _largest_step(self.zeta, self.spectrum.num_outputs, self.setting)
        share = self.information / self.label_norm if self.label_norm > 0 else 0.0
        required = times(math.log(n), power(over(self.Gamma, self.zeta * self.alpha_bar * self.alpha_bar), 4))
        proof = times(12e7 * over(1, power(share, 4)), required)
        limit = self.setting.B * self.setting.spectral_norm
        return [
            *self.setting.conditions(),
            condition("label_norm", self.label_norm, "==", math.sqrt(n), rtol=1e-6, note="|y|^2 = n"),
            *assumptions.cutoff_conditions(self.cutoff, self.spectrum.singular_values, self.spectrum.noise_floor),
            condition("cutoff_of_activation", self.cutoff, "<=", limit, note="alpha_0 <= B |X| (A6)"),
            condition("learning_rate", self.learning_rate, "<=", largest_step, rtol=1e-9, note="1 / (nu B |X|)^2"),
            condition("precision", self.zeta, "<=", share / 2, note="zeta <= c/2, c = |Pi_I y| / |y| (A6)"),
            condition("samples", n, ">=", self.spectrum.num_outputs, note="n >= K, Lemma 6.13"),
            width_condition("width", width, required, hidden=True, note="Eq. (3.2), constant hidden"),
            width_condition("width_of_proof", width, proof, note="Eq. (6.86), 12e7 / c^4"),
        ]

    def bound(self, name: str, terms: list[Term], delta: float, width: int | None, source: str) -> Bound:
        """A bound with what all bounds from this initialization have in common."""
        n, K = self.setting.num_samples, self.spectrum.num_outputs
        printed = 1 - delta - (2.0 * K) ** -100
        caveats = list(assumptions.CAVEATS) + [assumptions.SINGLE_OUTPUT] * (K == 1)
        if not math.isfinite(self.setting.B):
            terms = [Term("activation", math.inf, "|phi'| has no bound")]
        return Bound(
            name,
            math.fsum(term.value for term in terms),
            terms,
            self.conditions(width),
            confidence=printed - float(n) ** -100,  # A7
            source=source,
            assumptions={
                "nu": self.nu,
                "cutoff": self.cutoff,
                "information_dimension": float(self.inside.sum()),
                "learning_rate": self.learning_rate,
                "iterations": self.stopping.steps,
                "printed_confidence": printed,
            },
            caveats=caveats,
        )

    def precision_term(self) -> Term:
        """``12 (1 + Γ / (ᾱ (n |X|²)^{1/4})) ζ``."""
        root = self.alpha_bar * (self.setting.num_samples * self.setting.spectral_norm**2) ** 0.25  # A4
        meaning = "12 (1 + Gamma / (alpha_bar (n |X|^2)^(1/4))) zeta"
        return Term(
            "precision", 12 * (1 + over(self.Gamma, root)) * self.zeta, meaning, "smaller zeta, larger alpha_bar"
        )


def random_initialization(
    inputs: Tensor,
    labels: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor],
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    learning_rate: float | None = None,
) -> RandomInitialization:
    """The initialization, the cut-off and the split of Theorem 3.2; arguments as for the bound."""
    assumptions.check_parameters(alpha_bar, Gamma, zeta, delta=0.5)
    where = assumptions.setting(inputs, activation)
    rows = label_rows(labels, where.num_samples)
    K, B = rows.shape[1], where.B
    spectrum = neural_spectrum(inputs, activation, K)
    nu = zeta / (50 * B * math.sqrt(math.log(2 * K)))  # (6.65)
    cutoff = times(alpha_bar, where.num_samples**0.25 * math.sqrt(K * where.spectral_norm) * B)  # A3
    if learning_rate is None:
        learning_rate = _largest_step(zeta, K, where)
    else:
        check_positive("learning_rate", learning_rate)
    coefficients = spectrum.coefficients(rows.flatten())
    return RandomInitialization(
        where, spectrum, coefficients, float(rows.norm()), nu, cutoff, alpha_bar, Gamma, zeta, learning_rate
    )


def random_initialization_bound(
    inputs: Tensor,
    labels: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor],
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    width: int | None = None,
    learning_rate: float | None = None,
    sharp: bool = False,
) -> Bound:
    """Test error after early stopping, from labels that lie on the large eigenvectors of the neural tangent kernel.

    ``Err <= 2 |Π_N y| / √n + 12 B √(K/n) (|J_I⁺ y| + Γ/α_0 |Π_N y|) + 12 (1 + Γ / (ᾱ (n |X|²)^{1/4})) ζ
    + 5 √(log(2/δ) / n) + 2 e^-Γ`` with ``J = Σ(X)^{1/2}`` and ``α_0 = ᾱ n^{1/4} √(K |X|) B``, for ``f = V φ(W x)`` with
    ``W_0 ~ N(0, 1)`` and ``V = ±ν / √(k K)``, ``ν = ζ / (50 B √log(2K))``, after ``T = Γ K / (η ν² α_0²)`` steps.

    Args:
        inputs: ``X``, rows of norm 1, shape ``(n, d)``.
        labels: Rows ``(n, K)`` with ``|y|² = n``, such as one-hot; or sample-major ``(n*K,)``; ±1 for one output.
        activation: ``φ``, a name or a function; smooth.
        alpha_bar: ``ᾱ >= 0``.
        Gamma: ``Γ >= 1``.
        zeta: ``ζ`` in (0, 1/2].
        delta: ``δ`` in (0, 1).
        width: ``k``.
        learning_rate: ``η``, of the summed loss; by default the largest allowed, ``1 / (ν B |X|)²``.
        sharp: Whether to keep the early stopping distance ``12 B √(K/n) D``, ``2 e^-Γ |Π_I y| / √n`` and ``2√5``, which
            the printed theorem bounds in turn.

    Raises:
        ValueError: If an argument is out of range, or the labels do not fit the inputs.

    References:
        Oymak et al. 2019, Theorem 3.2; Theorem 6.23 if ``sharp`` (errata A1 to A4, A6, A7, A10, A12, A13).

    Example:
        >>> import torch
        >>> parameters = {"alpha_bar": 0.1, "Gamma": 2.0, "zeta": 0.1, "delta": 0.1}
        >>> bound = random_initialization_bound(torch.eye(2), torch.eye(2), activation="erf", **parameters)
        >>> list(bound.terms)
        ['bias', 'information', 'nuisance', 'precision', 'chance', 'duration']
    """
    assumptions.check_parameters(alpha_bar, Gamma, zeta, delta)
    problem = random_initialization(
        inputs, labels, activation=activation, alpha_bar=alpha_bar, Gamma=Gamma, zeta=zeta, learning_rate=learning_rate
    )
    n, K = problem.setting.num_samples, problem.spectrum.num_outputs
    scale = 12 * problem.setting.B * math.sqrt(K / n)
    bias = Term("bias", 2 * problem.nuisance / math.sqrt(n), "2 |Pi_N y| / sqrt(n)", "a lower cut-off")
    if sharp:
        fitted = 2 * math.exp(-Gamma) * problem.information / math.sqrt(n)
        terms = [
            bias,
            Term("distance", times(scale, problem.distance), "12 B sqrt(K/n) D", "labels on larger eigenvectors"),
            problem.precision_term(),
            assumptions.chance_term(delta, n, 2 * math.sqrt(5)),  # A13
            Term("duration", fitted, "2 exp(-Gamma) |Pi_I y| / sqrt(n)", "larger Gamma"),
        ]
    else:
        spread = times(over(Gamma, problem.cutoff), problem.nuisance)
        terms = [
            bias,
            Term(
                "information", times(scale, problem.pinv), "12 B sqrt(K/n) |J_I^+ y|", "labels on larger eigenvectors"
            ),
            Term("nuisance", times(scale, spread), "12 B sqrt(K/n) Gamma/alpha_0 |Pi_N y|", "smaller |Pi_N y|"),  # A2
            problem.precision_term(),
            assumptions.chance_term(delta, n),
            Term("duration", 2 * math.exp(-Gamma), "2 exp(-Gamma)", "larger Gamma"),
        ]
    source = f"Oymak et al. 2019, Theorem {'6.23' if sharp else '3.2'} (A1 to A4, A6, A7, A10, A12, A13)"
    return problem.bound("random_initialization", terms, delta, width, source)


def random_initialization_trajectory(
    inputs: Tensor,
    labels: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor],
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    width: int,
    learning_rate: float | None = None,
) -> RandomInitializationTrajectory:
    """Where gradient descent is at the stopping time ``T``, and how far it goes; arguments as for the bound.

    * ``|f(W_T) - y| <= |Π_N y| + e^-Γ |Π_I y| + 4 ζ √n``,
    * ``|W_t - W_0|_F <= 2 √K (B_{α_0,Γ}(y) + Γ ζ √n) / (ν α_0)``,
    * ``|W_t - W_0|_{2,∞} <= 4 Γ B K |X| √(n/k) / (ν α_0²)``.

    References:
        Oymak et al. 2019, Theorem 6.22, Eq. (6.67) to (6.69).
    """
    check_positive("width", width)
    problem = random_initialization(
        inputs, labels, activation=activation, alpha_bar=alpha_bar, Gamma=Gamma, zeta=zeta, learning_rate=learning_rate
    )
    n, K, B = problem.setting.num_samples, problem.spectrum.num_outputs, problem.setting.B
    reach = problem.distance + over(Gamma * zeta * math.sqrt(n), problem.cutoff)
    row = over(
        4 * Gamma * B * K * problem.setting.spectral_norm * math.sqrt(n / width),
        problem.nu * problem.cutoff * problem.cutoff,
    )
    return RandomInitializationTrajectory(
        residual=problem.nuisance + math.exp(-Gamma) * problem.information + 4 * zeta * math.sqrt(n),  # (6.67)
        distance=2 * math.sqrt(K) * reach / problem.nu,  # (6.68)
        row_distance=row,  # (6.69)
        stopping=problem.stopping,
    )


def _largest_step(zeta: float, num_outputs: int, where: Setting) -> float:
    """``1 / (ν B |X|)²``, in which ``ν B`` does not depend on ``B``."""
    return over(2500 * math.log(2 * num_outputs), power(zeta * where.spectral_norm, 2))
