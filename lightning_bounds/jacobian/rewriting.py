"""Operations on data and a parameter, said by the layers that there are rules for."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Whether something is a tensor that comes from parameters alone.
IsWeight = Callable[[Any], bool]


def rewritten(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | None:
    """What an operation gives, made by ``linear``, ``linalg.matmul``, ``embedding``, ``add`` and ``mul``; or None.

    Products with a matrix or some matrices from either side, contractions by ``einsum``, ``addmm``, ``baddbmm``,
    ``addcmul``, bilinear layers, sums of embeddings, attention with a learned bias, sums and products of which both
    sides are repeated, differences, quotients, copies for each sample by ``expand`` or ``repeat``, and what overwrites
    the data by one of these.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Those by name.
        is_weight: Whether an argument comes from parameters alone.

    Example:
        >>> x, weight = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        >>> rewritten(torch.einsum, ("ni,oi->no", x, weight), {}, lambda tensor: tensor is weight)
        tensor([[1., 3.],
                [2., 4.]], grad_fn=<PermuteBackward0>)
        >>> rewritten(torch.einsum, ("ni,oi->no", x, x), {}, lambda tensor: tensor is weight)
    """
    rewrite, count = REWRITTEN.get(func, (None, 0))
    # Anything but the usual arguments is left to the operation itself.
    if rewrite is None or (kwargs and rewrite not in _NAMED) or (count is not None and len(args) != count):
        return None
    return rewrite(is_weight, *args, **kwargs)


def _one_weight(is_weight: IsWeight, first: Any, second: Any) -> bool:
    """Whether two tensors are data and a weight, in any order."""
    return isinstance(first, Tensor) and isinstance(second, Tensor) and is_weight(first) != is_weight(second)


def _repeated_both(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor | None]:
    """A sum or product for which the data is repeated too; where only the weight is, there is a rule."""

    def rewrite(is_weight: IsWeight, first: Any, second: Any) -> Tensor | None:
        if not _one_weight(is_weight, first, second):
            return None
        data, weight = (second, first) if is_weight(first) else (first, second)
        shape = torch.broadcast_shapes(data.shape, weight.shape)
        return None if data.shape == shape else operation(data.expand(shape), weight)

    return rewrite


def _product(is_weight: IsWeight, first: Any, second: Any) -> Tensor | None:
    if not _one_weight(is_weight, first, second) or min(first.dim(), second.dim()) == 0:
        return None
    # Rows of the first and columns of the second, and before them what is the same in both, counted from the right.
    batch = max(first.dim(), second.dim(), 2) - 2
    left = [*range(batch + 2 - first.dim(), batch), "row", "inner"] if first.dim() > 1 else ["inner"]
    right = [*range(batch + 2 - second.dim(), batch), "inner", "column"] if second.dim() > 1 else ["inner"]
    result = [*range(batch), *(["row"] if first.dim() > 1 else []), *(["column"] if second.dim() > 1 else [])]
    if is_weight(second):
        return _contracted(first, left, second, right, result)
    return _contracted(second, right, first, left, result)


def _affine(
    is_weight: IsWeight, bias: Any, first: Any, second: Any, *, beta: float = 1, alpha: float = 1
) -> Tensor | None:
    if (beta, alpha) != (1, 1):
        return None
    matrix = _one_weight(is_weight, first, second) and is_weight(second) and second.dim() == 2
    if matrix and bias.shape == second.shape[1:]:
        return functional.linear(first, second.T, bias)
    product = _product(is_weight, first, second)
    return None if product is None else torch.add(product, bias)


def _scaled(is_weight: IsWeight, bias: Any, first: Any, second: Any, *, value: float = 1) -> Tensor | None:
    if value != 1 or not _one_weight(is_weight, first, second):
        return None
    return torch.add(torch.mul(first, second), bias)


def _contraction(is_weight: IsWeight, equation: Any, first: Any, second: Any) -> Tensor | None:
    """``einsum`` of data with a weight."""
    if not isinstance(equation, str) or "->" not in equation or not _one_weight(is_weight, first, second):
        return None
    terms, result = equation.replace(" ", "").split("->")
    left, _, right = terms.partition(",")
    if is_weight(first):
        left, right, first, second = right, left, second, first
    # Dots stand for further dimensions of the data, which have no letters; capitals are seldom used.
    further = first.dim() - len(left.replace("...", ""))
    names = [letter for letter in "ZYXVUTS" if letter not in equation][:further]
    left, result = (term.replace("...", "".join(names)) for term in (left, result))
    plain = all(len(set(term)) == len(term) == tensor.dim() for term, tensor in ((left, first), (right, second)))
    known = len(set(result)) == len(result) and set(result) <= {*left, *right}
    return _contracted(first, left, second, right, result) if plain and known else None


def _contracted(
    data: Tensor,
    left: Sequence[Hashable],
    weight: Tensor,
    right: Sequence[Hashable],
    result: Sequence[Hashable],
) -> Tensor:
    """``einsum`` as a linear layer, or, where some indices are in both factors and the result, as a stack of them.

    Args:
        data: One factor.
        left: Its indices, all different.
        weight: The other factor.
        right: Its indices, all different.
        result: Indices of the result, all of them in one of the factors.
    """
    # What is repeated along an index does not have it.
    repeated = [a for a in left if a in right and data.shape[left.index(a)] != weight.shape[right.index(a)]]
    data, left = _without(data, left, [a for a in left if a not in (*right, *result)])
    weight, right = _without(weight, right, [a for a in right if a not in (*left, *result)])
    data, left = _without(data, left, [a for a in repeated if data.shape[left.index(a)] == 1])
    weight, right = _without(weight, right, [a for a in repeated if a in left])
    sizes = {**dict(zip(left, data.shape, strict=True)), **dict(zip(right, weight.shape, strict=True))}
    both = [a for a in left if a in right and a in result]
    summed = [a for a in left if a in right and a not in result]
    kept, new = [a for a in left if a not in right], [a for a in right if a not in left]
    inputs = data.permute([left.index(a) for a in (*kept, *both, *summed)])
    matrix = weight.permute([right.index(a) for a in (*both, *new, *summed)])
    order = [*kept, *both, *new]
    if not summed:
        made = torch.mul(inputs.reshape((*inputs.shape, *(1 for _ in new))), matrix)
    elif not both:
        inner = math.prod(matrix.shape[len(new) :])
        made = functional.linear(inputs.flatten(len(kept)), matrix.reshape(-1, inner))
    else:
        groups, inner = math.prod(matrix.shape[: len(both)]), math.prod(sizes[a] for a in summed)
        order, stacked = [*both, *new, *kept], inputs.reshape(-1, groups, inner).permute(1, 2, 0)
        made = torch.linalg.matmul(matrix.reshape(groups, -1, inner), stacked)
    return made.reshape([sizes[a] for a in order]).permute([order.index(a) for a in result])


def _without(tensor: Tensor, indices: Sequence[Hashable], gone: Sequence[Hashable]) -> tuple[Tensor, list[Hashable]]:
    """The sum over some indices, and the others."""
    found = [indices.index(a) for a in gone]
    return tensor.sum(found) if found else tensor, [a for a in indices if a not in gone]


def _bilinear(is_weight: IsWeight, first: Any, second: Any, weight: Any, bias: Any = None) -> Tensor | None:
    if not is_weight(weight) or is_weight(first) or is_weight(second):
        return None
    products = first.unsqueeze(-1) * second.unsqueeze(-2)
    return functional.linear(products.flatten(-2), weight.flatten(1), bias)


def _bag(
    is_weight: IsWeight,
    indices: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: Any = None,
) -> Tensor | None:
    """Sums or means of embeddings, in bags of one size."""
    del norm_type, include_last_offset
    usual = offsets is None and max_norm is None and padding_idx is None and not scale_grad_by_freq and not sparse
    if not usual or mode not in ("sum", "mean") or not is_weight(weight) or indices.dim() != 2:
        return None
    rows = functional.embedding(indices, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, :, None]
    return rows.sum(1) if mode == "sum" else rows.mean(1)


def _attention(
    is_weight: IsWeight,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Attention of which a bias is learned, such as one of relative positions."""
    if not is_weight(attn_mask) or dropout_p or is_causal or enable_gqa:
        return None
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * factor, key.mT)
    return torch.matmul(torch.softmax(torch.add(scores, attn_mask), -1), value)


