"""Gradients that are one number per sample times one number per output, which halves the blocks of a Gram matrix."""

from typing import NamedTuple

import torch
from torch import Tensor

# Units that are looked at together, so that they stay in a processor's cache.
_UNITS = 512


class Separated(NamedTuple):
    """Gradients ``g_iar = w_ar d_ir`` by a unit ``r``.

    Attributes:
        base: ``d``, shape ``(groups, n * S, o)``.
        weights: ``w``, at most 1 in size, shape ``(K, groups, o)``.
    """

    base: Tensor
    weights: Tensor


def separated(left: Tensor) -> Separated | None:
    """The two factors of gradients of shape ``(K, groups, n * S, o)``, if there are such; tried on eight units first.

    So it is where each hidden unit has one derivative per sample and one weight per output, as in the layer before the
    last one. Products of such gradients are the same if two outputs are exchanged: ``g_iar g_jbr = g_ibr g_jar``. The
    factors give the gradients back to a few roundings, and exactly symmetric products whatever the precision.

    Example:
        >>> found = separated(torch.tensor([2.0, 1.0]).reshape(2, 1, 1, 1) * torch.tensor([[[[3.0], [5.0]]]]))
        >>> found.weights.flatten(), found.base.flatten()
        (tensor([1.0000, 0.5000]), tensor([ 6., 10.]))
    """
    width = left.shape[3]
    if left.shape[0] == 1 or _factors(left[..., :: max(1, width // 8)]) is None:
        return None
    parts = []
    for first in range(0, width, _UNITS):
        part = _factors(left[..., first : first + _UNITS])
        if part is None:
            return None
        parts.append(part)
    return Separated(torch.cat([part.base for part in parts], 2), torch.cat([part.weights for part in parts], 2))


def _factors(left: Tensor) -> Separated | None:
    left = left.contiguous()
    sizes = torch.stack([torch.maximum(-part.amin(dim=1), part.amax(dim=1)) for part in left])  # (K, groups, o)
    tolerance = 16 * torch.finfo(left.dtype).eps * sizes.amax(dim=0)
    reference = sizes.argmax(dim=0)
    base = left[0].clone()
    for a in range(1, left.shape[0]):
        chosen = (reference == a)[:, None]
        if bool(chosen.any()):
            base = torch.where(chosen, left[a], base)
    pivot = base.abs().argmax(dim=1, keepdim=True)
    at_pivot = base.gather(1, pivot)
    divisor = torch.where(at_pivot == 0, 1, at_pivot)
    weights = torch.stack([(part.gather(1, pivot) / divisor)[:, 0] for part in left])
    for part, weight in zip(left, weights, strict=True):
        difference = torch.addcmul(part, weight[:, None], base, value=-1).abs_()
        if bool((difference.amax(dim=1) > tolerance).any()):
            return None
    return Separated(base, weights)
