"""All numbers of an inspection, as plain dictionaries that become the JSON file: functions of tensors alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspecting.samples import LabelSet
from lightning_bounds.theory import fine_grained, gaussian, information_space, overparameterization
from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.fine_grained.trajectory import log_shrinkage, to_fit
from lightning_bounds.theory.gaussian import activation_function
from lightning_bounds.theory.information_space.assumptions import check_parameters

# How many points a curve of predicted residuals has, about.
_CURVE_POINTS = 60


@dataclass(frozen=True)
class Settings:
    """What the theorems want to know; see the configuration."""

    activations: Sequence[str]
    targets: Sequence[float]
    delta: float
    widths: Sequence[int]
    kappa: float
    alpha_bars: Sequence[float]
    Gamma: float
    zeta: float

    def __post_init__(self) -> None:
        if not self.targets or not all(0 < target < 1 for target in self.targets):
            raise ValueError(f"Expected `targets`, relative residuals in (0, 1), but got {list(self.targets)}.")
        if not self.widths or not all(isinstance(width, int) and width >= 2 for width in self.widths):
            raise ValueError(f"Expected `widths`, integers of at least 2, but got {list(self.widths)}.")
        for activation in self.activations:
            activation_function(activation)
        if "relu" in self.activations or len(set(self.activations)) < len(self.activations):
            raise ValueError(
                f"Expected different `activations`, without relu, which is there anyway, but got {self.activations}."
            )
        check_parameters(min(self.alpha_bars, default=0.0), self.Gamma, self.zeta, self.delta)
        check_positive("kappa", self.kappa)

    @property
    def width(self) -> int:
        """The largest width, for which the bounds are."""
        return max(self.widths)


@dataclass(frozen=True, eq=False)
class Descent:
    """Gradient descent on ``H_infinity`` at the learning rate ``1 / λ_1``, where it is still monotone.

    Attributes:
        eigenvalues: ``λ_i``, descending; those below the noise floor are 0.
        vectors: Eigenvectors as columns.
        learning_rate: ``1 / λ_1``, for the sum loss.
    """

    eigenvalues: Tensor
    vectors: Tensor
    learning_rate: float

    def energies(self, labels: Tensor) -> Tensor:
        """``Σ_c (v_i·y_c)² / Σ_c |y_c|²`` of the columns of labels ``(n, c)``, shape ``(n,)``."""
        return (self.vectors.T @ labels).square().sum(dim=1) / labels.square().sum()

    def relative_residual(self, energies: Tensor, step: int) -> float:
        """``|y - u(k)| / |y|`` after ``k >= 1`` steps, Eq. (8) of Arora et al. 2019."""
        exponents = 2 * step * log_shrinkage(self.eigenvalues, self.learning_rate)
        return float((energies * exponents.exp()).sum().sqrt())

    def steps_to(self, energies: Tensor, target: float) -> float:
        """The first step at which the relative residual is at most ``target``; infinite if it never is."""
        if float(energies[self.eigenvalues == 0].sum().sqrt()) > target:
            return math.inf
        low, high = 0, 1
        while self.relative_residual(energies, high) > target:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.relative_residual(energies, middle) > target else (low, middle)
        return high


def descent_of(gram: Tensor) -> Descent:
    """Eigenvalues and eigenvectors of ``H_infinity``, and the learning rate that they allow."""
    eigenvalues, _, vectors = to_fit(gram, torch.ones(len(gram), dtype=torch.float64))
    return Descent(eigenvalues, vectors, 1 / float(eigenvalues[0]))


def measure_inputs(inputs: Tensor) -> dict[str, float]:
    """Norms, separation and Khatri-Rao conditioning of the inputs (Oymak & Soltanolkotabi 2019)."""
    norms = inputs.norm(dim=1)
    return {
        "samples": len(inputs),
        "features": inputs.shape[1],
        "norm_deviation": float((norms - 1).abs().max()),
        "spectral_norm": overparameterization.spectral_norm(inputs),
        "separation": overparameterization.separation(inputs),
        "khatri_rao_sigma_min": overparameterization.khatri_rao_sigma_min(inputs),
        "kappa": overparameterization.kappa(inputs),
    }


def measure_kernel(inputs: Tensor, activation: str, gram: Tensor | None = None) -> dict[str, Any]:
    """Spectrum of the neural covariance of an activation; that of ReLU is ``H_infinity``."""
    gram = gaussian.neural_covariance(inputs, activation) if gram is None else gram
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0).flip(0)
    largest, smallest = float(eigenvalues[0]), overparameterization.neural_eigenvalue(inputs, activation)
    return {
        "largest_eigenvalue": largest,
        "smallest_eigenvalue": smallest,
        "condition_number": largest / smallest if smallest > 0 else math.inf,
        "kappa_tilde": overparameterization.kappa_tilde(inputs, activation),
        "effective_dimension": float(eigenvalues.sum() / largest),
        "learning_rate_monotone": 1 / largest,
        "learning_rate_limit": 2 / largest,
        "eigenvalues": eigenvalues.tolist(),
    }


def measure_column(inputs: Tensor, labels: Tensor, descent: Descent, settings: Settings) -> dict[str, Any]:
    """Complexity of labels of a single output, and the bound of Theorem 5.1 of Arora et al. 2019."""
    summary = fine_grained.kernel_summary(inputs, labels)
    steps = descent.steps_to(descent.energies(labels.unsqueeze(1)), min(settings.targets))
    bound = fine_grained.generalization_bound(
        inputs,
        labels,
        delta=settings.delta,
        width=settings.width,
        kappa=settings.kappa,
        learning_rate=descent.learning_rate,
        steps=int(steps) if math.isfinite(steps) else None,
    )
    return {
        "complexity": summary.complexity,
        "inverse_form": summary.inverse_form,
        "relative_accuracy": summary.relative_accuracy,
        "status": summary.status,
        "null_energy": summary.null_energy,
        "generalization_bound": bound.to_dict(),
    }


def measure_dynamics(label_set: LabelSet, descent: Descent, targets: Sequence[float]) -> dict[str, Any]:
    """Energies of a set of labels on the eigenvectors, all columns together, and the predicted descent."""
    energies = descent.energies(label_set.matrix)
    steps = {str(target): descent.steps_to(energies, target) for target in targets}
    last = max([count for count in steps.values() if math.isfinite(count)], default=1000.0)
    grid = torch.logspace(0, math.log10(2 * last), _CURVE_POINTS, dtype=torch.float64).round().long().unique().tolist()
    return {
        "cumulative_energy": energies.cumsum(0).tolist(),
        "steps_to_relative_residual": steps,
        "curve": {"steps": grid, "relative_residual": [descent.relative_residual(energies, k) for k in grid]},
    }


def measure_random_initialization(
    inputs: Tensor, label_sets: Mapping[str, LabelSet], activation: str, settings: Settings
) -> Iterator[dict[str, Any]]:
    """Theorem 3.2 of Oymak et al. 2019 for each relative cut-off and each set of coded labels, one by one."""
    for name, label_set in label_sets.items():
        for alpha_bar in settings.alpha_bars if label_set.coded is not None else ():
            bound = information_space.random_initialization_bound(
                inputs,
                label_set.coded,
                activation=activation,
                alpha_bar=alpha_bar,
                Gamma=settings.Gamma,
                zeta=settings.zeta,
                delta=settings.delta,
                width=settings.width,
            )
            yield {"labels": name, "activation": activation, "alpha_bar": alpha_bar, "bound": bound.to_dict()}


def measure_guarantees(
    inputs: Tensor, labels: Tensor, activations: Sequence[str], width: int
) -> dict[str, dict[str, Any]]:
    """Step sizes, rates and widths of Oymak & Soltanolkotabi 2019: Theorem 6.3 for ReLU, 6.2 for smooth activations."""
    guarantees = {"relu": overparameterization.relu_guarantee(inputs, labels, width=width)}
    for activation in activations:
        guarantees[activation] = overparameterization.smooth_guarantee(
            inputs, labels, width=width, activation=activation
        )
    return {name: guarantee.to_dict() for name, guarantee in guarantees.items()}


def needed_widths(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many hidden units each theorem asks for: with the factor 1 where it hides one, and with that of its proof."""
    d = results["inputs"]["features"]
    first = next(iter(results["labels"]["true"]["columns"].values()))["generalization_bound"]
    rows = [("Arora et al. 2019, Theorem 3.1", "hidden, as 1", _required(first, "width"))]
    for name, guarantee in results["guarantees"].items():
        if name == "relu":
            theorem, power, condition, divisor = "Theorem 6.3, relu", 1, "width", 1
        else:
            theorem, power, condition, divisor = f"Theorem 6.2, {name}", 2, "sqrt(k d)", d
        for factor, suffix in (("hidden, as 1", ""), ("of the proof", ", explicit")):
            needed = _required(guarantee, condition + suffix) ** power / divisor
            rows.append((f"Oymak & Soltanolkotabi 2019, {theorem}", factor, needed))
    best = best_random_initialization(results["random_initialization"], "true")
    if best is not None:
        theorem = f"Oymak et al. 2019, Theorem 3.2, {best['activation']}, alpha_bar = {best['alpha_bar']:g}"
        for factor, condition in (("hidden, as 1", "width"), ("of the proof", "width_of_proof")):
            rows.append((theorem, factor, _required(best["bound"], condition)))
    return [{"theorem": theorem, "factor": factor, "width": width} for theorem, factor, width in rows]


def best_random_initialization(entries: Sequence[Mapping[str, Any]], labels: str) -> Mapping[str, Any] | None:
    """The entry with the smallest bound for a set of labels."""
    return min(
        (entry for entry in entries if entry["labels"] == labels),
        key=lambda entry: entry["bound"]["value"],
        default=None,
    )


def _required(report: Mapping[str, Any], name: str) -> float:
    (required,) = [float(item["required"]) for item in report["conditions"] if item["name"] == name]
    return required
