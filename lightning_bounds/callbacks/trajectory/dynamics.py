"""A training beside what theory says of it: kept from its start, compared at every measurement."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.descent import Descent, check_least_squares, learning_rate, training_descent
from lightning_bounds.callbacks.trajectory.envelopes import Envelope
from lightning_bounds.callbacks.trajectory.predictions import (
    PREDICTIONS,
    Prediction,
    kernel_values,
    made_predictions,
    prediction_values,
)
from lightning_bounds.callbacks.trajectory.theorems import Settings, Start, checked_guarantees, made_envelopes
from lightning_bounds.callbacks.two_layer import find_two_layer
from lightning_bounds.callbacks.values import Table
from lightning_bounds.jacobian.spectrum import gram_spectrum
from lightning_bounds.lightning import pl
from lightning_bounds.report import dynamics_figure
from lightning_bounds.report.tables import format_number
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.bound import Condition, condition

Rows = Sequence[Mapping[str, Any]]


class TrainingDynamics:
    """Guarantees and predictions of one training; see :class:`TrajectoryMonitor`, whose part it is.

    Args:
        topic: In front of all names.
        guarantees: By name, with their settings.
        predictions: Names; all that the network allows if None.
        loss_scale: See :func:`training_descent`.

    Attributes:
        gram: ``H(0)``, shape ``(n*K, n*K)``, float64, on the CPU; None before the start.
        outputs: ``f`` at the start, shape ``(n*K,)``.
        steps: Steps taken with each step size on the summed loss.
    """

    def __init__(
        self,
        topic: str,
        guarantees: Mapping[str, Settings] | None,
        predictions: Sequence[str] | None,
        loss_scale: float | None,
    ) -> None:
        if isinstance(predictions, str) or not set(predictions or ()) <= set(PREDICTIONS):
            raise ValueError(f"Expected `predictions` among {list(PREDICTIONS)}, but got {predictions!r}.")
        self.topic, self.loss_scale = topic, loss_scale
        self.guarantees = checked_guarantees(guarantees or {})
        self.names = None if predictions is None else tuple(predictions)
        self.gram: Tensor | None = None
        self.outputs: Tensor | None = None
        self.steps: dict[float, int] = {}
        self._first_rate: float | None = None
        self._rate: float | None = None
        self._counted = 0
        self._unknown = False
        self._start_residual = 0.0
        self._descent: Descent | None = None
        self._linearized: Prediction | None = None
        self._predictions: dict[str, Prediction] = {}
        self._envelopes: dict[str, Envelope] = {}

    def begin(self, trainer: pl.Trainer, module: pl.LightningModule, snapshot: Snapshot) -> None:
        """Look at the start, or at what a checkpoint kept of it, before the first step.

        Raises:
            ValueError: If theory cannot be applied to this network, loss or optimizer, or the checkpoint's run was
                another.
        """
        # Without theory the kernel is looked at alone, whatever the optimizer.
        theory = bool(self.guarantees) or self.names is None or bool(self.names)
        self._counted = trainer.global_step
        if theory or learning_rate(trainer) is not None:
            self._descent = self._described(trainer, module, required=theory)
        if theory:
            check_least_squares(module, snapshot)
        if self.gram is None or self.outputs is None:
            outputs = snapshot.outputs.detach().double().flatten().cpu()
            self.gram, self.outputs = snapshot.gram.detach().double().cpu(), outputs
            self._first_rate = self._rate_of(trainer)
        labels = snapshot.labels.cpu()
        if self.outputs.shape != labels.shape or self.gram.shape != (len(labels), len(labels)):
            raise ValueError(
                f"Expected the probe of the checkpoint's run, with {len(self.outputs)} samples times outputs, "
                f"but got {len(labels)} now."
            )
        residual = self.outputs - labels
        self._start_residual = float(residual.norm())
        if not theory:
            return
        if self._start_residual == 0:
            raise ValueError("Expected an initial residual other than zero, but the outputs equal the labels already.")
        spectrum, network = (
            gram_spectrum(self.gram, row_precision=snapshot.jacobian.row_precision),
            find_two_layer(module),
        )
        predictions = made_predictions(self.names, snapshot, spectrum, residual, network)
        # The meta theorem follows the linearized model, shown or not.
        self._linearized = Prediction.of(spectrum, residual)
        self._predictions = predictions
        if self.guarantees and self._descent is not None:
            start = Start(snapshot, spectrum, residual, network, self._descent, self._first_rate or 0.0)
            self._envelopes = made_envelopes(self.guarantees, start)

    def remember_rate(self, trainer: pl.Trainer) -> None:
        """Keep the step size of the coming step, which a scheduler may change after it."""
        self._rate = self._rate_of(trainer)

    def count(self, trainer: pl.Trainer) -> None:
        """Count the steps since the last call, with the step size that was kept."""
        taken = trainer.global_step - self._counted
        self._counted = trainer.global_step
        if taken and self._rate is None:
            self._unknown = True
        elif taken and self._rate is not None:
            self.steps[self._rate] = self.steps.get(self._rate, 0) + taken

    def values(self, trainer: pl.Trainer, snapshot: Snapshot, distance: float, path: float) -> dict[str, float]:
        """Everything of this moment, by name below the topic.

        Raises:
            RuntimeError: If the start could not be measured.
        """
        if self.gram is None:
            raise RuntimeError("Expected the kernel before the first step, but it could not be measured.")
        residual = snapshot.residual.cpu()
        size = float(residual.norm())
        kernel = kernel_values(snapshot.gram, self.gram, self._rate_of(trainer))
        values = {"residual": size, **{f"kernel/{name}": value for name, value in kernel.items()}}
        if self._unknown:
            return values
        for name, prediction in self._predictions.items():
            found = prediction_values(prediction, self.steps, residual, self._start_residual)
            values.update({f"{name}/{key}": value for key, value in found.items()})
        measured = {"residual": size, "distance": distance, "path": path}
        for name, envelope in self._envelopes.items():
            values.update({f"{name}/{key}": value for key, value in self._compared(envelope, measured).items()})
        return values

    def tables(self, rows: Rows) -> dict[str, Table]:
        """Whether each condition of each guarantee holds, and whether the steps were short enough."""
        lines = [[name, *_cells(item)] for name, envelope in self._envelopes.items() for item in envelope.conditions]
        changed = self._unknown or bool(set(self.steps) - {self._first_rate})
        lines += [[name, *_cells(_constant(changed))] for name in self._envelopes]
        largest = max((row[f"{self.topic}/kernel/stability"] for row in rows), default=None)
        if largest is not None:
            light = condition("learning rate x largest eigenvalue", largest, "<", 2.0, note="else the residual grows")
            lines.append(["stability", *_cells(light)])
        columns = ["guarantee", "condition", "actual", "relation", "required", "status", "note"]
        return {f"{self.topic}/conditions": Table(columns, lines)} if lines else {}

    def figures(self, rows: Rows) -> dict[str, Any]:
        """Residual, travel, drift and stability over the steps, each beside its envelopes and predictions."""

        def curves(kinds: Mapping[str, str]) -> dict[str, tuple[list[float], list[float]]]:
            found = {label: [row for row in rows if f"{self.topic}/{key}" in row] for label, key in kinds.items()}
            return {
                label: ([row["step"] for row in held], [row[f"{self.topic}/{kinds[label]}"] for row in held])
                for label, held in found.items()
                if held
            }

        def beside(kind: str) -> dict[str, str]:
            envelopes = {f"{name} envelope": f"{name}/{kind}_envelope" for name in self._envelopes}
            return {f"{label}, {kind}" if kind != "residual" else label: key for label, key in envelopes.items()}

        predicted = {name.replace("_", "-"): f"{name}/residual" for name in self._predictions}
        traveled = {f"{name.replace('_', '-')} distance": f"{name}/distance" for name in self._predictions}
        drifts = {"Frobenius": "kernel/drift", "spectral": "kernel/spectral_drift"}
        panels = {
            "residual": ({"measured": "residual", **predicted}, beside("residual"), "residual norm", True),
            "travel": (
                {"distance": "distance", "path length": "path_length", **traveled},
                {**beside("distance"), **beside("path")},
                "length in weight space",
                True,
            ),
            "kernel_drift": (drifts, {}, "relative change of the kernel", False),
        }
        drawn = {
            f"{self.topic}/{name}": dynamics_figure(
                curves(solid), curves(dashed), ylabel=ylabel, title=name.replace("_", " ").capitalize(), logarithmic=log
            )
            for name, (solid, dashed, ylabel, log) in panels.items()
            if curves(solid)
        }
        stability = curves({"measured": "kernel/stability"})
        if stability:
            steps, _ = stability["measured"]
            drawn[f"{self.topic}/stability"] = dynamics_figure(
                stability,
                {"limit of stability": (steps, [2.0] * len(steps))},
                ylabel="learning rate x largest eigenvalue",
                title="Stability",
            )
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The start, and the steps since."""
        steps = {"rates": list(self.steps), "counts": list(self.steps.values())}
        start = {"gram": self.gram, "outputs": self.outputs, "first_rate": self._first_rate}
        return {**start, **steps, "unknown": self._unknown}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the start that a checkpoint kept."""
        gram, outputs, first = state["gram"], state["outputs"], state["first_rate"]
        self.gram = None if gram is None else gram.double()
        self.outputs = None if outputs is None else outputs.double()
        self._first_rate = None if first is None else float(first)
        pairs = zip(state["rates"], state["counts"], strict=True)
        self.steps = {float(rate): int(count) for rate, count in pairs}
        self._unknown = bool(state["unknown"])

    def _compared(self, envelope: Envelope, measured: Mapping[str, float]) -> dict[str, float]:
        # The theorems are for one step size: once it changes, they say nothing.
        if self._linearized is None or set(self.steps) - {self._first_rate}:
            return {"valid": 0.0, "vacuous": 1.0}
        residual = float(self._linearized.after(self.steps).residual.norm())
        return envelope.values(sum(self.steps.values()), measured, residual)

    def _rate_of(self, trainer: pl.Trainer) -> float | None:
        rate = learning_rate(trainer)
        return None if rate is None or self._descent is None else rate * self._descent.loss_scale

    def _described(self, trainer: pl.Trainer, module: pl.LightningModule, required: bool) -> Descent | None:
        try:
            return training_descent(trainer, module, self.loss_scale)
        except ValueError:
            if required:
                raise
            return None


def _constant(changed: bool) -> Condition:
    return Condition("learning rate", "changed" if changed else "constant", "==", "constant", not changed)


def _cells(item: Condition) -> list[str | float]:
    """A condition as a row of a table; a hidden factor is written out."""
    actual, required = (v if isinstance(v, str) else format_number(v) for v in (item.actual, item.required))
    hidden = "" if item.ratio is None else f"; holds for a hidden factor up to {format_number(item.ratio)}"
    return [item.name, actual, item.relation, required, item.status, f"{item.note}{hidden}".removeprefix("; ")]
