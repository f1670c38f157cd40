"""Arc-cosine kernels: expectations of a rectified linear unit and of its derivative over Gaussian weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian.blocks import checked_rows, map_gram, tiles

# An angle taken from its cosine errs by the rounding of the cosine over its sine. Beyond this cosine (a sine of 0.045)
# it is taken from the difference and the sum of the two directions, which keep all digits (pitfall of the arccosine:
# 1.5e-8 in float64 on duplicates).
_NEARLY_PARALLEL = 0.999
# How many numbers the differences of nearly parallel pairs may occupy at once.
_PAIR_BUDGET = 2**22


def relu_derivative_covariance(inputs: Tensor, other: Tensor | None = None) -> Tensor:
    """``E[1{w·x >= 0} 1{w·x' >= 0}] = (π - θ) / (2π)`` over ``w ~ N(0, I)``, with ``θ`` the angle between the inputs.

    Exact on the diagonal (1/2), on duplicates (1/2) and on antipodal pairs (0); independent of the norms.

    Args:
        inputs: Shape ``(n, d)``, rows of any norm other than 0.
        other: Shape ``(m, d)``; by default ``inputs`` again.

    Returns:
        Shape ``(n, m)``, in float64.

    Raises:
        ValueError: If an input is not finite or zero, or the shapes do not match.

    References:
        Cho & Saul 2009, Eq. (6) with order 0; Arora et al. 2019, Eq. (3), where rows have norm 1 (erratum C5).

    Example:
        >>> relu_derivative_covariance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.5000, 0.2500],
                [0.2500, 0.5000]], dtype=torch.float64)
    """
    return _arc_cosine_kernel(inputs, other, lambda angles, _, __: angles.mul_(-0.5 / math.pi).add_(0.5))


def relu_neural_covariance(inputs: Tensor, other: Tensor | None = None) -> Tensor:
    """``<x, x'> (π - θ) / (2π)``: the neural tangent kernel of the hidden layer of a ReLU network.

    It is ``Σ(X)`` of Oymak & Soltanolkotabi and ``H^∞`` of Arora et al.; arguments, result and errors as in
    :func:`relu_derivative_covariance`.

    References:
        Oymak & Soltanolkotabi 2019, Definition 6.1; Arora et al. 2019, Eq. (3) (erratum C5: angles for general norms).

    Example:
        >>> relu_neural_covariance(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))
        tensor([[0.5000, 0.0000],
                [0.0000, 2.0000]], dtype=torch.float64)
    """

    def entries(angles: Tensor, cosines: Tensor, scales: Tensor) -> Tensor:
        return angles.mul_(-0.5 / math.pi).add_(0.5).mul_(cosines).mul_(scales)

    return _arc_cosine_kernel(inputs, other, entries)


def relu_output_covariance(inputs: Tensor, other: Tensor | None = None) -> Tensor:
    """``E[relu(w·x) relu(w·x')] = |x| |x'| (sin θ + (π - θ) cos θ) / (2π)`` over ``w ~ N(0, I)``.

    Arguments, result and errors as in :func:`relu_derivative_covariance`.

    References:
        Cho & Saul 2009, Eq. (6) with order 1; Oymak & Soltanolkotabi 2019, Definition 3.1.

    Example:
        >>> relu_output_covariance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.5000, 0.3183],
                [0.3183, 2.0000]], dtype=torch.float64)
    """

    def entries(angles: Tensor, cosines: Tensor, scales: Tensor) -> Tensor:
        return angles.sin().sub_((angles - math.pi).mul_(cosines)).mul_(0.5 / math.pi).mul_(scales)

    return _arc_cosine_kernel(inputs, other, entries)


def _arc_cosine_kernel(
    inputs: Tensor, other: Tensor | None, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Matrix of ``kernel(angles, cosines, |x| |x'|)``, called with one tile at a time."""
    left = checked_rows(inputs)
    right = left if other is None else checked_rows(other, "other")
    if left.directions.shape[1] != right.directions.shape[1]:
        raise ValueError(
            f"Expected `inputs` and `other` with equally many features, "
            f"but got {left.directions.shape[1]} and {right.directions.shape[1]}."
        )

    def entries(cosines: Tensor, rows: slice, columns: slice) -> Tensor:
        diagonal = other is None and rows == columns
        angles = _angles(cosines, left.directions[rows], right.directions[columns], diagonal)
        scales = left.norms[rows].unsqueeze(1) * right.norms[columns]
        return kernel(angles, cosines, scales)

    return map_gram(left.directions, None if other is None else right.directions, entries)


def _angles(cosines: Tensor, left: Tensor, right: Tensor, diagonal: bool) -> Tensor:
    """Angles between directions, from their cosines, which are corrected where the angle tells them better."""
    if diagonal:
        cosines.fill_diagonal_(0.0)
    angles = cosines.acos()
    if float(cosines.abs().amax()) > _NEARLY_PARALLEL:
        i, j = (cosines.abs() > _NEARLY_PARALLEL).nonzero(as_tuple=True)
        exact = exact_angles(left, right, i, j)
        angles[i, j], cosines[i, j] = exact, exact.cos()
    if diagonal:
        angles.fill_diagonal_(0.0)
        cosines.fill_diagonal_(1.0)
    return angles


def exact_angles(left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Angles ``2 atan2(|x - x'|, |x + x'|)`` between directions ``x = left[i]`` and ``x' = right[j]``, to all digits.

    Example:
        >>> exact_angles(torch.eye(2), torch.eye(2), torch.tensor([0]), torch.tensor([1]))
        tensor([1.5708])
    """
    angles = left.new_empty(len(i))
    for part in tiles(len(i), max(1, _PAIR_BUDGET // left.shape[1])):
        x, other = left[i[part]], right[j[part]]
        angles[part] = 2 * torch.atan2((x - other).norm(dim=1), (x + other).norm(dim=1))
    return angles
