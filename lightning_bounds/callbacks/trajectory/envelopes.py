"""The envelopes that a guarantee puts around a training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_bounds.theory.bound import Condition
from lightning_bounds.theory.guarantee import Guarantee
from lightning_bounds.theory.information_space import Tracking

# What is measured in float32 is off by its rounding, and no residual falls below it.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Envelope:
    """A guarantee applied to one training.

    Attributes:
        theorem: What is guaranteed.
        initial_residual: Measured ``|r_0|``.
    """

    theorem: Guarantee | Tracking
    initial_residual: float

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the theorem assumes."""
        return tuple(self.theorem.conditions)

    def limits(self, step: int, residual: float, linearized: float) -> dict[str, float]:
        """The largest residual, distance and path that are guaranteed after some steps, where one is stated.

        Args:
            step: ``t``.
            residual: Measured ``|r_t|``: what is left of it can still be traveled for.
            linearized: ``|r~_t|`` of the linearized model.

        Example:
            >>> theorem = Guarantee("toy", "nowhere", 0.1, rate=0.19, distance_coefficient=0.5)
            >>> {name: round(limit, 6) for name, limit in Envelope(theorem, 2.0).limits(2, 1.5, 1.4).items()}
            {'residual': 1.62, 'distance': 1.0}
        """
        if isinstance(self.theorem, Tracking):
            tracking = self.theorem
            limits = {"residual": linearized + tracking.residual_deviation, "distance": tracking.sharp_distance}
            # Eqs. (5.12) and (5.13) end with T.
            return limits if step <= tracking.stopping.time else {}
        limits = {"residual": self.theorem.residual_bound(step, self.initial_residual)}
        if self.theorem.max_distance is not None:
            limits["distance"] = self.theorem.max_distance
        elif self.theorem.distance_coefficient is not None:
            limits["distance"] = self.theorem.distance_bound(residual, self.initial_residual)
        path, assumed = self.theorem.path_length, self.theorem.initial_residual
        if path is not None and assumed is not None:
            # The length is stated for the largest |r_0|, to which it is proportional.
            limits["path"] = path * self.initial_residual / assumed if assumed > 0 else path
        return limits

    def values(self, step: int, measured: Mapping[str, float], linearized: float) -> dict[str, float]:
        """What is logged of it, without limits that are infinite.

        Args:
            step: ``t``.
            measured: ``residual``, ``distance`` and ``path``.
            linearized: ``|r~_t|`` of the linearized model.
        """
        limits = self.limits(step, measured["residual"], linearized)
        finite = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
        empty = isinstance(self.theorem, Guarantee) and self.theorem.vacuous
        values = {f"{name}_envelope": limit for name, limit in finite.items()}
        values["valid"] = float(self.theorem.valid)
        values["vacuous"] = float(empty or len(finite) < len(limits) or not limits)
        if finite:
            slack = {"residual": self.initial_residual, "distance": measured["distance"], "path": measured["path"]}
            values["within"] = float(all(measured[n] <= limit + _ROUNDING * slack[n] for n, limit in finite.items()))
        return values
