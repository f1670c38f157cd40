"""The batch-normalized two-layer network as a function of its weights, and its derivatives."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative
from lightning_bounds.theory.batch_norm_margin.normalization import Statistics, projected_variance

# What a derivative goes through: mean and variance, the mean alone, or neither.
GRADIENTS = ("full", "mean", "none")


class Weights(NamedTuple):
    """``W = (a, c, V)``: ``output_weights (m,)``, ``scales (m,)``, ``directions (m, d)``."""

    output_weights: Tensor
    scales: Tensor
    directions: Tensor


class Derivatives(NamedTuple):
    """Derivatives of ``f(x_i)``: ``output_weights (n, m)``, ``scales (n, m)``, ``directions (n, m, d)``."""

    output_weights: Tensor
    scales: Tensor
    directions: Tensor


def draw_weights(width: int, dim: int, seed: int) -> Weights:
    """Initial weights: ``a ~ N(0, I/m)``, ``c = 1``, rows of ``V ~ N(0, I/d)``, in float64.

    Args:
        width: ``m``, hidden units.
        dim: ``d``, input features.
        seed: Of a generator of its own; the global random state is not used.

    References:
        Section 1.3.

    Example:
        >>> draw_weights(3, 2, seed=0).scales
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    check_count("width", width)
    check_count("dim", dim)
    generator = Generator().manual_seed(seed)
    output_weights = torch.randn(width, generator=generator, dtype=torch.float64) / math.sqrt(width)
    directions = torch.randn(width, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    return Weights(output_weights, torch.ones(width, dtype=torch.float64), directions)


def pre_activations(
    inputs: Tensor, statistics: Statistics, directions: Tensor, *, eps: float = 0.0, gradient: str = "full"
) -> Tensor:
    """``<v_j / N(v_j), x_i - μ>``, differentiable; 0 where ``N(v_j) = 0``.

    Args:
        inputs: Shape ``(n, d)``, of the training set or any other.
        statistics: Of the whole training set, see :func:`whole_set_statistics`.
        directions: ``V``, shape ``(m, d)``.
        eps: ``ε``.
        gradient: What derivatives go through: ``"full"``, mean and variance as in train mode on the full batch;
            ``"mean"``, the variance detached; ``"none"``, both detached as in evaluation mode.

    Returns:
        Shape ``(n, m)``.

    Raises:
        ValueError: If shapes do not match or a choice is unknown.

    References:
        Section 1.3.

    Example:
        >>> statistics = Statistics(torch.tensor([1.0]), torch.tensor([[-1.0], [1.0]]))
        >>> pre_activations(torch.tensor([[3.0]]), statistics, torch.tensor([[5.0], [-0.1]]))
        tensor([[ 2.0000, -2.0000]])
    """
    _check(inputs, statistics, directions, eps, gradient)
    variances = projected_variance(directions, statistics.deviations @ directions.mT, statistics) + eps
    dead = variances == 0
    # The root of 1 where nothing is divided, so that derivatives are 0 there, too.
    normalizers = torch.where(dead, 1.0, variances).sqrt()
    centers = directions @ statistics.mean
    normalizers = normalizers if gradient == "full" else normalizers.detach()
    centers = centers.detach() if gradient == "none" else centers
    return torch.where(dead, 0.0, (inputs @ directions.mT - centers) / normalizers)


def network_outputs(
    inputs: Tensor, statistics: Statistics, weights: Weights, *, eps: float = 0.0, gradient: str = "full"
) -> Tensor:
    """``f(x) = Σ_j a_j relu(c_j <v_j / N(v_j), x - μ>)``, differentiable in the weights.

    With the statistics of ``inputs`` themselves it is what ``Linear``, ``BatchNorm1d`` without shift, ``ReLU`` and a
    readout give in train mode on the full batch. There are no biases and there is no shift.

    Args:
        inputs: Shape ``(n, d)``.
        statistics: Of the whole training set, also for the evaluation on other inputs.
        weights: ``(a, c, V)``; torch calls ``c`` the weight of the batch normalization.
        eps: ``ε``.
        gradient: See :func:`pre_activations`.

    Returns:
        Shape ``(n,)``.

    Raises:
        ValueError: If shapes do not match or a choice is unknown.

    References:
        Section 1.3.

    Example:
        >>> statistics = Statistics(torch.tensor([1.0]), torch.tensor([[-1.0], [1.0]]))
        >>> weights = Weights(torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([[5.0]]))
        >>> network_outputs(torch.tensor([[3.0], [0.0]]), statistics, weights)
        tensor([12.,  0.])
    """
    _check_weights(weights)
    normalized = pre_activations(inputs, statistics, weights.directions, eps=eps, gradient=gradient)
    return torch.relu(weights.scales * normalized) @ weights.output_weights


def derivatives(
    inputs: Tensor, statistics: Statistics, weights: Weights, *, eps: float = 0.0, gradient: str = "full"
) -> Derivatives:
    """Derivatives of the outputs in ``a``, ``c`` and ``V``, in closed form.

    With ``o_j = 1[c_j <v̄_j, x - μ> > 0]``: ``∂_a = relu(c_j <v̄_j, x - μ>)``, ``∂_c = a_j o_j <v̄_j, x - μ>``, and
    ``∂_v`` is ``a_j c_j o_j / N_j`` times ``(I - Σ v_j v_jᵀ / N_j²)(x - μ)`` through mean and variance, ``x - μ`` with
    the variance detached, ``x`` with both detached.

    Args:
        inputs: Shape ``(n, d)``.
        statistics: Of the whole training set.
        weights: ``(a, c, V)``.
        eps: ``ε``.
        gradient: ``"full"``, ``"mean"`` or ``"none"``, see :func:`pre_activations`.

    Returns:
        Of the shapes ``(n, m)``, ``(n, m)`` and ``(n, m, d)``; zero for units with ``N_j = 0``.

    Raises:
        ValueError: If shapes do not match or a choice is unknown.

    References:
        Section 1.3. ``<a, ∂_a> = <c, ∂_c> = f``, and ``<v_j, ∂_v> = ε/N_j²`` times the unit's output for ``"full"``.

    Example:
        >>> statistics = Statistics(torch.tensor([0.0]), torch.tensor([[-1.0], [1.0]]))
        >>> weights = Weights(torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([[5.0]]))
        >>> derivatives(torch.tensor([[1.0]]), statistics, weights).directions.item()
        0.0
    """
    _check_weights(weights)
    a, c, V = weights
    normalized = pre_activations(inputs, statistics, V, eps=eps, gradient=gradient)
    projections = statistics.deviations @ V.mT
    variances = projected_variance(V, projections, statistics) + eps
    active = (c * normalized > 0).to(normalized.dtype)
    factors = active * a * c / torch.where(variances == 0, 1.0, variances).sqrt()
    arguments = inputs if gradient == "none" else inputs - statistics.mean
    by_direction = factors.unsqueeze(2) * arguments.unsqueeze(1)
    if gradient == "full":
        # Σ v_j, for all units.
        images = projections.mT @ statistics.deviations / len(projections)
        safe = torch.where(variances == 0, 1.0, variances).sqrt()
        by_direction = by_direction - (factors * normalized / safe).unsqueeze(2) * images.unsqueeze(0)
    return Derivatives(torch.relu(c * normalized), a * active * normalized, by_direction)


def _check(inputs: Tensor, statistics: Statistics, directions: Tensor, eps: float, gradient: str) -> None:
    check_not_negative("eps", eps)
    if gradient not in GRADIENTS:
        raise ValueError(f"Expected `gradient` among {', '.join(GRADIENTS)}, but got {gradient!r}.")
    d = statistics.mean.numel()
    if inputs.dim() != 2 or directions.dim() != 2 or inputs.shape[1] != d or directions.shape[1] != d:
        raise ValueError(
            f"Expected `inputs` (n, {d}) and `directions` (m, {d}), as the statistics have {d} features, "
            f"but got {tuple(inputs.shape)} and {tuple(directions.shape)}."
        )


def _check_weights(weights: Weights) -> None:
    m = weights.directions.shape[0]
    if weights.output_weights.shape != (m,) or weights.scales.shape != (m,):
        raise ValueError(
            f"Expected `output_weights` and `scales` of shape ({m},), one number for each row of `directions`, "
            f"but got {tuple(weights.output_weights.shape)} and {tuple(weights.scales.shape)}."
        )
