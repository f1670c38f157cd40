"""How far and along which way the weights travel, during training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.jacobian.parameters import selected_parameters
from lightning_bounds.lightning import pl
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
        self.layers = layers
        super().__init__(schedule=schedule or Schedule(every_n_epochs=1), on_error=on_error, name=name)

    def reset(self) -> None:
        """Forget where the weights began and how far they went."""
        super().reset()
        self.initial: dict[str, Tensor] = {}
        self.path_length = 0.0
        self._previous: dict[str, Tensor] = {}
        self._previous_step = 0

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the weights that the training begins with."""
        weights = selected_parameters(pl_module, self.layers)
        changed = [name for name in self.initial if name in weights and weights[name].shape != self.initial[name].shape]
        if changed:
            raise ValueError(f"Expected the weights of the checkpoint's run, but {changed} have another shape now.")
        self._previous = {name: weight.detach().clone() for name, weight in weights.items()}
        self._previous_step = trainer.global_step
        self.initial = self.initial or {name: weight.clone() for name, weight in self._previous.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the patterns before there is data."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            selected_parameters(pl_module, self.layers)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Add the step to the path, before anything is measured."""
        if self._path_schedule.fires_at_step(self._previous_step, trainer.global_step):
            self._walk(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, *args)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Distances and norms of this moment."""
        self._walk(trainer, pl_module)
        weights = {name: weight.detach() for name, weight in self._followed(pl_module).items()}
        begun = [self.initial[name].to(weight.device) for name, weight in weights.items()]
        distance, start = _distance(weights.values(), begun), _norm(begun)
        values: dict[str, float | Tensor] = {
            "distance": distance,
            "path_length": self.path_length,
            "norm": _norm(list(weights.values())),
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
        """Where the weights began and how far they went."""
        initial = {name: weight.cpu() for name, weight in self.initial.items()}
        return {**super().state_dict(), "initial": initial, "path_length": self.path_length}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the weights that the checkpoint's run began with."""
        super().load_state_dict(state_dict)
        self.initial, self.path_length = state_dict.get("initial", {}), state_dict.get("path_length", 0.0)

    def _followed(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The weights that the training began with, also if some were frozen since."""
        named = {name.replace("_orig_mod.", ""): weight for name, weight in pl_module.named_parameters()}
        return {name: named[name] for name in self.initial if name in named}

    def _walk(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._previous_step:
            return
        weights = self._followed(pl_module)
        self.path_length += _distance(weights.values(), [self._previous[name] for name in weights])
        for name, weight in weights.items():
            self._previous[name].copy_(weight.detach())
        self._previous_step = trainer.global_step


def metric_name(name: str) -> str:
    """A parameter's name in the characters of metric names.

    Example:
        >>> metric_name("encoder.0.Conv-1.weight")
        'encoder_0_conv_1_weight'
    """
    return "".join(character if character.isalnum() and character.isascii() else "_" for character in name).lower()


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum().cpu() for tensor in tensors]).sum().sqrt())


def _distance(first: Any, second: Sequence[Tensor]) -> float:
    return _norm([a.detach().double() - b.double() for a, b in zip(first, second, strict=True)])
