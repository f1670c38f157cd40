"""The Jacobian of a two-layer network ``f(x) = V φ(W x)`` by its formula, with bounds on its norms."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative
from lightning_bounds.theory.gaussian.activations import activation_function


class JacobianBounds(NamedTuple):
    """Bounds on a Jacobian ``J`` for unit vectors ``u``, see the functions that return them."""

    spectral: float
    row: float
    entry: float


def hidden_jacobian(
    inputs: Tensor, hidden: Tensor, output: Tensor, activation: str | Callable[[Tensor], Tensor]
) -> Tensor:
    """Jacobian with respect to ``W``: row ``(i, c)``, column ``(s, j)`` is ``V_cs φ'(w_s·x_i) x_ij``.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        hidden: ``W``, shape ``(k, d)``.
        output: ``V``, shape ``(K, k)``.
        activation: ``φ``, a name or a function.

    Returns:
        Shape ``(n*K, k*d)``, sample-major; columns concatenate the rows of ``W``.

    Raises:
        ValueError: If the shapes do not match or an entry is not finite.

    References:
        Oymak et al. 2019, Eq. (6.27) and (6.28).

    Example:
        >>> hidden_jacobian(torch.tensor([[3.0]]), torch.ones(2, 1), torch.tensor([[1.0, 2.0]]), "identity")
        tensor([[3., 6.]], dtype=torch.float64)
    """
    X, W, V = _checked(inputs, hidden, output)
    slopes = activation_function(activation).derivative(X @ W.T)
    return torch.einsum("cs,is,ij->icsj", V, slopes, X).reshape(len(X) * len(V), W.numel())


def output_jacobian(
    inputs: Tensor, hidden: Tensor, output: Tensor, activation: str | Callable[[Tensor], Tensor]
) -> Tensor:
    """Jacobian ``φ(X W^T) ⊗ I_K`` with respect to ``V``, in sample-major rows; columns concatenate the rows of ``V``.

    Returns:
        Shape ``(n*K, K*k)``; arguments and errors as in :func:`hidden_jacobian`.

    References:
        Oymak et al. 2019, Eq. (B.2).

    Example:
        >>> output_jacobian(torch.tensor([[3.0]]), torch.ones(2, 1), torch.ones(1, 2), "identity")
        tensor([[3., 3.]], dtype=torch.float64)
    """
    X, W, V = _checked(inputs, hidden, output)
    features = activation_function(activation).function(X @ W.T)
    identity = torch.eye(len(V), dtype=torch.float64, device=X.device)
    return torch.einsum("ce,is->ices", identity, features).reshape(len(X) * len(V), V.numel())


def joint_jacobian(
    inputs: Tensor, hidden: Tensor, output: Tensor, activation: str | Callable[[Tensor], Tensor]
) -> Tensor:
    """Jacobian ``[J(V) J(W)]`` with respect to both layers, the output layer first.

    Returns:
        Shape ``(n*K, k*(K + d))``; arguments and errors as in :func:`hidden_jacobian`.

    References:
        Oymak et al. 2019, appendix B.
    """
    parts = (output_jacobian, hidden_jacobian)
    return torch.cat([part(inputs, hidden, output, activation) for part in parts], dim=1)


def hidden_gram(inputs: Tensor, hidden: Tensor, output: Tensor, activation: str | Callable[[Tensor], Tensor]) -> Tensor:
    """``J J^T`` with respect to ``W``, block by block: ``X X^T ∘ Σ_s V_cs V_es φ'(X w_s) φ'(X w_s)^T``.

    Returns:
        Shape ``(n*K, n*K)``, sample-major; arguments and errors as in :func:`hidden_jacobian`.

    References:
        Oymak et al. 2019, Eq. (6.32); its expectation is ``k Var(V) Σ(X)`` (erratum A1).
    """
    X, W, V = _checked(inputs, hidden, output)
    slopes = activation_function(activation).derivative(X @ W.T)
    weighted = torch.einsum("cs,is->ics", V, slopes).reshape(len(X) * len(V), len(W))
    products = (X @ X.T).repeat_interleave(len(V), dim=0).repeat_interleave(len(V), dim=1)
    return (weighted @ weighted.T).mul_(products)


def hidden_gradient(
    inputs: Tensor, hidden: Tensor, output: Tensor, activation: str | Callable[[Tensor], Tensor], vector: Tensor
) -> Tensor:
    """``mat(J^T u) = Σ_c diag(v_c) φ'(W X^T) diag(u_c) X`` with respect to ``W``, for a sample-major ``u``.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        hidden: ``W``, shape ``(k, d)``.
        output: ``V``, shape ``(K, k)``.
        activation: ``φ``, a name or a function.
        vector: ``u``, shape ``(n*K,)``.

    Returns:
        Shape ``(k, d)``; the gradient of ``1/2 |f - y|²`` if ``u`` is the residual.

    Raises:
        ValueError: If the shapes do not match or an entry is not finite.

    References:
        Oymak et al. 2019, Eq. (6.29).
    """
    X, W, V = _checked(inputs, hidden, output)
    if vector.shape != (len(X) * len(V),):
        raise ValueError(f"Expected a vector ({len(X) * len(V)},), but got shape {tuple(vector.shape)}.")
    slopes = activation_function(activation).derivative(X @ W.T)
    return (slopes * (vector.detach().double().reshape(len(X), len(V)) @ V)).T @ X


def hidden_jacobian_bounds(inputs: Tensor, output: Tensor, *, B: float) -> JacobianBounds:
    """Bounds for ``J(W)``: ``|J| <= B √(K k) |V|_∞ |X|``, and ``B √K |V|_∞ |X|`` on the rows of ``mat(J^T u)``.

    The second is the Lipschitz constant of ``W -> J(W)`` too, from Frobenius to spectral norm, for inputs of norm 1.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        output: ``V``, shape ``(K, k)``.
        B: Bound on ``|φ'|``; on ``|φ''|`` too for the Lipschitz constant.

    Returns:
        ``spectral`` and ``row``; an entry of ``mat(J^T u)`` is at most its row.

    Raises:
        ValueError: If a matrix is not finite or ``B`` is negative.

    References:
        Oymak et al. 2019, Lemma 6.10 (erratum A8: with ``√k`` in the spectral norm).

    Example:
        >>> hidden_jacobian_bounds(torch.eye(2), torch.ones(1, 4), B=1.0)
        JacobianBounds(spectral=2.0, row=1.0, entry=1.0)
    """
    check_not_negative("B", B)
    X, V = _finite("inputs", inputs), _finite("output", output)
    row = B * math.sqrt(len(V)) * float(V.abs().max()) * float(torch.linalg.matrix_norm(X, 2))
    return JacobianBounds(math.sqrt(V.shape[1]) * row, row, row)  # A8


def joint_jacobian_bounds(
    inputs: Tensor, hidden: Tensor, output: Tensor, *, B: float, at_zero: float = 0.0
) -> JacobianBounds:
    """Bounds for ``[J(V) J(W)]``: on its norm, on the rows of ``mat(J(W)^T u)``, on the entries of ``J(V)^T u``.

    * ``|J(V, W)| <= B |X| (|W|_F + √(K k) |V|_∞) + |φ(0)| √(n k)``,
    * rows: ``B √K |V|_∞ |X|``,
    * entries: ``B |W|_{2,∞} |X| + |φ(0)| √n``.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        hidden: ``W``, shape ``(k, d)``.
        output: ``V``, shape ``(K, k)``.
        B: Bound on ``|φ'|``.
        at_zero: ``|φ(0)|``.

    Raises:
        ValueError: If the shapes do not match, an entry is not finite, or a number is negative.

    References:
        Oymak et al. 2019, Theorem B.1 (erratum A9: with ``φ(0)``).

    Example:
        >>> joint_jacobian_bounds(torch.eye(2), torch.ones(4, 2), torch.ones(1, 4), B=1.0).row
        1.0
    """
    check_not_negative("at_zero", at_zero)
    X, W, V = _checked(inputs, hidden, output)
    alone = hidden_jacobian_bounds(X, V, B=B)
    norm = float(torch.linalg.matrix_norm(X, 2))
    spectral = alone.spectral + B * norm * float(W.norm()) + at_zero * math.sqrt(len(X) * len(W))  # A9
    entry = B * float(W.norm(dim=1).max()) * norm + at_zero * math.sqrt(len(X))  # A9
    return JacobianBounds(spectral, alone.row, entry)


def joint_jacobian_deviation(
    inputs: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], *, B: float
) -> float:
    """Bound on ``|J(V, W) - J(V', W')|``: ``B |X| (√(K k) |V - V'|_∞ + (√K |V|_∞ + 1) |W - W'|_F)``.

    Args:
        inputs: ``X``, rows of norm 1, shape ``(n, d)``.
        first: ``W`` and ``V``.
        second: ``W'`` and ``V'``.
        B: Bound on ``|φ'|`` and ``|φ''|``.

    Raises:
        ValueError: If the shapes do not match, an entry is not finite, or ``B`` is negative.

    References:
        Oymak et al. 2019, Theorem B.1.
    """
    check_not_negative("B", B)
    X, W, V = _checked(inputs, *first)
    _, other_W, other_V = _checked(inputs, *second)
    if W.shape != other_W.shape or V.shape != other_V.shape:
        raise ValueError(f"Expected two networks of one size, but got {tuple(W.shape)} and {tuple(other_W.shape)}.")
    outputs = math.sqrt(V.numel()) * float((V - other_V).abs().max())
    hidden = (math.sqrt(len(V)) * float(V.abs().max()) + 1) * float((W - other_W).norm())
    return B * float(torch.linalg.matrix_norm(X, 2)) * (outputs + hidden)


def _checked(inputs: Tensor, hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    X, W, V = _finite("inputs", inputs), _finite("hidden", hidden), _finite("output", output)
    if X.shape[1] != W.shape[1] or V.shape[1] != W.shape[0]:
        raise ValueError(
            f"Expected inputs (n, d), hidden weights (k, d) and output weights (K, k), "
            f"but got {tuple(X.shape)}, {tuple(W.shape)} and {tuple(V.shape)}."
        )
    return X, W, V


def _finite(name: str, matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or matrix.numel() == 0 or not bool(matrix.isfinite().all()):
        raise ValueError(f"Expected `{name}` to be a finite matrix, but got shape {tuple(matrix.shape)}.")
    return matrix.detach().double()
