"""The callbacks work under both names of Lightning, and measure the same."""

import functools
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

TRAINING = """
import json, sys
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, TrajectoryMonitor
from lightning_bounds.report import MemoryLogger


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = torch.nn.functional.cross_entropy(self(inputs), targets)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        self.log("val/loss", torch.nn.functional.cross_entropy(self(inputs), targets))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


L.seed_everything(0)
data = TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
probe, logger = Probe(num_samples=5), MemoryLogger()
callbacks = [
    JacobianSpectrum(probe),
    ResidualProjection(rank=2, probe=probe),
    MarginMonitor(probe=probe),
    TrajectoryMonitor(),
]
trainer = L.Trainer(
    max_epochs=2,
    logger=logger,
    callbacks=callbacks,
    accelerator="cpu",
    log_every_n_steps=1,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Module(), DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
print("result", json.dumps({
    "records": [{k: v for k, v in row.items() if not k.startswith("bounds/cost/")} for row in logger.records],
    "histograms": {
        name: [(step, h.edges.tolist(), h.counts.tolist()) for step, h in found]
        for name, found in logger.histograms.items()
    },
    "figures": sorted(logger.figures),
    "tables": {name: [list(table) for table in found] for name, found in logger.tables.items()},
    "monitored": sorted(name for name in trainer.callback_metrics if not name.startswith("bounds/cost/")),
    "bases": [all(isinstance(c, L.Callback) for c in callbacks), isinstance(logger, L.pytorch_logger)],
    "packages": sorted({"pytorch_lightning", "lightning.pytorch"} & set(sys.modules)),
}))
"""

# What a user writes on the first line.
IMPORTS = {
    "pytorch_lightning": "import pytorch_lightning as L; L.pytorch_logger = L.loggers.Logger",
    "lightning.pytorch": "import lightning.pytorch as L; L.pytorch_logger = L.loggers.Logger",
    "lightning": "import lightning as L; L.pytorch_logger = L.pytorch.loggers.Logger",
    "lightning.pytorch.Trainer": (
        "from types import SimpleNamespace; from lightning.pytorch import Callback, LightningModule, Trainer, "
        "seed_everything; from lightning.pytorch.loggers import Logger; L = SimpleNamespace(Callback=Callback, "
        "LightningModule=LightningModule, Trainer=Trainer, seed_everything=seed_everything, pytorch_logger=Logger)"
    ),
}


@functools.cache
def training(package):
    """What a training logs in a process of its own, in which the user imports one package."""
    script = f"{IMPORTS[package]}\n{TRAINING}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    return json.loads(line.removeprefix("result "))


@pytest.mark.parametrize("package", IMPORTS)
def test_all_callbacks_measure_under_the_package_that_the_user_imports(package):
    names = {name for row in training(package)["records"] for name in row}
    topics = ["jacobian_spectrum", "margins", "residual_projection", "trajectory"]
    assert {name.split("/")[0] for name in names} >= set(topics)
    failed = [row for row in training(package)["records"] if any(row.get(f"bounds/status/{t}", 0) for t in topics)]
    assert failed == []


@pytest.mark.parametrize("package", IMPORTS)
def test_the_other_package_is_not_imported(package):
    expected = "pytorch_lightning" if package == "pytorch_lightning" else "lightning.pytorch"
    assert training(package)["packages"] == [expected]


@pytest.mark.parametrize("package", IMPORTS)
def test_callbacks_and_loggers_are_those_of_the_users_package(package):
    assert training(package)["bases"] == [True, True]


@pytest.mark.parametrize("package", [package for package in IMPORTS if package != "pytorch_lightning"])
@pytest.mark.parametrize("what", ["records", "histograms", "figures", "tables", "monitored"])
def test_the_same_is_logged_under_both_packages(package, what):
    expected = training("pytorch_lightning")[what]
    assert expected
    assert training(package)[what] == expected
