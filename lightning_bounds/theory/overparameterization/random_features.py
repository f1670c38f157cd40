"""Training only the output layer: random features interpolate as soon as the width is of the order of ``n``."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, check_count
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.gaussian import derivative_bounds
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function
from lightning_bounds.theory.overparameterization.conditioning import output_eigenvalue
from lightning_bounds.theory.overparameterization.initialization import checked_labels, unit_rows


class Interpolation(NamedTuple):
    """Output weights of minimum norm.

    ``output_weights`` is ``v̂``, shape ``(k,)``, ``residual`` is ``Φ v̂ - y``, shape ``(n,)``, and
    ``smallest_eigenvalue`` is that of ``Φ Φ^T``, 0 where rounding leaves no digit.
    """

    output_weights: Tensor
    residual: Tensor
    smallest_eigenvalue: float


class RandomFeatureGuarantee(NamedTuple):
    """``λ_min(Φ Φ^T) >= smallest_eigenvalue`` with ``probability``, if the ``conditions`` hold.

    Where it is positive, the features interpolate any labels. ``printed_smallest_eigenvalue`` has ``B`` where the proof
    has ``B²`` (erratum B5).
    """

    smallest_eigenvalue: float
    printed_smallest_eigenvalue: float
    probability: float
    conditions: tuple[Condition, ...]


def random_feature_interpolation(
    inputs: Tensor, labels: Tensor, hidden_weights: Tensor, activation: str | Elementwise
) -> Interpolation:
    """Output weights ``v̂ = Φ^T (Φ Φ^T)^{-1} y`` with ``Φ = φ(X W^T)``: of all that fit best, the shortest.

    By singular values, those below the rounding of the largest left out, so that it is the least-squares fit of minimum
    norm where ``Φ`` has no full row rank.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        labels: ``y``, shape ``(n,)``, not all 0.
        hidden_weights: ``W``, shape ``(k, d)``.
        activation: ``φ``, a name or an entrywise function.

    Raises:
        ValueError: If shapes do not match, or something is not finite.

    References:
        Oymak & Soltanolkotabi 2019, Eq. (3.1).

    Example:
        >>> fit = random_feature_interpolation(torch.eye(2), torch.tensor([1.0, 2.0]), torch.eye(2), "relu")
        >>> fit.output_weights
        tensor([1., 2.], dtype=torch.float64)
    """
    inputs, hidden_weights = as_inputs(inputs), as_inputs(hidden_weights, "hidden_weights")
    labels = checked_labels(labels, len(inputs))
    if inputs.shape[1] != hidden_weights.shape[1]:
        raise ValueError(
            f"Expected `hidden_weights` (k, {inputs.shape[1]}), as the inputs have that many features, "
            f"but got {tuple(hidden_weights.shape)}."
        )
    features = activation_function(activation).function(inputs @ hidden_weights.T)
    left, values, right = torch.linalg.svd(features, full_matrices=False)
    kept = values > max(features.shape) * torch.finfo(torch.float64).eps * values[0]
    weights = right[kept].T @ ((left[:, kept].T @ labels) / values[kept])
    full_rank = features.shape[0] <= features.shape[1] and bool(kept.all())
    return Interpolation(weights, features @ weights - labels, float(values[-1] ** 2) if full_rank else 0.0)


def random_feature_guarantee(
    inputs: Tensor,
    *,
    width: int,
    activation: str | Elementwise,
    width_factor: float | None = None,
) -> RandomFeatureGuarantee:
    """``λ_min(Φ Φ^T) >= (k/2) (λ̃(X) - 6 B² / n^100)`` for ``W`` with independent ``N(0, 1)`` entries, if wide enough.

    Wide enough is ``k >= C B² log²(n) n / λ̃``, with ``B >= |φ'|, |φ(0)|``. The printed condition hides ``B²``.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of norm 1.
        width: ``k``.
        activation: ``φ``, a name or an entrywise function.
        width_factor: ``C``, which the paper hides.

    Raises:
        ValueError: If the inputs are not finite, the width is below 2, or the activation is unknown.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 3.2 (erratum B5).

    Example:
        >>> round(random_feature_guarantee(torch.eye(3), width=100, activation="relu").smallest_eigenvalue, 3)
        17.042
    """
    inputs = as_inputs(inputs)
    check_count("width", width, least=2)
    bounds = derivative_bounds(activation)
    # The theorem needs no second derivative, so ReLU is covered.
    B = max(bounds.first, bounds.at_zero)
    n = len(inputs)
    lam = output_eigenvalue(inputs, activation)
    # B5: 6 B² / n^100, Eq. (6.24), where 6 B is printed; in floats, which end at 1e308.
    vanishing = 6 * float(n) ** -100.0
    required = over(math.log(n) ** 2 * n, lam)
    note = "Theorem 3.2, C hidden"
    return RandomFeatureGuarantee(
        width / 2 * (lam - B**2 * vanishing) if vanishing > 0 else width / 2 * lam,
        width / 2 * (lam - B * vanishing) if vanishing > 0 else width / 2 * lam,
        1 - float(n) ** -100.0,
        (
            unit_rows(inputs),
            condition("B", B, "<", math.inf, note="bounded φ'"),
            condition("lambda", lam, ">", 0.0, note="smallest eigenvalue of the output covariance"),
            condition("width", width, ">=", required, hidden=True, factor=width_factor, note=note),
            condition(
                "width with B^2",
                width,
                ">=",
                B**2 * required if math.inf > B else math.inf,
                hidden=True,
                factor=width_factor,
                note=f"{note}; erratum B5",
            ),
        ),
    )
