"""How a theorem on training reports itself: rate, distance, path, and whether what it assumes holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_bounds.theory.bound import Condition, conditions_table, conditions_to_dicts, text_table

_NUMBERS = (
    ("learning_rate", "step size of the summed loss 1/2 Σ (f - y)²"),
    ("rate", "q in |r_t|² <= (1 - q)^t |r_0|²"),
    ("printed_rate", "q in |r_t| <= (1 - q)^t |r_0|, as printed"),
    ("initial_residual", "bound on |r_0|"),
    ("distance_coefficient", "a in a |W_t - W_0|_F + |r_t| <= |r_0|"),
    ("printed_distance_coefficient", "a, as printed"),
    ("radius", "bound on |W_t - W_0|_F"),
    ("path_length", "bound on Σ |W_{t+1} - W_t|_F"),
    ("printed_path_length", "bound on the path, as printed"),
    ("probability", "with which it holds, if the conditions do"),
    ("printed_probability", "as printed"),
)


@dataclass(frozen=True)
class Guarantee:
    """What a theorem guarantees about the training of a network on the summed loss ``1/2 Σ_i (f(x_i) - y_i)²``.

    A loss that is averaged over ``n`` samples needs a step size ``n`` times as large. None stands for what the theorem
    does not state. Where the print and the proof of a paper disagree, the plain name is what the proof gives.

    Attributes:
        name: Name of the theorem, in words.
        source: Paper, theorem, errata.
        learning_rate: The step size that the theorem asks for.
        rate: ``q`` in ``|r_t|² <= (1 - q)^t |r_0|²``, per step, of the SQUARED residual ``r = f - y``.
        printed_rate: ``q`` as printed: of the residual, ``|r_t| <= (1 - q)^t |r_0|``, unless
            ``caveats`` say otherwise.
        initial_residual: What ``|r_0|`` is at most, with ``probability``.
        distance_coefficient: ``a`` in ``a |W_t - W_0|_F + |r_t| <= |r_0|``, at every step.
        printed_distance_coefficient: The same as printed.
        path_length: What the sum of ``|W_{t+1} - W_t|_F`` over all steps is at most, at ``|r_0| = initial_residual``.
        printed_path_length: The same as printed.
        max_distance: Bound on ``|W_t - W_0|_F`` of a theorem that states one by itself.
        probability: With which all this holds, if the conditions do. Negative where the statement is empty.
        printed_probability: The same as printed.
        conditions: What the theorem assumes.
        assumptions: Values taken for what the paper leaves open.
        caveats: What no number can check.

    Raises:
        ValueError: If a number is NaN.

    Example:
        >>> guarantee = Guarantee("toy", "nowhere", 0.1, rate=0.19, initial_residual=2.0, distance_coefficient=0.5)
        >>> round(guarantee.residual_bound(2), 6), guarantee.distance_bound(1.0), guarantee.radius
        (1.62, 2.0, 4.0)
    """

    name: str
    source: str
    learning_rate: float
    rate: float
    printed_rate: float | None = None
    initial_residual: float | None = None
    distance_coefficient: float | None = None
    printed_distance_coefficient: float | None = None
    path_length: float | None = None
    printed_path_length: float | None = None
    max_distance: float | None = None
    probability: float | None = None
    printed_probability: float | None = None
    conditions: Sequence[Condition] = ()
    assumptions: Mapping[str, float] = field(default_factory=dict)
    caveats: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "caveats", tuple(self.caveats))
        for name, value in self.numbers.items():
            if math.isnan(value):
                raise ValueError(f"Expected a number or infinity as `{name}` of {self.name!r}, but got NaN.")

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers that the theorem states, by name."""
        values = {name: getattr(self, name) for name, _ in _NUMBERS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def valid(self) -> bool:
        """Whether no condition is violated; conditions that depend on a hidden factor are not counted."""
        return all(item.holds is not False for item in self.conditions)

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing: no progress is guaranteed, or with no positive probability."""
        return self.rate <= 0 or (self.probability is not None and self.probability <= 0)

    @property
    def radius(self) -> float | None:
        """How far the weights may go from the initial ones: ``max_distance``, or ``initial_residual / a``."""
        if self.max_distance is not None or self.initial_residual is None or self.distance_coefficient is None:
            return self.max_distance
        return self.distance_bound(0.0)

    def residual_bound(self, step: int, initial_residual: float | None = None) -> float:
        """``(1 - q)^{t/2} |r_0|``, the guaranteed residual after ``t`` steps.

        Args:
            step: ``t``.
            initial_residual: ``|r_0|``; by default what it is at most.

        Raises:
            ValueError: If the step is negative, or ``|r_0|`` is neither given nor bounded by the theorem.
        """
        if step < 0:
            raise ValueError(f"Expected `step` of 0 or more, but got {step}.")
        # In logarithms, which keep their digits for tiny rates and many steps.
        decay = math.exp(step / 2 * math.log1p(-self.rate)) if self.rate < 1 else float(step == 0)
        return decay * self._initial(initial_residual)

    def distance_bound(self, residual: float, initial_residual: float | None = None) -> float:
        """``(|r_0| - |r_t|) / a``: how far the weights can be from the initial ones where the residual is ``|r_t|``.

        Raises:
            ValueError: If the theorem states no such relation, or ``|r_0|`` is neither given nor bounded by it.
        """
        if self.distance_coefficient is None:
            raise ValueError(f"Expected a theorem that relates distance and residual, but {self.name!r} does not.")
        spent = self._initial(initial_residual) - residual
        return spent / self.distance_coefficient if self.distance_coefficient > 0 else math.inf

    def _initial(self, initial_residual: float | None) -> float:
        value = self.initial_residual if initial_residual is None else initial_residual
        if value is None:
            raise ValueError(f"Expected `initial_residual`, which {self.name!r} does not bound; pass the norm of r_0.")
        return value

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, for JSON; infinities stay floats."""
        return {
            "name": self.name,
            "source": self.source,
            **self.numbers,
            "conditions": conditions_to_dicts(self.conditions),
            "valid": self.valid,
            "vacuous": self.vacuous,
            "assumptions": dict(self.assumptions),
            "caveats": list(self.caveats),
        }

    def __str__(self) -> str:
        verdict = "conditions hold" if self.valid else "conditions violated"
        if self.valid and any(item.holds is None for item in self.conditions):
            verdict = "no condition violated, some unknown"
        if self.vacuous:
            verdict += ", vacuous"
        meanings = dict(_NUMBERS)
        rows = [(name, f"{value:.6g}", meanings[name]) for name, value in self.numbers.items()]
        lines = [f"{self.name} ({verdict})", f"  {self.source}"]
        lines += text_table(("quantity", "value", "meaning"), rows) + conditions_table(self.conditions)
        lines += [f"  assumed: {name} = {value:g}" for name, value in self.assumptions.items()]
        return "\n".join([*lines, *(f"  caveat: {caveat}" for caveat in self.caveats)])
