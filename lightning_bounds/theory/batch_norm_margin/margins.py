"""Margins of batch-normalized networks: of a network, of its tangents, and of a reference, as the theorems use them."""

import math
from typing import NamedTuple

from torch import Tensor

from lightning_bounds.theory.batch_norm_margin.arguments import as_directions, as_inputs, as_units
from lightning_bounds.theory.batch_norm_margin.hard_margin import max_margin
from lightning_bounds.theory.batch_norm_margin.network import Weights, network_outputs, pre_activations
from lightning_bounds.theory.batch_norm_margin.normalization import Statistics, normalization, whole_set_statistics
from lightning_bounds.theory.labels import as_signs

# Assumption 1.2: the effective rows of a reference are within gamma / 32 of the initial ones.
DISPLACEMENT_FRACTION = 32


class LayerMargins(NamedTuple):
    """Margins of a reference; negative ones, of references that misclassify a sample, are kept.

    Attributes:
        gamma_a: ``1/√m min_i y_i <a_ref, ∂_a f(x_i)>``.
        gamma_c: ``1/√m min_i y_i <c_ref, ∂_c f(x_i)>``, with the gates of ``scales``, that is of ``c = 1`` in theory.
        gamma: ``gamma_a + gamma_c``.
        clipped: ``max(gamma_a, 0) + max(gamma_c, 0)``: a reference may be replaced by the zero vector.
        gamma_c_reference_gates: ``1/√m min_i y_i Σ_j a_j relu(c_ref_j <v̄_j, x̄_i>)``, with gates that follow ``c_ref``,
            as appendix A.2 computes it; equal to ``gamma_c`` for ``c_ref, c >= 0``.
    """

    gamma_a: float
    gamma_c: float
    gamma: float
    clipped: float
    gamma_c_reference_gates: float


class MaximalLayerMargins(NamedTuple):
    """The largest margins that a reference can have.

    Attributes:
        gamma_a: Largest ``gamma_a`` with the given directions; 0 if the features are not separable.
        gamma_c: Largest ``gamma_c``, likewise, at ``c = 1``.
        gamma: ``gamma_a + gamma_c``, what a reference reaches without moving the directions.
        gamma_upper: What none exceeds that moves the effective rows by ``gamma / 32``.
        reference_output: ``a_ref``, unit vector ``(m,)``, or zero.
        reference_scale: ``c_ref``, unit vector ``(m,)``, or zero.
    """

    gamma_a: float
    gamma_c: float
    gamma: float
    gamma_upper: float
    reference_output: Tensor
    reference_scale: Tensor


class TangentMargins(NamedTuple):
    """``gamma_a`` and ``gamma_c`` without the ``1/√m`` of the theorems, and ``gamma_v`` without any normalization."""

    gamma_a: float
    gamma_c: float
    gamma_v: float


