"""The distribution of output margins, during training."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.values import data_name
from lightning_bounds.lightning import pl
from lightning_bounds.report import margin_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.layer_norms import norm_products
from lightning_bounds.theory.margin import margin_statistics


class MarginMonitor(DiagnosticCallback):
    """Output margins ``f_y - max_{c != y} f_c`` (``y f`` for one output) of the probe's samples.

    A positive margin is a right answer. Margins grow with the weights; divided by the product of the layers' norms they
    can be compared over the training and between networks.

    Logs, below ``margins/<split>/``:
        ``mean``, ``minimum``, ``quantile_05``, ``quantile_25``, ``quantile_50``, ``quantile_75``, ``quantile_95``,
        ``maximum``, ``error`` (fraction of margins of zero or less), ``spectral/quantile_05`` and
        ``spectral/quantile_50`` (margins divided by ``Π_l |W_l|``, of all weights with two or more dimensions),
        ``frobenius/quantile_05`` and ``frobenius/quantile_50`` (by ``Π_l |W_l|_F``), and the histograms ``margins``
        and ``spectral/margins``.

    Args: see :class:`DiagnosticCallback`; training and validation data, every epoch, by default.

    References:
        Bartlett, Foster, Telgarsky 2017, section 1 and Theorem 1.1.

    Example:
        >>> MarginMonitor(splits=["val"]).probes["val"].split
        'val'
    """

    topic = "margins"
    default_splits = ("train", "val")

    def __init__(self, schedule: Schedule | None = None, **arguments: Any) -> None:
        super().__init__(schedule=schedule or Schedule(every_n_epochs=1), **arguments)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise before the first step if the targets are not classes."""
        super().check(trainer, pl_module)
        for probe in self.probes.values():
            _ = self.snapshot(trainer, pl_module, probe).margins

    def measure(self, snapshot: Snapshot) -> Mapping[str, float | Tensor]:
        """Quantiles of the margins, as they are and normalized, and the margins themselves."""
        margins = snapshot.margins.double().cpu()
        spectral, frobenius = norm_products(snapshot.model.parameters())
        statistics = margin_statistics(margins)
        values: dict[str, float | Tensor] = {
            **statistics,
            "error": (margins <= 0).double().mean(),
            "margins": margins,
        }
        # Where a layer is zero there is no margin to normalize.
        for name, norm in (("spectral", spectral), ("frobenius", frobenius)):
            if float(norm) > 0:
                values.update({f"{name}/{key}": statistics[key] / norm for key in ("quantile_05", "quantile_50")})
        if float(spectral) > 0:
            values["spectral/margins"] = margins / spectral
        return values

    def figures(self) -> dict[str, Any]:
        """Distributions of the margins at the first and the last measurement."""
        figures = {}
        for split in self.probes:
            name = f"{self.topic}/{split}/margins"
            rows = [row for row in self.history if name in row]
            if rows:
                chosen = {f"epoch {row['epoch']:g}": row[name] for row in (rows[:1] + rows[-1:])}
                figures[f"{self.topic}/{split}"] = margin_figure(chosen, title=f"Output margins, {data_name(split)}")
        return figures
