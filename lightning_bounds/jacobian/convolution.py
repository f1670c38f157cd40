"""Gradients of each sample by the weights of a convolution, as those of one convolution with a group for each sample.

It needs no copy of what each place of the output sees, and takes half the time where the processor has fast code for
it. Elsewhere patches and a product for each sample are faster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.jacobian.multiplication import uses_onednn
from lightning_bounds.jacobian.scratch import Scratch, joined
from lightning_bounds.jacobian.unfolding import padding_of

# Where it was seen to be faster: channels that fill a register, places that fill a product, weights that fill a cache.
_CHANNELS, _PLACES, _WEIGHTS = 16, 144, 2**15
# Entries of rows that are made at a time.
_ENTRIES = 2**21


def write_convolution_rows(
    out: Tensor,
    inputs: Tensor,
    gradients: Sequence[Tensor],
    options: Mapping[str, Any],
    scratch: Scratch | None = None,
) -> bool:
    """Write ``Σ_s g_ias x_is^T``, a sum over the places ``s``, or say that patches are faster.

    Args:
        out: Where to, shape ``(n, K, o * i * |kernel|)``.
        inputs: Shape ``(n, i, *size)``.
        gradients: Of each output by what came out of the layer, ``K`` of shape ``(n, o, *places)``.
        options: Arguments of the convolution: ``kernel``, ``stride``, ``padding``, ``dilation`` and ``groups``.
        scratch: Where the gradients may be put beside each other.
    """
    kernel, padding = options["kernel"], padding_of(options, options["kernel"])
    i, o = inputs.shape[1], len(gradients) * gradients[0].shape[1]
    fast = (
        uses_onednn(inputs)
        and inputs.dim() == 4
        and options["groups"] == 1
        and max(kernel) > 1
        and i % _CHANNELS == o % _CHANNELS == 0
        and i * o <= _WEIGHTS
        and gradients[0][0, 0].numel() >= _PLACES
    )
    if not fast or any(before != after for before, after in padding):
        return False
    step = max(1, _ENTRIES // out[0].numel())
    stacked = joined(torch.stack, gradients, 1, scratch)
    for place, x, g in zip(out.split(step), inputs.split(step), stacked.split(step), strict=True):
        n = len(x)
        _, rows, _ = torch.ops.aten.convolution_backward(
            g.reshape(1, n * o, *g.shape[3:]),
            x.reshape(1, n * i, *x.shape[2:]),
            x.new_empty(1).expand(n * o, i, *kernel),  # only the shape of the weights matters
            None,
            options["stride"],
            [amount for amount, _ in padding],
            options["dilation"],
            False,
            [0, 0],
            n,
            [False, True, False],
        )
        place.copy_(rows.reshape(place.shape))
    return True