def layer_margins(
    inputs: Tensor,
    labels: Tensor,
    *,
    output_weights: Tensor,
    scales: Tensor,
    directions: Tensor,
    reference_output: Tensor,
    reference_scale: Tensor,
    eps: float = 0.0,
) -> LayerMargins:
    """Margins ``gamma_a``, ``gamma_c`` of a reference ``(a_ref, c_ref)`` at the weights ``(a, c, V)``.

    ``gamma_a = 1/√m min_i y_i Σ_j a_ref_j relu(c_j <v̄_j, x̄_i>)`` and
    ``gamma_c = 1/√m min_i y_i Σ_j c_ref_j a_j 1[c_j <v̄_j, x̄_i> > 0] <v̄_j, x̄_i>``, with ``v̄_j = v_j / N(v_j)``.

    Args:
        inputs: Training inputs, shape ``(n, d)``; centered here.
        labels: -1 and +1, shape ``(n,)``.
        output_weights: ``a``, shape ``(m,)``; in theory the initial ones.
        scales: ``c``, shape ``(m,)``; in theory all 1.
        directions: ``V``, shape ``(m, d)``, one matrix for both margins.
        reference_output: ``a_ref``, shape ``(m,)``; the theorems ask for a norm of at most 1.
        reference_scale: ``c_ref``, shape ``(m,)``, likewise.
        eps: ``ε``.

    Raises:
        ValueError: If shapes do not match, there are fewer than two samples, or a label is neither -1 nor +1.

    References:
        Assumption 1.2 as its proofs use it, Eq. (28) (errata E301, E302, E318).

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0])
        >>> V, one = torch.tensor([[3.0], [-2.0]]), torch.ones(2)
        >>> reference = dict(reference_output=torch.tensor([0.6, -0.8]), reference_scale=torch.zeros(2))
        >>> margins = layer_margins(x, y, output_weights=one, scales=one, directions=V, **reference)
        >>> round(margins.gamma_a * 2**0.5, 6), abs(margins.gamma_c)
        (0.6, 0.0)
    """
    inputs, signs, weights, statistics = _network(inputs, labels, output_weights, scales, directions)
    m = len(weights.scales)
    a_ref = as_units("reference_output", reference_output, m)
    c_ref = as_units("reference_scale", reference_scale, m)
    normalized = pre_activations(inputs, statistics, weights.directions, eps=eps)
    active = (weights.scales * normalized > 0).to(normalized)
    # E301: with the labels, and divided by sqrt(m).
    root = math.sqrt(m)
    gamma_a = float((signs * ((weights.scales * normalized).relu() @ a_ref)).min()) / root
    # E318: gates of c, not of the reference, which Lemma D.3 needs.
    gamma_c = float((signs * ((active * normalized) @ (c_ref * weights.output_weights))).min()) / root
    followed = float((signs * ((c_ref * normalized).relu() @ weights.output_weights)).min()) / root
    return LayerMargins(gamma_a, gamma_c, gamma_a + gamma_c, max(gamma_a, 0.0) + max(gamma_c, 0.0), followed)


def maximal_layer_margins(
    inputs: Tensor, labels: Tensor, *, output_weights: Tensor, directions: Tensor, eps: float = 0.0
) -> MaximalLayerMargins:
    """The largest ``gamma_a`` and ``gamma_c`` at ``c = 1`` with frozen directions: two hard-margin problems, exactly.

    Their features are ``relu(<v_j / N_j, x̄_i>)``, and ``a_j`` times the same. Moving the directions as far as the
    theorems allow adds little: ``gamma`` stays below ``gamma_upper = gamma / (1 - (1 + max|a_j|) / 32)``.

    Args:
        inputs: Training inputs, shape ``(n, d)``; centered here.
        labels: -1 and +1, shape ``(n,)``.
        output_weights: ``a``, the initial ones, shape ``(m,)``.
        directions: ``V``, shape ``(m, d)``.
        eps: ``ε``.

    Raises:
        ValueError: If shapes do not match, there are fewer than two samples, or a label is neither -1 nor +1.
        ArithmeticError: If the margin cannot be found up to 1e-6, relative.

    References:
        Assumption 1.2 (errata E301, E302, E318); appendix A.2 approximates it with Adam.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0])
        >>> V = torch.tensor([[3.0], [-2.0]])
        >>> margins = maximal_layer_margins(x, y, output_weights=torch.ones(2), directions=V)
        >>> round(margins.gamma_a, 6), round(margins.gamma_c, 6)
        (0.5, 0.5)
    """
    ones = output_weights.new_ones(output_weights.numel())
    inputs, signs, weights, statistics = _network(inputs, labels, output_weights, ones, directions)
    features = pre_activations(inputs, statistics, weights.directions, eps=eps).relu()
    root = math.sqrt(features.shape[1])
    output, scale = max_margin(features, signs), max_margin(features * weights.output_weights, signs)
    gamma_a, gamma_c = output.margin / root, scale.margin / root
    # Effective rows that move by Δ move the margins by Δ |x̄| and max|a| Δ |x̄|, with Δ <= gamma / 32, |x̄| <= 1.
    size = max(1.0, float(statistics.deviations.norm(dim=1).max()))
    left = 1 - (1 + float(weights.output_weights.abs().max())) * size / DISPLACEMENT_FRACTION
    gamma = gamma_a + gamma_c
    upper = gamma / left if left > 0 else math.inf
    return MaximalLayerMargins(gamma_a, gamma_c, gamma, upper, output.weight, scale.weight)


