"""Gram matrices of the two-layer ReLU network: of infinite width, and of given weights.

The first layer of ``f(x) = 1/√m Σ_r a_r relu(w_r·x)`` with ``a_r = ±1`` has the Jacobian whose Gram matrix at
infinite width is ``H_infinity``; gradient descent follows it (Arora, Du, Hu, Li, Wang 2019).
"""

import math

from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, check_count, check_probability
from lightning_bounds.theory.gaussian.arc_cosine import relu_neural_covariance


def relu_gram(inputs: Tensor, other: Tensor | None = None) -> Tensor:
    """``H_infinity``: ``E_w[x·z 1{w·x ≥ 0, w·z ≥ 0}] = x·z (π - angle(x, z)) / 2π`` over ``w ~ N(0, I)``.

    Rows of any length: the angle is that of the directions. The diagonal is ``|x|²/2``, and nearly parallel rows keep
    full precision.

    Args:
        inputs: ``x``, shape ``(n, d)``, no zero rows.
        other: ``z``, shape ``(m, d)``, such as test inputs; by default ``inputs`` themselves.

    Returns:
        Shape ``(n, m)``, float64.

    Raises:
        ValueError: If a matrix is empty or not finite, has a zero row, or the numbers of features differ.

    References:
        Arora et al. 2019, Eq. (3), with the angle in the place of ``arccos(x·z)``, which is that of unit rows only
        (erratum C5).

    Example:
        >>> import torch
        >>> relu_gram(torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])).abs()
        tensor([[4.5000, 0.0000, 0.0000, 1.1250],
                [0.0000, 0.5000, 0.0000, 0.3750],
                [0.0000, 0.0000, 0.5000, 0.1250],
                [1.1250, 0.3750, 0.1250, 1.0000]], dtype=torch.float64)
    """
    return relu_neural_covariance(inputs, other)


def finite_width_gram(inputs: Tensor, hidden_weight: Tensor, other: Tensor | None = None) -> Tensor:
    """``H(k)``: ``x·z / m`` times the number of the ``m`` hidden units that are active at both ``x`` and ``z``.

    That is the Gram matrix ``J J^T`` of the Jacobian with respect to the first layer, whatever the signs ``a_r``. A
    unit with ``w·x = 0`` is active, as in the paper; automatic differentiation takes the derivative 0 there.

    Args:
        inputs: ``x``, shape ``(n, d)``.
        hidden_weight: Rows ``w_r``, shape ``(m, d)``.
        other: ``z``, shape ``(l, d)``; by default ``inputs`` themselves.

    Returns:
        Shape ``(n, l)``, float64.

    Raises:
        ValueError: If a matrix is empty or not finite, or the numbers of features differ.

    References:
        Arora et al. 2019, section 3.4.

    Example:
        >>> import torch
        >>> finite_width_gram(torch.eye(2), torch.tensor([[1.0, -1.0], [1.0, 0.0]]))
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    rows = as_inputs(inputs)
    columns = rows if other is None else as_inputs(other, "other").to(rows.device)
    weight = hidden_weight.detach().to(rows)
    if weight.dim() != 2 or weight.shape[0] == 0 or not weight.shape[1] == columns.shape[1] == rows.shape[1]:
        raise ValueError(
            f"Expected `hidden_weight` of shape (m, {rows.shape[1]}) and `other` with as many features, "
            f"but got {tuple(weight.shape)} and {tuple(columns.shape)}."
        )
    if not bool(weight.isfinite().all()):
        raise ValueError("Expected a finite `hidden_weight`, but got NaN or infinite entries.")
    # Counts up to m are exact in float64.
    active = (rows @ weight.T >= 0).double()
    both = active @ (active if other is None else (columns @ weight.T >= 0).double()).T
    return both.div_(len(weight)).mul_(rows @ columns.T)


def finite_width_deviation(num_samples: int, width: int, *, delta: float) -> float:
    """``|H(0) - H_infinity|_F ≤ n √(log(2n²/δ) / 2m)`` with probability ``1 - δ``, for unit rows.

    Raises:
        ValueError: If a number is out of range.

    References:
        Arora et al. 2019, Lemma C.3, with the ``log(2n²/δ)`` of its proof (erratum C2).

    Example:
        >>> round(finite_width_deviation(100, 10_000, delta=0.01), 4)
        2.6934
    """
    check_count("num_samples", num_samples)
    check_count("width", width)
    check_probability("delta", delta)
    # C2: the union bound over all n² entries needs log(2n²/δ), not the printed log(2/δ).
    return num_samples * math.sqrt(math.log(2 * num_samples**2 / delta) / (2 * width))
