"""What the bound of nearly-linear networks takes from a network, its data and its training, and what it assumes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lightning_bounds.jacobian.parameters import plain_name
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.layer_norms import spectral_norm
from lightning_bounds.theory.nearly_linear import input_layer_ratio, projected_loss, strength

# Parts of a network that change nothing, or nothing but the shape.
_NEUTRAL = (nn.Identity, nn.Flatten, nn.Sequential, nn.ModuleList, nn.ModuleDict, _Loss, Metric)
# Eigenvalues below this share of the largest are outside the span of the inputs.
_RANK_TOLERANCE = 1e-10
_WHITE = 1e-6
# By how much a step may differ from one of gradient descent, and outputs when all steps are halved.
_STEP_TOLERANCE = 0.01


class Layers(NamedTuple):
    """The layers of a fully connected network.

    Attributes:
        names: Names of the weights, from the input on.
        weights: The weights themselves, ``W_l`` of shape ``(n_l, n_{l-1})``.
        epsilon: ``ε`` of the activation ``z - ε min(0, z)``.
    """

    names: list[str]
    weights: list[Tensor]
    epsilon: float

    def values(self) -> list[Tensor]:
        """Copies of the weights in float64, without a graph."""
        return [weight.detach().double().clone() for weight in self.weights]


def leaky_layers(module: nn.Module) -> Layers:
    """The layers of a network to which the theorem applies, found among the parts of a module.

    Raises:
        ValueError: If there is anything but two or more linear layers without biases, the last with one output, with
            one and the same leaky ReLU (or ReLU) between all of them, or with none.

    Example:
        >>> layers = leaky_layers(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)))
        >>> layers.names, layers.epsilon
        (['0.weight', '2.weight'], 1.0)
    """
    parts = {name: p for name, p in module.named_modules() if not list(p.children()) and not isinstance(p, _NEUTRAL)}
    layers = {name: part for name, part in parts.items() if isinstance(part, nn.Linear)}
    kinds = [_kind(part) for part in parts.values()]
    slopes = sorted({kind for kind in kinds if isinstance(kind, float)})
    # Layers at the even places and activations between them, or layers alone.
    alternating = kinds[::2] == ["layer"] * len(layers) and len(kinds) == 2 * len(layers) - 1
    outputs = [layer.out_features for layer in layers.values()][-1:]
    held = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    reasons = {
        "other parts": [type(p).__name__ for p, kind in zip(parts.values(), kinds, strict=True) if kind == "other"],
        "biases": [name for name, layer in layers.items() if layer.bias is not None],
        "different slopes": slopes if len(slopes) > 1 else [],
        "parameters of no linear layer": [n for n, parameter in module.named_parameters() if id(parameter) not in held],
        "a number of outputs other than 1": [number for number in outputs if number != 1],
        "fewer than two linear layers": [len(layers)] if len(layers) < 2 else [],
        "activations that do not stand between all layers": slopes if slopes and not alternating else [],
    }
    found = [f"{reason} ({', '.join(map(str, which))})" for reason, which in reasons.items() if which]
    if found:
        raise ValueError(
            "Expected a fully connected network of two or more linear layers without biases, with one leaky ReLU of "
            "slope 1 - epsilon (or ReLU) between them and one output, to which the theorem applies, "
            f"but got {'; '.join(found)}."
        )
    names = [plain_name(f"{name}.weight") for name in layers]
    weights: list[Tensor] = [layer.weight for layer in layers.values()]
    return Layers(names, weights, 1 - slopes[0] if slopes else 0.0)


def _kind(part: nn.Module) -> str | float:
    """``"layer"``, the slope of an activation on negative numbers, or ``"other"``."""
    if isinstance(part, nn.Linear):
        return "layer"
    if isinstance(part, nn.LeakyReLU) and 0 <= part.negative_slope <= 1:
        return float(part.negative_slope)
    return 0.0 if isinstance(part, nn.ReLU) else "other"


@dataclass(frozen=True)
class Setting:
    """What the theorem takes from the training inputs and the initial network; numbers alone, for checkpoints.

    Attributes:
        epsilon: ``ε`` of the activation.
        depth: ``L``.
        beta: ``β``, the largest spectral norm of an initial layer.
        rho: ``ρ``, Frobenius over spectral norm of the initial first layer, on the span of the inputs.
        strength: ``s`` of the whitened inputs and the labels.
        samples: ``m``.
        features: Number of input features.
        rank: ``d``, the dimension of the span of the inputs.
        whitening_error: Largest ``|λ - 1|`` over the eigenvalues ``λ`` of ``X Xᵀ/m`` on the span.
        projected_loss: ``L_X`` of the initial network.
        precision_bits: Bits of a weight.
        from_start: Whether this was seen before the first step.
    """

    epsilon: float
    depth: int
    beta: float
    rho: float
    strength: float
    samples: int
    features: int
    rank: int
    whitening_error: float
    projected_loss: float
    precision_bits: int
    from_start: bool


def setting_of(layers: Layers, inputs: Tensor, labels: Tensor, outputs: Tensor, from_start: bool) -> Setting:
    """The setting of a training.

    Args:
        layers: The network.
        inputs: Training inputs, shape ``(m, d)``, float64.
        labels: Labels ±1, shape ``(m,)``, float64.
        outputs: Outputs of the network, shape ``(m,)``, float64.
        from_start: Whether no step was done yet.

    Raises:
        ValueError: If labels are not ±1, or a layer is zero.
    """
    eigenvalues, directions = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    kept = eigenvalues > _RANK_TOLERANCE * eigenvalues[-1]
    weights = layers.values()
    # What a first layer does outside the span never shows.
    weights[0] = weights[0] @ directions[:, kept]
    norms = [float(spectral_norm(weight)) for weight in weights]
    if not min(norms) > 0:
        raise ValueError(f"Expected initial layers that are not zero, but got spectral norms {norms}.")
    return Setting(
        epsilon=layers.epsilon,
        depth=len(weights),
        beta=max(norms),
        rho=input_layer_ratio(weights[0]),
        strength=float(strength(inputs, labels)),
        samples=len(inputs),
        features=inputs.shape[1],
        rank=int(kept.sum()),
        whitening_error=float((eigenvalues[kept] - 1).abs().max()),
        projected_loss=float(projected_loss(outputs, labels, inputs)),
        precision_bits=8 * layers.weights[0].element_size(),
        from_start=from_start,
    )


def measured_conditions(
    setting: Setting,
    *,
    step_difference: float | None,
    plain: bool,
    projected_ratio: float,
    halving_change: float | None,
    samples: int,
    precision_bits: int,
    margins: int,
) -> list[Condition]:
    """The theorem's conditions that a training shows; the others come with the bound.

    Args:
        setting: What was seen before the first step.
        step_difference: Relative difference of the first steps from full-batch gradient descent on ``L``; None if they
            were not seen.
        plain: Whether the optimizer is SGD without momentum, weight decay and clipping.
        projected_ratio: The largest ``L_X(t) / L_X(0)`` seen.
        halving_change: Relative change of the outputs when all steps are halved; None if that was not tried.
        samples: The number of samples that the bound was evaluated with.
        precision_bits: The bits of a number that the bound was evaluated with.
        margins: How many margins were looked at.
    """
    difference, plain_steps = step_difference, plain and (step_difference or 0.0) <= _STEP_TOLERANCE
    return [
        Condition("architecture", "as asked for", "", "fully connected, no biases, one leaky ReLU, one output", True),
        _measured("loss", difference, "first steps against full-batch descent on 1/2 mean (f - y)², see `time_scale`"),
        Condition(
            "optimizer", "plain" if plain else "other", "", "SGD without momentum, weight decay and clipping", plain
        ),
        _measured("gradient_flow", halving_change, "change of the outputs when steps are halved, known with `proxies`")
        if plain_steps
        else Condition("gradient_flow", "other steps", "", "small steps of full-batch gradient descent", False),
        condition(
            "whitened", setting.whitening_error, "<=", _WHITE, note="largest |λ - 1| of XᵀX/m on the span of the inputs"
        ),
        Condition(
            "full_rank",
            float(setting.rank),
            "<=",
            float(setting.features),
            True,
            note="" if setting.rank == setting.features else "the rank stands in the place of d",
        ),
        Condition(
            "initial_norms",
            setting.beta,
            "",
            "largest spectral norm, before the first step",
            True if setting.from_start else None,
        ),
        condition(
            "projected_loss",
            projected_ratio,
            "<=",
            1.0,
            rtol=1e-9,
            note="largest L_X(t) / L_X(0) at the measurements, at τ = ε; proved at τ = 0, not looked at between (E409)",
        ),
        Condition(
            "a_priori_choice",
            f"{margins} margins at every measurement, all counted",
            "",
            "times, margins, order and initialization do not depend on the data",
            None,
            note="E419",
        ),
        condition("precision", precision_bits, ">=", setting.precision_bits, note="bits of a number"),
        condition(
            "samples",
            samples,
            "==",
            setting.samples,
            note="" if samples == setting.samples else "what so many samples that look like these would give",
        ),
    ]


def _measured(name: str, actual: float | None, note: str) -> Condition:
    """A relative difference that has to be small; undecided if it is not known."""
    if actual is None:
        return Condition(name, "not measured", "<=", _STEP_TOLERANCE, None, note=note)
    return condition(name, actual, "<=", _STEP_TOLERANCE, note=note)


def is_plain(optimizers: Sequence[object], clip: float | None) -> bool:
    """Whether training is gradient descent but for the batches: one SGD without momentum and weight decay, no clipping.

    Example:
        >>> is_plain([torch.optim.SGD([torch.zeros(1)], lr=0.1)], clip=None)
        True
    """
    if len(optimizers) != 1 or clip or type(optimizers[0]) is not torch.optim.SGD:
        return False
    groups = optimizers[0].param_groups
    extras = ("momentum", "weight_decay", "maximize")
    return not any(group[extra] for group in groups for extra in extras) and len({g["lr"] for g in groups}) == 1


def shown(conditions: Sequence[Condition]) -> list[list[str | float]]:
    """Conditions as the rows of a table of text: name, actual, required, status, note."""
    return [
        [
            item.name,
            _text(item.actual),
            f"{item.relation} {_text(item.required)}".strip(),
            item.status,
            item.note,
        ]
        for item in conditions
    ]


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else (f"{value:.6g}" if math.isfinite(value) else str(value))
