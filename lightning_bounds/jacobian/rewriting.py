"""Operations on data and a parameter, said by the layers that there are rules for."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Whether something is a tensor that comes from parameters alone.
IsWeight = Callable[[Any], bool]


def rewritten(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | None:
    """What an operation gives, made by ``linear``, ``add`` and ``mul``; None if it is none of those below.

    Products with a matrix from either side, ``addmm``, contractions by ``einsum``, differences, quotients, copies for
    each sample by ``expand`` or ``repeat``, and what overwrites the data by one of these.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Those by name, none but the factors of ``addmm`` if they are 1.
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
    unusual = {name: value for name, value in kwargs.items() if rewrite is not _affine or value != 1}
    if rewrite is None or unusual or (count is not None and len(args) != count):
        return None
    return rewrite(is_weight, *args)


def _one_weight(is_weight: IsWeight, first: Any, second: Any) -> bool:
    """Whether two tensors are data and a weight, in any order."""
    return isinstance(first, Tensor) and isinstance(second, Tensor) and is_weight(first) != is_weight(second)


def _product(is_weight: IsWeight, first: Any, second: Any) -> Tensor | None:
    if not _one_weight(is_weight, first, second):
        return None
    if is_weight(second):
        return functional.linear(first, second.T) if second.dim() == 2 else None
    return functional.linear(second.mT, first).mT if first.dim() == 2 and second.dim() >= 2 else None


def _affine(is_weight: IsWeight, bias: Any, first: Any, second: Any) -> Tensor | None:
    if _one_weight(is_weight, first, second) and is_weight(second) and bias.shape == second.shape[1:]:
        return functional.linear(first, second.T, bias)
    product = _product(is_weight, first, second)
    return None if product is None else torch.add(product, bias)


def _contraction(is_weight: IsWeight, equation: Any, first: Any, second: Any) -> Tensor | None:
    """``einsum`` of data with a weight of which each index is either summed over or new, as a linear layer."""
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
    summed = [letter for letter in left if letter in right and letter not in result]
    kept = [letter for letter in left if letter not in right]
    new = [letter for letter in right if letter not in left]
    plain = all(len(set(term)) == len(term) == tensor.dim() for term, tensor in ((left, first), (right, second)))
    if not plain or not summed or len(summed) + len(new) != len(right) or sorted(kept + new) != sorted(result):
        return None
    sizes = [second.shape[right.index(letter)] for letter in new]
    inputs = first.permute([left.index(letter) for letter in kept + summed]).flatten(len(kept))
    weight = second.permute([right.index(letter) for letter in new + summed]).reshape(math.prod(sizes), -1)
    made = functional.linear(inputs, weight)
    outputs = made.unflatten(-1, sizes) if sizes else made.squeeze(-1)
    return outputs.permute([(kept + new).index(letter) for letter in result])


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
    each = expanded.dim() > 0 and expanded.stride(0) == 0
    return torch.add(torch.zeros_like(expanded), weight) if each else None


def _repeated(is_weight: IsWeight, weight: Any, *sizes: Any) -> Tensor | None:
    """The same, with memory of its own."""
    counts: Sequence[int] = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    alike = len(counts) == weight.dim() and weight.dim() > 0 and all(count == 1 for count in counts[1:])
    if not is_weight(weight) or not alike or weight.shape[0] != 1:
        return None
    return weight.expand(counts[0], *weight.shape[1:]).clone()


def _in_place(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor | None]:
    """The operation that writes its result over the data."""

    def rewrite(is_weight: IsWeight, data: Any, weight: Any) -> Tensor | None:
        if not _one_weight(is_weight, data, weight) or is_weight(data):
            return None
        return data.copy_(operation(data, weight))

    return rewrite


# How each operation is rewritten, and how many arguments it is to have, if that is one number.
REWRITTEN: dict[Any, tuple[Callable[..., Tensor | None], int | None]] = {
    **dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm), (_product, 2)),
    **dict.fromkeys((torch.addmm, Tensor.addmm), (_affine, 3)),
    torch.einsum: (_contraction, 3),
    **dict.fromkeys((torch.sub, Tensor.sub), (_difference, 2)),
    **dict.fromkeys((torch.div, Tensor.div, torch.true_divide, Tensor.true_divide), (_quotient, 2)),
    Tensor.expand: (_expanded, None),
    Tensor.repeat: (_repeated, None),
    Tensor.add_: (_in_place(torch.add), 2),
    Tensor.sub_: (_in_place(torch.sub), 2),
    Tensor.mul_: (_in_place(torch.mul), 2),
    Tensor.div_: (_in_place(torch.div), 2),
}
