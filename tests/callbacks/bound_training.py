"""What the tests of the bounds during training share: unit-norm samples, two-layer networks, full-batch descent."""

import copy

import torch
from small_training import quiet_trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import Schedule
from lightning_bounds.callbacks.generalization_bound import GeneralizationBound
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised, TwoLayerNetwork

COUNT, FEATURES, WIDTH, RATE = 12, 4, 30, 0.05
NUMBERS = {"alpha_bar": 0.2, "Gamma": 1.5, "zeta": 0.2, "delta": 0.1}
RADII = {"distance": 2.0, "row_distance": 3.0, "delta": 0.1}
CENTERS = torch.eye(4).tolist()
# Every bound that can be asked for, with what each needs.
SETTINGS = {
    "fine_grained": {"delta": 0.1},
    "fine_grained_certificate": {"row_radius": 0.5, "num_radii": 20, "delta": 0.1},
    "information_space_random_initialization": NUMBERS,
    "information_space_simplified_random_initialization": NUMBERS,
    "information_space_full_rank": {"delta": 0.1},
    "information_space_arbitrary_initialization": NUMBERS,
    "information_space_mixture": {"centers": CENTERS, "sigma": 0.1, "Gamma": 1.5, "zeta": 0.2, "delta": 0.1},
    "information_space_classification": RADII,
    "information_space_loss": RADII,
}


def data(count=COUNT, classes=2, seed=3, norm=1.0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64).to(torch.get_default_dtype())
    classes = torch.arange(count) % classes
    return norm * inputs / inputs.norm(dim=1, keepdim=True), classes


def network(outputs=1, activation="relu", initialization="fine_grained", **options):
    scale = {"input_scale": 0.5} if initialization == "fine_grained" else {}
    return TwoLayerNetwork(FEATURES, WIDTH, outputs, activation, initialization, seed=0, **{**scale, **options})


def supervised(net=None, lr=RATE, momentum=0.0, **options):
    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum)

    return Supervised(network() if net is None else net, **{"reduction": "sum", "optimizer": optimizer, **options})


def callback(bounds=None, **options):
    schedule = options.pop("schedule", Schedule(every_n_epochs=1))
    return GeneralizationBound(bounds or {"fine_grained": SETTINGS["fine_grained"]}, schedule=schedule, **options)


class Copies(pl.Callback):
    """Copies of the network before training and after every step."""

    def __init__(self):
        self.by_step = {}

    def on_train_start(self, trainer, pl_module):
        self.by_step[0] = copy.deepcopy(pl_module.network)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.by_step[trainer.global_step] = copy.deepcopy(pl_module.network)


def train(callbacks, module=None, samples=None, batch_size=COUNT, val=True, ckpt_path=None, **options):
    """Three steps, one an epoch; the loaders have two batches of validation data, test and training set."""
    inputs, targets = data() if samples is None else samples
    loader = DataLoader(TensorDataset(inputs, targets), batch_size)
    test = DataLoader(TensorDataset(*data(20, int(targets.max()) + 1, seed=4)), 20)
    trainer = quiet_trainer(callbacks, **{"max_epochs": 3, **options})
    trainer.fit(module or supervised(), loader, [test, loader] if val else None, ckpt_path=ckpt_path)
    return trainer
