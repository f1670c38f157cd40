"""Figures and tables of a whole run, when it ends."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning_bounds.callbacks.values import Table
from lightning_bounds.lightning import pl
from lightning_bounds.report import log_figures, log_table


def log_conclusion(
    trainer: pl.Trainer, figures: Callable[[], dict[str, Any]], tables: Mapping[str, Table], strict: bool, who: str
) -> None:
    """Log figures and tables; figures that cannot be drawn are told, and break no training.

    Args:
        trainer: The Trainer, whose loggers show them.
        figures: Draws the figures, by name.
        tables: Tables by name.
        strict: Whether an error is raised all the same.
        who: Who warns.
    """
    step = max(trainer.global_step - 1, 0)
    for name, table in tables.items():
        log_table(trainer.loggers, name, table.columns, table.rows, step)
    try:
        log_figures(trainer.loggers, figures(), step)
    except Exception as error:
        if strict:
            raise
        pl.utilities.rank_zero_warn(f"{who} drew no figures: {type(error).__name__}: {error}")
