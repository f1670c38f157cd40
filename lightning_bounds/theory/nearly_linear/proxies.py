"""Proxies of a nearly-linear network, and what they say about its error on fresh data."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, as_labels, check_positive
from lightning_bounds.theory.bound import Bound, Term
from lightning_bounds.theory.labels import as_signs
from lightning_bounds.theory.nearly_linear.network import network_outputs


class Proxies(NamedTuple):
    """Outputs on some inputs, shape ``(n,)``, float64.

    Attributes:
        network: The network itself, ``f^ε_{θ^ε}``.
        linear: The linear network ``f^0_{θ^0}``.
        first: ``g_1 = f^ε_{θ^0}``: the activation of the network, the weights of the linear one.
        second: ``g_2 = g_1 + [f(X̃) - g_1(X̃)] X̃⁺ x``: with the linear correction that fits the training data best.
    """

    network: Tensor
    linear: Tensor
    first: Tensor
    second: Tensor


def proxy_outputs(
    inputs: Tensor,
    *,
    weights: Sequence[Tensor],
    linear_weights: Sequence[Tensor],
    epsilon: float,
    train_inputs: Tensor,
) -> Proxies:
    """Network and proxies on whitened inputs.

    Args:
        inputs: Where, shape ``(n, d)``, whitened by the map of the training inputs.
        weights: ``θ^ε``, of the network.
        linear_weights: ``θ^0``, of the linear network, trained from the same weights for the same time.
        epsilon: ``ε`` in [0, 1].
        train_inputs: ``X̃``, shape ``(m, d)``, with ``X̃ᵀX̃ / m = I``.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or ``ε`` is out of range.

    References:
        Sections 3 and 7.2, Eq. (25), and appendix B.

    Example:
        >>> import torch
        >>> weights, x = [torch.eye(2), torch.ones(1, 2)], torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> proxies = proxy_outputs(x, weights=weights, linear_weights=weights, epsilon=0.5, train_inputs=x)
        >>> proxies.linear, proxies.first
        (tensor([2., 0.], dtype=torch.float64), tensor([2.0000, 0.5000], dtype=torch.float64))
    """
    inputs, train_inputs = as_inputs(inputs), as_inputs(train_inputs, "train_inputs")
    weights = [weight.detach().double() for weight in weights]
    linear_weights = [weight.detach().double() for weight in linear_weights]
    first = network_outputs(linear_weights, inputs, epsilon)
    residual = network_outputs(weights, train_inputs, epsilon) - network_outputs(linear_weights, train_inputs, epsilon)
    second = second_order_proxy(first, inputs, residual, train_inputs)
    return Proxies(
        network_outputs(weights, inputs, epsilon), network_outputs(linear_weights, inputs, 0.0), first, second
    )


def second_order_proxy(first: Tensor, inputs: Tensor, residual: Tensor, train_inputs: Tensor) -> Tensor:
    """``g_2(x) = g_1(x) + [f(X̃) - g_1(X̃)] X̃⁺ x``.

    Args:
        first: ``g_1`` on some inputs, shape ``(n,)``.
        inputs: Those inputs, whitened, shape ``(n, d)``.
        residual: ``f - g_1`` on the training inputs, shape ``(m,)``.
        train_inputs: ``X̃``, shape ``(m, d)``, with ``X̃ᵀX̃ / m = I``.

    Raises:
        ValueError: If shapes do not match, or a number is not finite.

    References:
        Eq. (25).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> second_order_proxy(torch.zeros(2), x, torch.tensor([3.0, -1.0]), x)
        tensor([ 2., -2.], dtype=torch.float64)
    """
    inputs, train_inputs = as_inputs(inputs), as_inputs(train_inputs, "train_inputs")
    first, residual = as_labels(first, len(inputs), "first"), as_labels(residual, len(train_inputs), "residual")
    # For whitened inputs the pseudo-inverse of X is its transpose over m.
    return first + inputs @ (residual @ train_inputs / len(train_inputs))


class Risks(NamedTuple):
    """Means over the samples, ``error ≤ ramp ≤ margin``.

    Attributes:
        error: Share of ``y f ≤ 0``: an output of 0 is an error.
        ramp: Mean of ``clip(1 - y f / γ, 0, 1)``.
        margin: Share of ``y f < γ``.
    """

    error: float
    ramp: float
    margin: float


def risks(outputs: Tensor, labels: Tensor, margin: float) -> Risks:
    """Error, ramp risk and margin risk.

    Args:
        outputs: ``f``, shape ``(n,)``.
        labels: ``y``, -1 and +1, shape ``(n,)``.
        margin: ``γ``, positive.

    Raises:
        ValueError: If the shapes do not match, a number is out of range or not finite.

    References:
        Section 3, with ``≤`` in the error (erratum E416).

    Example:
        >>> import torch
        >>> risks(torch.tensor([2.0, 0.5, 0.0, -1.0]), torch.ones(4), margin=1.0)
        Risks(error=0.5, ramp=0.625, margin=0.75)
    """
    check_positive("margin", margin)
    outputs = as_labels(outputs, name="outputs")
    products = outputs * as_signs(labels, len(outputs)).to(outputs.device)
    # E416: printed y f < 0, for which the zero network makes no error.
    return Risks(
        float((products <= 0).double().mean()),
        float((1 - products / margin).clamp(0, 1).mean()),
        float((products < margin).double().mean()),
    )


def proxy_bound(
    outputs: Tensor,
    proxy: Tensor,
    labels: Tensor,
    test_outputs: Tensor,
    test_proxy: Tensor,
    test_labels: Tensor,
    margin: float,
) -> Bound:
    """``R̂_γ[f] + (R^C_γ[g] - R̂^C_γ[g]) + (E|f - g| + Ê|f - g|) / γ``, for any network ``f`` and proxy ``g``.

    With a test set in the role of the distribution it is at least the error on that set, whatever ``f``, ``g`` and
    ``γ`` are: what the theorem could give at best.

    Args:
        outputs: ``f`` on the training data, shape ``(m,)``.
        proxy: ``g`` on the training data.
        labels: Their labels, -1 and +1.
        test_outputs: ``f`` on the test data, shape ``(n,)``.
        test_proxy: ``g`` on the test data.
        test_labels: Their labels.
        margin: ``γ``, positive; the best of several is a bound as well.

    Raises:
        ValueError: If the shapes do not match, a number is out of range or not finite.

    References:
        Eq. (1) and (41), errata E416, E417.

    Example:
        >>> import torch
        >>> f, y = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
        >>> bound = proxy_bound(f, 0.5 * f, y, test_outputs=f, test_proxy=f, test_labels=y, margin=2.0)
        >>> {name: round(value, 3) for name, value in bound.terms.items()}
        {'train_margin_risk': 1.0, 'gap': -0.125, 'test_deviation': 0.0, 'train_deviation': 0.25}
    """
    network = risks(outputs, labels, margin)
    on_train, on_test = risks(proxy, labels, margin), risks(test_proxy, test_labels, margin)
    train_deviation = _deviation(outputs, proxy) / margin
    test_deviation = _deviation(test_outputs, test_proxy) / margin
    terms = (
        Term("train_margin_risk", network.margin, "share of y f < gamma", "a smaller margin"),
        Term("gap", on_test.ramp - on_train.ramp, "ramp risks of the proxy, test less training", "more samples"),
        Term("test_deviation", test_deviation, "mean |f - g| / gamma on the test data", "a proxy that is closer"),
        Term("train_deviation", train_deviation, "mean |f - g| / gamma on the training data", "a proxy that is closer"),
    )
    return Bound(
        "nearly_linear_proxy",
        math.fsum(term.value for term in terms),
        terms,
        source="A generalization bound for nearly-linear networks, Eq. (1) and (41)",
        caveats=("The test data stand in for the distribution; 0.5 is what a coin reaches on balanced labels.",),
    )


def _deviation(outputs: Tensor, proxy: Tensor) -> float:
    outputs = as_labels(outputs, name="outputs")
    return float((outputs - as_labels(proxy, len(outputs), "proxy").to(outputs.device)).abs().mean())
