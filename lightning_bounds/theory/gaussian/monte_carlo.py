"""Covariances of activations by sampling the weights: slow, and independent of every formula."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lightning_bounds.theory.arguments import as_inputs
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function
from lightning_bounds.theory.gaussian.blocks import tiles


class Estimate(NamedTuple):
    """An estimate and the standard error of each of its entries."""

    value: Tensor
    standard_error: Tensor


def monte_carlo_covariance(
    inputs: Tensor,
    activation: str | Elementwise,
    generator: Generator,
    *,
    num_samples: int = 100_000,
    derivative: bool = True,
) -> Estimate:
    """Mean of ``φ'(Xw) φ'(Xw)^T``, or of ``φ(Xw) φ(Xw)^T``, over sampled ``w ~ N(0, I)``.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        activation: A name, or any entrywise function.
        generator: Draws the weights, on the CPU.
        num_samples: How many, at least 2.
        derivative: Whether of ``φ'``.

    Returns:
        Two matrices ``(n, n)``, in float64.

    Raises:
        ValueError: If an input is not finite, the activation is unknown, or there are fewer than two samples.

    Example:
        >>> X = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> estimate = monte_carlo_covariance(X, "quadratic", torch.Generator().manual_seed(0))
        >>> bool(((estimate.value - X @ X.T).abs() < 4 * estimate.standard_error).all())
        True
    """
    inputs = as_inputs(inputs)
    if num_samples < 2:
        raise ValueError(f"Expected `num_samples` of at least 2, for a standard error, but got {num_samples}.")
    chosen = activation_function(activation)
    function = chosen.derivative if derivative else chosen.function
    first = inputs.new_zeros(len(inputs), len(inputs))
    second = torch.zeros_like(first)
    for part in tiles(num_samples, 4096):
        w = torch.randn(part.stop - part.start, inputs.shape[1], generator=generator, dtype=torch.float64)
        values = function(inputs @ w.to(inputs).T).detach()
        first += values @ values.T
        second += values.square() @ values.square().T
    mean = first / num_samples
    variance = (second / num_samples - mean.square()).clamp(min=0.0) / (num_samples - 1)
    return Estimate(mean, variance.sqrt())
