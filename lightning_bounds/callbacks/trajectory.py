"""How far and along which way the weights travel, during training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.jacobian.parameters import selected_parameters
from lightning_bounds.lightning import pl
from lightning_bounds.probe import Probe
from lightning_bounds.report import trajectory_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.theory.layer_norms import spectral_norm, weight_matrix


class TrajectoryMonitor(DiagnosticCallback):
    """Distance of the trainable weights from where they began, length of their path, and norms of each layer.

    Logs, below ``trajectory/``:
        ``distance`` (``|θ_t - θ_0|``), ``relative_distance`` (divided by ``|θ_0|``), ``path_length`` (``Σ |θ_{s+1} -
        θ_s|`` over the steps so far), ``norm`` (``|θ_t|``), and for each parameter with two or more dimensions, below
        ``layers/<name>/``: ``distance`` and ``frobenius_norm`` (Frobenius), ``spectral_distance`` and
        ``spectral_norm`` (spectral, of the weight as a matrix with one row per output).

    Args:
        layers: Patterns of the parameters to follow, see :func:`selected_parameters`; all trainable ones if not given.
        path_every_n_steps: The path is measured between every ``n``-th steps; more than 1 is cheaper and gives a lower
            bound of its length.
        schedule: Every epoch by default.
        on_error: See :class:`DiagnosticCallback`.
        name: See :class:`DiagnosticCallback`.

    References:
        Oymak & Soltanolkotabi, Theorem 2.1 (distance and path length of gradient descent); Oymak et al. 2019, (5.13).

    Example:
        >>> TrajectoryMonitor(layers=["hidden"]).topic
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
    ) -> None:
        # The same rule, and the same sentence, as for a schedule.
        self._path_schedule = Schedule(every_n_steps=path_every_n_steps)
        probe = Probe(layers=layers)
        super().__init__(probe, schedule=schedule or Schedule(every_n_epochs=1), on_error=on_error, name=name)

    def reset(self) -> None:
        """Forget where the weights began and how far they went."""
        super().reset()
        self.initial: dict[str, Tensor] = {}
        self.path_length = 0.0
        self._previous: dict[str, Tensor] = {}
        self._previous_step = 0

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the weights that the training begins with."""
        named = _weights(pl_module)
        changed = [name for name in self.initial if name in named and named[name].shape != self.initial[name].shape]
        if changed:
            raise ValueError(f"Expected the weights of the checkpoint's run, but {changed} have another shape now.")
        if not self.initial:
            selected = selected_parameters(pl_module, self.probe.layers)
            self.initial = {name: weight.detach().clone() for name, weight in selected.items()}
        followed = self._followed(pl_module)
        self.initial = {
            name: first.to(followed[name].device) for name, first in self.initial.items() if name in followed
        }
        if not self._previous:
            self._previous, self._previous_step = followed, trainer.global_step
        self._previous = {name: self._previous[name].detach().to(w.device, copy=True) for name, w in followed.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Add the step to the path, before anything is measured."""
        if self.enabled and self._path_schedule.fires_at_step(self._previous_step, trainer.global_step):
            _, error = self.attempt(self._walk, trainer, pl_module, "step")
            # A piece of the path that could not be measured leaves its length unknown.
            self.path_length = self.path_length if error is None else float("nan")
        super().on_train_batch_end(trainer, pl_module, *args)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Distances and norms of this moment."""
        self._walk(trainer, pl_module)
        weights = {name: weight.detach() for name, weight in self._followed(pl_module).items()}
        bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
        if bad:
            raise FloatingPointError(f"Expected finite weights, but those of {bad[:10]} are NaN or infinite.")
        begun = [self.initial[name] for name in weights]
        distance, start = _distance(weights.values(), begun), _norm(begun)
        values: dict[str, float | Tensor] = {
            "distance": distance,
            "path_length": self.path_length,
            "norm": _norm(weights.values()),
        }
        if start > 0:
            values["relative_distance"] = distance / start
        for (name, weight), first in zip(weights.items(), begun, strict=True):
            if weight.dim() >= 2:
                layer, moved = f"layers/{metric_name(name)}", weight.double() - first.double()
                values[f"{layer}/distance"] = moved.norm()
                values[f"{layer}/spectral_distance"] = spectral_norm(moved)
                values[f"{layer}/frobenius_norm"] = weight_matrix(weight).norm()
                values[f"{layer}/spectral_norm"] = spectral_norm(weight)
        return {f"{self.topic}/{name}": value for name, value in values.items()}

    def figures(self) -> dict[str, Any]:
        """Distance and path length over the steps."""
        rows = [row for row in self.history if f"{self.topic}/distance" in row]
        steps = [row["step"] for row in rows]
        names = {"distance from initialization": "distance", "path length": "path_length"}
        curves = {label: (steps, [row[f"{self.topic}/{name}"] for row in rows]) for label, name in names.items()}
        return {self.topic: trajectory_figure(curves, title="Travel of the weights")} if rows else {}

    def state_dict(self) -> dict[str, Any]:
        """Where the weights began, how far they went, and where they were when the path was last measured."""
        initial = {name: weight.cpu() for name, weight in self.initial.items()}
        # Between every two steps, that is where they are now.
        every_step = self._path_schedule.every_n_steps == 1
        previous = {} if every_step else {name: weight.clone().cpu() for name, weight in self._previous.items()}
        state = {"initial": initial, "previous": previous, "previous_step": self._previous_step}
        return {**super().state_dict(), **state, "path_length": self.path_length}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the weights that the checkpoint's run began with."""
        super().restore(state)
        self.initial = {name: weight.detach() for name, weight in state["initial"].items()}
        self._previous = {name: weight.detach() for name, weight in state["previous"].items()}
        if self._previous and self._previous.keys() != self.initial.keys():
            raise ValueError(f"Expected previous weights of {list(self.initial)}, but got {list(self._previous)}.")
        self.path_length, self._previous_step = float(state["path_length"]), int(state["previous_step"])

    def _followed(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The weights that the training began with, also if some were frozen since."""
        named = _weights(pl_module)
        return {name: named[name] for name in self.initial if name in named}

    def _walk(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._previous_step:
            return
        weights = self._followed(pl_module)
        self.path_length += _distance(weights.values(), [self._previous[name] for name in weights])
        for name, weight in weights.items():
            self._previous[name].copy_(weight.detach())
        self._previous_step = trainer.global_step


def _weights(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    """All weights by the names that :func:`selected_parameters` gives them, without torch.compile's wrapper."""
    named = pl_module.named_parameters()
    return {".".join(part for part in name.split(".") if part != "_orig_mod"): weight for name, weight in named}


def metric_name(name: str) -> str:
    """A parameter's name in the characters of metric names.

    Example:
        >>> metric_name("encoder.0.Conv-1.weight")
        'encoder_0_conv_1_weight'
    """
    return "".join(character if character.isalnum() and character.isascii() else "_" for character in name).lower()


def _norm(tensors: Iterable[Tensor]) -> float:
    squares = [tensor.detach().double().square().sum() for tensor in tensors]
    return float(torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt())


def _distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    return _norm(a.detach().double() - b.double() for a, b in zip(first, second, strict=True))
