"""Writing down each call of a function with a parameter: what went in, and where its derivative can be read."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_bounds.jacobian.factors import Layer
from lightning_bounds.jacobian.layers import LAYERS, OPERATORS
from lightning_bounds.jacobian.recurrent import RECURRENT
from lightning_bounds.jacobian.rewriting import REWRITTEN, rewritten

# A layer, names of parameters, a count.
Key = tuple[Layer, frozenset[Any], int]


@dataclass(eq=False)
class Call:
    """One call ``y = layer(x, weight, bias)``.

    Attributes:
        layer: How the layer differentiates.
        inputs: ``x``, without its graph.
        weights: The weights that came from parameters, by role, with the graph that leads to those.
        options: The other arguments, by name.
        edge: Where the gradient by ``y`` can be asked for.
        shape: Shape of ``y``.
        key: Which call it is: its layer, the parameters that its weights come from, and which of such calls.
        version: How often the inputs had been changed in place when the layer saw them.
    """

    layer: Layer
    inputs: Tensor
    weights: dict[str, Tensor]
    options: dict[str, Any]
    edge: GradientEdge | None
    shape: tuple[int, ...]
    key: Key
    version: int

    @property
    def overwritten(self) -> bool:
        """Whether an in-place operation has changed the inputs since."""
        return self.inputs._version != self.version


class Tape(TorchFunctionMode):
    """While active, the calls of known layers with parameters are written down and taken out of the graph.

    Inside such a call its weights are constants, so that differentiating the outputs by the layers' outputs costs no
    gradient of a weight. What no layer knows keeps its graph down to the parameters.

    Args:
        parameters: Names of the parameters that are differentiated by, by their identities. Others are constants.
        copied: Numbers of calls whose inputs are copied, because something overwrites them later.
        shared: Keys of calls that see no samples, such as the embedding of positions. They are not written down: what
            they give comes from parameters, and is the weight of the call that brings it to the samples.
    """

    def __init__(
        self,
        parameters: Mapping[int, Any],
        copied: frozenset[int] = frozenset(),
        shared: frozenset[Key] = frozenset(),
    ) -> None:
        super().__init__()
        self.parameters, self.copied, self.shared, self.calls = parameters, copied, shared, list[Call]()
        self._taps: set[Any] = set()
        self._met = Counter[Any]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, written down if a layer knows it."""
        kwargs = kwargs or {}
        layer = LAYERS.get(func)
        if layer is not None:
            return self._layer_call(layer, func, args, kwargs)
        if func in REWRITTEN:
            with self:
                outputs = rewritten(func, args, kwargs, self._is_weight)
            if outputs is not None:
                return outputs
        if func in OPERATORS and not kwargs and len(args) == 2:
            sides = args if self._acts_on(*args) else args[::-1]
            if self._acts_on(*sides):
                return self._layer_call(OPERATORS[func], func, sides, kwargs)
        name = getattr(func, "__name__", "")
        if name in RECURRENT and getattr(func, "__module__", None) == "torch":
            with self:
                unrolled = RECURRENT[name](*args, **kwargs)
            return func(*args, **kwargs) if unrolled is None else unrolled
        if (
            isinstance(func, FunctionType)
            and func.__module__ == functional.__name__
            and func.__closure__ is None
            and any(isinstance(a, Tensor) and self._from_parameters(a) for a in (*args, *kwargs.values()))
        ):
            with self:
                return _body(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def _is_weight(self, argument: Any) -> bool:
        return isinstance(argument, Tensor) and self._from_parameters(argument)

    def _acts_on(self, inputs: Any, weight: Any) -> bool:
        """Whether one side comes from parameters, and the other is data of full shape, or a constant that is shared."""
        if not isinstance(inputs, Tensor) or not isinstance(weight, Tensor) or weight.dim() > inputs.dim():
            return False
        fits = all(size in (1, full) for size, full in zip(weight.shape[::-1], inputs.shape[::-1], strict=False))
        known = fits and inputs.is_floating_point() and self._from_parameters(weight)
        return known and not self._from_parameters(inputs)

    def _layer_call(
        self, layer: Layer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        options = layer.arguments(*args, **kwargs)
        roles = [role for role in layer.roles if isinstance(options.get(role), Tensor)]
        weights = {role: options[role] for role in roles if self._from_parameters(options[role])}
        if not weights or not layer.supports(options):
            return func(*args, **kwargs)
        key = self._key(layer, weights.values())
        if key in self.shared:
            return func(*args, **kwargs)
        inputs = options["input"]
        constant = {id(weight): weight.detach() for weight in weights.values()}
        if inputs.is_floating_point() and not inputs.requires_grad:
            # So that the outputs are no leaf, which must not be overwritten in place.
            constant[id(inputs)] = inputs.detach().requires_grad_()
        args = tuple(constant.get(id(a), a) for a in args)
        outputs = func(*args, **{name: constant.get(id(a), a) for name, a in kwargs.items()})
        if not outputs.requires_grad:
            outputs.requires_grad_()
        edge = get_gradient_edge(outputs)
        self._taps.add(edge.node)
        kept = inputs.detach()
        if len(self.calls) in self.copied:
            kept = kept.clone()
        options = {name: value for name, value in options.items() if name not in (*roles, "input")}
        self.calls.append(Call(layer, kept, weights, options, edge, tuple(outputs.shape), key, kept._version))
        # A leaf must not be overwritten in place, and a view loses its place in the graph then; a copy may be.
        return outputs.clone() if outputs.is_leaf or outputs._is_view() else outputs

    def _key(self, layer: Layer, weights: Iterable[Tensor]) -> Key:
        """The key of the next such call, which does not change when other calls become shared."""
        names = frozenset(self.parameters[id(source)] for weight in weights for source in sources_of(weight))
        self._met[layer, names] += 1
        return layer, names, self._met[layer, names]

    def _from_parameters(self, weight: Tensor) -> bool:
        """Whether a tensor is one of the parameters, or computed from parameters and constants alone."""
        if not weight.requires_grad:
            return False
        if weight.is_leaf:
            return id(weight) in self.parameters
        sources = sources_of(weight, self._taps)
        return bool(sources) and all(id(source) in self.parameters for source in sources)


def sources_of(tensor: Tensor, stops: Collection[Any] = ()) -> list[Tensor]:
    """The leaves that a tensor was computed from; none if one of the nodes ``stops`` is on the way."""
    if tensor.is_leaf:
        return [tensor]
    stack, seen, found = [tensor.grad_fn], set[Any](), dict[int, Tensor]()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node in stops:
            return []
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        stack += [parent for parent, _ in node.next_functions]
    return list(found.values())


def _body(function: FunctionType) -> FunctionType:
    """A function of ``torch.nn.functional`` that does not ask whether somebody listens, so that its parts are heard."""
    deaf = dict.fromkeys(
        ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False
    )
    body = FunctionType(function.__code__, {**function.__globals__, **deaf}, function.__name__, function.__defaults__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


class Recording(NamedTuple):
    """Outputs of a forward pass, its calls of known layers, and the numbers of those whose inputs had to be copied."""

    outputs: Tensor
    calls: list[Call]
    copied: frozenset[int]


def recorded(
    forward: Callable[[], Tensor],
    parameters: Mapping[int, Any],
    copied: frozenset[int] = frozenset(),
    shared: frozenset[Key] = frozenset(),
) -> Recording:
    """A forward pass written down; run again if it overwrites an input that was not known to need a copy.

    Example:
        >>> import torch
        >>> linear, x = torch.nn.Linear(2, 1), torch.ones(3, 2)
        >>> calls = recorded(lambda: linear(x), {id(p): p for p in linear.parameters()}).calls
        >>> [list(call.weights) for call in calls]
        [['weight', 'bias']]
    """
    while True:
        with Tape(parameters, copied, shared) as tape:
            outputs = forward()
        overwritten = frozenset(number for number, call in enumerate(tape.calls) if call.overwritten)
        if not overwritten:
            return Recording(outputs, tape.calls, copied)
        copied |= overwritten
