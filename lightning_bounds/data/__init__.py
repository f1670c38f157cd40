"""Image data sets, their preparation and label noise, as a Lightning data module."""

from lightning_bounds.data.image_data import ImageData
from lightning_bounds.data.module import ImageDataModule

__all__ = ["ImageData", "ImageDataModule"]