def _difference(is_weight: IsWeight, first: Any, second: Any) -> Tensor | None:
    if not _one_weight(is_weight, first, second):
        return None
    return torch.add(first, -second) if is_weight(second) else torch.add(-second, first)


def _quotient(is_weight: IsWeight, first: Any, second: Any) -> Tensor | None:
    if not _one_weight(is_weight, first, second):
        return None
    return torch.mul(first, second.reciprocal()) if is_weight(second) else torch.mul(second.reciprocal(), first)


def _expanded(is_weight: IsWeight, weight: Any, *sizes: Any) -> Tensor | None:
    """A weight once for each sample, as class tokens are."""
    if not is_weight(weight):
        return None
    expanded = weight.detach().expand(*sizes)
    each = any(stride == 0 and size > 1 for stride, size in zip(expanded.stride(), expanded.shape, strict=True))
    return torch.add(torch.zeros_like(expanded), weight) if each else None


def _repeated(is_weight: IsWeight, weight: Any, *sizes: Any) -> Tensor | None:
    """The same, with memory of its own."""
    counts: Sequence[int] = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if not is_weight(weight) or len(counts) != weight.dim() or sum(count != 1 for count in counts) != 1:
        return None
    dim = next(dim for dim, count in enumerate(counts) if count != 1)
    shape = (*weight.shape[:dim], counts[dim], *weight.shape[dim:])
    return weight.unsqueeze(dim).expand(shape).flatten(dim, dim + 1).clone()


