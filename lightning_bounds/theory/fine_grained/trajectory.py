"""How gradient descent on a very wide two-layer network proceeds: a linear recursion with a Gram matrix.

The loss is the sum ``Φ = ½ Σ_i (f(x_i) - y_i)²`` throughout; of a mean loss, multiply the learning rate by what it
divides by: ``2/n`` for ``MSELoss``.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_labels, check_not_negative, check_positive
from lightning_bounds.theory.fine_grained.arguments import as_steps
from lightning_bounds.theory.fine_grained.projections import eigenvectors

# A learning rate of exactly 1 / λ_1 may come out above it.
_ROUNDING = 1e-9


class ToFit(NamedTuple):
    """What gradient descent has to fit: ``projections`` ``V^T (y - u(0))``, with ``eigenvalues`` and ``vectors``."""

    eigenvalues: Tensor
    projections: Tensor
    vectors: Tensor


class StepSize(NamedTuple):
    """``product`` ``η λ_1`` and what it means for gradient descent.

    ``monotone``: at most 1, every component of the residual shrinks without changing its sign, as the theorems assume;
    ``converges``: below 2.
    """

    product: float
    monotone: bool
    converges: bool


def step_size(largest_eigenvalue: float, learning_rate: float) -> StepSize:
    """``η λ_1``: at most 1 as the theorems assume, below 2 for convergence.

    Raises:
        ValueError: If the learning rate is not positive or the eigenvalue is negative.

    References:
        Arora et al. 2019, proof of Theorem 4.1 (``I - η H_infinity`` is positive semi-definite).

    Example:
        >>> step_size(largest_eigenvalue=1500.0, learning_rate=1e-3)
        StepSize(product=1.5, monotone=False, converges=True)
    """
    check_positive("learning_rate", learning_rate)
    check_not_negative("largest_eigenvalue", largest_eigenvalue)
    product = learning_rate * largest_eigenvalue
    return StepSize(product, product <= 1 + _ROUNDING, product < 2)


def predicted_residual_norm(
    gram: Tensor,
    labels: Tensor,
    learning_rate: float,
    steps: Iterable[float] | Tensor,
    initial_outputs: Tensor | None = None,
) -> Tensor:
    """``|y - u(k)| = √(Σ_i (1 - η λ_i)^{2k} (v_i·y)²)``, the norm of the residual after ``k`` steps.

    Args:
        gram: ``H``, shape ``(n, n)``: ``H_infinity``, or that of the initial weights.
        labels: ``y``, shape ``(n,)``.
        learning_rate: ``η``, for the sum loss.
        steps: Numbers of steps ``k``, in any order; infinity gives the limit.
        initial_outputs: ``u(0)``, shape ``(n,)``; by default 0, as in the theorem. With them ``y - u(0)`` decays in
            the place of ``y``, which is much closer to a network of finite initialization.

    Returns:
        Shape ``(len(steps),)``, float64; infinite where the recursion diverges beyond all numbers.

    Raises:
        ValueError: If a shape does not match, the learning rate is not positive, or the matrix is not positive
            semi-definite.

    References:
        Arora et al. 2019, Theorem 4.1, Eq. (8), and Eq. (27) for ``u(0)``.

    Example:
        >>> import torch
        >>> predicted_residual_norm(torch.eye(2), torch.tensor([3.0, 4.0]), learning_rate=0.5, steps=[0, 1, 2])
        tensor([5.0000, 2.5000, 1.2500], dtype=torch.float64)
    """
    check_positive("learning_rate", learning_rate)
    eigenvalues, projections, _ = to_fit(gram, labels, initial_outputs)
    # Zero times an overflow is no number: what has no part in the residual is left out.
    present = projections != 0
    log_factors, sizes = log_shrinkage(eigenvalues[present], learning_rate), projections[present]
    norms = [(_times(count, log_factors).exp() * sizes).norm() for count in as_steps(steps)]
    return torch.stack(norms)


def predicted_loss(
    gram: Tensor,
    labels: Tensor,
    learning_rate: float,
    steps: Iterable[float] | Tensor,
    initial_outputs: Tensor | None = None,
) -> Tensor:
    """``Φ(k) = ½ |y - u(k)|²``, the sum loss after ``k`` steps: see :func:`predicted_residual_norm`.

    References:
        Arora et al. 2019, Theorem 3.2 and Figure 1(a), (c).

    Example:
        >>> import torch
        >>> predicted_loss(torch.eye(2), torch.tensor([3.0, 4.0]), learning_rate=0.5, steps=[0, 1])
        tensor([12.5000,  3.1250], dtype=torch.float64)
    """
    return predicted_residual_norm(gram, labels, learning_rate, steps, initial_outputs).square() / 2


def auxiliary_movement(
    gram: Tensor,
    labels: Tensor,
    learning_rate: float,
    steps: Iterable[float] | Tensor,
    initial_outputs: Tensor | None = None,
) -> Tensor:
    """``√(Σ_i (1 - (1 - η λ_i)^k)² / λ_i (v_i·y)²)``, how far the linearized network has moved after ``k`` steps.

    If ``η λ_1 ≤ 1`` it grows with ``k`` up to ``√(y^T H⁺ y)``, its value at infinity. What lies outside the range of
    ``H`` moves no weight, so it is left out here, although it is never fitted.

    Args:
        gram: ``H``, shape ``(n, n)``: for the auxiliary sequence of the paper, that of the initial weights.
        labels: ``y``, shape ``(n,)``.
        learning_rate: ``η``, for the sum loss.
        steps: Numbers of steps ``k``, in any order; infinity gives the limit.
        initial_outputs: ``u(0)``, shape ``(n,)``; by default 0, as in the paper.

    Returns:
        Shape ``(len(steps),)``, float64; infinite where there is no limit, or it exceeds all numbers.

    Raises:
        ValueError: As :func:`predicted_residual_norm`.

    References:
        Arora et al. 2019, Eq. (11), section 5.2, and the proof of Lemma 5.3.

    Example:
        >>> import torch
        >>> auxiliary_movement(4 * torch.eye(1), torch.tensor([6.0]), learning_rate=0.125, steps=[0, 1, float("inf")])
        tensor([0.0000, 1.5000, 3.0000], dtype=torch.float64)
    """
    check_positive("learning_rate", learning_rate)
    eigenvalues, projections, _ = to_fit(gram, labels, initial_outputs)
    moving = (eigenvalues > 0) & (projections != 0)
    eigenvalues, projections = eigenvalues[moving], projections[moving]
    norms = [
        (fitted_share(eigenvalues, learning_rate, count) / eigenvalues.sqrt() * projections).norm()
        for count in as_steps(steps)
    ]
    return torch.stack(norms)


def to_fit(gram: Tensor, labels: Tensor, initial_outputs: Tensor | None = None) -> ToFit:
    """What gradient descent has to fit, in the eigenbasis; eigenvalues below the noise floor are 0 from here on.

    Example:
        >>> import torch
        >>> to_fit(torch.diag(torch.tensor([2.0, 1e-12])), torch.tensor([1.0, -3.0])).eigenvalues
        tensor([2., 0.], dtype=torch.float64)
    """
    eigenvalues, vectors, floor = eigenvectors(gram)
    wanted = as_labels(labels, len(gram)).to(vectors)
    if initial_outputs is not None:
        wanted = wanted - as_labels(initial_outputs, len(gram), "initial_outputs").to(vectors)
    return ToFit(torch.where(eigenvalues > floor, eigenvalues, 0.0), vectors.T @ wanted, vectors)


def fitted_share(eigenvalues: Tensor, learning_rate: float, count: float) -> Tensor:
    """``1 - (1 - η λ)^k``, what of each component of the labels is fitted after ``k`` steps; 0 for ``λ = 0``.

    Infinite where ``η λ > 2`` and the number is too large, or there is no limit.

    Example:
        >>> import torch
        >>> fitted_share(torch.tensor([1.0, 2.0, 3.0]), 0.5, 3)
        tensor([0.8750, 1.0000, 1.1250])
    """
    exponents = _times(count, log_shrinkage(eigenvalues, learning_rate))
    product = learning_rate * eigenvalues
    # Below 1 there is no cancellation with expm1; above, the sign of the power alternates.
    alternating = 1.0 - (-1.0) ** (count % 2 if math.isfinite(count) else 1) * exponents.exp()
    share = torch.where(product <= 1, -torch.expm1(exponents), alternating)
    endless = math.isinf(count) & (product >= 2)
    return torch.where(endless, torch.inf, share)


def log_shrinkage(eigenvalues: Tensor, learning_rate: float) -> Tensor:
    """``log |1 - η λ|``, exact for the smallest products and near 2; ``-inf`` at ``η λ = 1``.

    Example:
        >>> import torch
        >>> log_shrinkage(torch.tensor([1e-20, 1.0], dtype=torch.float64), 1.0)
        tensor([-1.0000e-20,        -inf], dtype=torch.float64)
    """
    product = learning_rate * eigenvalues
    return torch.where(product <= 1, torch.log1p(-product), torch.log1p(product - 2))


def _times(count: float, log_factors: Tensor) -> Tensor:
    """``k log |1 - η λ|``, where no step changes nothing and a factor of 1 stays 1 for ever."""
    if count == 0:
        return torch.zeros_like(log_factors)
    return torch.where(log_factors == 0, 0.0, count * log_factors)
