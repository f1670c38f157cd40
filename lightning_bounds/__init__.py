"""PyTorch Lightning callbacks that show, during any training, what theory says about why the network generalizes."""

from lightning_bounds.callbacks import (
    BatchNormMargin,
    GeneralizationBound,
    JacobianSpectrum,
    MarginMonitor,
    NearlyLinear,
    ResidualProjection,
    TrajectoryMonitor,
)
from lightning_bounds.jacobian import JacobianOperator, Spectrum, jacobian_spectrum
from lightning_bounds.probe import Probe
from lightning_bounds.schedule import Schedule
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.information_space import InformationSpace

__all__ = [
    "BatchNormMargin",
    "GeneralizationBound",
    "InformationSpace",
    "JacobianOperator",
    "JacobianSpectrum",
    "MarginMonitor",
    "NearlyLinear",
    "Probe",
    "ResidualProjection",
    "Schedule",
    "Snapshot",
    "Spectrum",
    "TrajectoryMonitor",
    "jacobian_spectrum",
]
