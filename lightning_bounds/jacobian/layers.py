"""How each kind of layer differentiates by its weights: one rule a layer, for one sample at a time.

A rule gets what went into the layer and the gradients of the ``K`` outputs by what came out of it. The gradient of
output ``a`` of sample ``i`` by a weight matrix is a sum of ``S`` outer products over the places where the layer acts
(1 for a vector, the length of a sequence, the pixels of an image): ``Σ_s g_ias x_is^T``. Layers that scale or shift
each entry have gradients as small as their weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_bounds.jacobian.convolution import write_convolution_rows
from lightning_bounds.jacobian.factors import Factors, Layer, Layout, Options
from lightning_bounds.jacobian.scratch import Scratch, joined
from lightning_bounds.jacobian.unfolding import padding_of, patches, transposed_patches, tuple_of


def _linear_arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> dict[str, Any]:
    return {"input": input, "weight": weight, "bias": bias}


def _linear_factors(
    x: Tensor, gradients: Sequence[Tensor], layout: Layout, _: Options, scratch: Scratch | None
) -> Factors:
    right = layout.samples_first(x)
    right = right.reshape(right.shape[0], 1, -1, x.shape[-1])
    parts = [layout.samples_first(g).reshape(right.shape[0], right.shape[2], g.shape[-1]) for g in gradients]
    return Factors(joined(torch.cat, parts, 2, scratch).transpose(1, 2)[:, None], right)


def _matrices_arguments(input: Tensor, other: Tensor) -> dict[str, Any]:
    """The first factor is the weight, ``(groups, o, i)``."""
    stacked, units = input.dim() == other.dim() == 3, input[..., 0].numel()
    return {"input": other, "weight": input, "stacked": stacked, "groups": len(input), "units": units}


def _matrices_factors(
    x: Tensor, gradients: Sequence[Tensor], layout: Layout, _: Options, scratch: Scratch | None
) -> Factors:
    """Inputs of shape ``(groups, i, places)``, and outputs ``(groups, o, places)``."""
    right = layout.samples_first(x).permute(0, 2, 1, 3)
    parts = [layout.samples_first(g).permute(0, 2, 3, 1) for g in gradients]
    return Factors(joined(torch.cat, parts, 2, scratch), right)


def _shift_rows(
    _r: str, _x: Tensor, gradients: Sequence[Tensor], layout: Layout, _o: Options, shape: tuple[int, ...]
) -> Tensor:
    """Gradient by what is added to the last dimensions: the gradient itself, summed over the other ones."""
    return _summed(gradients, layout, (1,) * (gradients[0].dim() - len(shape)) + shape)


def _channel_shift_rows(
    _r: str, _x: Tensor, gradients: Sequence[Tensor], layout: Layout, _o: Options, shape: tuple[int, ...]
) -> Tensor:
    return _summed(gradients, layout, _along_channels(gradients[0], shape))


def _along_channels(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a vector over dimension 1 is broadcast."""
    return (1, math.prod(shape)) + (1,) * (tensor.dim() - 2) if tensor.dim() > 1 else (math.prod(shape),)


def _summed(products: Sequence[Tensor], layout: Layout, shape: tuple[int, ...]) -> Tensor:
    """Sums over all dimensions that ``shape`` does not have, for each sample: ``(n, K, *)``."""
    over = [d for d in range(len(shape)) if shape[d] == 1 and d != layout.dim]
    parts = []
    for product in products:
        part = product.sum(over, keepdim=True) if over else product
        parts.append(layout.samples_first(part).sum(1).flatten(1))
    return torch.stack(parts, dim=1)


def _normalized_arguments(keys: Sequence[str]) -> Callable[..., dict[str, Any]]:
    def arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**dict(zip(keys, args, strict=False)), **kwargs}

    return arguments


