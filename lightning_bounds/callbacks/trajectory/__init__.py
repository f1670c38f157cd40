"""How far and along which way the weights travel, during training."""

from lightning_bounds.callbacks.trajectory.callback import TrajectoryMonitor

__all__ = ["TrajectoryMonitor"]
