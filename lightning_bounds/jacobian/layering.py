"""Finding out by which rule each parameter of a network is differentiated, and trying the rules on a few samples."""

import torch
from torch import Tensor

from lightning_bounds.jacobian.chunk import Chunk, Forward, Layering, Parameters, UnevenError, signature
from lightning_bounds.jacobian.factors import Layout
from lightning_bounds.jacobian.groups import Group, groups_of, link_biases
from lightning_bounds.jacobian.tape import Call, Key, Recording, recorded

# Two ways to the same gradient may differ by this, and by a hundredth of it of the whole gradient.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
# What a rule may raise where it does not fit; whatever it is, automatic differentiation takes over.
_MISFIT = (UnevenError, RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)


def layering_of(forward: Forward, parameters: Parameters, num_samples: int, coupled: bool) -> Layering:
    """Find out, from passes on two and on three samples, by which rule each parameter is differentiated.

    Every rule is tried on the three samples and compared with automatic differentiation; a parameter where they do
    not agree is left to that.

    Args:
        forward: The network.
        parameters: The parameters by name.
        num_samples: How many samples there are.
        coupled: Whether samples see each other; then there is no rule.
    """
    names = list(parameters)
    if coupled:
        return Layering([], names, [], [], reason="outputs depend on other samples of the batch")
    try:
        return _layering(forward, parameters, num_samples)
    except torch.OutOfMemoryError:
        raise
    except _MISFIT as error:
        return Layering([], names, [], [], reason=f"{type(error).__name__}: {error}")


def _layering(forward: Forward, parameters: Parameters, num_samples: int) -> Layering:
    known = {id(parameter): name for name, parameter in parameters.items()}
    three = torch.arange(3) % num_samples
    shared = frozenset[Key]()
    while True:
        small = recorded(lambda: forward(three[:2]), known, frozenset(), shared)
        large = recorded(lambda: forward(three), known, small.copied, shared)
        if signature(small, known) != signature(large, known):
            raise UnevenError("the forward pass of two samples makes other calls than that of three")
        alike = {a.key for a, b in zip(small.calls, large.calls, strict=True) if _grows_nowhere(a, b)}
        if not alike:
            break
        shared |= alike
    layouts = [_layout(first, second) for first, second in zip(small.calls, large.calls, strict=True)]
    unseen = _unseen(large, parameters)
    groups, plain = list[Group](), list[str]()
    for name, parameter in parameters.items():
        found = None if name in unseen else groups_of(name, parameter, large.calls, layouts)
        if found is None:
            plain.append(name)
        else:
            groups += found
    known_layouts = [layout or Layout(0) for layout in layouts]
    calls = signature(large, known)
    layering = Layering(groups, plain, known_layouts, calls, large.copied, shared, _sample_bytes(large))
    del small, large
    _confirm(layering, forward, parameters, three)
    link_biases(layering.groups)
    return layering


def _grows_nowhere(two: Call, three: Call) -> bool:
    return two.inputs.shape == three.inputs.shape and two.shape == three.shape


def _layout(two: Call, three: Call) -> Layout | None:
    """Where the samples are, seen from how shapes grow with their number; None if that is not clear."""
    places = {_growth(tuple(a.inputs.shape for a in (two, three))), _growth((two.shape, three.shape))}
    place = places.pop()
    return Layout(*place) if place is not None and not places else None


def _growth(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, int] | None:
    two, three = shapes
    if len(two) != len(three):
        return None
    grown = [d for d in range(len(two)) if two[d] != three[d]]
    if len(grown) != 1 or two[grown[0]] * 3 != three[grown[0]] * 2:
        return None
    return grown[0], three[grown[0]] // 3


def _unseen(recording: Recording, parameters: Parameters) -> set[str]:
    """Parameters that the outputs also depend on by other ways than the recorded calls."""
    if not recording.outputs.requires_grad:
        return set()
    # A graph is kept for as long as it takes, because nothing is read from it but which ways there are.
    gradients = torch.autograd.grad(
        recording.outputs.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _sample_bytes(recording: Recording) -> int:
    outputs = recording.outputs.shape[1]
    numbers = sum(call.inputs.numel() + (2 + outputs) * torch.Size(call.shape).numel() for call in recording.calls)
    return numbers * recording.outputs.element_size() // 3


def _confirm(layering: Layering, forward: Forward, parameters: Parameters, indices: Tensor) -> None:
    """Leave to automatic differentiation what does not agree with it, after the other order of samples was tried."""
    outputs = forward(indices)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    expected = dict.fromkeys(parameters, None)
    if outputs.requires_grad:
        found = torch.autograd.grad(outputs, list(parameters.values()), vector, allow_unused=True)
        expected = dict(zip(parameters, found, strict=True))
    del outputs
    for attempt in range(2):
        chunk = Chunk(layering, forward, parameters, indices)
        wrong = _disagreeing(layering, chunk, vector, expected)
        calls = {use.call for group in layering.groups if group.name in wrong for use in group.uses}
        swapped = [number for number in calls if layering.layouts[number].repeats > 1]
        if attempt == 1 or not swapped:
            break
        for number in swapped:
            layering.layouts[number] = layering.layouts[number]._replace(interleaved=True)
    layering.plain = [name for name in parameters if name in wrong or name in layering.plain]
    layering.groups = [group for group in layering.groups if group.name not in wrong]


def _disagreeing(layering: Layering, chunk: Chunk, vector: Tensor, expected: dict[str, Tensor | None]) -> set[str]:
    """Names of the parameters whose rules give another ``J^T u`` than automatic differentiation."""
    scale = sum(float(g.norm()) ** 2 for g in expected.values() if g is not None) ** 0.5
    wrong = set()
    for name in {group.name for group in layering.groups}:
        reference = expected[name]
        parameter = chunk.parameters[name]
        total = torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
        try:
            for group in layering.groups:
                if group.name == name:
                    product = chunk.transposed_product(group, vector.to(parameter.dtype))
                    if group.entries is None:
                        total += product
                    else:
                        total[group.entries] += product
        except _MISFIT:
            wrong.add(name)
            continue
        if reference is not None:
            total -= reference.flatten()
        size = 0.0 if reference is None else float(reference.norm())
        tolerance = _TOLERANCE.get(parameter.dtype, 1e-3)
        # Not `>`: NaN agrees with nothing, but is left to those who check the values.
        if float(total.norm()) > tolerance * (size + 1e-2 * scale):
            wrong.add(name)
    return wrong
