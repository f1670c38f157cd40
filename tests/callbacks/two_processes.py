"""Train on two processes, with or without callbacks: python two_processes.py FOLDER with|without."""

import sys
from pathlib import Path

import torch
from small_training import Module, every_callback, loader, quiet_trainer, statuses
from torch import nn
from training_trace import Trace

from lightning_bounds.lightning import pl


class Keep(pl.Callback):
    """Each process writes what it has seen and measured."""

    def __init__(self, folder, kind, trace, callbacks):
        self.folder, self.kind, self.trace, self.callbacks = folder, kind, trace, callbacks

    def on_train_end(self, trainer, pl_module):
        measured = [
            (callback.topic, len(statuses(callback)) > 1, set(statuses(callback))) for callback in self.callbacks
        ]
        histories = [
            [{name: value for name, value in row.items() if "bounds/cost" not in name} for row in callback.history]
            for callback in self.callbacks
        ]
        kept = {"trace": self.trace.everything(trainer), "measured": measured, "histories": histories}
        torch.save(kept, self.folder / f"{self.kind}_{trainer.global_rank}.pt")


def main(folder, kind):
    pl.seed_everything(21)
    torch.set_default_dtype(torch.float64)
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))
    callbacks, trace = every_callback() if kind == "with" else [], Trace()
    options = {"strategy": "ddp", "devices": 2, "max_epochs": 3}
    trainer = quiet_trainer([*callbacks, trace, Keep(Path(folder), kind, trace, callbacks)], **options)
    trainer.fit(Module(network), loader(16, batch_size=2, shuffle=True), loader(8, seed=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
