"""``Supervised`` over two real processes."""

from functools import partial

import pytest
import torch
from torch.multiprocessing import ProcessExitedException
from torch.optim import SGD
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised, TwoLayerNetwork


def trained(reduction, **arguments):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, 5, generator=generator, dtype=torch.float32)
    labels, original_labels = torch.randint(3, (2, 24), generator=generator)
    dataset = TensorDataset(inputs, labels, original_labels)
    batch_size = 24 // arguments.get("devices", 1)
    module = Supervised(
        TwoLayerNetwork(5, width=20, out_features=3, seed=0).float(),
        reduction=reduction,
        optimizer=partial(SGD, lr=0.01),
    )
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    loaders = [DataLoader(dataset, batch_size=7), DataLoader(dataset, batch_size=5)]
    trainer.fit(module, DataLoader(dataset, batch_size=batch_size), loaders)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "train/batch_loss"}
    return module.network.hidden.weight.detach(), metrics


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_processes_train_to_the_weights_of_one_and_log_its_metrics(reduction):
    try:
        weights, metrics = trained(reduction, strategy="ddp_spawn", devices=2)
    except ProcessExitedException:
        # Rarely a process is aborted at its end, by the threads of a process group that is still there.
        weights, metrics = trained(reduction, strategy="ddp_spawn", devices=2)
    expected_weights, expected_metrics = trained(reduction)
    assert_close(weights, expected_weights)
    assert set(metrics) == {
        *("test/loss", "test/error", "test/clean_error"),
        *("train/loss", "train/error", "train/clean_error", "train/fitted_flips"),
    }
    assert_close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)