def _in_place(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor | None]:
    """The operation that writes its result over the data."""

    def rewrite(is_weight: IsWeight, data: Any, weight: Any) -> Tensor | None:
        if not _one_weight(is_weight, data, weight) or is_weight(data):
            return None
        return data.copy_(operation(data, weight))

    return rewrite


# How each operation is rewritten, and how many arguments it is to have, if that is one number.
REWRITTEN: dict[Any, tuple[Callable[..., Tensor | None], int | None]] = {
    **dict.fromkeys((torch.add, Tensor.add), (_repeated_both(torch.add), 2)),
    **dict.fromkeys((torch.mul, Tensor.mul), (_repeated_both(torch.mul), 2)),
    **dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), (_product, 2)),
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), (_affine, 3)),
    **dict.fromkeys((torch.addcmul, Tensor.addcmul), (_scaled, 3)),
    torch.einsum: (_contraction, 3),
    functional.bilinear: (_bilinear, None),
    functional.embedding_bag: (_bag, None),
    functional.scaled_dot_product_attention: (_attention, None),
    **dict.fromkeys((torch.sub, Tensor.sub), (_difference, 2)),
    **dict.fromkeys((torch.div, Tensor.div, torch.true_divide, Tensor.true_divide), (_quotient, 2)),
    Tensor.expand: (_expanded, None),
    Tensor.repeat: (_repeated, None),
    Tensor.add_: (_in_place(torch.add), 2),
    Tensor.sub_: (_in_place(torch.sub), 2),
    Tensor.mul_: (_in_place(torch.mul), 2),
    Tensor.div_: (_in_place(torch.div), 2),
}
# Those whose arguments may come by name.
_NAMED = frozenset({_affine, _scaled, _bag, _attention})
