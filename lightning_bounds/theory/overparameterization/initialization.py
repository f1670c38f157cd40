"""The network ``f = φ(X W^T) v`` at its random start, and its Jacobian around it: the lemmas behind the theorems.

``W_0`` has independent entries ``N(0, 1)``; ``v``, half ``+‖y‖/√(kn)`` and half ``-‖y‖/√(kn)``, stays fixed.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, check_count
from lightning_bounds.theory.bound import Condition, condition

_UNIT = 1e-6


class Lemma(NamedTuple):
    """What a lemma states: ``value``, the ``conditions`` that it needs, and the ``probability`` with which it holds."""

    value: float
    conditions: tuple[Condition, ...]
    probability: float


class Perturbation(NamedTuple):
    """``|J(W) - J(W_0)| <= change`` wherever ``|W - W_0| <= radius`` (spectral norms), with ``probability``."""

    radius: float
    change: float
    probability: float


def output_weights(labels: Tensor, width: int) -> Tensor:
    """The fixed output weights ``v``: ``k/2`` entries ``+‖y‖/√(kn)``, ``k/2`` entries ``-‖y‖/√(kn)``, one 0 if odd.

    Args:
        labels: ``y``, shape ``(n,)``, not all 0.
        width: ``k``, at least 2.

    Returns:
        Shape ``(k,)``, in float64.

    Raises:
        ValueError: If the labels are no finite vector or all 0, or the width is below 2.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 2.1 with its footnote.

    Example:
        >>> output_weights(torch.tensor([1.0, -1.0]), 5)
        tensor([ 0.4472,  0.4472, -0.4472, -0.4472,  0.0000], dtype=torch.float64)
    """
    labels = checked_labels(labels)
    check_count("width", width, least=2)
    half = width // 2
    size = float(labels.norm()) / math.sqrt(width * len(labels))
    signs = torch.tensor([1.0, -1.0, 0.0]).repeat_interleave(torch.tensor([half, half, width - 2 * half]))
    return size * signs.to(labels)


def jacobian_norm_bound(spectral_norm: float, output_weights: Tensor, first: float = 1.0) -> float:
    """``|J(W)| <= √k B ‖v‖_∞ ‖X‖`` for every ``W``, where ``|φ'| <= B``; ``β`` of the theorems.

    Args:
        spectral_norm: ``‖X‖``.
        output_weights: ``v``, shape ``(k,)``.
        first: ``B``, 1 for ReLU.

    References:
        Oymak & Soltanolkotabi 2019, Lemma 6.6.

    Example:
        >>> jacobian_norm_bound(2.0, torch.tensor([0.5, -0.5, 0.5, -0.5]))
        2.0
    """
    return math.sqrt(len(output_weights)) * first * float(output_weights.abs().max()) * spectral_norm


def jacobian_lipschitz_constant(spectral_norm: float, output_weights: Tensor, second: float) -> float:
    """``L = M ‖v‖_∞ ‖X‖`` in ``|J(W') - J(W)| <= L |W' - W|_F``, where ``|φ''| <= M``, for rows of norm 1.

    Example:
        >>> jacobian_lipschitz_constant(2.0, torch.tensor([0.5, -0.5]), second=0.25)
        0.25

    References:
        Oymak & Soltanolkotabi 2019, Lemma 6.8.
    """
    return second * float(output_weights.abs().max()) * spectral_norm


def initial_sigma_min(
    num_samples: int, spectral_norm: float, output_weights: Tensor, eigenvalue: float, first: float = 1.0
) -> Lemma:
    """``σ_min(J(W_0)) >= ‖v‖_2 √(λ/2)`` with probability ``1 - 1/n``, for rows of norm 1.

    Args:
        num_samples: ``n``.
        spectral_norm: ``‖X‖``.
        output_weights: ``v``, shape ``(k,)``.
        eigenvalue: ``λ(X)``, or a lower bound of it.
        first: ``B >= |φ'|``.

    References:
        Oymak & Soltanolkotabi 2019, Lemma 6.7.

    Example:
        >>> round(initial_sigma_min(10, 1.0, torch.ones(100), 0.5).value, 3)
        5.0
    """
    norm, largest = float(output_weights.norm()), float(output_weights.abs().max())
    condition_ = width_of_initialization(num_samples, spectral_norm, norm / largest, eigenvalue, first)
    return Lemma(norm * math.sqrt(eigenvalue / 2), (condition_,), 1 - 1 / num_samples)


def width_of_initialization(
    num_samples: int, spectral_norm: float, ratio: float, eigenvalue: float, first: float
) -> Condition:
    """Condition of Lemma 6.7, ``‖v‖_2 / ‖v‖_∞ >= √(20 log n) B ‖X‖ / √λ``; the ratio is ``√k`` for an even width."""
    required = math.inf
    if num_samples == 1:
        required = 0.0
    elif eigenvalue > 0:
        required = math.sqrt(20 * math.log(num_samples) / eigenvalue) * first * spectral_norm
    return condition("|v|_2 / |v|_inf", ratio, ">=", required, note="Lemma 6.7: Jacobian at the start")


def initial_residual_bound(
    num_samples: int, spectral_norm: float, label_norm: float, first: float = 1.0, tolerance: float = 1.0
) -> Lemma:
    """``|f(W_0) - y| <= ‖y‖ (1 + (1 + δ) B)`` with probability ``1 - exp(-δ² n / (2 ‖X‖²))``, for rows of norm 1.

    Args:
        num_samples: ``n``.
        spectral_norm: ``‖X‖``.
        label_norm: ``‖y‖``.
        first: ``B >= |φ'|``.
        tolerance: ``δ``, positive.

    References:
        Oymak & Soltanolkotabi 2019, Lemma 6.12; it needs ``1^T v = 0``.

    Example:
        >>> initial_residual_bound(100, 2.0, 10.0).value
        30.0
    """
    probability = -math.expm1(-(tolerance**2) * num_samples / (2 * spectral_norm**2))
    return Lemma(label_norm * (1 + (1 + tolerance) * first), (), probability)


def relu_jacobian_perturbation(
    num_samples: int, spectral_norm: float, output_weights: Tensor, eigenvalue: float
) -> Perturbation:
    """How far the Jacobian of a ReLU network is from its start, on a ball around ``W_0``, for rows of norm 1.

    On ``|W - W_0| <= m_0³ / (2k)`` (spectral norm) with ``m_0 = ‖v‖_2 √λ / (√200 ‖v‖_∞ ‖X‖)`` it changes by at most
    ``‖v‖_2 √λ / (6√2)``, with probability ``1 - n exp(-m_0²/6)``.

    Args:
        num_samples: ``n``.
        spectral_norm: ``‖X‖``.
        output_weights: ``v``, shape ``(k,)``.
        eigenvalue: ``λ(X)``, or a lower bound of it.

    References:
        Oymak & Soltanolkotabi 2019, Lemma 6.9 (erratum B6: the exponent is not divided by ``n``).

    Example:
        >>> round(relu_jacobian_perturbation(10, 1.0, torch.ones(1800), 1.0).radius, 4)
        0.0075
    """
    norm, largest = float(output_weights.norm()), float(output_weights.abs().max())
    m0 = norm * math.sqrt(eigenvalue) / (math.sqrt(200) * largest * spectral_norm)
    return Perturbation(
        radius=m0**3 / (2 * len(output_weights)),
        change=norm * math.sqrt(eigenvalue) / (6 * math.sqrt(2)),
        # B6: exp(-m_0²/6), as Lemma C.3 proves, not exp(-m_0²/(6n)).
        probability=1 - num_samples * math.exp(-(m0**2) / 6),
    )


def checked_labels(labels: Tensor, num_samples: int | None = None) -> Tensor:
    """Labels ``(n,)`` in float64.

    Raises:
        ValueError: If they are no finite vector of that length, or all 0.
    """
    if labels.dim() != 1 or len(labels) == 0 or num_samples not in (None, len(labels)):
        raise ValueError(
            f"Expected `labels` of shape (n,), one number per sample"
            f"{'' if num_samples is None else f' of {num_samples}'}, but got {tuple(labels.shape)}."
        )
    labels = labels.detach().to(torch.float64)
    if not bool(labels.isfinite().all()) or float(labels.norm()) == 0.0:
        raise ValueError(
            f"Expected finite `labels`, not all 0 (the output weights are scaled by their norm), "
            f"but got the norm {float(labels.norm()):.3g}."
        )
    return labels


def spectral_norm(inputs: Tensor) -> float:
    """``‖X‖``, the largest singular value of the inputs ``(n, d)``.

    Example:
        >>> spectral_norm(torch.ones(4, 1))
        2.0
    """
    return float(torch.linalg.matrix_norm(as_inputs(inputs), ord=2))


def unit_rows(inputs: Tensor) -> Condition:
    """Condition that all rows have norm 1; what is compared is the norm that is farthest from 1."""
    norms = inputs.norm(dim=1)
    worst = float(norms[(norms - 1).abs().argmax()])
    return condition("norm of the inputs", worst, "==", 1.0, rtol=_UNIT, note="Theorem 2.1: rows of norm 1")
