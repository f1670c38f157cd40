"""Covariances of activations over Gaussian weights, in closed form where there is one."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian import arc_cosine
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function
from lightning_bounds.theory.gaussian.blocks import checked_rows, map_gram
from lightning_bounds.theory.gaussian.series import series_covariance


def neural_covariance(inputs: Tensor, activation: str | Elementwise) -> Tensor:
    """``Σ(X) = E[φ'(Xw) φ'(Xw)^T] ∘ X X^T`` over ``w ~ N(0, I)``: the neural tangent kernel of the hidden layer.

    The expected ``J J^T`` of a network with ``k`` hidden units and output weights of variance ``s²`` is ``k s² Σ(X)``.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of any norm other than 0.
        activation: ``φ``: ``"relu"``, ``"softplus"``, ``"tanh"``, ``"sigmoid"``, ``"erf"``, ``"sin"``, ``"quadratic"``
            (``z²/2``) or ``"identity"``; or an entrywise function that is smooth except at 0.

    Returns:
        Shape ``(n, n)``, in float64.

    Raises:
        ValueError: If an input is zero or not finite, or the activation is unknown.
        ArithmeticError: If the expectation of a function does not converge.

    References:
        Oymak & Soltanolkotabi 2019, Definition 6.1; Oymak, Fabian, Li, Soltanolkotabi 2019, Definition 3.1 (A1).

    Example:
        >>> neural_covariance(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "quadratic")
        tensor([[1.0000, 0.3600],
                [0.3600, 1.0000]], dtype=torch.float64)
    """
    if activation == "relu":
        return arc_cosine.relu_neural_covariance(inputs)
    chosen = activation_function(activation)
    closed_form = _DERIVATIVE_FORMS.get(chosen.name) if chosen.named else None
    return _covariance(inputs, closed_form, chosen.derivative, times_products=True)


def derivative_covariance(inputs: Tensor, activation: str | Elementwise) -> Tensor:
    """``E[φ'(Xw) φ'(Xw)^T]`` over ``w ~ N(0, I)``; arguments, result and errors as in :func:`neural_covariance`.

    Example:
        >>> derivative_covariance(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "identity")
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    if activation == "relu":
        return arc_cosine.relu_derivative_covariance(inputs)
    chosen = activation_function(activation)
    return _covariance(inputs, _DERIVATIVE_FORMS.get(chosen.name) if chosen.named else None, chosen.derivative)


def output_covariance(inputs: Tensor, activation: str | Elementwise) -> Tensor:
    """``Σ̃(X) = E[φ(Xw) φ(Xw)^T]`` over ``w ~ N(0, I)``; arguments, result and errors as in :func:`neural_covariance`.

    References:
        Oymak & Soltanolkotabi 2019, Definition 3.1. (Another paper writes ``Σ̃`` for the kernel of ``φ'``.)

    Example:
        >>> output_covariance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "quadratic")
        tensor([[ 0.7500,  1.0000],
                [ 1.0000, 12.0000]], dtype=torch.float64)
    """
    if activation == "relu":
        return arc_cosine.relu_output_covariance(inputs)
    chosen = activation_function(activation)
    return _covariance(inputs, _OUTPUT_FORMS.get(chosen.name) if chosen.named else None, chosen.function)


# Closed forms in a = |x|², b = |x'|², c = <x, x'>; E over the Gaussian pair with these variances and covariance.
_ClosedForm = Callable[[Tensor, Tensor, Tensor], Tensor]


def _erf_derivative(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # (4/π) / √((1+2a)(1+2b) - 4c²), with the difference ab - c² >= 0 kept apart from the rest.
    return (4 / torch.pi) / (1 + 2 * a + 2 * b + 4 * (a * b - c.square()).clamp(min=0.0)).sqrt()


def _erf_output(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (2 / torch.pi) * (2 * c / ((1 + 2 * a) * (1 + 2 * b)).sqrt()).clamp(-1.0, 1.0).asin()


def _exponentials(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    # exp(±c - (a + b)/2): neither overflows, since |c| <= (a + b)/2.
    middle = (a + b) / 2
    return (c - middle).exp(), (-c - middle).exp()


def _sin_derivative(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    plus, minus = _exponentials(a, b, c)
    return (plus + minus) / 2


def _sin_output(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # exp(-(a + b)/2) sinh c, without the cancellation of two exponentials at small c.
    return (c.abs() - (a + b) / 2).exp() * (-torch.expm1(-2 * c.abs())) / 2 * c.sign()


_DERIVATIVE_FORMS: dict[str, _ClosedForm] = {
    "erf": _erf_derivative,
    "sin": _sin_derivative,
    "quadratic": lambda _a, _b, c: c,
    "identity": lambda _a, _b, c: torch.ones_like(c),
}
_OUTPUT_FORMS: dict[str, _ClosedForm] = {
    "erf": _erf_output,
    "sin": _sin_output,
    "quadratic": lambda a, b, c: (a * b + 2 * c.square()) / 4,
    "identity": lambda _a, _b, c: c,
}


def _covariance(
    inputs: Tensor, closed_form: _ClosedForm | None, function: Elementwise, times_products: bool = False
) -> Tensor:
    rows = checked_rows(inputs)
    if closed_form is None:
        return series_covariance(rows, function, times_products)
    a = rows.norms.square()

    def entries(cosines: Tensor, left: slice, right: slice) -> Tensor:
        products = cosines.mul_(rows.norms[left].unsqueeze(1)).mul_(rows.norms[right])
        covariances = closed_form(a[left].unsqueeze(1), a[right], products)
        return covariances * products if times_products else covariances

    return map_gram(rows.directions, None, entries)
