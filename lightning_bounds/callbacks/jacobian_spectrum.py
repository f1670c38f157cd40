"""The singular values of the network's Jacobian, during training."""

from typing import Any

import torch
from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.cost import foresee
from lightning_bounds.callbacks.values import data_name
from lightning_bounds.jacobian.spectrum import Spectrum, jacobian_spectrum
from lightning_bounds.lightning import pl
from lightning_bounds.probe import Probe
from lightning_bounds.report import spectrum_figure
from lightning_bounds.snapshot import Snapshot

_METHODS = ("auto", "gram", "lanczos", "randomized")


class JacobianSpectrum(DiagnosticCallback):
    """Singular values ``σ_1 ≥ σ_2 ≥ ...`` of the Jacobian ``∂f(X)/∂θ`` on the probe's samples.

    Few large values and a bulk of small ones mean that few directions are learned fast.

    Logs, below ``jacobian_spectrum/<split>/``:
        ``sigma_max`` (``σ_1``), ``frobenius_norm`` (``|J|_F``), ``stable_rank`` (``|J|_F² / σ_1²``),
        ``effective_rank`` (``exp`` of the entropy of ``σ_s / Σ σ``), ``energy_rank_90`` (fewest values that hold 90 %
        of ``|J|_F²``), ``resolved_rank`` (values above the noise floor), ``noise_floor`` (values below it mean nothing
        in the precision used), and the histogram ``singular_values``. With a ``rank``, where only the leading ones are
        known, in the place of ``effective_rank`` and ``energy_rank_90``: ``nuisance_share`` (what the others hold of
        ``|J|_F²``) and ``relative_error`` (the largest error bar of a value, as a fraction of it).

    Args:
        probe: See :class:`DiagnosticCallback`, as for all further arguments; training data by default.
        rank: How many leading singular values; all if not given. The search starts from what the last measurement
            found, so that it costs a fraction of the first one.
        method: How they are found, see :func:`~lightning_bounds.jacobian_spectrum`.
        tolerance: Relative error bar at which a search stops.

    Raises:
        ValueError: If the rank, the method or the tolerance is not one of those.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 4 and Figure 5.

    Example:
        >>> from lightning_bounds import Probe, Schedule
        >>> JacobianSpectrum(schedule=Schedule(every_n_epochs=5), probe=Probe(num_samples=128)).topic
        'jacobian_spectrum'
    """

    topic = "jacobian_spectrum"

    def __init__(
        self,
        probe: Probe | None = None,
        rank: int | None = None,
        method: str = "auto",
        tolerance: float = 1e-3,
        **arguments: Any,
    ) -> None:
        if rank is not None and rank < 1:
            raise ValueError(f"Expected `rank` of at least 1, but got {rank}.")
        if method not in _METHODS[: 2 if rank is None else 4]:
            raise ValueError(f"Expected `method` among {_METHODS}, the last two with a `rank`, but got {method!r}.")
        if not 0 < tolerance < 1:
            raise ValueError(f"Expected `tolerance` in (0, 1), a fraction of each value, but got {tolerance}.")
        self.rank, self.method, self.tolerance = rank, method, tolerance
        super().__init__(probe, **arguments)

    def reset(self) -> None:
        """Forget what was measured, and from where a search would start."""
        super().reset()
        self._last: dict[str, Spectrum] = {}

    def on_fit_end(self, *arguments: Any) -> None:
        """Free what a search would start from."""
        self._last = {}
        super().on_fit_end(*arguments)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what a look will cost."""
        super().check(trainer, pl_module)
        for probe in self.probes.values():
            foresee(trainer, self.snapshot(trainer, pl_module, probe), self.rank, self.max_seconds, type(self).__name__)

    def measure(self, snapshot: Snapshot) -> dict[str, float | Tensor]:
        """Scalars of the spectrum and the singular values themselves."""
        spectrum = self._spectrum(snapshot)
        largest = float(spectrum.singular_values[0])
        values: dict[str, float | Tensor] = {
            "sigma_max": largest,
            "frobenius_norm": spectrum.frobenius_norm,
            "stable_rank": spectrum.stable_rank,
            "resolved_rank": spectrum.resolved_rank,
            "noise_floor": spectrum.noise_floor,
            "singular_values": spectrum.singular_values,
        }
        if self.rank is None:
            values["effective_rank"] = spectrum.effective_rank
            values["energy_rank_90"] = spectrum.information_space(energy=0.9).dimension if largest > 0 else 0
        else:
            bars = spectrum.errors / spectrum.singular_values.clamp_min(torch.finfo(torch.float64).tiny)
            values["relative_error"] = float(bars.max())
            values["nuisance_share"] = spectrum.nuisance_energy / max(spectrum.frobenius_norm**2, 1e-300)
        return values

    def _spectrum(self, snapshot: Snapshot) -> Spectrum:
        if self.rank is None:
            return snapshot.spectrum
        probe = snapshot.probe
        self._last[probe.split] = jacobian_spectrum(
            snapshot.jacobian,
            self.rank,
            self.method,
            probe.torch_dtype,
            probe.memory_bytes,
            tolerance=self.tolerance,
            start=self._last.get(probe.split),
        )
        return self._last[probe.split]

    def figures(self) -> dict[str, Any]:
        """Histograms of the singular values at the first and the last measurement."""
        figures = {}
        for split in self.probes:
            name = f"{self.topic}/{split}/singular_values"
            rows = [row for row in self.history if name in row]
            chosen = {f"epoch {row['epoch']:g}": row for row in (rows[:1] + rows[-1:])}
            if rows:
                figures[f"{self.topic}/{split}"] = spectrum_figure(
                    {label: row[name] for label, row in chosen.items()},
                    noise_floors={label: row[f"{self.topic}/{split}/noise_floor"] for label, row in chosen.items()},
                    title=f"Singular values of the Jacobian, {data_name(split)}",
                )
        return figures
