"""Batch norm layers of any network as the theory of margins sees them: directions, scales, readout, and ``N(v_j)``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.forward import Inputs, OutputFn, output_matrix, prepared
from lightning_bounds.jacobian.guard import full_precision, observed
from lightning_bounds.jacobian.parameters import plain_name
from lightning_bounds.theory.batch_norm_margin.normalization import displacement

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@runtime_checkable
class WholeSetNetwork(Protocol):
    """What tells the paper's network ``f(x; a, c, V)`` from others: its weights, and statistics that were set.

    ``output_weights`` is ``a`` of shape ``(K, m)``, ``scales`` is ``c``, ``directions`` is ``V`` of shape ``(m, d)``.
    """

    output_weights: Tensor
    scales: Tensor
    directions: Tensor
    num_samples: Tensor
    eps: float
    gradient: str

    def normalization(self) -> Tensor:
        """``N(v_j)``, shape ``(m,)``."""
        ...


class NormalizedLayer(NamedTuple):
    """A layer with batch norm behind it, and what follows.

    Attributes:
        name: Name of the batch norm inside the model.
        normalization: ``N(v_j)``, the standard deviation of the pre-activations over all samples (and places of an
            image) with ``eps`` inside the root, float64, shape ``(m,)``.
        directions: ``V``, weights of the linear or convolutional layer in front as a matrix, shape ``(m, fan_in)``;
            None if something else stands there.
        scales: ``c``, shape ``(m,)``; ones if the batch norm has none.
        readout: ``a``, weights of the linear or convolutional layer that is called next; None if there is none.
        shift: Largest entry of the batch norm's shift, in absolute value.
    """

    name: str
    normalization: Tensor
    directions: Tensor | None
    scales: Tensor
    readout: Tensor | None
    shift: float = 0.0

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its tensors by name, copies on the CPU, for comparison with later ones."""
        tensors = {name: getattr(self, name) for name in ("normalization", "directions", "scales", "readout")}
        return {name: tensor.clone().cpu() for name, tensor in tensors.items() if tensor is not None}


class Observation(NamedTuple):
    """One forward pass in which every batch norm used the statistics of all samples that were looked at.

    Attributes:
        outputs: ``f(X)``, shape ``(n, K)``, detached.
        layers: The layers with batch norm in the order of their first call.
        called: Names of the linear and convolutional layers that were called.
    """

    outputs: Tensor
    layers: list[NormalizedLayer]
    called: list[str]


def observe_layers(model: nn.Module, inputs: Inputs, output_fn: OutputFn | None = None) -> Observation:
    """Layers with batch norm, and outputs, with the statistics of the samples themselves.

    All but the batch norms is in evaluation mode; running averages and everything else stay as they are.

    Args:
        model: Any module.
        inputs: The samples, at least two.
        output_fn: Picks the outputs out of what the module returns.

    Raises:
        ValueError: If no batch norm of torch's (``BatchNorm1d``, ``2d``, ``3d``) and no network of the paper is called.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
        >>> observed_layers = observe_layers(network, torch.eye(2)).layers
        >>> [(layer.name, layer.directions.shape, layer.readout.shape) for layer in observed_layers]
        [('1', torch.Size([3, 2]), torch.Size([1, 3]))]
    """
    with observed(model, "eval"), full_precision(model), torch.no_grad(), _Recorder(model).listening() as recorder:
        outputs = output_matrix(model, prepared(model, inputs), output_fn).detach()
    if not recorder.layers:
        raise ValueError(
            f"Expected a network with BatchNorm1d, BatchNorm2d or BatchNorm3d layers, or a BatchNormNetwork, but "
            f"{type(model).__name__} calls none; leave this callback out, and take MarginMonitor for margins."
        )
    return Observation(outputs, list(recorder.layers.values()), list(recorder.called))


class Movement(NamedTuple):
    """How far a layer has gone from where it began.

    Attributes:
        displacement: ``√(1/m Σ_j |v_j/N(v_j) - v_j(0)/N(v_j(0))|²)`` of the effective rows; None without directions.
        outputs: ``|U_t - U_0|`` of ``U = (a, c)``.
        directions: ``|V_t - V_0|_F``; None without directions.
    """

    displacement: float | None
    outputs: float
    directions: float | None


