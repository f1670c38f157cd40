"""The network as a function of its weights, and the initial weights of the experiments."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, as_labels, check_positive
from lightning_bounds.theory.nearly_linear.arguments import check_fraction, check_weights


def network_outputs(weights: Iterable[Tensor], inputs: Tensor, epsilon: float) -> Tensor:
    """``f(x) = W_L φ(W_{L-1} ... φ(W_1 x))`` with ``φ(z) = z - ε min(0, z)``, LeakyReLU of slope ``1 - ε``.

    Args:
        weights: ``W_l``, shape ``(n_l, n_{l-1})``, with one output, no biases.
        inputs: Samples in rows, shape ``(n, d)``; whitened ones for the theorem.
        epsilon: ``ε`` in [0, 1]: 0 is a linear network, 1 is ReLU.

    Returns:
        Shape ``(n,)``, in the precision of the weights; gradients flow.

    Raises:
        ValueError: If shapes do not match, a weight is not finite, or ``ε`` is out of range.

    References:
        Section 4, with samples in rows (erratum E412).

    Example:
        >>> network_outputs([torch.eye(2), torch.ones(1, 2)], torch.tensor([[1.0, -2.0]]), epsilon=0.5)
        tensor([0.])
    """
    check_fraction("epsilon", epsilon)
    if inputs.dim() != 2:
        raise ValueError(f"Expected `inputs` of shape (n, d), one sample per row, but got {tuple(inputs.shape)}.")
    weights = list(weights)
    check_weights(weights, inputs.shape[1])
    hidden = inputs.to(weights[0].dtype)
    for weight in weights[:-1]:
        hidden = torch.nn.functional.leaky_relu(hidden @ weight.T, negative_slope=1 - epsilon)
    return (hidden @ weights[-1].T).squeeze(1)


def projected_loss(outputs: Tensor, labels: Tensor, inputs: Tensor) -> float:
    """``L_X = |(y - f)ᵀ X̃|² / 2n``, of which Assumption 5.1 asks that it stays at most what it was at the start.

    Args:
        outputs: ``f``, shape ``(n,)``.
        labels: ``y``, shape ``(n,)``.
        inputs: Whitened inputs, shape ``(n, d)``.

    Returns:
        At most ``n`` times the loss ``|y - f|² / 2n``; ``n s² / 2`` for ``f = 0``.

    Raises:
        ValueError: If the shapes do not match, or a number is not finite.

    References:
        Assumption 5.1 and appendix E, with errata E414, E415, E422.

    Example:
        >>> projected_loss(torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([[1.0], [-1.0]]))
        1.0
    """
    inputs = as_inputs(inputs)
    n = len(inputs)
    residual = as_labels(labels, n, "labels") - as_labels(outputs, n, "outputs")
    return float((residual.to(inputs.device) @ inputs).square().sum()) / (2 * n)


def input_layer_ratio(weight: Tensor) -> float:
    """``ρ = |W_1|_F / |W_1|``, the root of the stable rank; in [1, √min(n_1, d)].

    Raises:
        ValueError: If the weight is no matrix, is zero or not finite.

    References:
        Theorem 5.2.

    Example:
        >>> input_layer_ratio(2 * torch.eye(9))
        3.0
    """
    values = _singular_values(weight)
    return max(float((values / values[0]).norm()), 1.0)


def rank_one(weight: Tensor) -> Tensor:
    """``σ_1 u_1 v_1ᵀ``, the initial first layer for which ``ρ = 1``.

    Raises:
        ValueError: If the weight is no matrix, is zero or not finite.

    References:
        Section 6.

    Example:
        >>> rank_one(torch.diag(torch.tensor([3.0, 1.0]))).abs()
        tensor([[3., 0.],
                [0., 0.]])
    """
    _singular_values(weight)
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return (values[0] * torch.outer(left[:, 0], right[0])).to(weight.dtype)


def rescaled(weights: Iterable[Tensor], beta: float) -> list[Tensor]:
    """Every layer times a factor, so that its spectral norm is ``β``.

    Raises:
        ValueError: If ``β`` is not positive, or a weight is no matrix, is zero or not finite.

    References:
        Section 6.

    Example:
        >>> [round(float(weight.norm()), 6) for weight in rescaled([torch.ones(3, 3), torch.ones(1, 3)], 0.5)]
        [0.5, 0.5]
    """
    check_positive("beta", beta)
    return [
        (weight.detach().double() * (beta / float(_singular_values(weight)[0]))).to(weight.dtype) for weight in weights
    ]


def _singular_values(weight: Tensor) -> Tensor:
    """All of them, exactly: a few power iterations would be too small."""
    if weight.dim() != 2 or weight.is_complex() or not bool(weight.isfinite().all()) or not bool(weight.any()):
        raise ValueError(
            f"Expected a finite matrix other than zero as the weight of a layer, but got shape {tuple(weight.shape)}, "
            f"largest entry {weight.abs().max() if weight.numel() else 'none'}."
        )
    return torch.linalg.svdvals(weight.detach().double())
