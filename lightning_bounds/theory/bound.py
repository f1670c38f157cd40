"""How every theorem reports itself: its number, what it is made of, and whether what it assumes holds."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """One part of a bound.

    Attributes:
        name: In the characters of metric names, ``[a-z0-9_]``.
        value: A number, or ``inf``; never NaN.
        meaning: Its formula, or what it stands for.
        smaller_by: What would make it smaller.

    Raises:
        ValueError: If the value is NaN.
    """

    name: str
    value: float
    meaning: str = ""
    smaller_by: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        if math.isnan(self.value):
            raise ValueError(f"Expected a number or infinity as the term {self.name!r}, but got NaN.")


@dataclass(frozen=True)
class Condition:
    """One assumption of a theorem, ``actual relation required``, and whether it holds.

    Where the paper hides a factor, the inequality is written with the factor 1, and stays undecided unless the caller
    gives the factor: see :func:`condition`.

    Attributes:
        name: What is compared.
        actual: What was found, a number or a text.
        relation: ``<=``, ``<``, ``>=``, ``>``, ``==``, or empty for a text.
        required: What the theorem asks for, a number or a text.
        holds: True, False, or None: it depends on a factor that the paper hides, or cannot be known from the arguments.
        ratio: With a hidden factor: the largest one for which it still holds. None otherwise.
        note: Where it stands in the paper, and which erratum changes it.
    """

    name: str
    actual: float | str
    relation: str
    required: float | str
    holds: bool | None
    ratio: float | None = None
    note: str = ""

    @property
    def status(self) -> str:
        """``"holds"``, ``"violated"`` or ``"unknown"``."""
        return {True: "holds", False: "violated", None: "unknown"}[self.holds]


def condition(
    name: str,
    actual: float,
    relation: str,
    required: float,
    *,
    hidden: bool = False,
    factor: float | None = None,
    rtol: float = 0.0,
    note: str = "",
) -> Condition:
    """Compare two numbers as a theorem does.

    Args:
        name: What is compared.
        actual: The number that was found.
        relation: ``<=``, ``<``, ``>=``, ``>`` or ``==``.
        required: The number that it has to keep to.
        hidden: Whether the paper hides a factor ``C``: ``actual >= C required`` or ``C actual <= required``.
        factor: The hidden factor, if the caller knows it; decides the condition.
        rtol: How much rounding may be forgiven, relative to ``required``.
        note: Where it stands.

    Raises:
        ValueError: If the relation is unknown, a number is NaN, or ``==`` is asked with a hidden factor.

    Example:
        >>> condition("width", 1000, ">=", 400, hidden=True).ratio
        2.5
        >>> condition("width", 1000, ">=", 400, hidden=True, factor=3.0).holds
        False
    """
    actual, required = float(actual), float(required)
    if relation not in _RELATIONS or (hidden and relation == "=="):
        raise ValueError(f"Expected a relation among {list(_RELATIONS)}, no equality if hidden, but got {relation!r}.")
    if math.isnan(actual) or math.isnan(required):
        raise ValueError(f"Expected numbers to compare for {name!r}, but got {actual} and {required}.")
    slack = rtol * abs(required) if math.isfinite(required) else 0.0
    if not hidden:
        if relation == "==":
            return Condition(name, actual, relation, required, abs(actual - required) <= slack, None, note)
        widened = required + (slack if relation in ("<=", "<") else -slack)
        return Condition(name, actual, relation, required, _RELATIONS[relation](actual, widened), None, note)
    above = relation in (">=", ">")
    ratio = _quotient(actual, required) if above else _quotient(required, actual)
    holds = None if factor is None else _RELATIONS[">" if relation in (">", "<") else ">="](ratio, factor)
    return Condition(name, actual, relation, required, holds, ratio, note)


def _quotient(numerator: float, denominator: float) -> float:
    """A ratio of two numbers of one sign; infinite where nothing is asked for."""
    if denominator == 0 or (math.isinf(numerator) and not math.isinf(denominator)):
        return math.inf
    return 0.0 if math.isinf(denominator) else numerator / denominator


@dataclass(frozen=True)
class Bound:
    """What a theorem guarantees.

    Attributes:
        name: Name of the theorem, in words.
        value: The bound: never clipped, ``inf`` where the theorem gives nothing, never NaN.
        parts: Its terms in order; where ``is_sum`` they add up to ``value``.
        conditions: What the theorem assumes.
        confidence: With which probability it holds, if its conditions do; None if it is no statement of probability.
            Negative where the theorem's own statement is empty.
        source: Paper, theorem, equation, errata.
        assumptions: Values taken for what the paper leaves open.
        caveats: What no number can check.
        trivial: From which value on the bound says nothing; 1 for a probability of error.
        is_sum: Whether the terms add up to the value.

    Raises:
        ValueError: If the value is NaN, or the terms of a sum do not add up to it.

    Example:
        >>> bound = Bound("toy", 1.5, (Term("fit", 0.5), Term("complexity", 1.0)), source="nowhere")
        >>> bound.terms["complexity"], bound.valid, bound.vacuous
        (1.0, True, True)
    """

    name: str
    value: float
    parts: Sequence[Term] = ()
    conditions: Sequence[Condition] = ()
    confidence: float | None = None
    source: str = ""
    assumptions: Mapping[str, float] = field(default_factory=dict)
    caveats: Sequence[str] = ()
    trivial: float = 1.0
    is_sum: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if math.isnan(self.value):
            raise ValueError(f"Expected a number or infinity as the value of {self.name!r}, but got NaN.")
        total = math.fsum(part.value for part in self.parts)
        if self.is_sum and self.parts and not math.isclose(total, self.value, rel_tol=1e-9, abs_tol=1e-300):
            raise ValueError(f"Expected the terms of {self.name!r} to add up to {self.value}, but they give {total}.")

    @property
    def terms(self) -> Mapping[str, float]:
        """Values of the terms by name, in order."""
        return MappingProxyType({part.name: part.value for part in self.parts})

    @property
    def valid(self) -> bool:
        """Whether no condition is violated; conditions that depend on a hidden factor are not counted."""
        return all(item.holds is not False for item in self.conditions)

    @property
    def vacuous(self) -> bool:
        """Whether the value says nothing."""
        return self.value >= self.trivial

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, for JSON; infinities stay floats."""
        return {
            "name": self.name,
            "value": self.value,
            "terms": dict(self.terms),
            "conditions": conditions_to_dicts(self.conditions),
            "valid": self.valid,
            "vacuous": self.vacuous,
            "confidence": self.confidence,
            "source": self.source,
            "assumptions": dict(self.assumptions),
            "caveats": list(self.caveats),
        }

    def __str__(self) -> str:
        verdict = "vacuous" if self.vacuous else "not vacuous"
        if not self.valid:
            verdict += ", conditions violated"
        lines = [f"{self.name}: {self.value:.6g} ({verdict})", f"  {self.source}"]
        if self.confidence is not None:
            lines.append(f"  confidence {self.confidence:.6g}")
        rows = [(part.name, f"{part.value:.6g}", part.meaning, part.smaller_by) for part in self.parts]
        lines += text_table(("term", "value", "meaning", "smaller by"), rows)
        lines += conditions_table(self.conditions)
        lines += [f"  assumed: {name} = {value:g}" for name, value in self.assumptions.items()]
        return "\n".join([*lines, *(f"  caveat: {caveat}" for caveat in self.caveats)])


def conditions_to_dicts(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Conditions in plain Python types."""
    return [{**vars(item), "status": item.status} for item in conditions]


def conditions_table(conditions: Sequence[Condition]) -> list[str]:
    """Conditions as lines of text that a person can read."""
    rows = [
        (
            item.name,
            _shown(item.actual),
            f"{item.relation} {_shown(item.required)}".strip(),
            item.status if item.ratio is None else f"{item.status}, for factors up to {item.ratio:.3g}",
            item.note,
        )
        for item in conditions
    ]
    return text_table(("condition", "actual", "required", "status", "note"), rows)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in aligned columns below a header; nothing if there are none, and no column that is empty.

    Example:
        >>> text_table(("a", "b"), [("1", "")])
        ['  a', '  1']
    """
    if not rows:
        return []
    used = [k for k in range(len(header)) if any(row[k] for row in rows)]
    widths = [max(len(row[k]) for row in [header, *rows]) for k in used]
    return [
        "  " + "  ".join(row[k].ljust(width) for k, width in zip(used, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
