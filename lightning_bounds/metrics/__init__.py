"""torchmetrics that stream over batches and reduce over processes: errors, fitted label noise, margins."""

from lightning_bounds.metrics.fitted_flips import FittedFlips
from lightning_bounds.metrics.margin_distribution import MarginDistribution
from lightning_bounds.metrics.misclassification import Misclassification

__all__ = ["FittedFlips", "MarginDistribution", "Misclassification"]
