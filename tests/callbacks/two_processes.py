"""Train on two processes: python two_processes.py FOLDER KIND."""

import sys
from pathlib import Path

import bound_training
import test_batch_norm_margin_callback as batch_norm_training
import test_nearly_linear_callback as nearly_linear_training
import torch
from small_training import Module, every_callback, loader, quiet_trainer, statuses
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_trace import Trace

from lightning_bounds import Schedule, TrajectoryMonitor
from lightning_bounds.callbacks import BatchNormMargin, DiagnosticCallback, GeneralizationBound, NearlyLinear
from lightning_bounds.lightning import pl


class Keep(pl.Callback):
    """Each process writes what it has seen and measured."""

    def __init__(self, folder, kind, trace, callbacks):
        self.folder, self.kind, self.trace, self.callbacks = folder, kind, trace, callbacks
        self.running_means = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.running_means += [b.clone() for name, b in pl_module.named_buffers() if name.endswith("running_mean")]

    def on_train_end(self, trainer, pl_module):
        histories = [
            [{name: value for name, value in row.items() if "bounds/cost" not in name} for row in callback.history]
            for callback in self.callbacks
        ]
        kept = {
            "trace": self.trace.everything(trainer),
            "statuses": [statuses(callback) for callback in self.callbacks],
            "histories": histories,
            "running_means": self.running_means,
        }
        torch.save(kept, self.folder / f"{self.kind}_{trainer.global_rank}.pt")


class FailsOn(DiagnosticCallback):
    """Measures the number of its process, and fails on one of them after every step."""

    def __init__(self, rank):
        super().__init__(schedule=Schedule(every_n_steps=1), name=f"fails_on_{rank}")
        self.rank = rank

    def observe(self, trainer, pl_module):
        if trainer.global_rank == self.rank:
            raise RuntimeError("on this process alone")
        return {f"{self.topic}/rank": float(trainer.global_rank)}


OFTEN = Schedule(every_n_epochs=1)


def plain():
    """A module with batch statistics and random numbers, and its data."""
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))
    return Module(network), loader(16, batch_size=2, shuffle=True), loader(8, seed=2)


def two_layers():
    """A two-layer network on unit-norm samples, half of them on each process."""
    train, val = (DataLoader(TensorDataset(*bound_training.data(16, seed=seed)), 8) for seed in (3, 4))
    return bound_training.supervised(), train, val


def batch_normalized():
    """The network of the margins under batch norm, half of its samples on each process."""
    return batch_norm_training.module(), loader(12, 6), loader(12, 6)


def nearly_linear():
    """A nearly-linear network on whitened data, half of it on each process."""
    inputs, labels, whitening = nearly_linear_training.samples()
    unseen = nearly_linear_training.samples(30, seed=1, whitening=whitening)[:2]
    load = nearly_linear_training.loader
    return nearly_linear_training.module(), load(inputs, labels, 30), load(*unseen, 15)


KINDS = {
    "without": (plain, list),
    "with": (plain, every_callback),
    "failing": (plain, lambda: [FailsOn(0), FailsOn(1)]),
    "bounds": (
        two_layers,
        lambda: [
            GeneralizationBound({"fine_grained": {"delta": 0.1}}, schedule=OFTEN),
            TrajectoryMonitor(guarantees={"relu": {}}, schedule=OFTEN),
        ],
    ),
    "batch_norm": (batch_normalized, lambda: [BatchNormMargin(exact_margins=True, schedule=OFTEN)]),
    "nearly_linear": (nearly_linear, lambda: [NearlyLinear(proxies=True, schedule=OFTEN)]),
}


def main(folder, kind, devices=2):
    pl.seed_everything(21)
    torch.set_default_dtype(torch.float64)
    make, choose = KINDS[kind]
    module, train, val = make()
    callbacks, trace = choose(), Trace()
    options = {"strategy": "ddp", "devices": 2} if devices == 2 else {"accumulate_grad_batches": 2}
    keep = Keep(Path(folder), kind, trace, callbacks)
    quiet_trainer([*callbacks, trace, keep], max_epochs=3, **options).fit(module, train, val)
    return callbacks


if __name__ == "__main__":
    main(*sys.argv[1:])
