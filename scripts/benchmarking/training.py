"""W5, what a user feels: a training with the callbacks at their defaults, and the same training without."""

import hashlib
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarking.cases import Case
from benchmarking.report import OBSERVED
from benchmarking.worker import UnavailableError
from lightning_bounds import JacobianSpectrum, MarginMonitor, ResidualProjection, TrajectoryMonitor
from lightning_bounds.data import idx
from lightning_bounds.models import Supervised


def prepare_training(case: Case, images: Path | None, method: str) -> Callable[[], nn.Module]:
    """The function to be timed: one whole training, which returns the trained network.

    Args:
        case: How many images and epochs.
        images: Folder with Fashion-MNIST. Without it a run of few images takes random ones in their place.
        method: The name of the method: with callbacks, or without.

    Raises:
        UnavailableError: If there are no images for a run of full size.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    inputs, labels = _samples(case, images)

    def run() -> nn.Module:
        pl.seed_everything(0, verbose=False)
        network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
        )
        observers = [JacobianSpectrum(), ResidualProjection(), MarginMonitor(), TrajectoryMonitor()]
        trainer = pl.Trainer(
            max_epochs=case.epochs,
            callbacks=observers if method == OBSERVED else [],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Supervised(network, loss="cross_entropy", optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
        trainer.fit(module, DataLoader(TensorDataset(inputs, labels), batch_size=128, shuffle=True))
        return network

    return run


def fingerprint(network: nn.Module) -> dict[str, str]:
    """A digest of the weights: equal only if all bits are."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return {"weights": digest.hexdigest()[:16]}


def _samples(case: Case, images: Path | None) -> tuple[Tensor, Tensor]:
    if images is not None:
        data = idx.load(images)
        return data.train_inputs[: case.num_samples], data.train_labels[: case.num_samples]
    if case.num_samples > 1000:
        raise UnavailableError("no Fashion-MNIST here; install dataset-fashion-mnist or pass --fashion-mnist FOLDER")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(case.num_samples, 1, 28, 28, generator=generator)
    return inputs, torch.randint(10, (case.num_samples,), generator=generator)
