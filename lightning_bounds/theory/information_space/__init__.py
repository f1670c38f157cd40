"""Information and nuisance spaces of the Jacobian, and what they guarantee (Oymak, Fabian, Li, Soltanolkotabi 2019)."""

from lightning_bounds.theory.information_space.arbitrary_initialization import arbitrary_initialization_bound
from lightning_bounds.theory.information_space.consequences import (
    full_rank_bound,
    simplified_random_initialization_bound,
)
from lightning_bounds.theory.information_space.early_stopping import (
    EarlyStoppingLimits,
    StoppingTime,
    early_stopping_distance,
    early_stopping_limits,
    early_stopping_value,
    stopping_time,
)
from lightning_bounds.theory.information_space.kernel import (
    KernelSpectrum,
    class_major,
    kernel_spectrum,
    multiclass_kernel,
    neural_spectrum,
    sample_major,
)
from lightning_bounds.theory.information_space.linear_model import PopulationLoss, population_loss
from lightning_bounds.theory.information_space.linearized import (
    linearized_displacement,
    linearized_distance_bound,
    linearized_residual,
    linearized_residual_bound,
)
from lightning_bounds.theory.information_space.meta_theorem import Tracking, meta_theorem, perturbation_bound
from lightning_bounds.theory.information_space.mixture import (
    MixtureSpectrum,
    mixture_bound,
    mixture_iterations,
    mixture_perturbation,
    mixture_spectrum,
    projector_deviation,
)
from lightning_bounds.theory.information_space.rademacher import (
    average_energy,
    classification_bound,
    loss_bound,
    rademacher_bound,
)
from lightning_bounds.theory.information_space.random_initialization import (
    RandomInitializationTrajectory,
    random_initialization_bound,
    random_initialization_trajectory,
)
from lightning_bounds.theory.information_space.reference import (
    ReferenceDeviation,
    reference_deviation,
    reference_jacobian,
)
from lightning_bounds.theory.information_space.space import Alignment, InformationSpace, check_rule, information_space
from lightning_bounds.theory.information_space.two_layer import (
    JacobianBounds,
    hidden_gradient,
    hidden_gram,
    hidden_jacobian,
    hidden_jacobian_bounds,
    joint_jacobian,
    joint_jacobian_bounds,
    joint_jacobian_deviation,
    output_jacobian,
)

__all__ = [
    "Alignment",
    "EarlyStoppingLimits",
    "InformationSpace",
    "JacobianBounds",
    "KernelSpectrum",
    "MixtureSpectrum",
    "PopulationLoss",
    "RandomInitializationTrajectory",
    "ReferenceDeviation",
    "StoppingTime",
    "Tracking",
    "arbitrary_initialization_bound",
    "average_energy",
    "check_rule",
    "class_major",
    "classification_bound",
    "early_stopping_distance",
    "early_stopping_limits",
    "early_stopping_value",
    "full_rank_bound",
    "hidden_gradient",
    "hidden_gram",
    "hidden_jacobian",
    "hidden_jacobian_bounds",
    "information_space",
    "joint_jacobian",
    "joint_jacobian_bounds",
    "joint_jacobian_deviation",
    "kernel_spectrum",
    "linearized_displacement",
    "linearized_distance_bound",
    "linearized_residual",
    "linearized_residual_bound",
    "loss_bound",
    "meta_theorem",
    "mixture_bound",
    "mixture_iterations",
    "mixture_perturbation",
    "mixture_spectrum",
    "multiclass_kernel",
    "neural_spectrum",
    "output_jacobian",
    "perturbation_bound",
    "population_loss",
    "projector_deviation",
    "rademacher_bound",
    "random_initialization_bound",
    "random_initialization_trajectory",
    "reference_deviation",
    "reference_jacobian",
    "sample_major",
    "simplified_random_initialization_bound",
    "stopping_time",
]
