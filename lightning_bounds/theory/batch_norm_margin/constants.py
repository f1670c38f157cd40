"""Constants of the lemmas, and what holds of the initial weights."""

import math
from typing import NamedTuple

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.batch_norm_margin.arguments import check_setting


class LemmaConstants(NamedTuple):
    """What holds for all ``V'`` with ``|V' - V| <= beta_v``, where ``|v_j| <= eps_V`` and ``1/N(v_j) <= eps_N``.

    Attributes:
        beta_v: ``β_V = c / ε_N``, how far ``V'`` may be.
        rho_n: ``ρ_N = 1/(1 - c)``: ``1/N'_j <= ρ_N / N_j``.
        beta_n: ``β_N = ρ_N ε_N²``: ``|1/N'_j - 1/N_j| <= β_N |v'_j - v_j|``.
        beta_pi: ``β_Π``, bound on ``|(I - Σ v' v'ᵀ / N'²) x|``, as in the proof: ``max(2, 1 + (ε_V + β_V) ρ_N ε_N)``.
        printed_beta_pi: As stated, ``max(2, 2 (ε_V + β_V) ρ_N ε_N)``.
        eps_ratio: ``ε_V ε_N``, bound on ``|<v_j/N_j, x̄>|``.
    """

    beta_v: float
    rho_n: float
    beta_n: float
    beta_pi: float
    printed_beta_pi: float
    eps_ratio: float


class GradientBounds(NamedTuple):
    """Bounds on ``|∇_U p|²`` (``outer``) and ``|∇_V p|²`` (``inner``), of Lemma F.3 and, larger, of Lemma E.1."""

    outer: float
    inner: float
    sgd_outer: float
    sgd_inner: float


def lemma_constants(eps_N: float, *, fraction: float = 0.5, eps_V: float = 2.0) -> LemmaConstants:
    """Constants of Lemma B.2; with the defaults those that all later proofs use.

    Args:
        eps_N: ``ε_N``; at least 1 in the proofs.
        fraction: ``c``, in (0, 1).
        eps_V: ``ε_V``, the largest norm of a row of ``V``.

    Raises:
        ValueError: If a number is out of range.

    References:
        Lemma B.2, Eq. (23). Later ``β_Π = 9 ε_N``, which is the proof's ``4 ε_N + 2`` rounded up, not the statement's
        ``8 ε_N + 2`` (erratum E314). ``R_V = β_V`` is ``1/(2 ε_N)``, also where ``ε_N / 2`` is printed (erratum E311).

    Example:
        >>> lemma_constants(3.0).beta_pi, lemma_constants(3.0).printed_beta_pi
        (14.0, 26.0)
    """
    check_positive("eps_N", eps_N)
    check_positive("eps_V", eps_V)
    if not 0 < fraction < 1:
        raise ValueError(f"Expected `fraction` in (0, 1), but got {fraction}.")
    # E311: 1 / (2 eps_N), not eps_N / 2.
    beta_v = fraction / eps_N
    rho_n = 1 / (1 - fraction)
    reach = (eps_V + beta_v) * rho_n * eps_N
    # E314: the proof ends with 1 + reach.
    return LemmaConstants(
        beta_v, rho_n, rho_n * power(eps_N, 2), max(2.0, 1 + reach), max(2.0, 2 * reach), eps_V * eps_N
    )


def gradient_bounds(*, eps_N: float, width: int, radius: float) -> GradientBounds:
    """``|∇_U p|² <= 175 e⁴ m`` and ``|∇_V p|² <= 8100 e⁴ R⁴``; in Lemma E.1 ``2¹¹`` and ``2¹⁶``. ``e = max(1, ε_N)``.

    Args:
        eps_N: ``ε_N``.
        width: ``m``.
        radius: ``R``; at least 8 in the proofs (erratum E309).

    References:
        Lemmas E.1 and F.3 (erratum E315: ``ε_N``, and no ``5²``).

    Example:
        >>> gradient_bounds(eps_N=1.0, width=10, radius=8.0).outer
        1750.0
    """
    check_setting(0.0, eps_N, width=width)
    check_not_negative("radius", radius)
    e4, r4 = power(max(1.0, eps_N), 4), power(radius, 4)
    return GradientBounds(175 * e4 * width, 8100 * times(r4, e4), 2.0**11 * e4 * width, 2.0**16 * times(r4, e4))


def initial_output_bound(eps_N: float, *, samples: int, delta: float) -> float:
    """``max_i |f(x_i; W_0)| <= 4 ε_N ln(n/δ)`` with probability ``1 - 4δ``.

    References:
        Lemma C.1, with the union over the samples (erratum E315).

    Example:
        >>> round(initial_output_bound(2.0, samples=100, delta=0.01), 4)
        73.6827
    """
    check_setting(0.0, eps_N, delta, samples=samples)
    # E315: ln(n / delta).
    return 4 * eps_N * math.log(samples / delta)


