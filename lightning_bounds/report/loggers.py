"""Writes scalars, histograms, tables and figures to whatever loggers the Trainer has, and never breaks training.

Each function takes ``trainer.loggers``, which may be empty, and does nothing on other ranks than zero. Loggers are told
apart by the names of their classes, so those of ``pytorch_lightning`` and of ``lightning.pytorch`` are the same here,
and none of their packages is imported before it is needed:

=================  ===========  ==============================  ==================  =======================
logger             scalars      vectors                         tables              figures
=================  ===========  ==============================  ==================  =======================
WandbLogger        yes          ``wandb.Histogram``, same call  ``wandb.Table``     ``wandb.Image``
TensorBoardLogger  yes          histogram                       text (Markdown)     image
JSONLLogger        yes          same line                       ``tables/*.csv``    ``figures/*.png``
CSVLogger          yes          no                              ``tables/*.csv``    ``figures/*.png``
MemoryLogger       ``records``  ``histograms``                  ``tables``          ``figures``
any other          yes          no                              no                  no
=================  ===========  ==============================  ==================  =======================

A logger that raises (a finished wandb run, a full disk) is reported by one warning, and the others go on.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_bounds.lightning import pl
from lightning_bounds.report.histogram import Histogram, histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Logger = pl.loggers.logger.Logger
Cell = str | float | int
rank_zero_only = pl.utilities.rank_zero.rank_zero_only


@rank_zero_only
def log_record(
    loggers: Sequence[Logger], scalars: Mapping[str, float], vectors: Mapping[str, Tensor], step: int
) -> None:
    """Log all that was measured in one event, with one ``log_metrics`` call per logger.

    Steps need not ascend: a row about an earlier step keeps its step (wandb counts its own ``_step`` on, and shows
    the row at its ``trainer/global_step``). Where a histogram cannot say that values were NaN or infinite, in wandb and
    TensorBoard, their number is logged beside it as ``<name>_nonfinite``.

    Args:
        loggers: The loggers to write to, ``trainer.loggers``.
        scalars: Numbers by name, NaN and infinity included; names are ``<topic>/<quantity>``.
        vectors: Vectors of shape ``(n,)`` by name, shown as histograms.
        step: The optimizer step that the numbers belong to.

    Raises:
        ValueError: If a name has other characters than ``[a-z0-9_/]``, or a vector is not one-dimensional.

    Example:
        >>> import torch
        >>> from lightning_bounds.report import MemoryLogger
        >>> logger = MemoryLogger()
        >>> log_record([logger], {"margins/smallest": -0.5}, {"margins/all": torch.tensor([-0.5, 2.0])}, step=7)
        >>> logger.records
        [{'step': 7, 'margins/smallest': -0.5}]
        >>> logger.histograms["margins/all"][0][1].counts.sum()
        tensor(2)
    """
    _check_names([*scalars, *vectors])
    numbers = {name: float(value) for name, value in scalars.items()}
    histograms = {name: histogram(vector) for name, vector in vectors.items()}
    for logger in loggers:
        with _training_goes_on(logger):
            _write_record(logger, numbers, histograms, step)


@rank_zero_only
def log_table(
    loggers: Sequence[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
) -> None:
    """Log a table; a file of the same name is replaced, so it holds the last one.

    wandb shows at most 10,000 rows and wants columns of one type: it gets the first 10,000, and a column that mixes
    text and numbers as text. TensorBoard gets the same rows. The files hold all rows.

    Args:
        loggers: The loggers to write to, ``trainer.loggers``.
        name: Name of the table, ``<topic>/<quantity>``; in the file's name ``/`` is ``_``.
        columns: Names of the columns.
        rows: The cells, row by row.
        step: The optimizer step that the table belongs to.

    Raises:
        ValueError: If the name has other characters than ``[a-z0-9_/]``, or a row has not one cell per column.

    Example:
        >>> from lightning_bounds.report import MemoryLogger
        >>> logger = MemoryLogger()
        >>> log_table([logger], "information_space/alignment", ["jacobian", "share"], [["initial", 0.724]], step=0)
        >>> logger.tables["information_space/alignment"]
        [(0, ['jacobian', 'share'], [['initial', 0.724]])]
    """
    _check_names([name])
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"Expected {len(columns)} cells in each row of table {name!r}, one per column, "
                f"but got {len(row)} in row {number}."
            )
    for logger in loggers:
        with _training_goes_on(logger):
            _write_table(logger, name, columns, rows, step)
    for logger, folder in _local_folders(loggers):
        with _training_goes_on(logger):
            path = folder / "tables" / f"{name.replace('/', '_')}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([columns, *rows])


@rank_zero_only
def log_figures(loggers: Sequence[Logger], figures: "Mapping[str, Figure]", step: int) -> None:
    """Log matplotlib figures; a file of the same name is replaced, so it holds the last one.

    Args:
        loggers: The loggers to write to, ``trainer.loggers``.
        figures: Figures by name, ``<topic>/<quantity>``; in the file's name ``/`` is ``_``. They are left open.
        step: The optimizer step that the figures belong to.

    Raises:
        ValueError: If a name has other characters than ``[a-z0-9_/]``.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from lightning_bounds.report import MemoryLogger
        >>> logger = MemoryLogger()
        >>> log_figures([logger], {"margins/distribution": Figure()}, step=0)
        >>> list(logger.figures)
        ['margins/distribution']
    """
    _check_names(figures)
    if not figures:
        return
    for logger in loggers:
        with _training_goes_on(logger):
            _write_figures(logger, figures, step)
    for logger, folder in _local_folders(loggers):
        with _training_goes_on(logger):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(folder / "figures" / f"{name.replace('/', '_')}.png")


def _write_record(logger: Any, numbers: dict[str, float], histograms: dict[str, Histogram], step: int) -> None:
    lost = {f"{name}_nonfinite": float(h.nonfinite) for name, h in histograms.items() if h.nonfinite}
    if _is_a(logger, "MemoryLogger") or _is_a(logger, "JSONLLogger"):
        metrics: dict[str, Any] = {**numbers, **histograms}
    elif _is_a(logger, "WandbLogger"):
        import wandb

        arrays = {name: (h.counts.numpy(), h.edges.numpy()) for name, h in histograms.items()}
        shown = {name: wandb.Histogram(np_histogram=pair) for name, pair in arrays.items()}
        metrics = {**numbers, **lost, **shown}
    elif _is_a(logger, "TensorBoardLogger"):
        metrics = {**numbers, **lost}
    else:
        metrics = numbers
    if metrics:
        logger.log_metrics(metrics, step)
    if _is_a(logger, "TensorBoardLogger"):
        for name, h in histograms.items():
            _add_histogram(logger, name, h, step)


def _write_table(logger: Any, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
    shown = rows[:10_000]
    if _is_a(logger, "MemoryLogger"):
        logger.log_table(name, columns, rows, step)
    elif _is_a(logger, "WandbLogger"):
        import wandb

        table = wandb.Table(columns=list(columns), data=_one_type_per_column(shown))
        logger.log_metrics({name: table}, step)
    elif _is_a(logger, "TensorBoardLogger"):
        logger.experiment.add_text(_tag(logger, name), _markdown(columns, shown), step)


def _write_figures(logger: Any, figures: "Mapping[str, Figure]", step: int) -> None:
    if _is_a(logger, "MemoryLogger"):
        logger.log_figures(figures, step)
    elif _is_a(logger, "WandbLogger"):
        import wandb

        logger.log_metrics({name: wandb.Image(figure) for name, figure in figures.items()}, step)
    elif _is_a(logger, "TensorBoardLogger"):
        for name, figure in figures.items():
            logger.experiment.add_figure(_tag(logger, name), figure, step, close=False)


def _add_histogram(logger: Any, name: str, h: Histogram, step: int) -> None:
    # TensorBoard wants moments too; those of the bins' centers are all that it can show anyway.
    centers = (h.edges[:-1] + h.edges[1:]) / 2
    logger.experiment.add_histogram_raw(
        _tag(logger, name),
        min=float(h.edges[0]),
        max=float(h.edges[-1]),
        num=int(h.counts.sum()),
        sum=float(h.counts.double() @ centers),
        sum_squares=float(h.counts.double() @ centers**2),
        bucket_limits=h.edges[1:].tolist(),
        bucket_counts=h.counts.tolist(),
        global_step=step,
    )


def _is_a(logger: Any, class_name: str) -> bool:
    return any(base.__name__ == class_name for base in type(logger).__mro__)


def _tag(logger: Any, name: str) -> str:
    # `log_metrics` adds the logger's prefix; whoever writes to `experiment` has to do the same.
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}{name}" if prefix else name


def _local_folders(loggers: Sequence[Any]) -> Iterator[tuple[Any, Path]]:
    folders = set()
    for logger in loggers:
        folder = None
        with _training_goes_on(logger):
            if _is_a(logger, "JSONLLogger"):
                folder = logger.save_dir
            elif _is_a(logger, "CSVLogger") and "://" not in logger.log_dir:
                folder = logger.log_dir
        if folder is not None and (path := Path(folder).resolve()) not in folders:
            folders.add(path)
            yield logger, path


def _one_type_per_column(rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    def column_of_one_type(cells: tuple[Cell, ...]) -> Sequence[Cell]:
        kinds = {
            float if isinstance(cell, float | int) and not isinstance(cell, bool) else type(cell) for cell in cells
        }
        return cells if len(kinds) == 1 else [str(cell) for cell in cells]

    columns = [column_of_one_type(cells) for cells in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    def line(cells: Sequence[Cell]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])


def _check_names(names: Iterable[str]) -> None:
    bad = [name for name in names if not re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)*", name)]
    if bad:
        raise ValueError(
            f"Expected names like `topic/quantity` with the characters [a-z0-9_/], but got {bad}; rename them."
        )


@contextmanager
def _training_goes_on(logger: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The logger itself remembers that it was reported; `vars`, as a DummyLogger answers to any attribute.
        if not vars(logger).get("_failure_reported", False):
            vars(logger)["_failure_reported"] = True
            pl.utilities.rank_zero.rank_zero_warn(
                f"{type(logger).__name__} could not log ({type(error).__name__}: {error}); training and the other "
                "loggers go on, and further failures of this logger are not reported."
            )
