"""Gradient descent on a few samples of norm 1, which the tests of guarantees and predictions share."""

from functools import partial

import torch
from small_training import quiet_trainer
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import Schedule, TrajectoryMonitor
from lightning_bounds.models import Supervised, TwoLayerNetwork


def sphere(count=8, features=10, seed=0, classes=2):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, features, generator=generator)
    return inputs / inputs.norm(dim=1, keepdim=True), torch.randint(classes, (count,), generator=generator)


def two_layer(activation="relu", width=1000, features=10, initialization="overparameterization", seed=1, **options):
    return TwoLayerNetwork(features, width, activation=activation, initialization=initialization, seed=seed, **options)


def monitor(guarantees=None, every=10, **options):
    options = {"schedule": Schedule(every_n_steps=every), "on_error": "raise", **options}
    return TrajectoryMonitor(guarantees=guarantees, **options)


def descend(network, callbacks, data=None, lr=0.1, steps=20, batch_size=None, optimizer=SGD, logger=False, **options):
    """Train for some epochs, by default of one step on all samples with the summed loss."""
    inputs, targets = sphere() if data is None else data
    trainer_options = {name: options.pop(name) for name in ("accumulate_grad_batches", "ckpt_path") if name in options}
    path = trainer_options.pop("ckpt_path", None)
    settings = options.pop("settings", {})
    module = Supervised(network, optimizer=partial(optimizer, lr=lr, **settings), **{"reduction": "sum", **options})
    trainer = quiet_trainer(callbacks, logger, max_epochs=steps, **trainer_options)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size or len(inputs))
    trainer.fit(module, loader, ckpt_path=path)
    return trainer


def last(callback, key):
    """The last value of a name below the topic."""
    return [row[f"trajectory/{key}"] for row in callback.history if f"trajectory/{key}" in row][-1]


def column(callback, key):
    """Values of a name below the topic, by step."""
    return {row["step"]: row[f"trajectory/{key}"] for row in callback.history if f"trajectory/{key}" in row}
