"""The setting that all convergence theorems of the paper share, and the numbers that they take from it."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, check_count, check_not_negative, check_positive
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.gaussian import derivative_bounds
from lightning_bounds.theory.gaussian.activations import Elementwise
from lightning_bounds.theory.overparameterization.initialization import (
    checked_labels,
    spectral_norm,
    unit_rows,
    width_of_initialization,
)

INITIALIZATION = "W_0 has independent N(0, 1) entries, v is fixed: half +|y|/sqrt(kn), half -|y|/sqrt(kn)"
GRID = "B is the largest value on a grid, no proof: the activation is a function without a name"


@dataclass(frozen=True)
class Setting:
    """Data, network and step as the theorems see them.

    Attributes:
        num_samples: ``n``.
        num_features: ``d``.
        spectral_norm: ``‖X‖``.
        label_norm: ``‖y‖``.
        width: ``k``.
        step_fraction: ``η̄``, the part of the largest step size.
        tolerance: ``δ`` of the theorem.
        unit: Whether the rows have norm 1.
    """

    num_samples: int
    num_features: int
    spectral_norm: float
    label_norm: float
    width: int
    step_fraction: float
    tolerance: float
    unit: Condition

    def step(self, denominator: float) -> float:
        """``η̄ n / (denominator ‖y‖² ‖X‖²)``."""
        norms = self.label_norm * self.spectral_norm
        return self.step_fraction * self.num_samples / (denominator * norms * norms)

    def distance_coefficient(self, eigenvalue: float, divisor: int) -> float:
        """``‖y‖ √(λ / (divisor n))``."""
        return self.label_norm * math.sqrt(eigenvalue / (divisor * self.num_samples))

    def initial_width(self, eigenvalue: float, bound: float) -> Condition:
        """Condition of Lemma 6.7 for the weights ``v`` of the theorems."""
        ratio = math.sqrt(2 * (self.width // 2))
        return width_of_initialization(self.num_samples, self.spectral_norm, ratio, eigenvalue, bound)

    def common_conditions(self, eigenvalue: float) -> list[Condition]:
        """Rows of norm 1, the step size, and data that the theorem can tell apart."""
        return [
            self.unit,
            condition("step_fraction", self.step_fraction, "<=", 1.0, note="largest step size of the theorem"),
            condition("lambda", eigenvalue, ">", 0.0, note="smallest eigenvalue of the neural covariance"),
        ]


def setting(inputs: Tensor, labels: Tensor, width: int, step_fraction: float, tolerance: float) -> Setting:
    """Check the arguments of a theorem and take the numbers that it needs.

    Raises:
        ValueError: If inputs or labels are not finite or do not match, or a number is out of range.
    """
    inputs = as_inputs(inputs)
    labels = checked_labels(labels, len(inputs))
    check_count("width", width, least=2)
    for name, value in (("step_fraction", step_fraction), ("tolerance", tolerance)):
        check_positive(name, value)
    norm = spectral_norm(inputs)
    if norm == 0:
        raise ValueError("Expected inputs other than zero, but got zeros only.")
    return Setting(
        num_samples=inputs.shape[0],
        num_features=inputs.shape[1],
        spectral_norm=norm,
        label_norm=float(labels.norm()),
        width=width,
        step_fraction=float(step_fraction),
        tolerance=float(tolerance),
        unit=unit_rows(inputs),
    )


def checked_bound(activation: str | Elementwise) -> float:
    """``B = max(sup |φ'|, sup |φ''|, |φ(0)|)``.

    Raises:
        ValueError: If the activation is unknown or constant.
    """
    bounds = derivative_bounds(activation)
    if bounds.first == 0:
        raise ValueError("Expected an activation that is not constant, but its derivative is 0 everywhere.")
    return bounds.bound


def checked_eigenvalue(eigenvalue: float | None) -> float | None:
    """The lower bound of the eigenvalue that the caller gives, if any.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if eigenvalue is None:
        return None
    check_not_negative("smallest_eigenvalue", eigenvalue)
    return float(eigenvalue)
