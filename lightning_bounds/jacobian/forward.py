"""Calling any module on some samples: its inputs cut by samples, its outputs as a matrix."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.differentiation import selected_rows
from lightning_bounds.jacobian.guard import kept_attributes

# Machine epsilons below it are those of float64.
_FINE = 1e-10

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
OutputFn = Callable[[Any], Tensor]


def num_samples(inputs: Inputs) -> int:
    """Number of samples: the first dimension of the first tensor.

    Args:
        inputs: A tensor, a sequence of tensors, or a mapping of names to tensors.

    Raises:
        TypeError: If there is no tensor in it.
        ValueError: If it holds no sample.

    Example:
        >>> num_samples({"tokens": torch.zeros(5, 7)})
        5
    """
    tensors = [tensor for tensor in _leaves(inputs) if isinstance(tensor, Tensor) and tensor.dim() > 0]
    if not tensors:
        raise TypeError(f"Expected a tensor, or a sequence or mapping of tensors, but got {type(inputs).__name__}.")
    if tensors[0].shape[0] == 0:
        raise ValueError("Expected at least one sample, but the first dimension of the inputs is 0.")
    return tensors[0].shape[0]


def select(inputs: Inputs, indices: Tensor) -> Inputs:
    """A copy of the samples with these indices, which an in-place layer may overwrite.

    Example:
        >>> select(torch.arange(4), torch.tensor([2, 0]))
        tensor([2, 0])
    """
    n = num_samples(inputs)

    def part(tensor: Tensor) -> Tensor:
        return tensor[indices.to(tensor.device)] if tensor.dim() and tensor.shape[0] == n else tensor.clone()

    return map_tensors(inputs, part)


def map_tensors(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """The same structure with ``function`` applied to each of its tensors; what is no tensor is kept."""

    def applied(leaf: Any) -> Any:
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: applied(leaf) for name, leaf in inputs.items()}
    return tuple(applied(leaf) for leaf in inputs)


def prepared(model: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs as the model takes them: on its device, floating ones in its precision (at least float32), detached.

    Example:
        >>> prepared(nn.Linear(2, 1).double(), torch.ones(1, 2)).dtype
        torch.float64
    """
    reference = next((p for p in model.parameters() if p.is_floating_point()), None)
    if reference is None:
        return map_tensors(inputs, torch.Tensor.detach)
    device, dtype = reference.device, torch.promote_types(reference.dtype, torch.float32)
    return map_tensors(inputs, lambda tensor: tensor.detach().to(device, dtype if tensor.is_floating_point() else None))


def output_matrix(model: nn.Module, inputs: Inputs, output_fn: OutputFn | None = None) -> Tensor:
    """Outputs of the model with one row per sample: ``f(X)``, shape ``(n, K)``.

    A tensor goes in as ``model(inputs)``, a sequence as ``model(*inputs)``, a mapping as ``model(**inputs)``. Outputs
    of shape ``(n,)`` have ``K = 1``; further dimensions are flattened into ``K``, last one fastest.

    Args:
        model: Any module.
        inputs: The samples.
        output_fn: Picks the tensor out of what the module returns. Without it a tensor is taken as it is, and
            ``logits`` from an object or a mapping that has them.

    Raises:
        TypeError: If there is no tensor to be found, or it is complex or integer.
        ValueError: If its first dimension is not the number of samples.

    Example:
        >>> output_matrix(nn.Flatten(0), torch.ones(3)).shape
        torch.Size([3, 1])
    """
    with kept_attributes(model):
        if isinstance(inputs, Tensor):
            returned = model(inputs)
        elif isinstance(inputs, Mapping):
            returned = model(**inputs)
        else:
            returned = model(*inputs)
        outputs = output_fn(returned) if output_fn is not None else _default_output(returned)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = f"dtype {outputs.dtype}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TypeError(
            f"Expected a real floating-point tensor of outputs, but got {kind}; "
            "pass `output_fn` to pick it out of what the module returns."
        )
    n = num_samples(inputs)
    if outputs.dim() == 0 or outputs.shape[0] != n:
        raise ValueError(
            f"Expected one row of outputs for each of the {n} samples, but got shape {tuple(outputs.shape)}; "
            "pass `output_fn` to bring the samples to the first dimension."
        )
    return outputs.reshape(n, -1)


def checked_size(outputs: Tensor, count: int) -> Tensor:
    """The outputs ``(n, K)`` again.

    Raises:
        ValueError: If ``K`` is not what it was for the first samples.
    """
    if outputs.shape[1] != count:
        raise ValueError(
            f"Expected {count} outputs for every sample, as for the first ones, but some have "
            f"{outputs.shape[1]}; pass `output_fn` to bring them to one size."
        )
    return outputs