def _scale_rows(function: Callable[..., Tensor], channels: bool) -> Callable[..., Tensor]:
    """Gradients by the scale and shift that follow a normalization."""

    def rows(
        role: str, x: Tensor, gradients: Sequence[Tensor], layout: Layout, options: Options, shape: tuple[int, ...]
    ) -> Tensor:
        wide = _along_channels(x, shape) if channels else (1,) * (x.dim() - len(shape)) + shape
        if role == "bias":
            return _summed(gradients, layout, wide)
        normalized = function(x, **options)
        return _summed([g * normalized for g in gradients], layout, wide)

    return rows


def _entrywise_arguments(input: Tensor, weight: Tensor) -> dict[str, Any]:
    return {"input": input, "weight": weight}


def _factor_rows(
    _r: str, x: Tensor, gradients: Sequence[Tensor], layout: Layout, _o: Options, shape: tuple[int, ...]
) -> Tensor:
    """Gradient by what the inputs are multiplied with, entry by entry."""
    return _summed([g * x for g in gradients], layout, (1,) * (x.dim() - len(shape)) + shape)


def _negative_part(x: Tensor) -> Tensor:
    return x.clamp(max=0)


def _conv_factors(
    x: Tensor, gradients: Sequence[Tensor], layout: Layout, options: Options, scratch: Scratch | None
) -> Factors:
    groups, kernel = options["groups"], options["kernel"]
    unfolded = patches(x, kernel, options["stride"], padding_of(options, kernel), options["dilation"], scratch)
    right = unfolded.unflatten(1, (groups, -1)).transpose(2, 3)
    stacked = joined(torch.stack, [g.flatten(2) for g in gradients], 1, scratch)
    if groups == 1:
        left = stacked.flatten(1, 2)[:, None]
    else:
        left = stacked.unflatten(2, (groups, -1)).transpose(1, 2).flatten(2, 3)
    return Factors(_with_repeats(left, layout, 3), _with_repeats(right, layout, 2))


def _write_conv_rows(
    out: Tensor, x: Tensor, gradients: Sequence[Tensor], layout: Layout, options: Options, scratch: Scratch | None
) -> bool:
    return layout.repeats == 1 and write_convolution_rows(out, x, gradients, options, scratch)


def _with_repeats(tensor: Tensor, layout: Layout, place: int) -> Tensor:
    """Several places of a sample in the first dimension become more places in dimension ``place``."""
    if layout.repeats == 1:
        return tensor
    return layout.samples_first(tensor).movedim(1, place).flatten(place, place + 1)


