"""The eigenvalues and condition numbers of the data that decide widths and rates, and simple bounds for them."""

import math

from torch import Tensor

from lightning_bounds.theory.gaussian import hermite_coefficient, neural_covariance, output_covariance
from lightning_bounds.theory.gaussian.activations import Elementwise
from lightning_bounds.theory.overparameterization.initialization import spectral_norm
from lightning_bounds.theory.overparameterization.khatri_rao import (
    khatri_rao_sigma_min,
    separation,
    smallest_eigenvalue,
)

# Largest error of an entry of a covariance, relative to the diagonal: those without a closed form are integrated.
_ACCURACY = 1e-13


def neural_eigenvalue(inputs: Tensor, activation: str | Elementwise) -> float:
    """``λ(X)``, the smallest eigenvalue of the neural covariance ``Σ(X)``; at most ``E φ'(g)² <= B²`` for unit rows.

    It is 0 where the accuracy of the covariance, 1e-13 of its diagonal, leaves no digit: if two inputs are equal.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        activation: ``φ``, a name or an entrywise function.

    References:
        Oymak & Soltanolkotabi 2019, Definition 6.1, Eq. (6.16).

    Example:
        >>> import torch
        >>> neural_eigenvalue(torch.eye(2), "relu")
        0.5
    """
    return smallest_eigenvalue(neural_covariance(inputs, activation), _ACCURACY)


def output_eigenvalue(inputs: Tensor, activation: str | Elementwise) -> float:
    """``λ̃(X)``, the smallest eigenvalue of the output covariance ``Σ̃(X)``; arguments as in :func:`neural_eigenvalue`.

    References:
        Oymak & Soltanolkotabi 2019, Definition 3.1.

    Example:
        >>> import torch
        >>> round(output_eigenvalue(torch.eye(2), "relu"), 4)
        0.3408
    """
    return smallest_eigenvalue(output_covariance(inputs, activation), _ACCURACY)


def neural_eigenvalue_bound(inputs: Tensor, activation: str | Elementwise, order: int = 1) -> float:
    """``λ(X) >= μ_r(φ')² σ_min(X^{*(r+1)})²``, for rows of norm 1; order 1 is ``μ_φ² σ_min(X*X)²``.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of norm 1.
        activation: ``φ``, a name or an entrywise function.
        order: ``r``, 0 or more.

    Raises:
        ValueError: If a row has another norm, or an argument is out of range.

    References:
        Oymak & Soltanolkotabi 2019, Eqs. (6.5) and (H.2) (erratum B7: coefficients of ``φ'``).

    Example:
        >>> import torch
        >>> round(neural_eigenvalue_bound(torch.eye(2), "relu"), 4)
        0.1592
    """
    _check_unit(inputs)
    coefficient = hermite_coefficient(activation, order, derivative=1)
    return (coefficient * khatri_rao_sigma_min(inputs, order + 1)) ** 2


def output_eigenvalue_bound(inputs: Tensor, activation: str | Elementwise, order: int = 2) -> float:
    """``λ̃(X) >= μ_r(φ)² σ_min(X^{*r})²``, ``r >= 1``, for rows of norm 1; order 2 is ``γ_φ² σ_min(X*X)²``.

    Arguments and errors as in :func:`neural_eigenvalue_bound`.

    References:
        Oymak & Soltanolkotabi 2019, section 3 and Eq. (H.4).

    Example:
        >>> import torch
        >>> round(output_eigenvalue_bound(torch.eye(2), "relu"), 4)
        0.0796
    """
    _check_unit(inputs)
    return (hermite_coefficient(activation, order) * khatri_rao_sigma_min(inputs, order)) ** 2


def separation_eigenvalue_bound(inputs: Tensor) -> float:
    """``λ(X) >= δ / (100 n²)`` of ReLU, with ``δ`` the separation of the rows, which have norm 1.

    References:
        Oymak & Soltanolkotabi 2019, Theorem I.1.

    Example:
        >>> import torch
        >>> round(separation_eigenvalue_bound(torch.eye(2)), 6)
        0.003536
    """
    _check_unit(inputs)
    return separation(inputs) / (100 * len(inputs) ** 2)


def kappa(inputs: Tensor) -> float:
    """``κ(X) = √(d/n) ‖X‖ / σ_min(X*X)²``, infinite where ``σ_min`` is 0.

    References:
        Oymak & Soltanolkotabi 2019, Eq. (2.2).

    Example:
        >>> import torch
        >>> kappa(torch.eye(3))
        1.0
    """
    return _kappa(inputs, khatri_rao_sigma_min(inputs) ** 2)


def kappa_tilde(inputs: Tensor, activation: str | Elementwise) -> float:
    """``κ̃(X) = √(d/n) ‖X‖ / λ(X)``, infinite where ``λ`` is 0.

    References:
        Oymak & Soltanolkotabi 2019, Eq. (6.2).

    Example:
        >>> import torch
        >>> kappa_tilde(torch.eye(3), "relu")
        2.0
    """
    return _kappa(inputs, neural_eigenvalue(inputs, activation))


def _kappa(inputs: Tensor, eigenvalue: float) -> float:
    n, d = inputs.shape
    return math.sqrt(d / n) * spectral_norm(inputs) / eigenvalue if eigenvalue > 0 else math.inf


def _check_unit(inputs: Tensor) -> None:
    worst = float((inputs.norm(dim=1) - 1).abs().max())
    if not worst <= 1e-6:
        raise ValueError(
            f"Expected rows of norm 1, for which the bound is proven, but a norm is off by {worst:.3g}; "
            "divide each row by its norm."
        )