def tried_outputs(
    outputs: Callable[[Tensor], Tensor], num_samples: int, mode: str, precision: float
) -> tuple[int, bool]:
    """Number of outputs of a sample, and whether samples see each other, from passes on a few of them.

    Args:
        outputs: From the numbers of some samples to their outputs ``(n, K)``.
        num_samples: How many there are.
        mode: In ``"train"`` mode samples always see each other.
        precision: Machine epsilon of the network.

    Raises:
        ValueError: If two equal passes differ, samples have outputs of different sizes, or the outputs depend on no
            parameter.
    """
    first = torch.arange(num_samples if mode == "train" else min(3, num_samples))
    with torch.no_grad():
        together, again = outputs(first), outputs(first)
    if not _close(together, again, precision):
        raise ValueError(
            f"Expected equal outputs from two forward passes on the same samples, but they differ by up to "
            f"{float((together - again).abs().max()):.3g}: the Jacobian of a random function is undefined; "
            "use mode='eval', or take the randomness out of the module."
        )
    coupled = mode == "train"
    try:
        alone = again if coupled else outputs(first[:1])
    except ValueError:  # batch statistics of a single sample
        coupled = True
        alone = outputs(first)
    if alone.shape[1] != together.shape[1]:
        raise ValueError(
            f"Expected equally many outputs for every sample, but {len(first)} together have {together.shape[1]} each "
            f"and the first one alone has {alone.shape[1]}; pass `output_fn` to bring them to one size."
        )
    coupled = coupled or not _close(together[:1], alone[:1], precision)
    if not coupled and not alone.requires_grad:
        raise ValueError(
            f"Expected outputs that depend on trainable parameters, but none of the {together.shape[1]} outputs does; "
            "look at the parameters that the outputs are computed from, with gradients recorded."
        )
    return together.shape[1], coupled


@torch.enable_grad()
def differs_alone(
    outputs: Callable[[Tensor], Tensor], parameters: Mapping[str, nn.Parameter], precision: float
) -> bool:
    """Whether a sample alone in its batch has another gradient than the same sample as one of two.

    Of samples that do not see each other it has not, but torch 2.13 differentiates batch norm on a processor wrongly
    where a batch of one comes with its gradient in the order of channels last, as from ``flatten(2).transpose(1, 2)``.

    Args:
        outputs: From the numbers of some samples to their outputs ``(n, K)``.
        parameters: By name, by which it is differentiated.
        precision: Machine epsilon of the network.
    """
    first, kept = torch.zeros(1, dtype=torch.int64), list(parameters.values())
    sizes = [parameter.numel() for parameter in kept]

    def differentiated(indices: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and gradients one at a time and some at a time, which torch computes in different ways."""
        found = outputs(indices)[:1]
        rows = selected_rows(found, kept, torch.arange(min(2, found.shape[1])))
        single = torch.autograd.grad(found[0, 0], kept, allow_unused=True)
        zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(kept, single, strict=True)]
        return found.detach(), torch.cat([rows, torch.cat([gradient.flatten() for gradient in zeros])[None].to(rows)])

    try:
        (one, alone), (other, among) = differentiated(first), differentiated(first.repeat(2))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False  # told where the gradient is asked for
    # A network that takes two samples for something else has other outputs.
    if one.shape != other.shape or not _close(one, other, precision):
        return False
    tolerance, floor = 1e-8 if precision < _FINE else 1e-3, 1e-3 * float(among.norm())
    # Each parameter for itself: those of early layers may be small.
    pairs = zip(alone.split(sizes, dim=1), among.split(sizes, dim=1), strict=True)
    return any(float((a - b).norm()) > tolerance * (float(b.norm()) + floor) for a, b in pairs)


def _close(first: Tensor, second: Tensor, precision: float) -> bool:
    """Equal up to what another order of summation changes; NaN equals NaN, to be reported where it is measured."""
    rtol = 1e-8 if precision < _FINE else 1e-3
    scale = float(first.detach().nan_to_num().abs().max())
    return torch.allclose(first, second, rtol=rtol, atol=rtol * scale, equal_nan=True)


def _leaves(inputs: Inputs) -> list[Any]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, Sequence) else [inputs]


def _default_output(returned: Any) -> Any:
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, Mapping) and "logits" in returned:
        return returned["logits"]
    return getattr(returned, "logits", returned)
