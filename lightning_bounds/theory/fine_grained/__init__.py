"""Fine-grained analysis of two-layer ReLU networks (Arora, Du, Hu, Li, Wang 2019)."""

from lightning_bounds.theory.fine_grained.complexity import (
    KernelSummary,
    complexity_measure,
    gram_summary,
    kernel_summary,
)
from lightning_bounds.theory.fine_grained.convergence import initial_output_norm, linear_convergence, trajectory_bound
from lightning_bounds.theory.fine_grained.generalization import certificate, generalization_bound
from lightning_bounds.theory.fine_grained.kernel import finite_width_deviation, finite_width_gram, relu_gram
from lightning_bounds.theory.fine_grained.learnability import (
    LearnabilityBound,
    arctangent,
    cosine,
    linear,
    power_sum,
    quadratic,
    sample_size,
)
from lightning_bounds.theory.fine_grained.movement import movement_bound, movement_ratio, row_movement
from lightning_bounds.theory.fine_grained.predictor import kernel_predictions
from lightning_bounds.theory.fine_grained.projections import (
    EigenspaceEnergies,
    LabelProjections,
    eigenspace_energies,
    label_projections,
    worst_case_labels,
)
from lightning_bounds.theory.fine_grained.rademacher import (
    RademacherBound,
    rademacher_bound,
    ramp_loss,
    truncated_absolute_loss,
    uniform_deviation,
)
from lightning_bounds.theory.fine_grained.trajectory import (
    StepSize,
    auxiliary_movement,
    predicted_loss,
    predicted_residual_norm,
    step_size,
)

__all__ = [
    "EigenspaceEnergies",
    "KernelSummary",
    "LabelProjections",
    "LearnabilityBound",
    "RademacherBound",
    "StepSize",
    "arctangent",
    "auxiliary_movement",
    "certificate",
    "complexity_measure",
    "cosine",
    "eigenspace_energies",
    "finite_width_deviation",
    "finite_width_gram",
    "generalization_bound",
    "gram_summary",
    "initial_output_norm",
    "kernel_predictions",
    "kernel_summary",
    "label_projections",
    "linear",
    "linear_convergence",
    "movement_bound",
    "movement_ratio",
    "power_sum",
    "predicted_loss",
    "predicted_residual_norm",
    "quadratic",
    "rademacher_bound",
    "ramp_loss",
    "relu_gram",
    "row_movement",
    "sample_size",
    "step_size",
    "trajectory_bound",
    "truncated_absolute_loss",
    "uniform_deviation",
    "worst_case_labels",
]
