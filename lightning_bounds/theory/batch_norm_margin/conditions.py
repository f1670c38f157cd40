"""What the theorems of this topic assume, as far as numbers can tell."""

import math
from typing import NamedTuple

from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.batch_norm_margin.arguments import check_setting
from lightning_bounds.theory.batch_norm_margin.constants import horizon, radius, width_window
from lightning_bounds.theory.batch_norm_margin.margins import DISPLACEMENT_FRACTION
from lightning_bounds.theory.bound import Condition, condition

# Rounding that norms of 1, a displacement and a step size may have.
_ROUNDING = 1e-6
# Lemma D.3 with erratum E309.
_LEAST_RADIUS = 8.0


class StepSizes(NamedTuple):
    """``printed``: ``1/(28 e gamma^{2/3} m^{1/3})``; ``consistent``: ``gamma^{4/3}/(27 2²⁰ e⁵ m^{1/3})``."""

    printed: float
    consistent: float


def step_sizes(*, gamma: float, eps_N: float, width: int) -> StepSizes:
    """The step size of the theorems as printed, and the one that is consistent with the constants of their proof.

    For the loss of one sample (stochastic) or the mean loss (full batch). Both are 0 for a margin that is not positive.
    ``4 R / (η gamma √m)``, the bound on ``Σ_s |l'_s|``, is 112/27 with the printed one and ``2²² e⁴ / gamma²``, as the
    proof says, with the consistent one.

    Args:
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``; ``e = max(1, ε_N)``.
        width: ``m``.

    References:
        Theorem 2.1 (erratum E306).

    Example:
        >>> f"{step_sizes(gamma=0.064, eps_N=1.0, width=1000).printed:.6f}"
        '0.022321'
    """
    check_setting(gamma, eps_N, width=width)
    if gamma <= 0:
        return StepSizes(0.0, 0.0)
    e, third = max(1.0, eps_N), float(width) ** (1 / 3)
    printed = over(1.0, 28 * e * float(gamma) ** (2 / 3) * third)
    # E306: what 2^22 e^4 / gamma^2 and the two inequalities of the proof need.
    return StepSizes(printed, power(over(float(gamma) ** (1 / 3), e), 4) / (27 * 2.0**20 * e * third))


def step_conditions(learning_rate: float, *, gamma: float, eps_N: float, width: int) -> list[Condition]:
    """The two inequalities that the proof of Theorem 2.1 asks of a step size.

    ``η 2¹³ e⁴ √m / gamma <= R/8`` and ``η 2²⁰ e⁶ R⁶ / (gamma √m) <= R/8``.

    Args:
        learning_rate: ``η``.
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``.
        width: ``m``.

    References:
        Section E, after Eq. (51), with ``2²⁰`` for the printed ``2¹⁸`` (erratum E313).

    Example:
        >>> numbers = dict(gamma=0.07, eps_N=18.4, width=4096)
        >>> [[item.holds for item in step_conditions(step, **numbers)] for step in step_sizes(**numbers)]
        [[False, True], [True, True]]
    """
    R = radius(gamma=gamma, eps_N=eps_N, width=width)
    e, root = max(1.0, eps_N), math.sqrt(width)
    if gamma <= 0:
        return [
            condition(name, math.inf, "<=", 0.0, note="needs a positive margin")
            for name in ("step_outer", "step_inner")
        ]
    outer = over(times(learning_rate, 2.0**13 * power(e, 4) * root), gamma)
    # E313: alpha = 4 e^2 R^2, whose 4 is lost between (48) and (49).
    # With e^6 R^6 = gamma^2 m / 27^6.
    inner = times(learning_rate, 2.0**20 * gamma * root / 27.0**6)
    return [
        condition("step_outer", outer, "<=", R / 8, rtol=_ROUNDING, note="E306: eta 2^13 e^4 sqrt(m)/gamma <= R/8"),
        condition(
            "step_inner", inner, "<=", R / 8, rtol=_ROUNDING, note="E313: eta 2^20 e^6 R^6/(gamma sqrt(m)) <= R/8"
        ),
    ]


