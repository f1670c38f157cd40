"""Quantities by the plainest loop from their definitions, to compare with."""

from typing import Any

import torch
from torch import Tensor, nn


def outputs_of(model: nn.Module, inputs: Any, output_fn=None) -> Tensor:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if isinstance(inputs, Tensor):
            returned = model(inputs.clone())
        else:
            returned = model(**{name: tensor.clone() for name, tensor in inputs.items()})
    outputs = returned if output_fn is None else output_fn(returned)
    return outputs.reshape(outputs.shape[0], -1)


def jacobian_by_loop(model: nn.Module, inputs: Any, output_fn=None) -> Tensor:
    """One backward pass for every output of every sample, of the whole batch at once, in evaluation mode."""
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    outputs = outputs_of(model, inputs, output_fn)
    rows = []
    for output in outputs.flatten():
        gradients = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(gradients, parameters, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return torch.stack(rows)


def alignment_by_svd(jacobian: Tensor, vector: Tensor, rank: int) -> tuple[float, float, float]:
    """The three ratios from a singular value decomposition of the Jacobian itself, entry by entry."""
    left, values, _ = torch.linalg.svd(jacobian, full_matrices=True)
    coefficients = [float(left[:, s] @ vector) for s in range(left.shape[1])]
    inside = sum(c**2 for c in coefficients[:rank]) ** 0.5
    outside = sum(c**2 for c in coefficients[rank:]) ** 0.5
    inverse = sum((c / float(v)) ** 2 for c, v in zip(coefficients[:rank], values[:rank], strict=True)) ** 0.5
    norm = float(vector.norm())
    return inside / norm, outside / norm, inverse / norm
