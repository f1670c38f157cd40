"""The papers' two-layer network inside a module: its weights and its activation, read and never changed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.guard import preserved_rng
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function

_NAMES = ("relu", "softplus", "tanh", "sigmoid", "erf", "sin", "quadratic", "identity")


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """``f(x) = V φ(W x)`` without biases.

    Attributes:
        hidden: ``W``, shape ``(width, d)``, the live weights.
        output: ``V``, shape ``(K, width)``, the live weights.
        activation: ``φ``: its name, or the function itself where it has none.
    """

    hidden: Tensor
    output: Tensor
    activation: str | Elementwise

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.hidden.shape[0]

    @property
    def trained(self) -> str:
        """Which layers are trained: ``"hidden"``, as in the theorems, ``"output"``, both, or none."""
        layers = {"hidden": self.hidden, "output": self.output}
        return " and ".join(name for name, weight in layers.items() if weight.requires_grad) or "none"


def find_two_layer(module: nn.Module) -> TwoLayer | None:
    """The two-layer network that a module is, or holds together with nothing else that has parameters.

    It is a module with linear layers ``hidden`` and ``output`` and an ``activation``, or an ``nn.Sequential`` of a
    linear layer, an activation and a linear layer, after an ``nn.Flatten`` or not; no layer has a bias.

    Returns:
        The network, or None if there is no such one.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False))
        >>> found = find_two_layer(network)
        >>> found.width, found.activation, found.trained
        (8, 'relu', 'hidden and output')
        >>> find_two_layer(nn.Linear(3, 1)) is None
        True
    """
    everything = {id(parameter) for parameter in module.parameters()}
    for part in module.modules():
        hidden, activation, output = _layers(part)
        if not (isinstance(hidden, nn.Linear) and isinstance(output, nn.Linear) and callable(activation)):
            continue
        fits = hidden.bias is None and output.bias is None and output.in_features == hidden.out_features
        if fits and everything == {id(hidden.weight), id(output.weight)}:
            return TwoLayer(hidden.weight, output.weight, _named(activation))
    return None


def flat_inputs(inputs: object) -> Tensor:
    """Inputs as a matrix ``(n, d)`` in float64 on the CPU, as the network sees them.

    Raises:
        ValueError: If they are no tensor with a number or more for each sample.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() < 2:
        raise ValueError(f"Expected inputs in one tensor of shape (n, ...), but got {_kind(inputs)}.")
    return inputs.detach().flatten(start_dim=1).double().cpu()


def _kind(inputs: object) -> str:
    return f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__


def _layers(part: nn.Module) -> tuple[object, object, object]:
    if not isinstance(part, nn.Sequential):
        return getattr(part, "hidden", None), getattr(part, "activation", None), getattr(part, "output", None)
    layers = [layer for layer in part if not isinstance(layer, nn.Flatten)]
    return (layers[0], layers[1], layers[2]) if len(layers) == 3 else (None, None, None)


def _named(activation: Elementwise) -> str | Elementwise:
    """The name of an activation by its values; the function itself if none has them."""
    points = torch.linspace(-4, 4, 65, dtype=torch.float64)
    with torch.no_grad(), preserved_rng():
        values = activation(points)
        for name in _NAMES:
            if torch.allclose(values, activation_function(name).function(points), rtol=1e-12, atol=1e-12):
                return name
    return activation
