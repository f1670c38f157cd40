"""Activations ``φ``, by name or as any entrywise function: their derivatives, and how large those can be."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Elementwise = Callable[[Tensor], Tensor]

# Where the derivatives of a function without a name are looked at: multiples of 2^-9 up to 32, where the largest values
# and the kinks usually are, and ever longer steps up to 1024.
_STEP = 2.0**-9
_FINE_HALF_WIDTH = 32.0
_FAR = 1024.0


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        name: Its name, or that of the function.
        function: ``φ``, entrywise.
        derivative: ``φ'``, entrywise.
        named: Whether it is one of the names, for which closed forms may be known.
    """

    name: str
    function: Elementwise
    derivative: Elementwise
    named: bool


class DerivativeBounds(NamedTuple):
    """``first = sup |φ'|``, ``second = sup |φ''|`` (``inf`` at a kink), and ``at_zero = |φ(0)|``."""

    first: float
    second: float
    at_zero: float

    @property
    def bound(self) -> float:
        """``B``, the largest of the three."""
        return max(self)


_SIGMOID_SECOND = 1 / (6 * math.sqrt(3))
_TANH_SECOND = 4 / (3 * math.sqrt(3))
_ERF_FIRST = 2 / math.sqrt(math.pi)
_ERF_SECOND = 2 * math.sqrt(2 / (math.pi * math.e))

_NAMED: dict[str, tuple[Elementwise, Elementwise, DerivativeBounds]] = {
    # The derivative at 0 is 1 in the papers (0 in torch).
    "relu": (torch.relu, lambda z: (z >= 0).to(z), DerivativeBounds(1.0, math.inf, 0.0)),
    "softplus": (functional.softplus, torch.sigmoid, DerivativeBounds(1.0, 0.25, math.log(2))),
    "tanh": (torch.tanh, lambda z: 1 - z.tanh().square(), DerivativeBounds(1.0, _TANH_SECOND, 0.0)),
    "sigmoid": (
        torch.sigmoid,
        lambda z: z.sigmoid() * (-z).sigmoid(),
        DerivativeBounds(0.25, _SIGMOID_SECOND, 0.5),
    ),
    "erf": (torch.erf, lambda z: _ERF_FIRST * (-z.square()).exp(), DerivativeBounds(_ERF_FIRST, _ERF_SECOND, 0.0)),
    "sin": (torch.sin, torch.cos, DerivativeBounds(1.0, 1.0, 0.0)),
    "quadratic": (lambda z: z.square() / 2, lambda z: z, DerivativeBounds(math.inf, 1.0, 0.0)),
    "identity": (lambda z: z, torch.ones_like, DerivativeBounds(1.0, 0.0, 0.0)),
}


def activation_function(activation: str | Elementwise) -> Activation:
    """The activation of a name, or of a function of a tensor that acts entrywise and is differentiated by autograd.

    Raises:
        ValueError: If the name is unknown, or the function does not act entrywise.
        TypeError: If it is neither.

    Example:
        >>> activation_function("relu").derivative(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0., 1., 1.])
        >>> activation_function("swish")
        Traceback (most recent call last):
        ValueError: Expected an activation among ['erf', 'identity', ..., 'tanh'], or a function, but got 'swish'.
    """
    if isinstance(activation, str):
        if activation not in _NAMED:
            raise ValueError(f"Expected an activation among {sorted(_NAMED)}, or a function, but got {activation!r}.")
        function, derivative, _ = _NAMED[activation]
        return Activation(activation, function, derivative, named=True)
    if not callable(activation):
        raise TypeError(f"Expected the name of an activation or a function, but got {activation!r}.")
    probe = activation(torch.zeros(3, 2, dtype=torch.float64))
    if not isinstance(probe, Tensor) or probe.shape != (3, 2) or not bool(probe.isfinite().all()):
        raise ValueError(
            f"Expected an entrywise `activation`, finite at 0, but {activation!r} makes "
            f"{tuple(probe.shape) if isinstance(probe, Tensor) else type(probe).__name__} out of zeros (3, 2)."
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    return Activation(name, activation, lambda z: _derivative(activation, z), named=False)


def derivative_bounds(activation: str | Elementwise) -> DerivativeBounds:
    """How large ``φ'``, ``φ''`` and ``φ(0)`` are; ``B`` of the theorems is their maximum.

    Exact for the names. For a function they are maxima over a grid of about 33,000 points in [-1024, 1024]: infinite
    where ``φ'`` still grows at its ends, or jumps by more than ``φ''`` explains, and otherwise no proof.

    References:
        Oymak & Soltanolkotabi 2019, Theorems 2.1 and 3.2; Oymak, Fabian, Li, Soltanolkotabi 2019, Theorem 3.2
        (erratum A10: ``|φ(0)| <= B``).

    Example:
        >>> derivative_bounds("softplus").bound, derivative_bounds("relu").bound
        (1.0, inf)
    """
    if isinstance(activation, str):
        activation_function(activation)
        return _NAMED[activation][2]
    function = activation_function(activation).function
    fine = torch.arange(-_FINE_HALF_WIDTH, _FINE_HALF_WIDTH, _STEP, dtype=torch.float64)
    far = torch.logspace(math.log2(_FINE_HALF_WIDTH), math.log2(_FAR), 256, base=2.0, dtype=torch.float64)
    first, second = _derivative(function, fine).abs(), _second_derivative(function, fine).abs()
    outside = torch.cat([-far, far])
    first_outside = _derivative(function, outside).abs()
    second_outside = _second_derivative(function, outside).abs()
    at_zero = float(function(torch.zeros(1, dtype=torch.float64)).detach().abs())
    jump = float(_derivative(function, fine).diff().abs().max()) / _STEP
    return DerivativeBounds(
        _supremum(first, first_outside),
        math.inf if jump > 2 * float(second.max()) + 1e-6 else _supremum(second, second_outside),
        at_zero,
    )


def _supremum(inside: Tensor, outside: Tensor) -> float:
    """Maximum, or infinity if the values are largest, and still growing, where the grid ends."""
    largest = max(float(inside.max()), float(outside.max()))
    half = outside.unflatten(0, (2, -1))[:, : outside.numel() // 4]
    grows = float(outside.max()) > 1.01 * max(float(inside.max()), float(half.max()))
    return math.inf if grows or not math.isfinite(largest) else largest


def _derivative(function: Elementwise, z: Tensor) -> Tensor:
    return _gradient(function, z, create_graph=False)


def _second_derivative(function: Elementwise, z: Tensor) -> Tensor:
    return _gradient(lambda points: _gradient(function, points, create_graph=True), z, create_graph=False)


def _gradient(function: Elementwise, z: Tensor, create_graph: bool) -> Tensor:
    """Entrywise derivative; 0 where the function does not depend on its argument."""
    # Callbacks may measure in inference mode, whose tensors autograd refuses: a copy outside of it is an ordinary one.
    with torch.inference_mode(False), torch.enable_grad():
        z = z if create_graph else z.detach().clone().requires_grad_()
        value = function(z)
        if not value.requires_grad:
            return torch.zeros_like(z)
        return torch.autograd.grad(
            value.sum(), z, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )[0]
