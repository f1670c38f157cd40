"""The a-priori bound of nearly-linear networks, against what it bounds, during training."""

from lightning_bounds.callbacks.nearly_linear.callback import NearlyLinear

__all__ = ["NearlyLinear"]
