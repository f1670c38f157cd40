"""A Lightning logger that keeps everything in memory: for scripts that work on with the numbers, and for tests."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_bounds.lightning import pl
from lightning_bounds.report.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MemoryLogger(pl.loggers.logger.Logger):
    """Keeps what is logged: ``Trainer(logger=MemoryLogger())``, then read the attributes.

    Attributes:
        records: One ``{"step": step, name: number, ...}`` per ``log_metrics`` call, plain floats, in the order of the
            calls.
        histograms: ``(step, Histogram)`` pairs by name, in the order of the calls.
        tables: ``(step, columns, rows)`` by name.
        figures: ``(step, figure)`` pairs by name; the figures themselves, not copies.

    Example:
        >>> logger = MemoryLogger()
        >>> logger.log_metrics({"margins/smallest": 0.5}, step=3)
        >>> logger.records
        [{'step': 3, 'margins/smallest': 0.5}]
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []
        self.histograms: dict[str, list[tuple[int | None, Histogram]]] = {}
        self.tables: dict[str, list[tuple[int, list[str], list[list[str | float | int]]]]] = {}
        self.figures: dict[str, list[tuple[int, Figure]]] = {}

    @property
    def name(self) -> str:
        """Empty: checkpoints of a run that has only this logger get no folder of their own."""
        return ""

    @property
    def version(self) -> str:
        """Empty, as ``name``."""
        return ""

    @pl.utilities.rank_zero.rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Histogram], step: int | None = None) -> None:
        """Keep one record; histograms go to ``histograms``.

        Args:
            metrics: Numbers (floats or 0-d tensors) and histograms by name.
            step: The optimizer step that they belong to; None if the caller does not know it.
        """
        record: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            if isinstance(value, Histogram):
                self.histograms.setdefault(name, []).append((step, value))
            else:
                record[name] = float(value)
        self.records.append(record)

    @pl.utilities.rank_zero.rank_zero_only
    def log_table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | int]], step: int
    ) -> None:
        """Keep one table.

        Args:
            name: Name of the table.
            columns: Names of the columns.
            rows: The cells, row by row.
            step: The optimizer step that it belongs to.
        """
        self.tables.setdefault(name, []).append((step, list(columns), [list(row) for row in rows]))

    @pl.utilities.rank_zero.rank_zero_only
    def log_figures(self, figures: "Mapping[str, Figure]", step: int) -> None:
        """Keep figures.

        Args:
            figures: Figures by name.
            step: The optimizer step that they belong to.
        """
        for name, figure in figures.items():
            self.figures.setdefault(name, []).append((step, figure))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: hyperparameters are not measured."""
