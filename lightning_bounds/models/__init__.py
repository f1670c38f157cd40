"""The papers' networks and losses as plain torch, and one LightningModule that trains any network."""

from lightning_bounds.models.batch_norm_network import BatchNormNetwork, TrainingSetStatistics
from lightning_bounds.models.loss import cross_entropy, least_squares, logistic
from lightning_bounds.models.nearly_linear import LeakyNetwork
from lightning_bounds.models.resnet import ResNet20
from lightning_bounds.models.supervised import Supervised
from lightning_bounds.models.two_layer import TwoLayerNetwork

__all__ = [
    "BatchNormNetwork",
    "LeakyNetwork",
    "ResNet20",
    "Supervised",
    "TrainingSetStatistics",
    "TwoLayerNetwork",
    "cross_entropy",
    "least_squares",
    "logistic",
]
