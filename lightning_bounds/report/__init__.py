"""Where numbers, histograms, tables and figures go: the loggers, matplotlib figures, text tables."""

from lightning_bounds.report.data_figures import eigenvalue_figure, label_energy_figure, predicted_residual_figure
from lightning_bounds.report.figures import (
    error_figure,
    margin_figure,
    residual_figure,
    spectrum_figure,
    trajectory_figure,
)
from lightning_bounds.report.histogram import Histogram, histogram
from lightning_bounds.report.jsonl import JSONLLogger, read_jsonl
from lightning_bounds.report.loggers import log_figures, log_record, log_table
from lightning_bounds.report.memory import MemoryLogger
from lightning_bounds.report.scan_figures import heat_map_figure
from lightning_bounds.report.tables import format_number, text_table
from lightning_bounds.report.trajectory_figures import dynamics_figure

__all__ = [
    "Histogram",
    "JSONLLogger",
    "MemoryLogger",
    "dynamics_figure",
    "eigenvalue_figure",
    "error_figure",
    "format_number",
    "heat_map_figure",
    "histogram",
    "label_energy_figure",
    "log_figures",
    "log_record",
    "log_table",
    "margin_figure",
    "predicted_residual_figure",
    "read_jsonl",
    "residual_figure",
    "spectrum_figure",
    "text_table",
    "trajectory_figure",
]