def network_margin(
    inputs: Tensor,
    labels: Tensor,
    *,
    output_weights: Tensor,
    scales: Tensor,
    directions: Tensor,
    eps: float = 0.0,
) -> float:
    """``gamma(W) = min_i y_i f(x_i; W) / (|a| |c|)``; 0 for a network whose output is 0 everywhere.

    Args:
        inputs: Training inputs, shape ``(n, d)``; their statistics are used.
        labels: -1 and +1, shape ``(n,)``.
        output_weights: ``a``, shape ``(m,)``.
        scales: ``c``, shape ``(m,)``.
        directions: ``V``, shape ``(m, d)``.
        eps: ``ε``.

    Raises:
        ValueError: If shapes do not match, there are fewer than two samples, or a label is neither -1 nor +1.

    References:
        Section 1.4.

    Example:
        >>> import torch
        >>> x, y, one = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0]), torch.ones(2)
        >>> a, V = torch.tensor([3.0, -4.0]), torch.tensor([[1.0], [-1.0]])
        >>> round(network_margin(x, y, output_weights=a, scales=one, directions=V) * 5 * 2**0.5, 6)
        3.0
    """
    inputs, signs, weights, statistics = _network(inputs, labels, output_weights, scales, directions)
    outputs = network_outputs(inputs, statistics, weights, eps=eps)
    return _ratio(float((signs * outputs).min()), float(weights.output_weights.norm() * weights.scales.norm()))


def tangent_margins(
    inputs: Tensor, labels: Tensor, *, weights: Weights, tangent: Weights, eps: float = 0.0
) -> TangentMargins:
    """Margins of the three parts of the linearized network, before the theorems rescale them.

    ``min_i y_i <a, ∂_a f(x_i; W)> / |a|``, the same with ``c``, and ``min_i y_i <V, ∂_V f(x_i; W)>``; the derivative in
    ``V`` goes through mean and variance, so that at ``ε = 0`` the last is 0 for ``V`` itself.

    Args:
        inputs: Training inputs, shape ``(n, d)``; their statistics are used.
        labels: -1 and +1, shape ``(n,)``.
        weights: ``W_0 = (a_0, c_0, V_0)``, where the derivatives are taken.
        tangent: ``(a, c, V)``, what they are multiplied with.
        eps: ``ε``.

    Raises:
        ValueError: If shapes do not match, there are fewer than two samples, or a label is neither -1 nor +1.

    References:
        Section 1.4; the ``gamma_a`` of the theorems is this one over ``√m``.

    Example:
        >>> import torch
        >>> x, y, one = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0]), torch.ones(2)
        >>> weights = Weights(torch.tensor([3.0, -4.0]), one, torch.tensor([[1.0], [-1.0]]))
        >>> tangent_margins(x, y, weights=weights, tangent=weights).gamma_a
        0.6
    """
    inputs, signs, at, statistics = _network(inputs, labels, *weights)
    _, _, along, _ = _network(inputs, labels, *tangent)
    a, c, V = at
    normalized = pre_activations(inputs, statistics, V, eps=eps)
    active = (c * normalized > 0).to(normalized)
    by_output = (c * normalized).relu() @ along.output_weights
    by_scale = (active * normalized) @ (a * along.scales)
    normalizers = normalization(V, inputs, eps)
    safe = normalizers.where(normalizers > 0, 1.0)
    deviations = statistics.deviations
    moved = deviations @ along.directions.mT
    # <v', (I - Σ v vᵀ / N²) x̄> = <v', x̄> - <v', Σ v> <v, x̄> / N².
    projected = moved - (moved * (deviations @ V.mT)).mean(dim=0) * normalized / safe
    by_direction = (active * projected) @ (a * c / safe)
    return TangentMargins(
        _ratio(float((signs * by_output).min()), float(along.output_weights.norm())),
        _ratio(float((signs * by_scale).min()), float(along.scales.norm())),
        float((signs * by_direction).min()),
    )


def _network(
    inputs: Tensor, labels: Tensor, output_weights: Tensor, scales: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Weights, Statistics]:
    inputs = as_inputs(inputs)
    directions = as_directions(directions, inputs.shape[1])
    m = len(directions)
    weights = Weights(as_units("output_weights", output_weights, m), as_units("scales", scales, m), directions)
    return inputs, as_signs(labels, len(inputs)).to(inputs.device), weights, whole_set_statistics(inputs)


def _ratio(margin: float, norm: float) -> float:
    # Where the norm is 0 all outputs are 0, and so is the margin.
    return margin / norm if norm > 0 else 0.0