def _conv_arguments(dims: int) -> Callable[..., dict[str, Any]]:
    def arguments(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> dict[str, Any]:
        return {
            "input": input,
            "weight": weight,
            "bias": bias,
            "stride": tuple_of(stride, dims),
            "padding": padding if isinstance(padding, str) else tuple_of(padding, dims),
            "dilation": tuple_of(dilation, dims),
            "groups": groups,
            "kernel": tuple(weight.shape[2:]),
            "batched": input.dim() == dims + 2,
        }

    return arguments


def _is_batched(options: Options) -> bool:
    return bool(options["batched"])


def _transposed_arguments(dims: int) -> Callable[..., dict[str, Any]]:
    plain = _conv_arguments(dims)

    def arguments(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,  # noqa: ARG001 - adds to the output, where no gradient of the weight comes from
        groups: int = 1,
        dilation: Any = 1,
    ) -> dict[str, Any]:
        return plain(input, weight, bias, stride, padding, dilation, groups)

    return arguments


def _transposed_rows(
    role: str, x: Tensor, gradients: Sequence[Tensor], layout: Layout, options: Options, shape: tuple[int, ...]
) -> Tensor:
    """A transposed convolution is a convolution with input and output in exchanged roles."""
    if role == "bias":
        return _summed(gradients, layout, _along_channels(gradients[0], shape))
    groups, stride, dilation = options["groups"], options["stride"], options["dilation"]
    left = x.flatten(2).unflatten(1, (groups, -1))
    parts = []
    for g in gradients:
        unfolded = transposed_patches(g, options["kernel"], stride, options["padding"], dilation, x.shape[2:])
        part = left @ unfolded.unflatten(1, (groups, -1)).transpose(2, 3)
        parts.append(layout.samples_first(part.flatten(1)).sum(1))
    return torch.stack(parts, dim=1)


def _embedding_arguments(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> dict[str, Any]:
    del norm_type, sparse
    plain = max_norm is None and not scale_grad_by_freq
    return {"input": input, "weight": weight, "padding_idx": padding_idx, "plain": plain}


def _embedding_rows(
    _r: str, x: Tensor, gradients: Sequence[Tensor], layout: Layout, options: Options, shape: tuple[int, ...]
) -> Tensor:
    tokens = layout.samples_first(x).flatten(1)
    n = tokens.shape[0]
    if options["padding_idx"] is not None:
        padding = options["padding_idx"] % shape[0]
    rows = gradients[0].new_zeros(n, len(gradients), *shape)
    for k, g in enumerate(gradients):
        values = layout.samples_first(g).reshape(n, -1, shape[1])
        if options["padding_idx"] is not None:
            values = values * (tokens != padding)[..., None]
        rows[:, k].scatter_add_(1, tokens[..., None].expand_as(values), values)
    return rows.flatten(2)


_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_INSTANCE_NORM = (*_BATCH_NORM[:5], "use_input_stats", *_BATCH_NORM[6:])
_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")
_GROUP_NORM = ("input", "num_groups", "weight", "bias", "eps")
_RMS_NORM = ("input", "normalized_shape", "weight", "eps")
_PRELU = ("input", "weight")


def _normalization(function: Callable[..., Tensor], keys: Sequence[str], channels: bool, **needs: Any) -> Layer:
    return Layer(
        _normalized_arguments(keys),
        None,
        _scale_rows(function, channels),
        lambda options: all(options.get(name, wanted) == wanted for name, wanted in needs.items()),
    )


# An operator of which one side is a parameter.
SUM = Layer(_entrywise_arguments, None, _shift_rows)
PRODUCT = Layer(_entrywise_arguments, None, _factor_rows)
OPERATORS: dict[Any, Layer] = {torch.add: SUM, Tensor.add: SUM, torch.mul: PRODUCT, Tensor.mul: PRODUCT}
LAYERS: dict[Any, Layer] = {
    functional.linear: Layer(_linear_arguments, _linear_factors, _shift_rows),
    # A stack of matrices and a stack of inputs; :func:`rewritten` brings other products into this form.
    torch.linalg.matmul: Layer(
        _matrices_arguments, _matrices_factors, _shift_rows, lambda options: bool(options["stacked"])
    ),
    functional.batch_norm: _normalization(functional.batch_norm, _BATCH_NORM, True, training=False),
    functional.instance_norm: _normalization(functional.instance_norm, _INSTANCE_NORM, True),
    functional.layer_norm: _normalization(functional.layer_norm, _LAYER_NORM, False),
    functional.group_norm: _normalization(functional.group_norm, _GROUP_NORM, True),
    functional.rms_norm: _normalization(functional.rms_norm, _RMS_NORM, False),
    functional.prelu: _normalization(_negative_part, _PRELU, True),
    functional.embedding: Layer(_embedding_arguments, None, _embedding_rows, lambda options: options["plain"]),
    **{
        function: Layer(_conv_arguments(dims), _conv_factors, _channel_shift_rows, _is_batched, write=_write_conv_rows)
        for dims, function in enumerate((functional.conv1d, functional.conv2d, functional.conv3d), start=1)
    },
    **{
        function: Layer(_transposed_arguments(dims), None, _transposed_rows, _is_batched)
        for dims, function in enumerate(
            (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d), start=1
        )
    },
}
