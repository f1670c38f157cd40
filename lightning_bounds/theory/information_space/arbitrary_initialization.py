"""Generalization of two-layer networks trained from any initial weights, in terms of their Jacobian."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.information_space import assumptions
from lightning_bounds.theory.information_space.assumptions import width_condition
from lightning_bounds.theory.information_space.checks import rank_deficient
from lightning_bounds.theory.information_space.early_stopping import StoppingTime, stopping_time
from lightning_bounds.theory.information_space.kernel import label_rows
from lightning_bounds.theory.information_space.space import information_space


class JacobianSpectrum(Protocol):
    """What is needed of a spectrum; it may have a ``frobenius_norm`` and a ``noise_floor`` too."""

    @property
    def singular_values(self) -> Tensor:
        """Descending, shape ``(r,)``."""

    @property
    def left_vectors(self) -> Tensor:
        """Shape ``(n*K, r)``, sample-major rows."""


def arbitrary_initialization_bound(
    spectrum: JacobianSpectrum,
    residual: Tensor,
    *,
    inputs: Tensor,
    activation: str | Callable[[Tensor], Tensor],
    nu: float,
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    width: int | None = None,
    learning_rate: float | None = None,
    sharp: bool = False,
) -> Bound:
    """Test error after early stopping, from a residual that lies on the large singular vectors of the Jacobian.

    ``Err <= 2 |Π_N r_0| / √n + 12 ν B / √n (|J_I⁺ r_0| + Γ/α |Π_N r_0|) + 5 √(log(2/δ) / n) + 2 C_r (e^-Γ + ζ)`` with
    ``J = J(W_0)`` of the hidden layer, ``α = ν B ᾱ n^{1/4} √|X|`` and ``C_r = |r_0| / √n``, for ``f = V φ(W x)`` with
    ``|V|_∞ <= ν / √(k K)``, after ``T = Γ / (η α²)`` steps.

    Args:
        spectrum: Of the Jacobian with respect to ``W`` alone: ``singular_values (r,)``, descending, and ``left_vectors
            (n*K, r)``. If ``r < n*K`` the cut-off has to lie above what is not known, for which ``frobenius_norm`` may
            be needed.
        residual: ``r_0 = f(W_0) - y``, sample-major ``(n*K,)``, or rows ``(n, K)``.
        inputs: ``X``, rows of norm 1, shape ``(n, d)``.
        activation: ``φ``, a name or a function; smooth.
        nu: ``ν``; the smallest is ``|V|_∞ √(k K)``.
        alpha_bar: ``ᾱ >= 0``.
        Gamma: ``Γ >= 1``.
        zeta: ``ζ`` in (0, 1/2].
        delta: ``δ`` in (0, 1).
        width: ``k``.
        learning_rate: ``η``, of the summed loss; by default the largest allowed, ``1 / (ν B |X|)²``.
        sharp: Whether to keep the early stopping distance ``12 ν B D / √n``, which the printed theorem bounds in turn.

    Raises:
        ValueError: If an argument is out of range, the residual does not fit the spectrum and the inputs, or singular
            values that are not known may lie above the cut-off.

    References:
        Oymak et al. 2019, Theorem 3.3; Theorem 6.21 if ``sharp`` (errata A12, A13, A20).

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> spectrum = SimpleNamespace(singular_values=torch.tensor([1.0, 0.5]), left_vectors=torch.eye(2))
        >>> parameters = {"activation": "tanh", "nu": 1.0, "alpha_bar": 0.5, "Gamma": 2.0, "zeta": 0.1, "delta": 0.1}
        >>> bound = arbitrary_initialization_bound(spectrum, torch.ones(2), inputs=torch.eye(2), **parameters)
        >>> list(bound.terms)
        ['bias', 'information', 'nuisance', 'chance', 'precision']
    """
    assumptions.check_parameters(alpha_bar, Gamma, zeta, delta)
    check_positive("nu", nu)
    where = assumptions.setting(inputs, activation)
    n, B, norm = where.num_samples, where.B, where.spectral_norm
    rows = label_rows(residual, n)
    K = rows.shape[1]
    largest_step = over(1, nu * B * norm * nu * B * norm)
    if learning_rate is None:
        learning_rate = largest_step
    else:
        check_positive("learning_rate", learning_rate)
    cutoff = times(alpha_bar, nu * B * n**0.25 * math.sqrt(norm))
    split = _split(spectrum, rows.flatten(), cutoff, Gamma)
    radius = float(rows.norm()) / math.sqrt(n)  # C_r
    scale = 12 * nu * B / math.sqrt(n)
    if sharp:
        variance = [
            Term("distance", times(scale, split.distance), "12 nu B D / sqrt(n)", "a residual on larger vectors")
        ]
    else:
        spread = times(over(Gamma, cutoff), split.nuisance)
        variance = [
            Term(
                "information", times(scale, split.pinv), "12 nu B |J_I^+ r_0| / sqrt(n)", "a residual on larger vectors"
            ),
            Term("nuisance", times(scale, spread), "12 nu B Gamma/alpha |Pi_N r_0| / sqrt(n)", "smaller |Pi_N r_0|"),
        ]
    terms = [
        Term("bias", 2 * split.nuisance / math.sqrt(n), "2 |Pi_N r_0| / sqrt(n)", "a lower cut-off"),
        *variance,
        assumptions.chance_term(delta, n),
        Term("precision", 2 * radius * (math.exp(-Gamma) + zeta), "2 C_r (exp(-Gamma) + zeta)", "larger Gamma"),
    ]
    if not math.isfinite(B):
        terms = [Term("activation", math.inf, "|phi'| has no bound")]
    ratio = power(over(Gamma, alpha_bar * alpha_bar), 4)
    hidden = times(power(over(radius, nu * zeta), 2), ratio)
    explicit = times(25600 / B**2, hidden)
    return Bound(
        "arbitrary_initialization",
        math.fsum(term.value for term in terms),
        terms,
        [
            *where.conditions(),
            *assumptions.cutoff_conditions(cutoff, spectrum.singular_values.detach().double(), split.noise_floor),
            condition("spectral_norm", split.largest, "<=", nu * B * norm, rtol=1e-6, note="|J| <= nu B |X| (A8)"),
            condition("learning_rate", learning_rate, "<=", largest_step, rtol=1e-9, note="1 / (nu B |X|)^2"),
            width_condition("width", width, hidden, hidden=True, note="Eq. (3.6), constant hidden"),
            width_condition("width_of_proof", width, explicit, note="Eq. (6.57), 25600 / B^2"),
            Condition("one_hot_labels", "not given", "", "one-hot", None, note="Lemma 6.18 takes the argmax"),
        ],
        confidence=1 - delta,
        source=f"Oymak et al. 2019, Theorem {'6.21' if sharp else '3.3'} (A12, A13, A20)",
        assumptions={
            "nu": nu,
            "cutoff": cutoff,
            "information_dimension": float(split.dimension),
            "learning_rate": learning_rate,
            "iterations": _stopping(cutoff, Gamma, learning_rate).steps,
            "residual_scale": radius,
        },
        caveats=list(assumptions.CAVEATS) + [assumptions.SINGLE_OUTPUT] * (K == 1),
    )


@dataclass(frozen=True)
class _Split:
    """Norms of the residual on the two spaces, also where only the leading singular vectors are known."""

    dimension: int
    largest: float
    noise_floor: float
    nuisance: float
    pinv: float
    distance: float


def _split(spectrum: JacobianSpectrum, residual: Tensor, cutoff: float, Gamma: float) -> _Split:
    values, left = spectrum.singular_values.detach().double(), spectrum.left_vectors.detach().double()
    if values.dim() != 1 or left.shape != (len(residual), len(values)) or not len(values):
        raise ValueError(
            f"Expected r singular values and left vectors ({len(residual)}, r), as the residual has {len(residual)} "
            f"entries, but got {tuple(values.shape)} and {tuple(left.shape)}; n samples with K outputs have n*K."
        )
    floor = float(getattr(spectrum, "noise_floor", 0.0))
    frobenius_norm = getattr(spectrum, "frobenius_norm", None)
    inside = values >= cutoff
    partial = len(values) < len(residual)
    if partial and bool(inside.all()) and frobenius_norm is None:
        raise ValueError(
            f"Expected a cut-off above {float(values[-1]):.6g}, the smallest of {len(values)} known singular values of "
            f"{len(residual)}, but got {cutoff:.6g}; ask for more of the spectrum, or give its `frobenius_norm`."
        )
    # Checks the values, and that none of those that are not known reaches the cut-off.
    largest_float = torch.finfo(values.dtype).max
    information_space(values, left, cutoff=min(cutoff, largest_float), frobenius_norm=frobenius_norm, noise_floor=floor)
    coefficients = left.T @ residual
    rest = residual - left @ coefficients if partial else residual.new_zeros(())
    nuisance = math.hypot(float(coefficients[~inside].norm()), float(rest.norm()))
    pinv = float((coefficients[inside] / values[inside]).norm())
    if cutoff == 0:
        pinv = math.inf if rank_deficient(values) or float(values[-1]) <= floor else pinv
        return _Split(int(inside.sum()), float(values[0]), floor, nuisance, pinv, pinv)
    # Singular values that are not known are at most the last one, and at most all that |J|_F leaves.
    unknown = 0.0
    if partial:
        left_over = math.inf if frobenius_norm is None else max(frobenius_norm**2 - float(values.square().sum()), 0.0)
        unknown = min(float(values[-1]), math.sqrt(left_over)) * float(rest.norm())
    tail = math.hypot(float((values * coefficients)[~inside].norm()), unknown)
    distance = math.hypot(pinv, times(Gamma / cutoff, tail / cutoff))
    return _Split(int(inside.sum()), float(values[0]), floor, nuisance, pinv, distance)


def _stopping(cutoff: float, Gamma: float, learning_rate: float) -> StoppingTime:
    if not math.isfinite(cutoff):
        return StoppingTime(0.0, 0.0, Gamma)
    return stopping_time(cutoff=cutoff, Gamma=Gamma, learning_rate=learning_rate)
