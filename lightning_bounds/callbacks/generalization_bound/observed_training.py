"""A training as the theorems on generalization see it: samples, a two-layer network then and now, and how it learns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_bounds.callbacks.descent import learning_rate, training_descent
from lightning_bounds.callbacks.two_layer import TwoLayer, find_two_layer, flat_inputs
from lightning_bounds.lightning import pl
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function

# On so many samples the network's outputs are compared with its formula, up to what float32 and narrower products
# round, relative to the sum of the sizes of what is added up.
_FEW = 64
_ROUNDING = 1e-5
# What the gradient of a summed least-squares loss may differ from f - y by, relative to it, in float32.
_LEAST_SQUARES = 1e-4


class TwoLayerWeights(NamedTuple):
    """Weights of ``f(x) = V φ(W x)``: ``hidden`` is ``W`` ``(width, d)``, ``output`` is ``V`` ``(K, width)``."""

    hidden: Tensor
    output: Tensor


def two_layer_weights(module: nn.Module) -> TwoLayerWeights | None:
    """The live weights of a two-layer network without biases; None of any other module.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
        >>> two_layer_weights(network).output.shape, two_layer_weights(nn.Linear(3, 5, bias=False))
        (torch.Size([2, 5]), None)
    """
    network = find_two_layer(module)
    return None if network is None else TwoLayerWeights(network.hidden, network.output)


@dataclass(frozen=True, eq=False)
class ObservedTraining:
    """Everything that a bound can be computed from at one moment of a training, in float64 on the CPU.

    Attributes:
        snapshot: The network through the probe, now.
        initial: Weights before the first step; None if the network is no two-layer network without biases.
        network: The two-layer network as it is now.
        learning_rate: ``η`` of the summed loss; None if nothing tells it.
        conditions: What the training is, against what theorems on gradient descent assume.
    """

    snapshot: Snapshot
    initial: TwoLayerWeights | None = None
    network: TwoLayer | None = None
    learning_rate: float | None = None
    conditions: Sequence[Condition] = ()

    @cached_property
    def inputs(self) -> Tensor:
        """``X``, flattened, shape ``(n, d)``."""
        return flat_inputs(self.snapshot.inputs)

    @cached_property
    def outputs(self) -> Tensor:
        """``f(X)``, shape ``(n, K)``."""
        return self.snapshot.outputs.detach().double().cpu()

    @cached_property
    def labels(self) -> Tensor:
        """``Y``, shape ``(n, K)``: one-hot, ±1 for one output, or real targets."""
        return self.snapshot.labels.cpu().reshape(self.outputs.shape)

    @property
    def num_samples(self) -> int:
        """``n``, of the probe."""
        return len(self.labels)

    @property
    def num_outputs(self) -> int:
        """``K``."""
        return self.labels.shape[1]

    @property
    def width(self) -> int | None:
        """Number of hidden units; None if the network has not two layers."""
        return None if self.initial is None else len(self.initial.hidden)

    @property
    def kappa(self) -> float | None:
        """Root mean square of the initial hidden weights, which estimates their standard deviation."""
        return None if self.initial is None else float(self.initial.hidden.double().square().mean().sqrt())

    def single_column(self, bound: str) -> Tensor:
        """The labels of a single output, shape ``(n,)``.

        Raises:
            ValueError: If there are several outputs.
        """
        if self.num_outputs != 1:
            raise ValueError(
                f"Expected one output, which the theory behind the bound {bound!r} is about, but got "
                f"{self.num_outputs}; train a network with one output on two classes (labels -1 and +1), or take a "
                "bound of the information space."
            )
        return self.labels[:, 0]

    def networks(self, bound: str) -> tuple[TwoLayerWeights, TwoLayerWeights]:
        """The initial and the current weights.

        Raises:
            ValueError: If the network is no two-layer network without biases.
        """
        if self.initial is None or self.network is None:
            raise ValueError(
                f"Expected a network f = V phi(W x) of two linear layers without biases for the bound {bound!r}, but "
                f"got {type(self.snapshot.model).__name__}, which is none; leave {bound!r} out of `bounds`."
            )
        now = (self.network.hidden, self.network.output)
        first, last = (
            TwoLayerWeights(*(weight.detach().double().cpu() for weight in pair)) for pair in (self.initial, now)
        )
        return first, last

    @cached_property
    def activation(self) -> str | Elementwise | None:
        """``φ``; None if the outputs are not ``V φ(W x)``, so that the module does something else besides."""
        if self.network is None or self.network.hidden.shape[1] != self.inputs.shape[1]:
            return None
        W, V = (weight.detach().double().cpu() for weight in (self.network.hidden, self.network.output))
        features = activation_function(self.network.activation).function(self.inputs[:_FEW] @ W.T)
        rounding = _ROUNDING * float((features.abs() @ V.abs().T).max())
        deviation = float((features @ V.T - self.outputs[:_FEW]).abs().max())
        return self.network.activation if deviation <= rounding else None

    def network_condition(self, activation: str | Elementwise, trained: str | None = "hidden") -> Condition:
        """Whether the network is ``V φ(W x)`` with this ``φ``, and the layer ``trained`` alone is trained, if given."""
        learns = f", {trained} layer trained" if trained else ""
        actual, required = "another", f"two-layer {activation_function(activation).name}{learns}"
        if self.network is not None and self.activation is not None:
            learns = f", {self.network.trained} layer trained" if trained else ""
            actual = f"two-layer {activation_function(self.activation).name}{learns}"
        return Condition("network", actual, "", required, actual == required, note="f = V phi(W x), no biases")

    def output_deviation(self, size: float) -> float:
        """Largest ``||V_cs| - size| / size`` of the initial output weights, which the theorems give one size."""
        if self.initial is None or size <= 0:
            return math.inf
        return float((self.initial.output.double().abs() - size).abs().max()) / size


def observed_training(
    trainer: pl.Trainer, module: pl.LightningModule, snapshot: Snapshot, initial: TwoLayerWeights | None
) -> ObservedTraining:
    """What is to be seen of a training now.

    Args:
        trainer: The Trainer.
        module: The module that it trains.
        snapshot: The module through the probe.
        initial: The weights before the first step, if the module is a two-layer network.
    """
    if learning_rate(trainer) is None:
        names = " and ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
        conditions = [Condition("optimizer", names, "==", "gradient descent", False)]
    else:
        conditions = training_descent(trainer, module, loss_scale=1.0).conditions(len(snapshot.targets))
    return ObservedTraining(
        snapshot,
        initial,
        find_two_layer(module),
        _summed_rate(trainer, module),
        [*conditions, _loss_condition(module, snapshot)],
    )


def _summed_rate(trainer: pl.Trainer, module: pl.LightningModule) -> float | None:
    """The learning rate of the loss summed over the samples; None if nothing tells how the module's is scaled."""
    try:
        rate = learning_rate(trainer)
        # No step size of 0, with which a schedule may warm up, is one of a theorem.
        return rate * training_descent(trainer, module, loss_scale=None).loss_scale if rate else None
    except ValueError:
        return None


def _loss_condition(module: pl.LightningModule, snapshot: Snapshot) -> Condition:
    summed_loss = getattr(module, "summed_loss", None)
    if not callable(summed_loss):
        return Condition("loss", "unknown", "", "1/2 |f - y|^2", None, note="the module has no `summed_loss`")
    residual = snapshot.residual
    deviation = float((snapshot.loss_gradient(summed_loss) - residual).norm())
    scale = max(float(residual.norm()), torch.finfo(torch.float64).tiny)
    note = "least squares: |gradient of the summed loss - (f - y)| / |f - y|"
    return condition("loss_gradient_deviation", deviation / scale, "<=", _LEAST_SQUARES, note=note)
