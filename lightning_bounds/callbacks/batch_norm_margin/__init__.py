"""Margins, normalizers and movement of networks with batch norm, during training."""

from lightning_bounds.callbacks.batch_norm_margin.callback import BatchNormMargin

__all__ = ["BatchNormMargin"]