def initial_output_norm_bound(*, width: int, delta: float) -> float:
    """``|a_0| <= 1 + √(2 ln(1/δ) / m)`` with probability ``1 - δ``.

    References:
        Lemma C.2.

    Example:
        >>> round(initial_output_norm_bound(width=200, delta=0.01), 4)
        1.2146
    """
    check_setting(0.0, 1.0, delta, width=width)
    return 1 + math.sqrt(2 * math.log(1 / delta) / width)


def initial_row_norm_bound(*, width: int, dim: int, delta: float) -> float:
    """``max_j |v_j| <= 1 + √(2 ln(m/δ) / d)`` with probability ``1 - δ``; at most 2 if ``m <= δ exp(d/8)``.

    References:
        Lemma C.2, with the union over the rows (erratum E315).

    Example:
        >>> round(initial_row_norm_bound(width=200, dim=49, delta=0.01), 4)
        1.6358
    """
    check_setting(0.0, 1.0, delta, width=width, dim=dim)
    # E315: ln(m / delta).
    return 1 + math.sqrt(2 * math.log(width / delta) / dim)


def radius(*, gamma: float, eps_N: float, width: int) -> float:
    """``R = gamma^{1/3} m^{1/6} / (27 e)``, how far ``(a, c)`` may move; 0 for a margin that is not positive.

    References:
        Theorem 2.1. Lemma D.3 needs ``R >= 8``, which the width window does not imply (erratum E309).

    Example:
        >>> round(radius(gamma=0.07, eps_N=18.4, width=4096), 6)
        0.003318
    """
    check_setting(gamma, eps_N, width=width)
    if gamma <= 0:
        return 0.0
    return float(gamma) ** (1 / 3) * float(width) ** (1 / 6) / (27 * max(1.0, eps_N))


class WidthWindow(NamedTuple):
    """``m_min <= m <= m_max``.

    Attributes:
        least: ``2²⁹ e³ ln^{3/2}(5nt/δ) / gamma²``; infinite for a margin that is not positive.
        most: ``δ exp(d/8)``.
        least_for_radius: ``(216 e)⁶ / gamma²``, from where on ``R >= 8``, which the paper forgets (erratum E309).
    """

    least: float
    most: float
    least_for_radius: float

    @property
    def empty(self) -> bool:
        """Whether no width is allowed."""
        return self.least > self.most


def width_window(*, gamma: float, eps_N: float, dim: int, samples: int, steps: int, delta: float) -> WidthWindow:
    """The widths that Theorems 2.1 and 2.2 allow, as printed, and the least one of their proof.

    Args:
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``; ``e = max(1, ε_N)``.
        dim: ``d``.
        samples: ``n``.
        steps: ``t``.
        delta: ``δ``.

    Raises:
        ValueError: If a number is out of range; a margin may have any sign.

    References:
        Theorem 2.1.

    Example:
        >>> window = width_window(gamma=0.05, eps_N=5.0, dim=49, samples=1000, steps=1000, delta=0.01)
        >>> f"{window.least:.1e} {window.most:.1f}", window.empty
        ('2.4e+15 4.6', True)
    """
    check_setting(gamma, eps_N, delta, dim=dim, samples=samples, steps=steps)
    most = exponential(dim / 8) * delta
    if gamma <= 0:
        return WidthWindow(math.inf, most, math.inf)
    e, logarithm = max(1.0, eps_N), math.log(5 * samples * steps / delta)
    # Roots first, so that only a square can overflow, and never into a quotient of infinities.
    least = 2.0**29 * logarithm**1.5 * power(over(power(math.sqrt(e), 3), gamma), 2)
    return WidthWindow(least, most, power(over(power(216 * e, 3), gamma), 2))


def horizon(*, gamma: float, eps_N: float, width: int, samples: int, delta: float) -> float:
    """``t_max = δ/(5n) exp((m gamma² / (2²⁹ e³))^{2/3})``, up to where the window allows the width; 0 without a margin.

    References:
        Theorem 2.1, solved for ``t``; the abstract's exponent lacks the power 2/3 and its constants (erratum E317).

    Example:
        >>> f"{horizon(gamma=0.07, eps_N=18.4, width=4096, samples=1000, delta=0.01):.1e}"
        '2.0e-06'
    """
    check_setting(gamma, eps_N, delta, width=width, samples=samples)
    if gamma <= 0:
        return 0.0
    # E317: to the power 2/3.
    exponent = (width / 2.0**29 * power(over(gamma, power(math.sqrt(max(1.0, eps_N)), 3)), 2)) ** (2 / 3)
    return exponential(exponent) * (delta / (5 * samples))


def exponential(exponent: float) -> float:
    """``exp``, infinite instead of an overflow.

    Example:
        >>> exponential(1000.0)
        inf
    """
    return math.exp(exponent) if exponent < 709 else math.inf
