"""Bounds on the error on fresh data, during training."""

from lightning_bounds.callbacks.generalization_bound.callback import GeneralizationBound

__all__ = ["GeneralizationBound"]
