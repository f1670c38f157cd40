"""The losses of the papers, with their scale said aloud.

The papers *sum* over the samples, and every step size, rate and number of iterations of theirs is for the sum.
``reduction="mean"`` divides by the number of samples ``n`` and by nothing else: a step of size ``η`` on the mean is a
step of size ``η / n`` on the sum. (``torch.nn.MSELoss`` is the sum divided by ``n K / 2``.)

Outputs in half precision are summed in float32.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_bounds.models.choice import chosen
from lightning_bounds.theory.labels import class_indices, label_matrix


def least_squares(outputs: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
    """Least-squares loss ``1/2 Σᵢ ‖f(xᵢ) - yᵢ‖²``; its gradient with respect to the outputs is the residual ``f - y``.

    Args:
        outputs: Network outputs ``f``, shape ``(n, K)``, or ``(n,)`` for a single output.
        targets: Classes ``(n,)``, coded as one-hot rows, or as ±1 for a single output; or real targets ``(n, K)``.
        reduction: ``"sum"`` over the samples, as in the papers, or ``"mean"`` over the samples. The sum over the
            outputs always stays: the mean is ``torch.nn.MSELoss()`` times ``K / 2``.

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes do not match, a label is out of range, or the reduction is unknown.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 1.1, Eq. (1.2).

    Example:
        >>> least_squares(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
        tensor(2.)
        >>> least_squares(torch.tensor([0.0, 1.0]), torch.tensor([-1, 1]), reduction="mean")
        tensor(0.2500)
    """
    outputs = _output_matrix(outputs, targets)
    labels = label_matrix(targets, outputs.shape[1], outputs.dtype)
    return _reduced((outputs - labels).square().sum(dim=1) / 2, reduction)


def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
    """Cross-entropy ``-Σᵢ Σ_c yᵢ_c log softmax(f(xᵢ))_c`` of ``K >= 2`` outputs.

    Args:
        outputs: Network outputs ``f`` (logits), shape ``(n, K)``.
        targets: Classes ``(n,)``, or rows of probabilities ``(n, K)``.
        reduction: ``"sum"`` or ``"mean"`` over the samples; the mean is ``torch.nn.CrossEntropyLoss()``.

    Returns:
        Scalar.

    Raises:
        ValueError: If there is a single output, real targets are not probabilities, the shapes do not match, a label
            is out of range, or the reduction is unknown.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(1.3863)
    """
    outputs = _output_matrix(outputs, targets)
    if outputs.shape[1] == 1:
        raise ValueError("Expected at least 2 outputs for `cross_entropy`, but got 1; use `logistic` for one output.")
    labels = label_matrix(targets, outputs.shape[1], outputs.dtype)
    if targets.is_floating_point():
        _check_probabilities(labels)
    return _reduced(-(labels * outputs.log_softmax(dim=1)).sum(dim=1), reduction)


def logistic(outputs: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
    """Logistic loss ``Σᵢ log(1 + exp(-yᵢ f(xᵢ)))`` of a single output, ``yᵢ = ±1``.

    Args:
        outputs: Network outputs ``f``, shape ``(n,)`` or ``(n, 1)``.
        targets: Labels ±1, or integer classes 0 and 1, shape ``(n,)`` or ``(n, 1)``.
        reduction: ``"sum"`` or ``"mean"`` over the samples.

    Returns:
        Scalar.

    Raises:
        ValueError: If there are several outputs, the labels are not of two classes, the shapes do not match, or the
            reduction is unknown.

    Example:
        >>> logistic(torch.tensor([0.0, 0.0]), torch.tensor([-1, 1]))
        tensor(1.3863)
    """
    outputs = _output_matrix(outputs, targets)
    if outputs.shape[1] != 1:
        raise ValueError(
            f"Expected a single output for `logistic`, but got {outputs.shape[1]}; use `cross_entropy` for several."
        )
    signs = 2 * class_indices(targets, num_outputs=1) - 1
    return _reduced(-logsigmoid(signs * outputs[:, 0]), reduction)


def _output_matrix(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = outputs.unsqueeze(1) if outputs.dim() == 1 else outputs
    if outputs.dim() != 2 or 0 in outputs.shape or targets.dim() == 0 or len(outputs) != len(targets):
        raise ValueError(
            "Expected outputs (n, K) or (n,) of at least one sample and targets of the same n, "
            f"but got {tuple(outputs.shape)} and {tuple(targets.shape)}."
        )
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _check_probabilities(labels: Tensor) -> None:
    totals = labels.sum(dim=1)
    if not bool((labels >= 0).all()) or not torch.allclose(totals, torch.ones_like(totals), atol=1e-2):
        raise ValueError(
            "Expected classes, or rows of probabilities that are non-negative and sum to 1, but got real targets "
            f"between {float(labels.min()):g} and {float(labels.max()):g} with sums from {float(totals.min()):g} to "
            f"{float(totals.max()):g}; use `least_squares` for them."
        )


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return chosen("reduction", reduction, {"sum": Tensor.sum, "mean": Tensor.mean})(losses)
