"""How far and along which way the weights travel, during training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.trajectory.dynamics import TrainingDynamics
from lightning_bounds.callbacks.trajectory.path import Path, Weights, distance, norm
from lightning_bounds.callbacks.trajectory.theorems import Settings
from lightning_bounds.callbacks.values import Table, metric_name
from lightning_bounds.jacobian.forward import OutputFn
from lightning_bounds.jacobian.parameters import selected_parameters
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe
from lightning_bounds.report import trajectory_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.theory.layer_norms import spectral_norm, weight_matrix


class TrajectoryMonitor(DiagnosticCallback):
    """Distance of the trainable weights from where they began, length of their path, and norms of each layer.

    With ``guarantees`` also what theory says of the training: the guaranteed envelopes of residual, distance and path,
    the training of a fixed kernel, and how far the network's own kernel ``H(t) = J J^T`` drifts from the initial one.

    Logs, below ``trajectory/``:
        ``distance`` (``|θ_t - θ_0|``), ``relative_distance`` (divided by ``|θ_0|``), ``path_length`` (``Σ |θ_{s+1} -
        θ_s|`` over the steps so far), ``norm`` (``|θ_t|``), and for each parameter with two or more dimensions, below
        ``layers/<name>/``: ``distance`` and ``frobenius_norm`` (Frobenius), ``spectral_distance`` and
        ``spectral_norm`` (spectral, of the weight as a matrix with one row per output).

    With ``guarantees`` or ``predictions`` besides:
        ``residual`` (``|r_t|`` with ``r = f - y``, of the probe), ``kernel/drift`` (``|H(t) - H(0)|_F / |H(0)|_F``),
        ``kernel/spectral_drift`` (the same in spectral norms), ``kernel/stability`` (``η λ_max(H(t))``:
        above 2 the residual grows); below ``<prediction>/``: ``residual`` (``|r~_t|``), ``distance``
        (``|θ~_t - θ_0|``) and ``deviation`` (``|r_t - r~_t| / |r_0|``), unless they are infinite; and below
        ``<guarantee>/``: ``residual_envelope``, ``distance_envelope``, ``path_envelope``, as far as the theorem states
        them and they are finite, ``valid`` (1 if no condition is violated), ``vacuous`` (1 if nothing is guaranteed, or
        an envelope is infinite) and ``within`` (1 if what is measured lies below the envelopes, up to rounding). The
        conditions are in a table at the end.

    All of theory is for gradient descent on the summed loss ``1/2 Σ (f - y)²`` of all training samples: a step of the
    optimizer of size ``lr`` is one of ``η = lr · loss_scale``. With minibatches that is so on average, and ``t`` counts
    steps of the optimizer; momentum counts as a learning rate ``1 / (1 - momentum)`` times as large. Predictions follow
    every change of the learning rate; guarantees are for one learning rate, and say nothing after it has changed.
    Both need a probe of all training samples, and guarantees check that.

    Args:
        layers: Patterns of the parameters to follow, see :func:`selected_parameters`; by default those of the probe,
            all trainable ones if it has none.
        path_every_n_steps: The path is measured between every ``n``-th steps; more than 1 is cheaper and gives a lower
            bound of its length.
        schedule: Every epoch by default.
        on_error: See :class:`DiagnosticCallback`.
        name: See :class:`DiagnosticCallback`.
        guarantees: Which, as a mapping from names to settings: ``"smooth"``, ``"relu"``, ``"separated"``, ``"sgd"``,
            ``"smooth_descent"``, ``"nonsmooth_descent"``, each with the arguments of the function
            ``overparameterization.<name>_guarantee`` that are not measured, and ``"meta_theorem"`` with ``Gamma``,
            ``tolerance``, ``cutoff`` or ``relative_cutoff`` (of the largest singular value); or from names of your own
            to a ``Guarantee``. An empty mapping asks for predictions alone, None for none of it. Width, activation and
            norms are those of the two-layer network that is trained, unless they are given.
        predictions: ``"linearized"`` (by the initial Jacobian) and ``"fine_grained"`` (by the kernel of infinite
            width, for two-layer ReLU networks whose hidden layer is trained). With ``guarantees`` all that the network
            allows; an empty list for the drift of the kernel alone, of any network and optimizer.
        loss_scale: What the summed loss is multiplied by in training: ``1/n`` for a mean over ``n`` training samples,
            ``2/(nK)`` for ``MSELoss``. A module with ``summed_loss`` and ``reduction``, as ``Supervised``, tells it.
        probe: The samples that theory looks at: 256 training samples by default. Its Gram matrix, of their number times
            outputs squared, is kept in checkpoints.
        batch_fn: See :class:`DiagnosticCallback`.
        output_fn: See :class:`DiagnosticCallback`.

    Raises:
        ValueError: If an argument is not one of those; before training, if theory cannot be applied to the network,
            its loss or its optimizer.

    References:
        Oymak & Soltanolkotabi, Theorems 2.1 to 2.6 (residual, distance, path of gradient descent); Oymak et al. 2019,
        Theorem 5.3, (5.9) and (5.13); Arora et al. 2019, Theorem 4.1.

    Example:
        >>> TrajectoryMonitor(layers=["hidden"], guarantees={"relu": {"tolerance": 0.5}}).topic
        'trajectory'
    """

    topic = "trajectory"
    default_splits = ()

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        path_every_n_steps: int = 1,
        schedule: Schedule | None = None,
        on_error: str = "warn",
        name: str | None = None,
        guarantees: Mapping[str, Settings] | None = None,
        predictions: Sequence[str] | None = None,
        loss_scale: float | None = None,
        probe: Probe | None = None,
        batch_fn: BatchFn | None = None,
        output_fn: OutputFn | None = None,
    ) -> None:
        # The same rule, and the same sentence, as for a schedule.
        self._path_schedule = Schedule(every_n_steps=path_every_n_steps)
        self._theory = (guarantees, predictions, loss_scale)
        probe = replace(probe or Probe(), split="train", layers=layers or (probe.layers if probe else None))
        super().__init__(
            probe,
            schedule=schedule or Schedule(every_n_epochs=1),
            output_fn=output_fn,
            batch_fn=batch_fn,
            on_error=on_error,
            name=name,
        )

    @cached_property
    def state_key(self) -> str:
        """A state with the start of a kernel is another one."""
        return super().state_key if self.dynamics is None else f"{super().state_key}{{'kernel': True}}"

    def reset(self) -> None:
        """Forget where the weights began and how far they went."""
        super().reset()
        self.initial: dict[str, Tensor] = {}
        self._weights: Weights | None = None
        self._path: Path | None = None
        self._previous_step = 0
        guarantees, predictions, _ = self._theory
        asked = guarantees is not None or predictions is not None
        self.dynamics = TrainingDynamics(self.topic, *self._theory) if asked else None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is to leave the network behind.
        return {**super().__getstate__(), "_weights": None}

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the weights that the training begins with."""
        named = Weights(pl_module).now()
        changed = [name for name in self.initial if name in named and named[name].shape != self.initial[name].shape]
        if changed:
            raise ValueError(f"Expected the weights of the checkpoint's run, but {changed} have another shape now.")
        if not self.initial:
            selected = selected_parameters(pl_module, self.probe.layers)
            self.initial = {name: weight.detach().clone() for name, weight in selected.items()}
        followed = self._followed(pl_module)
        self.initial = {name: self.initial[name].to(weight.device) for name, weight in followed.items()}
        last = {} if self._path is None else self._path.last()
        if not last:
            last, self._previous_step = followed, trainer.global_step
        self._path = Path({name: last[name].to(w.device) for name, w in followed.items()}, self.path_length)
        if self.dynamics is not None:
            self.dynamics.begin(trainer, pl_module, self.snapshot(trainer, pl_module, self.probe))

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Keep the learning rate of the coming step."""
        if self.dynamics is not None:
            self.dynamics.remember_rate(trainer)
        super().on_train_batch_start(trainer, *args)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Add the step to the path, before anything is measured."""
        if self.dynamics is not None:
            self.dynamics.count(trainer)
        if self.enabled and self._path_schedule.fires_at_step(self._previous_step, trainer.global_step):
            _, error = self.attempt(self._walk, trainer, pl_module, "step", runs_module=False)
            if error is not None and self._path is not None:
                # A piece of the path that could not be measured leaves its length unknown.
                self._path.lose()
        super().on_train_batch_end(trainer, pl_module, *args)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Distances and norms of this moment."""
        weights = self._followed(pl_module)
        self._walk(trainer, pl_module)
        bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
        if bad:
            raise FloatingPointError(f"Expected finite weights, but those of {bad[:10]} are NaN or infinite.")
        start, moved = norm(self.initial[name] for name in weights), distance(weights, self.initial)
        values: dict[str, float | Tensor] = {
            "distance": moved,
            "path_length": self.path_length,
            "norm": norm(weights.values()),
        }
        if start > 0:
            values["relative_distance"] = moved / start
        for name, weight in weights.items():
            if weight.dim() >= 2:
                layer, change = f"layers/{metric_name(name)}", weight.double() - self.initial[name].double()
                values[f"{layer}/distance"] = change.norm()
                values[f"{layer}/spectral_distance"] = spectral_norm(change)
                values[f"{layer}/frobenius_norm"] = weight_matrix(weight).norm()
                values[f"{layer}/spectral_norm"] = spectral_norm(weight)
        if self.dynamics is not None:
            snapshot = self.snapshot(trainer, pl_module, self.probe)
            values.update(self.dynamics.values(trainer, snapshot, moved, self.path_length))
        return {f"{self.topic}/{name}": value for name, value in values.items()}

    def tables(self) -> dict[str, Table]:
        """The conditions of the guarantees, and whether they hold."""
        return {} if self.dynamics is None else self.dynamics.tables(self.history)

    def figures(self) -> dict[str, Any]:
        """Distance and path length over the steps, and all of it beside its predictions and envelopes."""
        rows = [row for row in self.history if f"{self.topic}/distance" in row]
        steps = [row["step"] for row in rows]
        names = {"distance from initialization": "distance", "path length": "path_length"}
        curves = {label: (steps, [row[f"{self.topic}/{name}"] for row in rows]) for label, name in names.items()}
        figures = {self.topic: trajectory_figure(curves, title="Travel of the weights")} if rows else {}
        return figures if self.dynamics is None else {**figures, **self.dynamics.figures(self.history)}

    def state_dict(self) -> dict[str, Any]:
        """Where the weights began, how far they went, and where they were when the path was last measured."""
        initial = {name: weight.cpu() for name, weight in self.initial.items()}
        # Between every two steps, that is where they are now.
        every_step = self._path_schedule.every_n_steps == 1
        last = {} if every_step or self._path is None else self._path.last()
        previous = {name: weight.clone().cpu() for name, weight in last.items()}
        state = {"initial": initial, "previous": previous, "previous_step": self._previous_step}
        if self.dynamics is not None:
            state["dynamics"] = self.dynamics.state_dict()
        return {**super().state_dict(), **state, "path_length": self.path_length}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the weights that the checkpoint's run began with."""
        super().restore(state)
        self.initial = {name: weight.detach() for name, weight in state["initial"].items()}
        previous = {name: weight.detach() for name, weight in state["previous"].items()}
        if previous and previous.keys() != self.initial.keys():
            raise ValueError(f"Expected previous weights of {list(self.initial)}, but got {list(previous)}.")
        self._path, self._previous_step = Path(previous, float(state["path_length"])), int(state["previous_step"])
        if self.dynamics is not None:
            self.dynamics.restore(state["dynamics"])

    @property
    def path_length(self) -> float:
        """``Σ |θ_{s+1} - θ_s|`` over the steps so far; NaN if a piece of it could not be measured."""
        return 0.0 if self._path is None else float(self._path.length)

    def _followed(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The weights that the training began with, also if some were frozen since, wherever they are by now."""
        self._weights = Weights(pl_module, self.initial)
        return self._weights.now()

    def _walk(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        if trainer.global_step == self._previous_step:
            return
        assert self._weights is not None
        assert self._path is not None
        self._path.walk(self._weights.now())
        self._previous_step = trainer.global_step
