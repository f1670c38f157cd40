"""Gaussian mixtures: a kernel of low rank whose information space holds the labels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.gaussian import neural_covariance
from lightning_bounds.theory.information_space import assumptions
from lightning_bounds.theory.information_space.assumptions import width_condition


class MixtureSpectrum(NamedTuple):
    """The kernel ``Σ(X)`` of a mixture without noise.

    Attributes:
        rank: ``K² C``, the dimension of its range; ``-1`` if the centers' kernel is singular and nothing is claimed.
        lower: All nonzero eigenvalues are at least ``min_c n_c λ_min(Σ~(M))``.
        upper: And at most ``max_c n_c |Σ~(M)|``.
        expected_lower: ``n / (2 K C) λ_min(Σ~(M))``, which needs no counts.
        expected_upper: ``2 n / (K C) |Σ~(M)|``.
        probability: Of the last two, ``1 - KC e^{-n/8KC} - KC e^{-n/3KC}``.
        printed_probability: The same without the last term.
    """

    rank: int
    lower: float
    upper: float
    expected_lower: float
    expected_upper: float
    probability: float
    printed_probability: float


def mixture_spectrum(
    centers: Tensor, counts: Tensor, *, num_classes: int, activation: str | Callable[[Tensor], Tensor]
) -> MixtureSpectrum:
    """Rank and eigenvalues of ``Σ(X)`` where every input is one of ``K C`` centers, ``C`` for each of ``K`` classes.

    The range of ``Σ(X)`` is then all that is constant on each cluster, so it holds the one-hot labels.

    Args:
        centers: ``M``, rows of norm 1, shape ``(K*C, d)`` (erratum A17).
        counts: ``n_c``, how many samples each center has, shape ``(K*C,)``, at least one each.
        num_classes: ``K``.
        activation: ``φ``, a name or a function.

    Raises:
        ValueError: If the shapes do not match, a count is below 1, or ``K`` does not divide the number of centers.

    References:
        Oymak et al. 2019, Theorem A.1 (erratum A15: eigenvalues of ``Σ~(M)``; the union over the upper tail).

    Example:
        >>> mixture_spectrum(torch.eye(4), torch.tensor([5, 5, 5, 9]), num_classes=2, activation="identity")[:3]
        (8, 5.0, 9.0)
    """
    clusters = _check_centers(centers, num_classes)
    n_c = counts.detach().double()
    if n_c.shape != (len(centers),) or not bool(((n_c >= 1) & n_c.isfinite()).all()):
        raise ValueError(f"Expected counts ({len(centers)},) of at least 1, but got {counts.tolist()}.")
    least, largest = _center_eigenvalues(centers, activation)
    n, groups = float(n_c.sum()), num_classes * clusters
    printed = 1 - groups * math.exp(-n / (8 * groups))
    return MixtureSpectrum(
        rank=num_classes * groups if least > 0 else -1,
        lower=float(n_c.min()) * least,  # A15
        upper=float(n_c.max()) * largest,
        expected_lower=n / (2 * groups) * least,
        expected_upper=2 * n / groups * largest,
        probability=printed - groups * math.exp(-n / (3 * groups)),  # A15
        printed_probability=printed,
    )


def mixture_perturbation(
    inputs: Tensor, *, sigma: float, activation: str | Callable[[Tensor], Tensor], constant: float = 1.0
) -> float:
    """``Δ``, up to which noise ``N(0, σ²/d)`` on the inputs moves ``Σ~(X)``.

    ``Δ = C_0 B² (σ² log(n) |X|² + σ² (n/d + 1) + √log(n) σ |X|² + σ √(n/d + 1) |X|)``, with probability
    ``1 - 2 n e^{-d/2}``.

    Args:
        inputs: ``X`` without noise, shape ``(n, d)``.
        sigma: ``σ``.
        activation: ``φ``, a name or a function.
        constant: ``C_0``, which the paper hides.

    Raises:
        ValueError: If the inputs are no finite matrix or a number is out of range.

    References:
        Oymak et al. 2019, Lemma A.2, Eq. (A.1).

    Example:
        >>> mixture_perturbation(torch.eye(1), sigma=1.0, activation="identity")
        3.414213562373095
    """
    check_not_negative("sigma", sigma)
    check_positive("constant", constant)
    where = assumptions.setting(inputs, activation)
    n, d = inputs.shape
    norm, chance, ratio = where.spectral_norm, math.log(n), n / d + 1
    linear = math.sqrt(chance) * norm**2 + math.sqrt(ratio) * norm
    return times(constant * where.B**2, sigma**2 * (chance * norm**2 + ratio) + sigma * linear)


def projector_deviation(perturbation: float, smallest_eigenvalue: float) -> float:
    """Bound ``Δ / (λ_r - Δ)`` on ``|P - P'|`` of the ranges before and after; infinite unless ``Δ < λ_r``.

    As ``|Π_N y| <= |P - P'| |y|`` for labels in the range, it bounds the bias (erratum A17).

    Raises:
        ValueError: If a number is negative or not finite.

    References:
        Oymak et al. 2019, Lemma A.2.

    Example:
        >>> projector_deviation(0.5, 1.5), projector_deviation(1.5, 1.5)
        (0.5, inf)
    """
    check_not_negative("perturbation", perturbation)
    check_not_negative("smallest_eigenvalue", smallest_eigenvalue)
    if perturbation >= smallest_eigenvalue:
        return math.inf
    return perturbation / (smallest_eigenvalue - perturbation)


def mixture_bound(
    centers: Tensor,
    *,
    num_classes: int,
    num_samples: int,
    sigma: float,
    activation: str | Callable[[Tensor], Tensor],
    Gamma: float,
    zeta: float,
    delta: float,
    width: int | None = None,
    bias_constant: float = 1.0,
    variance_constant: float = 1.0,
    width_constant: float | None = None,
    noise_constant: float | None = None,
) -> Bound:
    """Test error on a mixture with noise ``N(0, σ²/d)``, after ``T = 2 Γ K² C / (η ν² n λ_M)`` steps.

    ``Err <= C_1 √(σ √log(n) B² K C / λ_M) + C_2 Γ B K √C / √(n λ_M) + 12 ζ + 5 √(log(2/δ) / n) + 2 e^-Γ``, Theorem 3.2
    with ``α_0 = √(λ_M n / (2 K C))`` and ``λ_M = λ_min(Σ~(M))``. With ``C_1 = C_2 = 1`` it is no bound.

    Args:
        centers: ``M``, rows of norm 1, shape ``(K*C, d)`` (erratum A17).
        num_classes: ``K``.
        num_samples: ``n``.
        sigma: ``σ``; unit-norm inputs need renormalizing if it is not 0.
        activation: ``φ``, a name or a function; smooth.
        Gamma: ``Γ >= 1``.
        zeta: ``ζ`` in (0, 1/2].
        delta: ``δ`` in (0, 1).
        width: ``k``.
        bias_constant: ``C_1``, which the paper hides.
        variance_constant: ``C_2``, which the paper hides.
        width_constant: The constant hidden in ``k >= C Γ⁴ B⁸ K⁸ C⁴ log(n) / (ζ⁴ λ_M⁴)``.
        noise_constant: The constant hidden in ``σ C <= λ_M / (B² K C √log(n))``.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Theorem A.3; Theorem 3.5 is its short form, which asks for ``σ <= K / n`` too, so that the
        first term is not the largest (errata A3, A4, A17). The first term may be linear in ``σ``, see
        :func:`projector_deviation`.

    Example:
        >>> parameters = {"num_classes": 2, "num_samples": 100, "sigma": 0.0, "Gamma": 3.0, "zeta": 0.1, "delta": 0.1}
        >>> list(mixture_bound(torch.eye(4), activation="identity", **parameters).terms)
        ['bias', 'variance', 'precision', 'chance', 'duration']
    """
    clusters = _check_centers(centers, num_classes)
    assumptions.check_parameters(0.0, Gamma, zeta, delta)
    for name, number in {"num_samples": num_samples, "bias_constant": bias_constant}.items():
        check_positive(name, number)
    check_positive("variance_constant", variance_constant)
    check_not_negative("sigma", sigma)
    where = assumptions.setting(centers, activation)
    n, K, C, B = num_samples, num_classes, clusters, where.B
    least, _ = _center_eigenvalues(centers, activation)
    root = math.sqrt(math.log(n))
    noise = over(times(sigma * root, B**2 * K * C), least) if sigma > 0 else 0.0
    variance = over(Gamma * B * K * math.sqrt(C), math.sqrt(n * least))
    terms = [
        Term("bias", bias_constant * math.sqrt(noise), "C_1 sqrt(sigma sqrt(log n) B^2 K C / lambda)", "less noise"),
        Term("variance", variance_constant * variance, "C_2 Gamma B K sqrt(C / (n lambda))", "more samples"),
        Term("precision", 12 * zeta, "12 zeta", "smaller zeta"),
        assumptions.chance_term(delta, n),
        Term("duration", 2 * math.exp(-Gamma), "2 exp(-Gamma)", "larger Gamma"),
    ]
    needed = times(math.log(n), power(over(Gamma * B**2 * K**2 * C, zeta * least), 4))
    short = power(over(Gamma * K**2 * C, least), 4)
    allowed = over(least, times(root, B**2 * K * C))
    groups = K * C
    return Bound(
        "mixture",
        math.fsum(term.value for term in terms),
        terms,
        [
            *where.conditions(),
            condition("center_eigenvalue", least, ">", 0, note="Sigma(M) of the centers is invertible"),
            condition("noise", sigma, "<=", allowed, hidden=True, factor=noise_constant, note="Theorem A.3"),
            condition("noise_of_short_form", sigma, "<=", K / n, hidden=True, note="Theorem 3.5 (A17)"),
            width_condition("width", width, needed, hidden=True, factor=width_constant, note="Theorem A.3"),
            width_condition("width_of_short_form", width, short, hidden=True, note="Theorem 3.5"),
            Condition("constants", "hidden", "", "C_1 and C_2 of Theorem A.3", None, note="see assumptions"),
        ],
        confidence=1
        - 2 * n * math.exp(-centers.shape[1] / 2)  # Lemma A.2; Theorem A.3 prints half of it
        - groups * (math.exp(-n / (8 * groups)) + math.exp(-n / (3 * groups)))  # A15
        - (2.0 * K) ** -100
        - float(n) ** -100  # A7
        - delta,
        source="Oymak et al. 2019, Theorem A.3 and 3.5 (A3, A4, A7, A15, A17)",
        assumptions={
            "bias_constant": bias_constant,
            "variance_constant": variance_constant,
            "cutoff": math.sqrt(least * n / (2 * groups)),
            "iterations_at_largest_step": mixture_iterations(least, Gamma=Gamma, num_classes=K, num_clusters=C),
        },
        caveats=assumptions.CAVEATS,
    )


def mixture_iterations(center_eigenvalue: float, *, Gamma: float, num_classes: int, num_clusters: int) -> float:
    """``T = 2 Γ K² C / λ_M``: the number of steps at the largest learning rate, if ``B = 1`` and ``|X|² = n``.

    References:
        Oymak et al. 2019, Theorem 3.5 (erratum A17).

    Example:
        >>> mixture_iterations(0.5, Gamma=2.0, num_classes=3, num_clusters=2)
        144.0
    """
    check_not_negative("center_eigenvalue", center_eigenvalue)
    check_positive("Gamma", Gamma)
    return over(2 * Gamma * num_classes**2 * num_clusters, center_eigenvalue)


def _check_centers(centers: Tensor, num_classes: int) -> int:
    """``C``, the number of clusters of a class."""
    if num_classes < 1 or centers.dim() != 2 or not len(centers) or len(centers) % num_classes:
        raise ValueError(
            f"Expected centers (K*C, d), C for each of {num_classes} classes, but got shape {tuple(centers.shape)}."
        )
    return len(centers) // num_classes


def _center_eigenvalues(centers: Tensor, activation: str | Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Extreme eigenvalues of the centers' kernel, the least 0 if it is no larger than rounding."""
    eigenvalues = torch.linalg.eigvalsh(neural_covariance(centers, activation))
    least, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return (least if least > 1e-10 * largest else 0.0), largest
