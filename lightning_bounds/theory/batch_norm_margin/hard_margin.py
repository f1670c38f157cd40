"""The largest margin of a linear predictor without bias: a quadratic program, solved exactly and checked."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.batch_norm_margin.arguments import as_inputs
from lightning_bounds.theory.labels import as_signs

# Largest relative duality gap that is accepted, and the one at which the solver is content.
_LARGEST_GAP, _SMALL_GAP = 1e-6, 1e-10
# A convex combination of rows that cancels to this fraction of their sizes is zero.
_CANCELLATION = 1e-10
_ATTEMPTS = 2


class MaxMargin(NamedTuple):
    """The largest margin of a linear predictor without bias.

    Attributes:
        margin: ``max_{|w| <= 1} min_i y_i <w, φ_i>``, reached by ``weight``; 0 if the data are not separable.
        upper_bound: A proof that no weight does better: the norm of a convex combination of the ``y_i φ_i``.
        weight: Unit vector, shape ``(p,)``, float64; zero if the data are not separable.
        multipliers: Weights of that convex combination, shape ``(n,)``; positive at the support vectors.
    """

    margin: float
    upper_bound: float
    weight: Tensor
    multipliers: Tensor


def linear_max_margin(inputs: Tensor, labels: Tensor) -> float:
    """``max_{|w| = 1} min_i y_i <w, x_i>``, the hard margin of a linear predictor without bias, 0 if not separable.

    Args:
        inputs: Shape ``(n, d)``, used as they are; center them to compare with batch normalization.
        labels: ``y``, -1 and +1, shape ``(n,)``.

    Raises:
        ValueError: If shapes do not match, or a label is neither -1 nor +1.
        ArithmeticError: If the duality gap stays above 1e-6, relative.

    References:
        Proposition 1.1, ``gamma_linear``.

    Example:
        >>> linear_max_margin(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), torch.tensor([1, -1]))
        5.0
    """
    return max_margin(inputs, labels).margin


def max_margin(features: Tensor, labels: Tensor) -> MaxMargin:
    """The largest margin on any features, with the predictor that reaches it and the proof that none is better.

    The distance of 0 from the convex hull of the ``y_i φ_i`` equals the margin. It is found as a non-negative least
    squares problem on the triangular factor of the features, whose cost grows with ``n`` and not with their number.

    Args:
        features: ``φ``, shape ``(n, p)``.
        labels: ``y``, -1 and +1, shape ``(n,)``.

    Raises:
        ValueError: If shapes do not match, or a label is neither -1 nor +1.
        ArithmeticError: If the duality gap stays above 1e-6, relative.

    References:
        Lawson & Hanson, Solving Least Squares Problems, 1974, chapter 23 (least distance programming).

    Example:
        >>> solution = max_margin(torch.tensor([[2.0, 0.0], [-2.0, 1.0]]), torch.tensor([1.0, -1.0]))
        >>> round(solution.margin, 6), solution.multipliers.tolist()
        (2.0, [1.0, 0.0])
    """
    features = as_inputs(features)
    rows = as_signs(labels, len(features)).to(features.device).unsqueeze(1) * features
    sizes = rows.norm(dim=1)
    if bool((sizes == 0).any()):
        # A sample that nothing is known of has margin 0, whatever the predictor.
        return MaxMargin(0.0, 0.0, torch.zeros_like(rows[0]), (sizes == 0).double() / (sizes == 0).sum())
    n, p = rows.shape
    factor = torch.linalg.qr(rows.mT, mode="r").R if p > n else rows.mT
    target = 0.1 * float(sizes.mean())
    for _ in range(_ATTEMPTS):
        multipliers = _least_distance(factor, target)
        weight = rows.mT @ multipliers
        bound = float(weight.norm())
        if bound <= _CANCELLATION * float(multipliers @ sizes):
            return MaxMargin(0.0, bound, torch.zeros_like(weight), multipliers)
        margin = float((rows @ weight).min()) / bound
        if bound - margin <= _SMALL_GAP * bound:
            break
        # The program is best conditioned where its target is the margin itself.
        target = bound
    if bound - margin > _LARGEST_GAP * bound:
        raise ArithmeticError(
            f"Expected the largest margin up to {_LARGEST_GAP:g}, but it lies between {margin:.8g} and {bound:.8g}; "
            "scale the features, or remove duplicate samples."
        )
    return MaxMargin(margin, bound, weight / bound, multipliers)


def _least_distance(factor: Tensor, target: float) -> Tensor:
    """Convex weights ``λ`` of the columns of ``factor`` whose combination is shortest."""
    from scipy.optimize import nnls

    # min |w| subject to <g_i, w> >= target is min_{u >= 0} |[G^T; target 1^T] u - e_last|.
    system = torch.cat([factor, factor.new_full((1, factor.shape[1]), target)])
    scales = system.norm(dim=0)
    right = torch.zeros_like(system[:, 0])
    right[-1] = 1.0
    try:
        solution, _ = nnls((system / scales).cpu().numpy(), right.cpu().numpy(), maxiter=30 * len(scales))
    except RuntimeError as error:
        raise ArithmeticError(f"Expected a largest margin, but its solver did not finish: {error}") from error
    multipliers = torch.from_numpy(solution).to(factor) / scales
    return multipliers / multipliers.sum()
