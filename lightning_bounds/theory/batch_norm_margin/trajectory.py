"""What the proofs follow along a training: movement, the sum of loss slopes, the rescaled potential."""

from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.batch_norm_margin.arguments import as_units, check_setting
from lightning_bounds.theory.batch_norm_margin.constants import radius
from lightning_bounds.theory.batch_norm_margin.guarantee import MovementBounds
from lightning_bounds.theory.batch_norm_margin.network import Weights
from lightning_bounds.theory.labels import as_signs


def movement(weights: Weights, initial: Weights) -> MovementBounds:
    """``|U - U_0|`` with ``U = (a, c)``, and ``|V - V_0|_F``, to be compared with :func:`movement_bounds`.

    Args:
        weights: ``(a, c, V)`` now.
        initial: The same at the start.

    Raises:
        ValueError: If the shapes do not match.

    References:
        Theorem 2.1.

    Example:
        >>> import torch
        >>> start = Weights(torch.zeros(1), torch.ones(1), torch.zeros(1, 2))
        >>> movement(Weights(torch.tensor([3.0]), torch.tensor([5.0]), torch.ones(1, 2)), start).outer
        5.0
    """
    shapes, expected = [tuple(part.shape) for part in weights], [tuple(part.shape) for part in initial]
    if shapes != expected:
        raise ValueError(f"Expected weights of the initial shapes {expected}, but got {shapes}.")
    a, c, V = (float((w.detach().double() - start).norm()) for w, start in zip(weights, initial, strict=True))
    return MovementBounds((a**2 + c**2) ** 0.5, V)


def loss_slopes(outputs: Tensor, labels: Tensor) -> Tensor:
    """``|l'(p_i)| = 1/(1 + exp(p_i))`` of the logistic loss, ``p_i = y_i f(x_i)``; twice it is at least 1 on an error.

    Args:
        outputs: ``f(x_i)``, shape ``(n,)``.
        labels: -1 and +1, shape ``(n,)``.

    Returns:
        Shape ``(n,)``, float64, between 0 and 1.

    Example:
        >>> import torch
        >>> loss_slopes(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor([0.5000], dtype=torch.float64)
    """
    signs = as_signs(labels, len(outputs))
    outputs = as_units("outputs", outputs, len(signs))
    return (-signs.to(outputs.device) * outputs).sigmoid()


def perceptron_sum_bound(movement: float, *, learning_rate: float, gamma: float, width: int) -> float:
    """``Σ_{s<t} |l'_s| <= 4 |U_t - U_0| / (η gamma √m)``; infinite without a positive margin.

    Args:
        movement: ``|U_t - U_0|``.
        learning_rate: ``η``.
        gamma: Margin of Assumption 1.2.
        width: ``m``.

    Raises:
        ValueError: If a number is out of range.

    References:
        Eq. (50); the main text's Eq. (4) forgets the ``1/η`` (erratum E316).

    Example:
        >>> perceptron_sum_bound(0.5, learning_rate=0.5, gamma=0.25, width=64)
        2.0
    """
    check_not_negative("movement", movement)
    check_positive("learning_rate", learning_rate)
    check_setting(gamma, 1.0, width=width)
    # E316: over eta.
    return over(4 * movement, learning_rate * max(gamma, 0.0) * width**0.5)


def potential(
    weights: Weights,
    initial: Weights,
    *,
    reference_output: Tensor,
    reference_scale: Tensor,
    gamma: float,
    eps_N: float,
) -> float:
    """``Φ(t) = |U_t - Ū|² - |U_0 - Ū|² + α |V_t - V_0|²`` with ``Ū = U_0 + R/8 (a_ref, c_ref)`` and ``V̄ = V_0``.

    ``α = R²/β_V² = 4 e² R²``. The proof needs it to stay small; it falls while the weights approach the reference.

    Args:
        weights: ``(a, c, V)`` now.
        initial: The same at the start.
        reference_output: ``a_ref``, shape ``(m,)``.
        reference_scale: ``c_ref``, shape ``(m,)``.
        gamma: Margin of the reference, positive.
        eps_N: ``max_j 1/N(v_j)``.

    Raises:
        ValueError: If shapes do not match or a number is out of range.

    References:
        Eq. (44); ``α`` with its factor 4 (erratum E313) and ``β_V = 1/(2e)`` (erratum E311).

    Example:
        >>> from lightning_bounds.theory.batch_norm_margin.network import draw_weights
        >>> start = draw_weights(4, 2, seed=0)
        >>> potential(start, start, reference_output=start[0], reference_scale=start[1], gamma=0.1, eps_N=2.0)
        0.0
    """
    check_positive("gamma", gamma)
    moved = movement(weights, initial)
    m = len(initial.scales)
    R = radius(gamma=gamma, eps_N=eps_N, width=m)
    # E311, E313: alpha = R^2 / beta_V^2 = 4 e^2 R^2, in which e cancels.
    alpha = 4 * radius(gamma=gamma, eps_N=1.0, width=m) ** 2
    a_ref, c_ref = as_units("reference_output", reference_output, m), as_units("reference_scale", reference_scale, m)
    steps = [w.detach().double() - start for w, start in zip(weights[:2], initial[:2], strict=True)]
    towards = float(steps[0] @ a_ref + steps[1] @ c_ref)
    # |U - U_0 - r u|^2 - |r u|^2 = |U - U_0|^2 - 2 r <u, U - U_0>.
    return moved.outer**2 - R / 4 * towards + alpha * moved.inner**2
