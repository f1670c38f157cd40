"""The singular values of the network's Jacobian, during training."""

from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.values import data_name
from lightning_bounds.report import spectrum_figure
from lightning_bounds.snapshot import Snapshot


class JacobianSpectrum(DiagnosticCallback):
    """Singular values ``σ_1 ≥ σ_2 ≥ ...`` of the Jacobian ``∂f(X)/∂θ`` on the probe's samples.

    Few large values and a bulk of small ones mean that few directions are learned fast.

    Logs, below ``jacobian_spectrum/<split>/``:
        ``sigma_max`` (``σ_1``), ``frobenius_norm`` (``|J|_F``), ``stable_rank`` (``|J|_F² / σ_1²``),
        ``effective_rank`` (``exp`` of the entropy of ``σ_s / Σ σ``), ``energy_rank_90`` (fewest values that hold 90 %
        of ``|J|_F²``), ``resolved_rank`` (values above the noise floor), ``noise_floor`` (values below it mean nothing
        in the precision used), and the histogram ``singular_values``.

    Args: see :class:`DiagnosticCallback`; training data by default.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 4 and Figure 5.

    Example:
        >>> from lightning_bounds import Probe, Schedule
        >>> JacobianSpectrum(schedule=Schedule(every_n_epochs=5), probe=Probe(num_samples=128)).topic
        'jacobian_spectrum'
    """

    topic = "jacobian_spectrum"

    def measure(self, snapshot: Snapshot) -> dict[str, float | Tensor]:
        """Scalars of the spectrum and the singular values themselves."""
        spectrum = snapshot.spectrum
        largest = float(spectrum.singular_values[0])
        return {
            "sigma_max": largest,
            "frobenius_norm": spectrum.frobenius_norm,
            "stable_rank": spectrum.stable_rank,
            "effective_rank": spectrum.effective_rank,
            "energy_rank_90": spectrum.information_space(energy=0.9).dimension if largest > 0 else 0,
            "resolved_rank": spectrum.resolved_rank,
            "noise_floor": spectrum.noise_floor,
            "singular_values": spectrum.singular_values,
        }

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
