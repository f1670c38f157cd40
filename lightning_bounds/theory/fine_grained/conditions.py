"""What the theorems of this topic assume, as far as numbers can tell."""

import math
from collections.abc import Mapping

from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.fine_grained.complexity import KernelSummary

# Rounding that rows of norm 1 and labels of size 1 may have.
_NORMALIZATION = 1e-6
# A learning rate of exactly 1 / lambda_1 may come out above it.
_ROUNDING = 1e-9
# The factors that the theorems hide, by the name of what they belong to.
HIDDEN_FACTORS = ("kappa", "width", "learning_rate", "steps", "second_term")


def check_factors(factors: Mapping[str, float]) -> None:
    """Raise ValueError if a hidden factor has an unknown name or is not positive.

    Example:
        >>> check_factors({"depth": 1.0})
        Traceback (most recent call last):
        ValueError: Expected hidden factors among kappa, width, ..., but got depth = 1.0...
    """
    for name, factor in factors.items():
        if name not in HIDDEN_FACTORS or not 0 < factor < math.inf:
            raise ValueError(
                f"Expected hidden factors among {', '.join(HIDDEN_FACTORS)}, positive and finite, "
                f"but got {name} = {factor}."
            )


def data_conditions(summary: KernelSummary) -> list[Condition]:
    """Unit rows, labels of at most 1, and a Gram matrix that is not singular."""
    rows = Condition(
        "norm_deviation", "unknown", "<=", _NORMALIZATION, None, note="|x| = 1; the Gram matrix cannot tell"
    )
    if summary.norm_deviation is not None:
        rows = condition("norm_deviation", summary.norm_deviation, "<=", _NORMALIZATION, note="section 3.1: |x| = 1")
    return [
        rows,
        condition("largest_label", summary.largest_label, "<=", 1.0, rtol=_NORMALIZATION, note="section 3.1: |y| <= 1"),
        # C6: no two parallel inputs is enough for this, not necessary.
        condition("smallest_eigenvalue", summary.smallest_eigenvalue, ">", 0.0, note="lambda_0, as far as resolved"),
    ]


def descent_conditions(
    summary: KernelSummary,
    *,
    delta: float,
    width: int | None,
    kappa: float | None,
    learning_rate: float | None,
    factors: Mapping[str, float],
) -> list[Condition]:
    """Of Theorem 3.1: ``m = Ω(n⁶ / (λ_0⁴ κ² δ³))`` and ``η = O(λ_0 / n²)``, and what its proof asks of ``η λ_1``."""
    n, lambda_0 = summary.num_samples, summary.smallest_eigenvalue
    least_width = math.inf if kappa is None else over(n**6, lambda_0**4 * kappa**2 * delta**3)
    width_note = "Theorem 3.1: n^6 / (lambda_0^4 kappa^2 delta^3)" + ("" if kappa else "; needs `kappa`")
    known_width = width if kappa is not None else None
    records = [
        hidden("width", known_width, ">=", least_width, factors, width_note),
        hidden("learning_rate", learning_rate, "<=", lambda_0 / n**2, factors, "Theorem 3.1: lambda_0 / n^2"),
    ]
    if kappa is not None:
        records.insert(0, condition("kappa_range", kappa, "<=", 1.0, note="section 3.1: 0 < kappa <= 1"))
    if learning_rate is not None:
        product = learning_rate * summary.largest_eigenvalue
        note = "eta lambda_1, proof of Theorem 4.1; gradient descent converges below 2"
        records.append(condition("step_size", product, "<=", 1.0, rtol=_ROUNDING, note=note))
    return records


def hidden(
    name: str, actual: float | None, relation: str, required: float, factors: Mapping[str, float], note: str
) -> Condition:
    """A condition up to a hidden factor, undecided if the factor or the number itself is not given.

    Example:
        >>> hidden("width", None, ">=", 400.0, {}, "Theorem 3.1").status
        'unknown'
    """
    if actual is None:
        return Condition(name, "not given", relation, required, None, note=note)
    return condition(name, actual, relation, required, hidden=True, factor=factors.get(name), note=note)
