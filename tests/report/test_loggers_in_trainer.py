import csv

import pytest
import torch

from lightning_bounds.lightning import pl
from lightning_bounds.report import JSONLLogger, MemoryLogger, log_record, read_jsonl


class Module(pl.LightningModule):
    """One weight, which starts at one and loses a half per step; its loss is the weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("loss", self.weight)
        return self.weight * batch.sum()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(5, 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Callback(pl.Callback):
    """Logs after each step, beside what Lightning logs itself."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        step = trainer.global_step - 1
        log_record(trainer.loggers, {"a/b": step / 7}, {"a/v": torch.arange(3.0)}, step)


@pytest.fixture
def fit(tmp_path):
    def fit(logger, **options):
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=logger,
            callbacks=[Callback()],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(Module())
        return trainer

    return fit


def series(rows, name):
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name) not in (None, "")}


def test_no_row_of_the_trainer_or_of_ours_is_lost(fit, tmp_path):
    memory = MemoryLogger()
    fit([pl.loggers.CSVLogger(tmp_path, name="", version=""), JSONLLogger(tmp_path), memory])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        csv_rows = list(csv.DictReader(file))
    ours, theirs = {step: step / 7 for step in range(5)}, {step: 1 - step / 2 for step in range(5)}
    assert [series(rows, "a/b") for rows in (csv_rows, read_jsonl(tmp_path / "metrics.jsonl"), memory.records)] == [
        ours,
        ours,
        ours,
    ]
    assert [series(rows, "loss") for rows in (csv_rows, read_jsonl(tmp_path / "metrics.jsonl"), memory.records)] == [
        theirs,
        theirs,
        theirs,
    ]


@pytest.mark.parametrize("make", [lambda folder: MemoryLogger(), JSONLLogger], ids=["memory", "jsonl"])
def test_checkpoints_are_saved_with_either_logger_alone(fit, tmp_path, make):
    fit(make(tmp_path))
    assert [path.parent for path in tmp_path.rglob("*.ckpt")] == [tmp_path / "checkpoints"]


def test_l1_a_fast_dev_run_and_no_logger_write_nothing(fit, tmp_path):
    (dummy,) = fit(JSONLLogger(tmp_path), fast_dev_run=True).loggers
    assert isinstance(dummy, pl.loggers.logger.DummyLogger)
    assert fit(False, enable_checkpointing=False).loggers == []
    assert not list(tmp_path.iterdir())
