"""Margins, normalizers and movement of networks with batch norm, during training."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.batch_norm_margin.conditions import (
    condition_rows,
    data_conditions,
    network_conditions,
    training_conditions,
    training_of,
)
from lightning_bounds.callbacks.batch_norm_margin.layers import Observation, layer_values, movement, observe_layers
from lightning_bounds.callbacks.batch_norm_margin.shallow import (
    Shallow,
    bound_rows,
    bound_values,
    distinct_conditions,
    path_values,
    shallow_network,
    theorem_reports,
    unseen_outputs,
    whole_set_network,
)
from lightning_bounds.callbacks.values import Table, metric_name
from lightning_bounds.jacobian.forward import OutputFn
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe
from lightning_bounds.report import margin_figure, trajectory_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.theory.arguments import check_probability
from lightning_bounds.theory.batch_norm_margin.margins import MaximalLayerMargins
from lightning_bounds.theory.batch_norm_margin.trajectory import loss_slopes
from lightning_bounds.theory.labels import class_indices
from lightning_bounds.theory.margin import output_margins

Rows = list[list[str | float]]
_LAYER_NAMES = ("normalization_min", "normalization_max", "displacement", "output_movement", "direction_movement")
_COLUMNS = {
    "conditions": ["condition", "found", "required", "status", "note"],
    "layers": ["layer", "smallest N", "largest N", "displacement", "movement of (a, c)", "movement of V"],
    "bounds": ["bound", "value", "valid", "vacuous", "source"],
}


class BatchNormMargin(DiagnosticCallback):
    """Batch norm as the theory of its margins sees it: ``N(v_j)``, effective rows ``v_j / N(v_j)``, movement, margins.

    A layer with batch norm computes ``c_j <v_j / N(v_j), x - μ>``: ``V`` are the weights of the linear or convolutional
    layer directly in front, ``c`` the scales of the batch norm, ``a`` the weights of the next linear or convolutional
    layer that is called, and ``N(v_j)`` the standard deviation of ``<v_j, x>``, ``ε`` inside the root. Statistics are
    those of the probe's samples together, never running averages; dropout is off. The theory wants those of the whole
    training set, so let the probe hold it.

    The margin is that of the last layer with a readout: the output margin (``y f``, or ``f_y - max_{c != y} f_c`` of
    several outputs) divided by ``|a| |c|``. On the paper's network, :class:`BatchNormNetwork` with one output,
    ``gamma_a`` and ``gamma_c`` of Assumption 1.2 are those of the reference ``(a/|a|, c/|c|, V)`` made of the current
    weights, and the theorem's bounds are stated for that reference, or with ``exact_margins`` for the best one. In them
    inputs count in units of their largest centered norm (E304). A table at the end says which of the paper's
    assumptions a network and its training break.

    Logs, below ``batch_norm_margin/``:
        ``margin`` (the smallest), ``margins`` (histogram), and for each batch norm, below ``layers/<name>/``:
        ``normalization`` (histogram of ``N(v_j)``), ``normalization_min``, ``normalization_max``, ``eps_n`` (``max_j
        1/N(v_j)``, if finite), ``displacement`` (``√(1/m Σ_j |v_j/N(v_j) - v_j(0)/N(v_j(0))|²)``), ``output_movement``
        (``|(a, c)_t - (a, c)_0|``) and ``direction_movement`` (``|V_t - V_0|_F``). Of the paper's network also
        ``gamma_a``, ``gamma_c``, ``gamma`` (their sum), ``perceptron_sum`` (``Σ_s |l'_s|`` of the batches so far),
        ``perceptron_bound`` (``4 |(a, c)_t - (a, c)_0| / (η gamma √m)``, for positive ``gamma``), and after the first
        step, below ``generalization_bound/<version>/``, of versions ``main``, ``appendix``, ``rederived``, for gradient
        descent ``gd_main``, ``gd_appendix``, ``gd_proof``: ``valid``, ``vacuous`` and each term, with the bound itself
        as ``generalization_bound/<version>``, if finite. With ``exact_margins`` also ``potential``, and once
        ``best/gamma_a``, ``best/gamma_c``, ``best/gamma``, ``best/gamma_upper`` (if finite).

    Args:
        exact_margins: Whether the largest margins at the initial directions are found: two quadratic programs, seconds
            to a minute for 1000 samples.
        delta: The theorems fail with a probability of at most ``20 δ``.
        probe: 1024 training samples by default.
        schedule: Every epoch by default.
        output_fn: See :class:`DiagnosticCallback`, also for what follows.
        batch_fn: See there.
        on_error: See there.
        name: See there.

    Raises:
        ValueError: If ``delta`` is not in (0, 1); before the first step, if the network calls no batch norm that a
            linear or convolutional layer follows.

    References:
        Test error guarantees for batch-normalized shallow ReLU networks trained with gradient descent, Assumptions 1.1
        and 1.2, Theorems 2.1 and 2.2.

    Example:
        >>> BatchNormMargin(exact_margins=True).probe.num_samples
        1024
    """

    topic = "batch_norm_margin"
    default_splits = ("train",)

    def __init__(
        self,
        exact_margins: bool = False,
        delta: float = 0.01,
        probe: Probe | None = None,
        schedule: Schedule | None = None,
        output_fn: OutputFn | None = None,
        batch_fn: BatchFn | None = None,
        on_error: str = "warn",
        name: str | None = None,
    ) -> None:
        check_probability("delta", delta)
        self.exact_margins, self.delta = exact_margins, delta
        super().__init__(
            probe or Probe(num_samples=1024),
            schedule=schedule or Schedule(every_n_epochs=1),
            output_fn=output_fn,
            batch_fn=batch_fn,
            on_error=on_error,
            name=name,
        )

    def reset(self) -> None:
        """Forget where the layers began."""
        super().reset()
        self.initial: dict[str, dict[str, Tensor]] = {}
        self.best: MaximalLayerMargins | None = None
        self.perceptron_sum = 0.0
        self.rows: dict[str, Rows] = {}
        self._pending: list[tuple[float, int]] = []
        self._counted_step = 0
        self._is_paper = False

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the layers that the training begins with; raise if there are none or targets are no classes."""
        observation = self._observe_layers(trainer, pl_module)
        if not self.initial:
            self.initial = {layer.name: layer.weights for layer in observation.layers}
        if set(self.initial) != {layer.name for layer in observation.layers}:
            raise ValueError(
                f"Expected the batch norms of the checkpoint's run, {list(self.initial)}, "
                f"but this network has {[layer.name for layer in observation.layers]}."
            )
        _ = [movement(layer, self.initial[layer.name]) for layer in observation.layers]
        self._margins(trainer, pl_module, observation)
        self._is_paper = self._shallow(trainer, pl_module, observation) is not None
        self._counted_step = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Add the batch to the perceptron sum, with the weights before the step."""
        super().on_train_batch_start(trainer, pl_module, *args)
        if self.enabled and self._is_paper and math.isfinite(self.perceptron_sum):
            batch = copy.copy(args[0])
            _, error = self.attempt(lambda *_: self._count(pl_module, batch), trainer, pl_module, "step")
            # A batch that could not be looked at leaves the sum unknown.
            self.perceptron_sum = self.perceptron_sum if error is None else math.nan

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Close the step's entry in the perceptron sum, before anything is measured."""
        if trainer.global_step > self._counted_step and self._pending:
            samples = sum(count for _, count in self._pending)
            self.perceptron_sum += sum(total for total, _ in self._pending) / samples
            self._pending, self._counted_step = [], trainer.global_step
        super().on_train_batch_end(trainer, pl_module, *args)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Normalizers, movement and margins of this moment; the conditions, for the table at the end."""
        observation = self._observe_layers(trainer, pl_module)
        snapshot = self.snapshot(trainer, pl_module, self.probes["train"])
        training = training_of(trainer, self.moment.epoch, self.moment.step)
        margins = self._margins(trainer, pl_module, observation)
        values: dict[str, float | Tensor] = {}
        if margins is not None:
            values = {"margin": margins.min(), "margins": margins}
        self.rows = {"layers": []}
        for layer in observation.layers:
            found = layer_values(layer, self.initial[layer.name])
            values.update({f"layers/{metric_name(layer.name)}/{name}": value for name, value in found.items()})
            numbers = {name: float(found[name]) for name in _LAYER_NAMES if name in found}
            self.rows["layers"].append([layer.name, *(numbers.get(name, "not known") for name in _LAYER_NAMES)])
        conditions = [
            *network_conditions(pl_module, observation, training),
            *data_conditions(snapshot.inputs, observation, training),
            *training_conditions(
                training, observation.outputs, snapshot.targets, getattr(pl_module, "summed_loss", None)
            ),
        ]
        shallow = self._shallow(trainer, pl_module, observation)
        if shallow is not None:
            rate = _learning_rate(trainer)
            new, gamma, moved = self._margin_values(shallow)
            values.update(new)
            values.update(path_values(shallow, self.best, gamma, rate))
            conditions.append(shallow.statistics(training))
            if training.steps:
                reports = theorem_reports(shallow, gamma, moved, training, rate, self.delta)
                values.update(bound_values(reports))
                self.rows["bounds"] = bound_rows(reports)
                conditions += distinct_conditions(reports)
        self.rows["conditions"] = condition_rows(conditions)
        return {f"{self.topic}/{name}": value for name, value in values.items()}

    def tables(self) -> dict[str, Table]:
        """Conditions with their statuses, layers, and bounds, as they were at the last measurement."""
        return {f"{self.topic}/{name}": Table(_COLUMNS[name], rows) for name, rows in self.rows.items()}

    def figures(self) -> dict[str, Any]:
        """Margins at the first and the last measurement, and how far the last normalized layer has gone."""
        rows = [row for row in self.history if f"{self.topic}/margins" in row]
        if not rows or not self.rows.get("layers"):
            return {}
        chosen = {f"epoch {row['epoch']:g}": row[f"{self.topic}/margins"] for row in (rows[:1] + rows[-1:])}
        layer = metric_name(str(self.rows["layers"][-1][0]))
        names = {"(a, c)": "output_movement", "V": "direction_movement", "effective rows": "displacement"}
        curves = {}
        for label, name in names.items():
            key = f"{self.topic}/layers/{layer}/{name}"
            found = [row for row in self.history if key in row]
            if found:
                curves[label] = ([row["step"] for row in found], [row[key] for row in found])
        return {
            f"{self.topic}/margins": margin_figure(chosen, title="Margins of the last normalized layer"),
            f"{self.topic}/movement": trajectory_figure(curves, title="Movement of the last normalized layer"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the layers began, the best margins, the perceptron sum, and the tables."""
        return {
            **super().state_dict(),
            "initial": {name: dict(weights) for name, weights in self.initial.items()},
            "best": None if self.best is None else self.best._asdict(),
            "perceptron_sum": self.perceptron_sum,
            "pending": [list(entry) for entry in self._pending],
            "rows": {name: [list(row) for row in rows] for name, rows in self.rows.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the layers that the checkpoint's run began with."""
        super().restore(state)
        self.initial = {
            name: {part: tensor.detach().clone() for part, tensor in weights.items()}
            for name, weights in state["initial"].items()
        }
        self.best = None if state["best"] is None else MaximalLayerMargins(**state["best"])
        self.perceptron_sum = float(state["perceptron_sum"])
        self._pending = [(float(total), int(count)) for total, count in state["pending"]]
        self.rows = {name: [list(row) for row in rows] for name, rows in state["rows"].items() if _COLUMNS[name]}

    def _observe_layers(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Observation:
        snapshot = self.snapshot(trainer, pl_module, self.probes["train"])
        observation = observe_layers(pl_module, snapshot.inputs, self.output_fn)
        tensors = {"outputs": observation.outputs, **{layer.name: layer.normalization for layer in observation.layers}}
        bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if bad:
            raise FloatingPointError(f"Expected finite outputs and normalizers, but those of {bad[:10]} are not.")
        return observation

    def _margins(self, trainer: pl.Trainer, pl_module: pl.LightningModule, observation: Observation) -> Tensor | None:
        """Output margins divided by ``|a| |c|`` of the last layer with a readout; None if these are zero."""
        before = [layer for layer in observation.layers if layer.readout is not None]
        if not before:
            raise ValueError(
                "Expected a linear or convolutional layer after a batch norm, the readout, but none is called after "
                f"{[layer.name for layer in observation.layers]}; leave this callback out."
            )
        layer, targets = before[-1], self.snapshot(trainer, pl_module, self.probes["train"]).targets
        margins = output_margins(observation.outputs.double(), targets.to(observation.outputs.device)).cpu()
        norm = float(layer.readout.double().norm() * layer.scales.double().norm())  # type: ignore[union-attr]
        return margins / norm if norm > 0 else None

    def _shallow(self, trainer: pl.Trainer, pl_module: pl.LightningModule, observation: Observation) -> Shallow | None:
        if not self.initial:
            raise RuntimeError("Expected the layers before the first step, but they could not be measured.")
        snapshot = self.snapshot(trainer, pl_module, self.probes["train"])
        return shallow_network(pl_module, observation, snapshot.inputs, snapshot.targets, self.initial)

    def _margin_values(self, shallow: Shallow) -> tuple[dict[str, float], float, float]:
        """What is logged of the margins; ``gamma`` and ``Δ_V`` of the reference that the theorems are stated for."""
        current = shallow.margins()
        values = {name: getattr(current, name) for name in ("gamma_a", "gamma_c", "gamma")}
        values["perceptron_sum"] = self.perceptron_sum
        if self.exact_margins and self.best is None:
            self.best = shallow.best()
            values |= {
                f"best/{name}": getattr(self.best, name)
                for name in MaximalLayerMargins._fields
                if name.startswith("gamma")
            }
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if self.best is not None:
            return values, self.best.gamma, 0.0
        return values, current.clipped, shallow.displacement

    def _count(self, pl_module: pl.LightningModule, batch: Any) -> None:
        network = whole_set_network(pl_module)
        inputs, targets = self.batch_fn(batch)
        outputs = unseen_outputs(network, inputs)
        slopes = loss_slopes(outputs[:, 0], 2 * class_indices(targets, 1) - 1)
        self._pending.append((float(slopes.sum()), len(slopes)))


def _learning_rate(trainer: pl.Trainer) -> float | None:
    """The step size, if one optimizer has one."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return float(groups[0]["lr"]) if len(groups) == 1 else None
