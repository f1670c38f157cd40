"""A Lightning logger that writes one JSON object a line, and the function that reads the file back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_bounds.lightning import pl
from lightning_bounds.report.histogram import Histogram


class JSONLLogger(pl.loggers.logger.Logger):
    """Appends one JSON object per ``log_metrics`` call to ``<save_dir>/<name>``, on disk before the call returns.

    A line is ``{"step": 12, "margins/smallest": 0.5, ...}``. A histogram is ``{"counts": [...], "edges": [...],
    "nonfinite": 0}``. JSON has no NaN and no infinity: such a number is ``null``, and the line's ``"nonfinite"`` says
    which it was, as in ``{"step": 12, "fine_grained/generalization_bound": null, "nonfinite":
    {"fine_grained/generalization_bound": "inf"}}``; ``read_jsonl`` puts it back.

    A resumed run appends; a last line that a kill cut in two is removed first. The folder is made at the first write.
    If the file cannot be written, one warning says so and no further line is tried; training goes on.

    Args:
        save_dir: Folder of the file.
        name: Name of the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = JSONLLogger(folder)
        ...     logger.log_metrics({"margins/smallest": 0.5, "margins/largest": float("inf")}, step=3)
        ...     print(logger.path.read_text(), end="")
        ...     read_jsonl(logger.path)
        {"step": 3, "margins/smallest": 0.5, "margins/largest": null, "nonfinite": {"margins/largest": "inf"}}
        [{'step': 3, 'margins/smallest': 0.5, 'margins/largest': inf}]
    """

    def __init__(self, save_dir: str | Path, name: str = "metrics.jsonl") -> None:
        super().__init__()
        self.path = Path(save_dir) / name
        self._started = False
        self._writable = True

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return str(self.path.parent)

    @property
    def name(self) -> str:
        """Empty, not the file's name: checkpoints go into ``<save_dir>/checkpoints``."""
        return ""

    @property
    def version(self) -> str:
        """Empty, as ``name``."""
        return ""

    @pl.utilities.rank_zero.rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Histogram], step: int | None = None) -> None:
        """Append one line.

        Args:
            metrics: Numbers (floats or 0-d tensors) and histograms by name.
            step: The optimizer step that they belong to; ``null`` if the caller does not know it.
        """
        line = json.dumps(_row(metrics, step), allow_nan=False) + "\n"
        if not self._writable:
            return
        try:
            if not self._started:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _remove_cut_line(self.path)
                self._started = True
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._writable = False
            pl.utilities.rank_zero.rank_zero_warn(
                f"Cannot write {self.path} ({error}); training goes on, and nothing more is logged to this file."
            )

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: every line of the file is a measurement."""


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    r"""The rows of a file that ``JSONLLogger`` wrote, with NaN and infinite numbers put back.

    Args:
        path: The file.

    Returns:
        One dictionary per line, in the order of the lines; a last line that a kill cut in two is left out.

    Raises:
        ValueError: If another line is not JSON, with the file and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.jsonl")
        ...     _ = path.write_text('{"step": 0, "loss": null, "nonfinite": {"loss": "nan"}}\n{"step": 1, "lo')
        ...     read_jsonl(path)
        [{'step': 0, 'loss': nan}]
    """
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                break
            raise ValueError(
                f"Expected one JSON object a line, but line {number} of {path} is not: {error}."
            ) from error
        row.update({name: float(text) for name, text in row.pop("nonfinite", {}).items()})
        rows.append(row)
    return rows


def _row(metrics: Mapping[str, float | Histogram], step: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    nonfinite = {}
    for name, value in metrics.items():
        if isinstance(value, Histogram):
            row[name] = {
                "counts": value.counts.tolist(),
                "edges": value.edges.tolist(),
                "nonfinite": value.nonfinite,
            }
            continue
        number = float(value)
        row[name] = number if math.isfinite(number) else None
        if row[name] is None:
            nonfinite[name] = str(number)
    return {**row, "nonfinite": nonfinite} if nonfinite else row


def _remove_cut_line(path: Path) -> None:
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(text.rfind(b"\n") + 1)
