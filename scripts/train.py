"""Train a network on real data and see it through its Jacobian.

python scripts/train.py data.label_noise=0.5 callbacks.residual_projection.rank=30 model.width=512 trainer.max_epochs=20
python scripts/train.py callbacks=none logger=csv
python scripts/train.py -m data.label_noise=0,0.25,0.5
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_bounds import ResidualProjection
from lightning_bounds.callbacks import DiagnosticCallback
from lightning_bounds.report import MemoryLogger, error_figure, log_figures, log_table, text_table


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    """Build everything from the configuration, train, and show what was found."""
    # Hydra has put its own files into the run folder, which is new; and Lightning 2.6 asks torch in an old way.
    warnings.filterwarnings("ignore", message=".*exists and is not empty. Previous log files.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # Matplotlib tells of each mathematical font that is not installed, and takes its own.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data, _convert_="all")
    datamodule.setup("fit")
    for key, size in (("in_features", datamodule.in_features), ("out_features", datamodule.num_classes)):
        if OmegaConf.is_missing(config.model, key):
            config.model[key] = size
    module = instantiate(config.training, instantiate(config.model, _convert_="all"), _convert_="all")
    callbacks = [instantiate(callback, _convert_="all") for callback in config.callbacks.values()]
    memory = MemoryLogger()
    loggers = [instantiate(logger, _convert_="all") for logger in config.logger.values()]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=[*loggers, memory], _convert_="all")
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))

    print(f"Run folder: {config.paths.run}", flush=True)
    trainer.validate(module, datamodule=datamodule, verbose=False)
    trainer.fit(module, datamodule=datamodule)
    trainer.save_checkpoint(Path(config.paths.run) / "final.ckpt", weights_only=False)
    table = summarize(trainer, callbacks, memory, num_flips=len(datamodule.flipped))
    if "wandb" in sys.modules:
        # Jobs of one sweep share a process: each has its own run.
        sys.modules["wandb"].finish()
    for text in conclusions(callbacks):
        print(f"{text}\n")
    print(f"{table}\nRun folder: {config.paths.run}")


def conclusions(callbacks: Sequence[pl.Callback]) -> list[str]:
    """What the callbacks say at the end, such as bounds and conditions; ratios are in the summary."""
    tables = {
        name: table
        for callback in callbacks
        if isinstance(callback, DiagnosticCallback) and not isinstance(callback, ResidualProjection)
        for name, table in callback.tables().items()
    }
    return [text_table(name, table.columns, table.rows) for name, table in tables.items()]


def summarize(trainer: pl.Trainer, callbacks: Sequence[pl.Callback], memory: MemoryLogger, num_flips: int) -> str:
    """Log the table of ratios and errors and the figure of the errors; the table as text."""
    measured = [record for record in memory.records if "test/error" in record]
    if not measured:
        return loss_table(memory)
    # The first was measured before training, the others after each epoch that Lightning counts from 0.
    epochs = [0.0, *(record["epoch"] + 1 for record in measured[1:])]
    columns, rows = summary_table(callbacks, measured[0], measured[-1], num_flips)
    curves = {
        "training error, labels as given": "train/error",
        "training error, original labels": "train/clean_error",
        "test error": "test/error",
    }
    figure = error_figure(
        {label: (epochs, [record[name] for record in measured]) for label, name in curves.items()},
        title="Training and test error",
    )
    log_table(trainer.loggers, "summary/alignment_and_errors", columns, rows, max(trainer.global_step - 1, 0))
    log_figures(trainer.loggers, {"summary/errors": figure}, max(trainer.global_step - 1, 0))
    projected = "Labels and initial residual seen from the Jacobian of the training data"
    return text_table("Errors" if columns[1] == "train error" else projected, columns, rows)


def loss_table(memory: MemoryLogger) -> str:
    """Losses before and after training, for real targets, which have no errors."""
    splits = ("train", "test")
    ends = [[r[f"{split}/loss"] for r in memory.records if f"{split}/loss" in r] for split in splits]
    rows = [[name, *(found[place] if found else "" for found in ends)] for name, place in (("first", 0), ("last", -1))]
    return text_table("Losses", ["measured", *(f"{split} loss" for split in splits)], rows)


def summary_table(
    callbacks: Sequence[pl.Callback], first: dict[str, Any], last: dict[str, Any], num_flips: int
) -> tuple[list[str], list[list[str | float]]]:
    """One row for the network before and one after training: the six ratios, errors, and fitted flips."""
    columns = ["network", "train error", "test error", "fitted flips"]
    rows: list[list[str | float]] = [
        [
            name,
            record["train/error"],
            record["test/error"],
            f"{round(record['train/fitted_flips'] * num_flips)} of {num_flips}",
        ]
        for name, record in (("initial", first), ("final", last))
    ]
    for callback in callbacks:
        table = (
            callback.tables().get(f"{callback.topic}/alignment") if isinstance(callback, ResidualProjection) else None
        )
        ratios = {row[0]: row[2:] for row in table.rows if row[1] == "train"} if table else {}
        if table and set(ratios) >= {row[0] for row in rows}:
            columns = [columns[0], *table.columns[2:], *columns[1:]]
            rows = [[row[0], *ratios[str(row[0])], *row[1:]] for row in rows]
    return columns, rows


if __name__ == "__main__":
    main()
