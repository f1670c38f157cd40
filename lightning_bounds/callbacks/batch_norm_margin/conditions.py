"""Which assumptions of the theory of batch norm margins a network, its data and its training keep or break."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_bounds.callbacks.batch_norm_margin.layers import BATCH_NORMS, Observation, WholeSetNetwork, module_name
from lightning_bounds.lightning import pl
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.labels import label_matrix

_WHOLE_SET = "of the whole training set"


class Training(NamedTuple):
    """What a Trainer tells of its training.

    Attributes:
        samples: Size of the training set; None if its length is not known.
        batch: Samples of one forward pass; None if not known.
        step: Samples of one optimizer step.
        epochs: Passes over the training set so far.
        optimizers: What makes the steps, in words; ``"gradient steps"`` if it is nothing else.
        steps: Optimizer steps so far.
    """

    samples: int | None
    batch: int | None
    step: int | None
    epochs: float
    optimizers: str
    steps: int

    @property
    def descent(self) -> str:
        """``"SGD"`` of one fresh sample a step, ``"GD"`` of the whole set, or ``"minibatches"``."""
        if self.step is None or self.samples is None:
            return "unknown"
        return "SGD" if self.step == 1 else "GD" if self.step >= self.samples else "minibatches"


def training_of(trainer: pl.Trainer, epochs: float, steps: int) -> Training:
    """What a Trainer tells of its training, after some passes over the data and optimizer steps."""
    loader: Any = trainer.train_dataloader
    try:
        samples = len(loader.dataset)
    except (AttributeError, TypeError):
        samples = None
    batch = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if samples is not None and batch is not None:
        batch = min(batch, samples)
    step = None if batch is None else batch * trainer.accumulate_grad_batches * trainer.world_size
    words = [_in_words(optimizer) for optimizer in trainer.optimizers]
    return Training(samples, batch, step, epochs, " and ".join(words) or "none", steps)


def network_conditions(model: nn.Module, observation: Observation, training: Training) -> list[Condition]:
    """What the theory assumes of the network: ``f(x; a, c, V)`` and statistics of the whole training set.

    Args:
        model: The module that was observed.
        observation: Its layers with batch norm.
        training: How it is trained.
    """
    named = {module_name(name): part for name, part in model.named_modules()}
    layers = [named[layer.name] for layer in observation.layers]
    norms = [layer for layer in layers if isinstance(layer, BATCH_NORMS)]
    paper = [layer for layer in layers if isinstance(layer, WholeSetNetwork)]
    called = [named[name] for name in observation.called]
    biases = sum(getattr(layer, "bias", None) is not None for layer in called)
    shifted = sum(norm.bias is not None for norm in norms)
    depth = len(called) + 2 * len(paper)
    shape = f"{depth} linear layers, {len(layers)} of them normalized"
    return [
        _stated("depth", shape, "a normalized layer and a readout", depth == 2 and len(layers) == 1),
        condition("outputs", observation.outputs.shape[1], "==", 1),
        _activation(model, bool(paper) and not called),
        condition("batch norms with a shift", shifted, "==", 0, note=f"largest {_largest_shift(observation):.3g}"),
        condition("layers with a bias", biases, "==", 0),
        _training_statistics(norms, training),
        _stated("statistics in evaluation", _evaluation_statistics(norms), _WHOLE_SET, not norms),
        _differentiated(norms, paper),
    ]


def data_conditions(inputs: Any, observation: Observation, training: Training) -> list[Condition]:
    """What the theory assumes of the data, and how much of it was looked at.

    Args:
        inputs: Inputs of the samples that were looked at.
        observation: The network on them.
        training: How the network is trained.
    """
    seen = len(observation.outputs)
    whole = None if training.samples is None else seen >= training.samples
    conditions = [
        _stated("samples that are looked at", f"{seen} of {training.samples}", "the whole training set", whole),
        _stated("samples are independent", "not known", "drawn from one distribution", None),
    ]
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        samples = inputs.detach().double().flatten(1)
        largest = float((samples - samples.mean(dim=0)).norm(dim=1).max())
        conditions.append(condition("features", samples.shape[1], ">=", 2))
        conditions.append(condition("largest centered norm", largest, "<=", 1, rtol=1e-5, note="E304"))
    least = min(float(layer.normalization.min()) for layer in observation.layers)
    return [*conditions, condition("smallest N(v_j)", least, ">", 0, note="eps_N is finite")]


def training_conditions(
    training: Training, outputs: Tensor, targets: Tensor, summed_loss: Callable[[Tensor, Tensor], Tensor] | None
) -> list[Condition]:
    """What the theorems assume of the training: logistic loss, plain steps on one fresh sample or on the whole set.

    Args:
        training: How the network is trained.
        outputs: Outputs of some samples, shape ``(n, K)``.
        targets: Their targets.
        summed_loss: The module's ``summed_loss``, if it has one.
    """
    kinds = {"SGD": "one sample a step", "GD": "the whole training set", "unknown": "not known"}
    steps = kinds.get(training.descent, f"minibatches of {training.step}")
    decided = {"unknown": None, "minibatches": False}.get(training.descent, True)
    conditions = [
        _logistic(outputs, targets, summed_loss),
        _stated("optimizer", training.optimizers, "gradient steps", training.optimizers == "gradient steps"),
        _stated("samples of a step", steps, "one, or all of them", decided),
        _stated("initial weights", "not known", "a ~ N(0, 1/m), c = 1, v ~ N(0, I/d)", None),
    ]
    if training.descent != "GD":
        conditions.append(condition("passes over the data", training.epochs, "<=", 1, note="each sample is fresh"))
    return conditions


def condition_rows(conditions: list[Condition]) -> list[list[str | float]]:
    """Rows of a table: condition, what was found, what is required, status, note.

    Example:
        >>> condition_rows([condition("outputs", 10, "==", 1)])
        [['outputs', '10', '== 1', 'violated', '']]
    """
    return [
        [item.name, _shown(item.actual), f"{item.relation} {_shown(item.required)}".strip(), item.status, item.note]
        for item in conditions
    ]


def _activation(model: nn.Module, paper: bool) -> Condition:
    kinds = {type(part) for part in model.modules() if type(part).__module__ == "torch.nn.modules.activation"}
    names = sorted(kind.__name__ for kind in kinds)
    others = [name for name in names if name not in ("ReLU", "MultiheadAttention")]
    holds = True if paper else not others if names else None
    return _stated("activation", "ReLU" if paper else ", ".join(names) or "not known", "ReLU", holds)


def _training_statistics(norms: list[Any], training: Training) -> Condition:
    name = "statistics in training"
    if not norms:
        return _stated(name, _WHOLE_SET, _WHOLE_SET, True)
    if training.batch is None or training.samples is None:
        return _stated(name, "of each batch", _WHOLE_SET, None)
    whole = training.batch >= training.samples
    found = _WHOLE_SET if whole else f"of minibatches of {training.batch} among {training.samples}"
    return _stated(name, found, _WHOLE_SET, whole)


def _evaluation_statistics(norms: list[Any]) -> str:
    if not norms:
        return _WHOLE_SET
    running = sum(norm.running_mean is not None for norm in norms)
    return "running averages" if running == len(norms) else f"running averages in {running} of {len(norms)}"


def _differentiated(norms: list[Any], paper: list[Any]) -> Condition:
    frozen = sum(not norm.training for norm in norms) + sum(network.gradient != "full" for network in paper)
    found = f"detached in {frozen} of {len(norms) + len(paper)}" if frozen else "through mean and variance"
    return _stated("gradient of the statistics", found, "through mean and variance", frozen == 0)


def _largest_shift(observation: Observation) -> float:
    return max(layer.shift for layer in observation.layers)


def _logistic(outputs: Tensor, targets: Tensor, summed_loss: Callable[[Tensor, Tensor], Tensor] | None) -> Condition:
    if outputs.shape[1] != 1:
        return _stated("loss", f"of {outputs.shape[1]} outputs", "logistic", False)
    if summed_loss is None:
        return _stated("loss", "not known", "logistic", None, "the module has no `summed_loss`")
    with torch.inference_mode(False), torch.enable_grad():
        f = outputs.double().clone().requires_grad_()
        (found,) = torch.autograd.grad(summed_loss(f, targets.to(f.device).clone()), f)
        y = label_matrix(targets.to(f.device), 1, torch.float64)
        # The derivative of ln(1 + exp(-y f)).
        same = torch.allclose(found, -y * torch.sigmoid(-y * f.detach()), rtol=1e-4, atol=1e-9)
    return _stated("loss", "logistic" if same else "another one", "logistic", same)


def _in_words(optimizer: torch.optim.Optimizer) -> str:
    group = optimizer.param_groups[0]
    extras = [f"{name} {group[name]:g}" for name in ("momentum", "weight_decay") if group.get(name)]
    if type(optimizer) is not torch.optim.SGD:
        return type(optimizer).__name__
    return "gradient steps" if not extras else f"gradient steps with {' and '.join(extras)}"


def _stated(name: str, actual: str, required: str, holds: bool | None, note: str = "") -> Condition:
    return Condition(name, actual, "", required, holds, None, note)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
