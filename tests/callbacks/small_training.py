"""What the tests of the callbacks share: tiny data, networks and modules, a quiet Trainer, and what it logged."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.lightning import pl


def samples(count=12, features=3, classes=2, seed=1):
    """Inputs and classes, whatever the state of the global random streams."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, features, generator=generator, dtype=torch.float64).to(torch.get_default_dtype())
    return inputs, torch.randint(classes, (count,), generator=generator)


def loader(count=12, batch_size=4, seed=1, classes=2, **options):
    return DataLoader(TensorDataset(*samples(count, classes=classes, seed=seed)), batch_size, **options)


def mlp(features=3, width=4, outputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, outputs))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return network


class Module(pl.LightningModule):
    """Least squares on one-hot labels by gradient descent with momentum."""

    def __init__(self, network=None, lr=0.1):
        super().__init__()
        self.network = mlp() if network is None else network
        self.lr = lr

    def forward(self, inputs):
        return self.network(inputs)

    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, nn.functional.one_hot(targets, outputs.shape[1]).to(outputs))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = self.loss(self(inputs), targets)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        self.log("val/loss", self.loss(self(inputs), targets))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def quiet_trainer(callbacks=(), logger=False, **options):
    options = {"max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": False, "accelerator": "cpu", **options}
    return pl.Trainer(
        callbacks=list(callbacks),
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(callbacks, module=None, train=None, val=None, ckpt_path=None, **options):
    """Train on 12 samples in batches of 4, three steps an epoch, two epochs."""
    trainer = quiet_trainer(callbacks, **options)
    # `False` stands for no validation data.
    val = loader(8, seed=2) if val is None else val
    train = loader() if train is None else train
    trainer.fit(module or Module(), train, None if val is False else val, ckpt_path=ckpt_path)
    return trainer


def series(callback, key):
    """Values of one name in the history by step; twice at one step fails."""
    found = [(row["step"], row[key]) for row in callback.history if key in row]
    assert len(found) == len(dict(found)), f"{key} was measured twice at one step: {found}"
    return dict(found)


def measured_steps(callback):
    """Steps of the measurements, in order; a failed one is a measurement too."""
    return [row["step"] for row in callback.history if f"bounds/status/{callback.topic}" in row]


def statuses(callback):
    """What each measurement said about itself, in order."""
    return [
        row[f"bounds/status/{callback.topic}"] for row in callback.history if f"bounds/status/{callback.topic}" in row
    ]


SMALL = Probe(num_samples=5)

# One of each kind, on small probes.
CALLBACKS = {
    "jacobian_spectrum": lambda **options: JacobianSpectrum(**{"probe": SMALL, **options}),
    "residual_projection": lambda **options: ResidualProjection(**{"probe": SMALL, "rank": 2, **options}),
    "margins": lambda **options: MarginMonitor(**{"probe": SMALL, **options}),
    "trajectory": lambda **options: TrajectoryMonitor(**options),
}


def every_callback(**options):
    """One of each kind, measuring at many moments, and the spectrum with batch statistics besides."""
    return [
        JacobianSpectrum(
            SMALL, splits=["train", "val"], schedule=Schedule(every_n_steps=2, every_n_epochs=1), **options
        ),
        ResidualProjection(rank=2, bases=["initial", 1, "current", "final"], probe=SMALL, **options),
        MarginMonitor(probe=SMALL, schedule=Schedule(every_n_epochs=1, steps=[1, 3]), **options),
        TrajectoryMonitor(schedule=Schedule(every_n_steps=3), **options),
    ]


def batch_statistics(**options):
    """The spectrum in training mode, through its own probe."""
    probe = Probe(num_samples=4, seed=1, mode="train")
    return JacobianSpectrum(probe, name="train_mode", schedule=Schedule(steps_per_decade=3), **options)
