"""Images, mixtures and functions as data, their preparation and label noise, as a Lightning data module."""

from lightning_bounds.data.image_data import ImageData
from lightning_bounds.data.module import ImageDataModule
from lightning_bounds.data.regression import RegressionData, RegressionDataModule
from lightning_bounds.data.whitened import WhitenedImageDataModule

__all__ = ["ImageData", "ImageDataModule", "RegressionData", "RegressionDataModule", "WhitenedImageDataModule"]
