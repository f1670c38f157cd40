"""Products of matrices, for float32 on a processor by oneDNN where torch would take MKL, which may be half as fast.

MKL keeps its widest instructions for processors of one maker; oneDNN writes its code for the processor that it finds.
"""

import torch
from torch import Tensor

# A product of fewer multiplications gains nothing.
_MULTIPLICATIONS = 2**21
# Entries of a product that is added to what there is: they stay in a processor's cache.
_ENTRIES = 2**21


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """``A B`` to the rounding of its type, without a graph.

    Args:
        left: ``A``, shape ``(m, k)``.
        right: ``B``, shape ``(k, n)``, of the same type.

    Example:
        >>> matmul(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 2.],
                [3., 4.]])
    """
    if not _gains(left, right):
        return left @ right
    # Of a matrix with gaps between its lines oneDNN would make a product entry by entry.
    dense = right if right.is_contiguous() or right.T.is_contiguous() else right.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, dense.T, None, "none", [], "")
    return result


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``C += A B`` in place, all of one type.

    Args:
        total: ``C``, shape ``(m, n)``.
        left: ``A``, shape ``(m, k)``.
        right: ``B``, shape ``(k, n)``.
    """
    if not _gains(left, right):
        total.addmm_(left, right)
        return
    if left.T.is_contiguous() and not left.is_contiguous():
        # (B^T A^T)^T, as oneDNN would copy the first matrix if it lies by columns.
        total, left, right = total.T, right.T, left.T
    height = max(1, _ENTRIES // right.shape[1])
    for place, part in zip(total.split(height), left.split(height), strict=True):
        place += matmul(part, right)


def uses_onednn(tensor: Tensor) -> bool:
    """Whether a tensor is one of float32 on a processor, and oneDNN is there and switched on.

    Example:
        >>> uses_onednn(torch.ones(2, dtype=torch.float64))
        False
    """
    backend = torch.backends.mkldnn
    single = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return single and bool(backend.is_available() and backend.enabled)


def _gains(left: Tensor, right: Tensor) -> bool:
    return (
        left.numel() * right.shape[1] >= _MULTIPLICATIONS
        and uses_onednn(left)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not (torch.is_grad_enabled() and (left.requires_grad or right.requires_grad))
    )
