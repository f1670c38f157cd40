"""Networks that are trained along with a nearly-linear one, from the same weights by the same steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.theory.nearly_linear import network_outputs


class Companions:
    """Gradient descent on ``L = 1/(2m) |Y - f(X)|²`` from the same initial weights, apart from the training.

    Everything is computed in float64 from detached weights, so that the training never hears of it.

    Args:
        weights: ``W_1, ..., W_L`` before training, float64.

    Attributes:
        linear: Weights ``θ_0`` of the network with ``ε = 0``.
        halved: Weights of the network itself after twice as many steps of half the size, which tells how far from
            gradient flow the training is.

    Example:
        >>> weights = [torch.full((2, 1), 0.5, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64)]
        >>> companions, one = Companions(weights), torch.ones(1, 1, dtype=torch.float64)
        >>> companions.step(one, one.flatten(), epsilon=1.0, time=0.1)
        >>> companions.linear[0].flatten()
        tensor([0.5250, 0.5250], dtype=torch.float64)
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.linear = [weight.clone() for weight in weights]
        self.halved = [weight.clone() for weight in weights]

    def step(self, inputs: Tensor, labels: Tensor, epsilon: float, time: float) -> None:
        """One step of gradient descent of size ``time``, in two halves for one of the networks.

        Args:
            inputs: Whitened training inputs, shape ``(m, d)``, float64.
            labels: Labels ±1, shape ``(m,)``, float64.
            epsilon: ``ε`` of the network itself.
            time: The learning rate, in units of the mean loss ``L``.
        """
        self.linear = _descended(self.linear, inputs, labels, 0.0, time)
        for _ in range(2):
            self.halved = _descended(self.halved, inputs, labels, epsilon, time / 2)

    def to(self, device: torch.device) -> None:
        """Go to the device of the network."""
        self.linear, self.halved = [w.to(device) for w in self.linear], [w.to(device) for w in self.halved]

    def state(self) -> dict[str, list[Tensor]]:
        """Tensors for a checkpoint."""
        return {"linear": [w.cpu() for w in self.linear], "halved": [w.cpu() for w in self.halved]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Companions":
        """The companions that :meth:`state` was taken of."""
        companions = cls([weight.double() for weight in state["linear"]])
        companions.halved = [weight.double() for weight in state["halved"]]
        return companions


def loss_gradient(weights: Sequence[Tensor], inputs: Tensor, labels: Tensor, epsilon: float) -> list[Tensor]:
    """Gradient of ``1/(2m) |Y - f(X)|²`` by each weight matrix.

    Args:
        weights: ``W_1, ..., W_L``, float64.
        inputs: Shape ``(m, d)``, float64.
        labels: Shape ``(m,)``, float64.
        epsilon: ``ε`` of the activation.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> [float(gradient) for gradient in loss_gradient([one, one], one, 3 * one.flatten(), epsilon=0.0)]
        [-2.0, -2.0]
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [weight.detach().clone().requires_grad_() for weight in weights]
        residual = network_outputs(leaves, inputs, epsilon) - labels
        return list(torch.autograd.grad(residual.square().mean() / 2, leaves))


def _descended(weights: list[Tensor], inputs: Tensor, labels: Tensor, epsilon: float, time: float) -> list[Tensor]:
    gradients = loss_gradient(weights, inputs, labels, epsilon)
    return [weight - time * gradient for weight, gradient in zip(weights, gradients, strict=True)]
