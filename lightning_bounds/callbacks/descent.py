"""What the optimizer does in the terms of the theory: steps on the summed loss ``1/2 Σ_i (f(x_i) - y_i)²``."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from lightning_bounds.lightning import pl
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.bound import Condition, condition

# An optimizer's settings that make it another algorithm than gradient descent.
_SETTINGS = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")


@dataclass(frozen=True)
class Descent:
    """How a module is trained.

    Attributes:
        loss_scale: What the summed loss of all training samples is multiplied by in the loss of a step, on average
            over an epoch.
        num_samples: Training samples, 0 if not known.
        steps_per_epoch: Steps of the optimizer, infinite if not known.
        algorithm: The optimizer, with what makes it another than gradient descent.
        plain: Whether it is gradient descent, on all samples or a part of them.
    """

    loss_scale: float
    num_samples: int
    steps_per_epoch: float
    algorithm: str
    plain: bool

    def conditions(self, probe_samples: int, stochastic: bool = False) -> list[Condition]:
        """What the theorems take for granted: all samples seen, each step taken on all of them or on one."""
        missing = float(self.num_samples or math.inf)
        per_epoch = missing if stochastic else 1.0
        note = "one sample a step" if stochastic else "full batches"
        algorithm = Condition("optimizer", self.algorithm, "==", "gradient descent", self.plain, note="no momentum")
        return [
            algorithm,
            condition("samples of the probe", probe_samples, ">=", missing, note="all training samples"),
            Condition(
                "steps per epoch", self.steps_per_epoch, "==", per_epoch, self.steps_per_epoch == per_epoch, note=note
            ),
        ]


def training_descent(trainer: pl.Trainer, module: pl.LightningModule, loss_scale: float | None) -> Descent:
    """How this module is trained by this Trainer.

    Args:
        trainer: The Trainer, which has its optimizers and its training data.
        module: The module; its ``summed_loss`` and ``reduction`` tell the scale of the loss.
        loss_scale: The scale, if the module does not tell it.

    Raises:
        ValueError: If there is not one SGD with one learning rate, or nothing tells the scale of the loss.
    """
    if learning_rate(trainer) is None:
        found = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        raise ValueError(
            "Expected one torch.optim.SGD with one learning rate, whose steps the theory describes, "
            f"but got {found}; leave `guarantees` and `predictions` out."
        )
    loader: Any = trainer.train_dataloader
    try:
        num_samples = len(loader.dataset)
    except (AttributeError, TypeError):
        num_samples = 0
    steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    if loss_scale is None:
        loss_scale = _loss_scale(module, num_samples, steps)
    check_positive("loss_scale", loss_scale)
    groups = trainer.optimizers[0].param_groups
    changed = {name: group[name] for group in groups for name in _SETTINGS if group.get(name)}
    if trainer.gradient_clip_val:
        changed["gradient_clip_val"] = trainer.gradient_clip_val
    algorithm = ", ".join(["SGD", *(f"{name}={value}" for name, value in changed.items())])
    return Descent(loss_scale, num_samples, steps, algorithm, not changed)


def learning_rate(trainer: pl.Trainer) -> float | None:
    """The learning rate, divided by ``1 - momentum``; None unless it is one of one SGD.

    Momentum ``β`` moves the weights ``1 / (1 - β)`` times as far, once it has built up.
    """
    if len(trainer.optimizers) != 1 or not isinstance(trainer.optimizers[0], torch.optim.SGD):
        return None
    rates = {float(group["lr"]) / (1 - float(group["momentum"])) for group in trainer.optimizers[0].param_groups}
    rate = rates.pop()
    return None if rates or not 0 <= rate < math.inf else rate


def check_least_squares(module: pl.LightningModule, snapshot: Snapshot) -> None:
    """Raise ValueError if a module tells its summed loss, and its gradient by the outputs is not ``f - y``."""
    summed_loss = getattr(module, "summed_loss", None)
    if summed_loss is None:
        return
    gap = float((snapshot.loss_gradient(summed_loss) - snapshot.residual).norm())
    if gap > 1e-5 * max(float(snapshot.residual.norm()), float(snapshot.labels.norm())):
        raise ValueError(
            "Expected the least-squares loss 1/2 Σ (f - y)², which all guarantees and predictions are for, but the "
            f"gradient of the module's `summed_loss` is {gap:.3g} away from f - y; leave them out."
        )


def _loss_scale(module: pl.LightningModule, num_samples: int, steps: float) -> float:
    reduction = getattr(module, "reduction", None) if hasattr(module, "summed_loss") else None
    if reduction == "mean" and num_samples:
        return 1 / num_samples
    # A step takes its part of the samples, all of them together an epoch.
    if reduction == "sum" and math.isfinite(steps):
        return 1 / steps
    raise ValueError(
        "Expected a module that tells how its loss is scaled, as Supervised does by `summed_loss` and `reduction`, on "
        f"a data set of known length, but got {type(module).__name__}; pass `loss_scale`, what the summed loss "
        "1/2 Σ (f - y)² is multiplied by in training: 1/n for a mean over n samples, 2/(nK) for MSELoss."
    )