def theorem_conditions(
    *, gamma: float, eps_N: float, width: int, dim: int, samples: int, steps: int, delta: float
) -> list[Condition]:
    """What Theorems 2.1 and 2.2 ask of the numbers that they are stated with.

    Args:
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``.
        width: ``m``.
        dim: ``d``.
        samples: ``n``.
        steps: ``t``.
        delta: ``δ``.

    Example:
        >>> numbers = dict(gamma=0.05, eps_N=5.0, width=200, dim=49, samples=1000, steps=1000, delta=0.01)
        >>> [item.name for item in theorem_conditions(**numbers) if item.holds is False]
        ['least_width', 'largest_width', 'window', 'radius', 'horizon']
    """
    window = width_window(gamma=gamma, eps_N=eps_N, dim=dim, samples=samples, steps=steps, delta=delta)
    last = horizon(gamma=gamma, eps_N=eps_N, width=width, samples=samples, delta=delta)
    R = radius(gamma=gamma, eps_N=eps_N, width=width)
    return [
        condition("margin", gamma, ">", 0.0, note="Assumption 1.2"),
        condition("inverse_normalization", eps_N, "<", math.inf, note="Assumption 1.1: no N(v_j) = 0"),
        condition("dimension", dim, ">=", 2, note="Lemma C.2"),
        condition("delta", delta, "<", 0.05, note="else the probability 1 - 20 delta is empty"),
        condition("least_width", width, ">=", window.least, note="2^29 e^3 ln(5nt/delta)^{3/2} / gamma^2"),
        condition("largest_width", width, "<=", window.most, note="delta exp(d/8)"),
        condition("window", window.least, "<=", window.most, note="there is an allowed width"),
        condition("radius", R, ">=", _LEAST_RADIUS, note="Lemma D.3; the width does not imply it (E309)"),
        condition("horizon", steps, "<=", last, note="delta/(5n) exp((m gamma^2/(2^29 e^3))^{2/3})"),
    ]


def run_conditions(
    *,
    gamma: float,
    eps_N: float,
    width: int,
    reference_norm: float | None = None,
    displacement: float | None = None,
    largest_norm: float | None = None,
    learning_rate: float | None = None,
    whole_set_statistics: bool | None = None,
    no_shift: bool | None = None,
    known_initialization: bool | None = None,
    fresh_samples: bool | None = None,
) -> list[Condition]:
    """What the theorems ask of a data set, a reference and a training; what is not given stays unknown.

    Args:
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``.
        width: ``m``.
        reference_norm: The larger of ``|a_ref|`` and ``|c_ref|``.
        displacement: ``Δ_V`` of the reference.
        largest_norm: ``max_i |x_i - μ|``.
        learning_rate: ``η``.
        whole_set_statistics: Whether forward and backward pass use the statistics of the whole training set.
        no_shift: Whether the batch normalization has no shift and no layer has a bias.
        known_initialization: Whether the initial weights are a reproducible draw of the paper's law.
        fresh_samples: Whether every step sees a new independent sample, so one pass at most.

    Example:
        >>> [item.status for item in run_conditions(gamma=0.1, eps_N=2.0, width=9, displacement=0.1)][:3]
        ['unknown', 'violated', 'unknown']
    """
    printed, consistent = step_sizes(gamma=gamma, eps_N=eps_N, width=width)
    largest = max(gamma, 0.0) / DISPLACEMENT_FRACTION
    # E304: centered norms; |x_i| <= 1 gives 2 only.
    records = [
        _measured("reference_norm", reference_norm, "<=", 1.0, "Assumption 1.2: |a_ref|, |c_ref| <= 1"),
        _measured("displacement", displacement, "<=", largest, "Assumption 1.2: gamma / 32, of effective rows (E302)"),
        _measured("largest_norm", largest_norm, "<=", 1.0, "section 1.3: centered inputs in the unit ball (E304)"),
        _measured("printed_step", learning_rate, "==", printed, "Theorem 2.1"),
        _measured("consistent_step", learning_rate, "==", consistent, "E306"),
        _stated("statistics", whole_set_statistics, "of the whole training set", "forward and backward"),
        _stated("shift", no_shift, "no shift, no biases", "section 1.3"),
        _stated("initialization", known_initialization, "a ~ N(0, 1/m), c = 1, v ~ N(0, I/d)", "section 1.3"),
        _stated("samples", fresh_samples, "independent, one pass", "Lemma E.2"),
    ]
    if learning_rate is not None:
        records += step_conditions(learning_rate, gamma=gamma, eps_N=eps_N, width=width)
    return records


def _measured(name: str, actual: float | None, relation: str, required: float, note: str) -> Condition:
    if actual is None:
        return Condition(name, "not measured", relation, required, None, note=note)
    return condition(name, actual, relation, required, rtol=_ROUNDING, note=note)


def _stated(name: str, holds: bool | None, required: str, note: str) -> Condition:
    actual = "not stated" if holds is None else "so" if holds else "otherwise"
    return Condition(name, actual, "", required, holds, note=note)
