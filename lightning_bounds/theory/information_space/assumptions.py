"""What the generalization theorems of this topic share: their parameters, their assumptions, their caveats."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_positive, check_probability
from lightning_bounds.theory.bound import Condition, Term, condition
from lightning_bounds.theory.gaussian.activations import DerivativeBounds, derivative_bounds

# A12, and the scope of Eq. (3.1) for a single output.
CAVEATS = (
    "The initial weights, and with them the two spaces, must not depend on the sample of the bound: not for an iterate "
    "of this training, nor for a model that was trained on the same data (A12).",
    "The class of functions has a radius that depends on the labels, and no union over radii is taken (A12).",
    "The error is that of full-batch gradient descent on the summed loss 1/2 |f - y|^2, hidden layer alone, after "
    "`iterations` steps of `learning_rate`.",
)
SINGLE_OUTPUT = (
    "With one output the argmax is never wrong: take labels +-1, and read the value as the error of the sign."
)


@dataclass(frozen=True)
class Setting:
    """The inputs and the activation as the theorems see them.

    Attributes:
        num_samples: ``n``.
        spectral_norm: ``|X|``.
        row_deviation: Largest ``||x_i| - 1|``.
        derivatives: Suprema of ``|φ'|`` and ``|φ''|``, and ``|φ(0)|``.
    """

    num_samples: int
    spectral_norm: float
    row_deviation: float
    derivatives: DerivativeBounds

    @property
    def B(self) -> float:  # noqa: N802  (the paper's letter)
        """``B``: the largest of the three numbers; without ``|φ''|`` if it has no bound, which a condition says."""
        everything = self.derivatives.bound
        return everything if math.isfinite(everything) else max(self.derivatives.first, self.derivatives.at_zero)

    def conditions(self) -> list[Condition]:
        """Inputs of norm 1, and a smooth activation (pitfalls: other norms; ReLU)."""
        first, second, _ = self.derivatives
        return [
            condition("input_norm_deviation", self.row_deviation, "<=", 1e-6, note="inputs of norm 1"),
            condition("first_derivative", first, "<", math.inf, note="|phi'| is bounded"),
            condition("second_derivative", second, "<=", self.B, note="|phi''| <= B; not so for ReLU"),
        ]


def setting(inputs: Tensor, activation: str | Callable[[Tensor], Tensor]) -> Setting:
    """The setting of inputs ``(n, d)`` and an activation.

    Raises:
        ValueError: If the inputs are no finite matrix, or the activation is unknown.
    """
    if inputs.dim() != 2 or inputs.numel() == 0 or not bool(inputs.isfinite().all()):
        raise ValueError(f"Expected finite inputs (n, d), but got shape {tuple(inputs.shape)}.")
    X = inputs.detach().double()
    deviation = float((X.norm(dim=1) - 1).abs().max())
    return Setting(len(X), float(torch.linalg.matrix_norm(X, 2)), deviation, derivative_bounds(activation))


def check_parameters(alpha_bar: float, Gamma: float, zeta: float, delta: float) -> None:
    """Raise ValueError unless the parameters are in the range of Theorems 3.2 and 3.3."""
    if not 0 <= alpha_bar < math.inf:
        raise ValueError(f"Expected `alpha_bar`, the relative cut-off, to be finite, 0 or more, but got {alpha_bar}.")
    if not 1 <= Gamma < math.inf:
        raise ValueError(f"Expected `Gamma` of at least 1, the learning duration, but got {Gamma}.")
    if not 0 < zeta <= 0.5:
        raise ValueError(f"Expected `zeta` in (0, 1/2], the precision, but got {zeta}.")
    check_probability("delta", delta)


def width_condition(
    name: str, width: int | None, required: float, *, hidden: bool = False, factor: float | None = None, note: str
) -> Condition:
    """``width >= required``, undecided if no width is given."""
    if width is None:
        return Condition(name, "not given", ">=", required, None, note=note)
    check_positive("width", width)
    return condition(name, width, ">=", required, hidden=hidden, factor=factor, note=note)


def cutoff_conditions(cutoff: float, singular_values: Tensor, noise_floor: float) -> list[Condition]:
    """``α <= λ_1``; a cut-off above the noise floor; and none so close to a singular value that rounding decides."""
    largest = float(singular_values.max())
    gap = float((singular_values - cutoff).abs().min()) if math.isfinite(cutoff) else math.inf
    return [
        condition("cutoff", cutoff, "<=", largest, note="alpha <= lambda_1, Definition 2.1"),
        condition("cutoff_resolved", cutoff, ">=", noise_floor, note="alpha above the noise floor"),
        Condition(
            "cutoff_gap", gap, ">", noise_floor, True if gap > noise_floor else None, note="rounding decides below"
        ),
    ]


def chance_term(delta: float, num_samples: int, factor: float = 5.0) -> Term:
    """``5 √(log(2/δ) / n)``; the proof gives ``2√5`` (erratum A13)."""
    value = factor * math.sqrt(math.log(2 / delta) / num_samples)
    return Term("chance", value, f"{factor:.4g} sqrt(log(2/delta) / n)", "more samples")
