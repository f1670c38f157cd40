"""The callbacks: each measures one topic during training and never changes it."""

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.batch_norm_margin import BatchNormMargin
from lightning_bounds.callbacks.generalization_bound import GeneralizationBound
from lightning_bounds.callbacks.jacobian_spectrum import JacobianSpectrum
from lightning_bounds.callbacks.margins import MarginMonitor
from lightning_bounds.callbacks.nearly_linear import NearlyLinear
from lightning_bounds.callbacks.residual_projection import ResidualProjection
from lightning_bounds.callbacks.trajectory import TrajectoryMonitor

__all__ = [
    "BatchNormMargin",
    "DiagnosticCallback",
    "GeneralizationBound",
    "JacobianSpectrum",
    "MarginMonitor",
    "NearlyLinear",
    "ResidualProjection",
    "TrajectoryMonitor",
]