def movement(layer: NormalizedLayer, initial: Mapping[str, Tensor]) -> Movement:
    """How far a layer has gone.

    Args:
        layer: The layer now.
        initial: :attr:`NormalizedLayer.weights` where it began.

    Raises:
        ValueError: If the shapes of its weights have changed.

    Example:
        >>> first = NormalizedLayer("norm", torch.ones(2), torch.eye(2), torch.ones(2), torch.zeros(1, 2))
        >>> later = first._replace(normalization=torch.tensor([1.0, 0.5]), scales=torch.tensor([1.0, 3.0]))
        >>> movement(later, first.weights)
        Movement(displacement=0.707106..., outputs=2.0, directions=0.0)
    """
    now = layer.weights
    shapes = [{name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (now, initial)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Expected the weights of {layer.name!r} to keep shapes {shapes[1]}, but got {shapes[0]}.")
    change = {name: float((now[name].double() - initial[name].double()).norm()) for name in now}
    outputs = (change["scales"] ** 2 + change.get("readout", 0.0) ** 2) ** 0.5
    if "directions" not in now:
        return Movement(None, outputs, None)
    rows, initial_rows = (effective_rows(at["directions"], at["normalization"]) for at in (now, initial))
    return Movement(displacement(rows, initial_rows), outputs, change["directions"])


def layer_values(layer: NormalizedLayer, initial: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
    """What is logged of a layer, by name; what is infinite or not known is left out.

    Args:
        layer: The layer now.
        initial: :attr:`NormalizedLayer.weights` where it began.
    """
    moved, N = movement(layer, initial), layer.normalization
    least = float(N.min())
    values: dict[str, float | Tensor | None] = {
        "normalization": N,
        "normalization_min": least,
        "normalization_max": float(N.max()),
        "eps_n": 1 / least if least > 0 else None,
        "displacement": moved.displacement,
        "output_movement": moved.outputs,
        "direction_movement": moved.directions,
    }
    return {name: value for name, value in values.items() if value is not None}


def effective_rows(directions: Tensor, normalization: Tensor) -> Tensor:
    """``v_j / N(v_j)``, shape ``(m, fan_in)``, float64; 0 where ``N(v_j) = 0``.

    Example:
        >>> effective_rows(torch.eye(2), torch.tensor([2.0, 0.0]))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]], dtype=torch.float64)
    """
    N = normalization.double().unsqueeze(1)
    return torch.where(N > 0, directions.double() / N.where(N > 0, torch.ones_like(N)), torch.zeros_like(N))


def module_name(name: str) -> str:
    """A module's name without the wrapper that torch.compile puts around modules; the whole model is ``network``.

    Example:
        >>> module_name("network._orig_mod.0"), module_name("")
        ('network.0', 'network')
    """
    return plain_name(name) or "network"


class _Recorder:
    """Hooks that write down batch norms, what stands in front of them and what is called next."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: module_name(name) for name, module in model.named_modules()}
        self.layers: dict[str, NormalizedLayer] = {}
        self.called: dict[str, None] = {}
        self._last: tuple[nn.Module, Tensor] | None = None

    @contextmanager
    def listening(self) -> Iterator["_Recorder"]:
        """The recorder, with batch norms by the samples' own statistics and hooks that are gone on leaving."""
        with ExitStack() as stack:
            for module in self.names:
                if isinstance(module, BATCH_NORMS):
                    # Inside `observed`, which remembers the flag and the running averages.
                    module.training = True
                    stack.callback(module.register_forward_pre_hook(self._batch_norm).remove)
                elif isinstance(module, _LINEAR):
                    stack.callback(module.register_forward_hook(self._linear).remove)
                elif isinstance(module, WholeSetNetwork):
                    stack.callback(cast(nn.Module, module).register_forward_pre_hook(self._whole_set).remove)
            yield self
            self._last = None

    def _linear(self, module: Any, _: Any, output: Tensor) -> None:
        self.called[self.names[module]] = None
        for name, layer in self.layers.items():
            if layer.readout is None:
                self.layers[name] = layer._replace(readout=module.weight.detach())
        self._last = (module, output)

    def _batch_norm(self, module: Any, arguments: Sequence[Tensor]) -> None:
        name, values = self.names[module], arguments[0].double().transpose(0, 1).flatten(1)
        in_front: Any = self._last[0] if self._last is not None and self._last[1] is arguments[0] else None
        if name in self.layers:
            return
        weight, shift = module.weight, module.bias
        self.layers[name] = NormalizedLayer(
            name,
            normalization=(values.var(dim=1, correction=0) + module.eps).sqrt(),
            directions=None if in_front is None else in_front.weight.detach().flatten(1),
            scales=values.new_ones(len(values)) if weight is None else weight.detach(),
            readout=None,
            shift=0.0 if shift is None else float(shift.detach().abs().max()),
        )

    def _whole_set(self, module: Any, _: Any) -> None:
        name, N = self.names[module], module.normalization().double()
        weights = (module.directions.detach(), module.scales.detach(), module.output_weights.detach())
        self.layers[name] = NormalizedLayer(name, N, *weights)
