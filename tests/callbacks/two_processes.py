"""Train on two processes: python two_processes.py FOLDER without|with|failing."""

import sys
from pathlib import Path

import torch
from small_training import Module, every_callback, loader, quiet_trainer, statuses
from torch import nn
from training_trace import Trace

from lightning_bounds import Schedule
from lightning_bounds.callbacks import DiagnosticCallback
from lightning_bounds.lightning import pl


class Keep(pl.Callback):
    """Each process writes what it has seen and measured."""

    def __init__(self, folder, kind, trace, callbacks):
        self.folder, self.kind, self.trace, self.callbacks = folder, kind, trace, callbacks
        self.running_means = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.running_means.append(pl_module.network[1].running_mean.clone())

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


CALLBACKS = {"without": list, "with": every_callback, "failing": lambda: [FailsOn(0), FailsOn(1)]}


def main(folder, kind):
    pl.seed_everything(21)
    torch.set_default_dtype(torch.float64)
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))
    callbacks, trace = CALLBACKS[kind](), Trace()
    options = {"strategy": "ddp", "devices": 2, "max_epochs": 3}
    trainer = quiet_trainer([*callbacks, trace, Keep(Path(folder), kind, trace, callbacks)], **options)
    trainer.fit(Module(network), loader(16, batch_size=2, shuffle=True), loader(8, seed=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
