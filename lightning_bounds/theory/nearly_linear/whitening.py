"""Whitened inputs, and how strongly a linear model explains the labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs
from lightning_bounds.theory.labels import as_signs

# Directions whose second moment is smaller, relative to the largest, are not in the span.
_THRESHOLD = 1e-10


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map to whitened inputs ``x T``, in coordinates of the span of the training inputs.

    Attributes:
        transform: ``T = U_r Λ_r^{-1/2}``, shape ``(d, rank)``, float64.
        inputs: Whitened training inputs ``X T``, shape ``(n, rank)``: their second moment is the identity.
        rank: Dimension of the span: what the theorem calls ``d``.
        basis: ``U_r``, orthonormal directions of the span, shape ``(d, rank)``.
    """

    transform: Tensor
    inputs: Tensor
    rank: int
    basis: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """Whitened inputs of other samples, shape ``(n, rank)``; what lies outside the span is dropped.

        Raises:
            ValueError: If the number of features is another one, or a number is not finite.
        """
        return self._checked(inputs) @ self.transform

    def energy_outside(self, inputs: Tensor) -> float:
        """Share of ``Σ |x|²`` that lies outside the span, which :meth:`apply` drops; 0 for the training inputs.

        Example:
            >>> whitening = whiten(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
            >>> round(whitening.energy_outside(torch.tensor([[3.0, 4.0]])), 6)
            0.64
        """
        inputs = self._checked(inputs)
        outside = inputs - (inputs @ self.basis) @ self.basis.T
        whole = float(inputs.square().sum())
        return float(outside.square().sum()) / whole if whole > 0 else 0.0

    def mean_square_norm(self, inputs: Tensor) -> float:
        """Mean of ``|x T|²``: ``rank`` on the training inputs, more on fresh ones (erratum E413)."""
        return float(self.apply(inputs).square().sum(dim=1).mean())

    def _checked(self, inputs: Tensor) -> Tensor:
        inputs = as_inputs(inputs)
        if inputs.shape[1] != len(self.basis):
            raise ValueError(f"Expected {len(self.basis)} features, but got {inputs.shape[1]}.")
        return inputs.to(self.basis.device)


def whiten(inputs: Tensor) -> Whitening:
    """``X T`` with ``(X T)ᵀ (X T) / n = I``, from the second moment ``XᵀX / n`` (nothing is centered).

    Inputs that do not span all directions, such as images with dead pixels, are taken to coordinates of their span: a
    ridge would break the identity that the theorem uses. Directions whose second moment is below ``1e-10`` of the
    largest do not count.

    Args:
        inputs: Training inputs, shape ``(n, d)``, at least two samples, of any precision: the work is in float64.

    Raises:
        ValueError: If the shape is another one, there is one sample only, a number is not finite, or all are zero.

    References:
        A generalization bound for nearly-linear networks, section 5.1; samples are rows here (erratum E412).

    Example:
        >>> whitening = whiten(torch.tensor([[2.0, 0.0], [0.0, 0.0], [4.0, 0.0]]))
        >>> whitening.rank, (whitening.inputs.T @ whitening.inputs / 3).round(decimals=6)
        (1, tensor([[1.]], dtype=torch.float64))
    """
    inputs = as_inputs(inputs)
    if len(inputs) < 2:
        raise ValueError("Expected at least 2 samples, but got 1.")
    # Scaled first, so that squares neither overflow nor vanish.
    largest = inputs.abs().max()
    if largest == 0:
        raise ValueError("Expected inputs other than zero, but got zeros only; there is no span to whiten on.")
    scaled = inputs / largest
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(inputs))
    inside = values.flip(0) > _THRESHOLD * values[-1]
    values, basis = values.flip(0)[inside], vectors.flip(1)[:, inside]
    transform = basis / values.sqrt()
    # Once more on what is nearly white, where nothing is lost to the condition number.
    white = scaled @ transform
    values, vectors = torch.linalg.eigh(white.T @ white / len(inputs))
    transform = transform @ (vectors / values.sqrt() @ vectors.T)
    return Whitening(transform / largest, scaled @ transform, basis.shape[1], basis)


def strength(inputs: Tensor, labels: Tensor) -> float:
    """``s = |Y X̃ᵀ| / n``, so that ``s² = 1 - min_w mean (y - w·x)²``: the share that least squares explains.

    Args:
        inputs: Raw or whitened inputs, shape ``(n, d)``; the result is the same.
        labels: -1 and +1, shape ``(n,)``.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: As :func:`whiten`, or if a label is neither -1 nor +1.

    References:
        Theorem 5.2, where a factor 1/n is missing (erratum E401), and section 5.3.

    Example:
        >>> strength(torch.tensor([[1.0], [1.0], [1.0], [1.0]]), torch.tensor([1, 1, 1, -1]))
        0.5
    """
    white = whiten(inputs).inputs
    signs = as_signs(labels, len(white)).to(white.device)
    # E401: the mean over the samples, not the sum.
    return min(float((signs @ white / len(white)).norm()), 1.0)
