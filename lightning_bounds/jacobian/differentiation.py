"""Products with the Jacobian of some outputs by some parameters, by reverse differentiation alone.

Reverse differentiation with a batch of vectors, and its derivative for ``J v``, are the two ways that work for every
kind of module; forward mode and per-sample maps fail on attention, recurrent layers, and data-dependent branches.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

# Bytes that a block of rows may take.
_BLOCK_BYTES = 2**28


def vector_jacobian_products(outputs: Tensor, parameters: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """``u^T J`` for each ``u`` of a batch; parameters that the outputs do not depend on get zeros.

    Args:
        outputs: Outputs with their graph, any shape.
        parameters: ``p`` numbers in all.
        vectors: Batch of ``u``, shape ``(b, *outputs.shape)``.

    Returns:
        Shape ``(b, p)``, in the common type of the parameters.

    Example:
        >>> weight = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> vector_jacobian_products(weight**2, [weight], torch.eye(2))
        tensor([[4., 0.],
                [0., 6.]])
    """
    count = vectors.shape[0]
    if not outputs.requires_grad:
        return torch.cat([parameter.new_zeros(count, parameter.numel()) for parameter in parameters], dim=1)
    gradients = _batched_gradients([outputs], parameters, [vectors.to(outputs.dtype)])
    return torch.cat([gradient.reshape(count, -1) for gradient in gradients], dim=1)


def selected_rows(outputs: Tensor, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Some rows of the Jacobian, shape ``(len(rows), p)``; as many at a time as fit into 256 MiB.

    Example:
        >>> weight = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> selected_rows(weight**2, [weight], torch.tensor([1]))
        tensor([[0., 6.]])
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    blocks = []
    for units in rows.split(max(1, _BLOCK_BYTES // max(1, size))):
        vectors = torch.zeros(len(units), outputs.numel(), dtype=outputs.dtype, device=outputs.device)
        vectors[torch.arange(len(units)), units] = 1
        blocks.append(vector_jacobian_products(outputs, parameters, vectors.reshape(-1, *outputs.shape)))
    return torch.cat(blocks)


def jacobian_vector_products(outputs: Tensor, parameters: Sequence[Tensor], vectors: Tensor) -> Tensor | None:
    """``J v`` for each ``v`` of a batch: the derivative of the linear map ``u -> J^T u``.

    The first product is checked by ``u^T (J v) = (J^T u)^T v`` for one random ``u``: an operation whose written
    derivative cannot itself be differentiated shows here.

    Args:
        outputs: Outputs with their graph, ``m`` numbers in any shape.
        parameters: ``p`` numbers in all.
        vectors: The columns ``v``, shape ``(p, b)``.

    Returns:
        Shape ``(m, b)``; or None if an operation cannot be differentiated twice, so that only the rows of ``J`` can be
        trusted.

    Example:
        >>> weight = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> jacobian_vector_products(weight**2, [weight], torch.eye(2))
        tensor([[4., 0.],
                [0., 6.]])
    """
    zeros = vectors.new_zeros(outputs.numel(), vectors.shape[1])
    if not outputs.requires_grad:
        return zeros
    dual = torch.zeros_like(outputs, requires_grad=True)
    try:
        gradients = torch.autograd.grad(outputs, parameters, dual, create_graph=True, allow_unused=True)
        pairs = [
            (gradient, columns.T.reshape(-1, *parameter.shape).to(parameter.dtype))
            for gradient, parameter, columns in zip(
                gradients, parameters, vectors.split([parameter.numel() for parameter in parameters]), strict=True
            )
            if gradient is not None and gradient.requires_grad
        ]
        products = zeros
        if pairs:
            (product,) = _batched_gradients([gradient for gradient, _ in pairs], [dual], [v for _, v in pairs])
            products = product.reshape(vectors.shape[1], -1).T.to(vectors.dtype)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None
    return products if _adjoint(outputs, parameters, vectors[:, 0], products[:, 0]) else None


def _adjoint(outputs: Tensor, parameters: Sequence[Tensor], vector: Tensor, product: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(outputs.numel(), generator=generator, dtype=torch.float64).to(product.device, product.dtype)
    row = vector_jacobian_products(outputs, parameters, u.reshape(1, *outputs.shape))[0]
    forward, backward = u @ product, row @ vector
    scale = u.norm() * product.norm() + row.norm() * vector.norm()
    fine = all(tensor.dtype == torch.float64 for tensor in (outputs, product, *parameters))
    tolerance = 1e-9 if fine else 1e-3
    # Not `<=` turned around: NaN is left to those who check the values.
    return not bool((forward - backward).abs() > tolerance * scale)


def _batched_gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """``autograd.grad`` for a leading batch of ``vectors`` at once, or one by one where an operation refuses that."""
    count = vectors[0].shape[0]

    def gradients(grad_outputs: Sequence[Tensor], batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            outputs, inputs, grad_outputs, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        try:
            stacked = gradients(vectors, batched=True)
        except RuntimeError:
            single = [gradients([vector[b] for vector in vectors], batched=False) for b in range(count)]
            stacked = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*single, strict=True))
    return [
        tensor.new_zeros(count, *tensor.shape) if gradient is None else gradient.detach()
        for gradient, tensor in zip(stacked, inputs, strict=True)
    ]
