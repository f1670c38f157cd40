"""The bounds of Oymak et al. 2019 during training, each from an :class:`ObservedTraining` and its settings."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.callbacks.generalization_bound.observed_training import ObservedTraining
from lightning_bounds.jacobian.spectrum import gram_spectrum
from lightning_bounds.theory import information_space
from lightning_bounds.theory.arguments import check_not_negative
from lightning_bounds.theory.bound import Bound, Condition, condition
from lightning_bounds.theory.gaussian.activations import Elementwise, activation_function
from lightning_bounds.theory.information_space.assumptions import setting

# Rounding that output weights of one size may have.
_ONE_SIZE = 1e-3


def random_initialization(
    seen: ObservedTraining,
    *,
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    sharp: bool = False,
    activation: str | Elementwise | None = None,
    learning_rate: float | None = None,
) -> Bound:
    """Theorem 3.2, or 6.23 if ``sharp``: the labels on the large eigenvectors of the neural tangent kernel."""
    options = _descent(seen, "information_space_random_initialization", activation, learning_rate)
    numbers: dict[str, Any] = {"alpha_bar": alpha_bar, "Gamma": Gamma, "zeta": zeta, "delta": delta}
    bound = information_space.random_initialization_bound(seen.inputs, seen.labels, **options, **numbers, sharp=sharp)
    return _of_descent(bound, seen, options["activation"], _initialization_conditions(bound, seen))


def simplified_random_initialization(
    seen: ObservedTraining,
    *,
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    activation: str | Elementwise | None = None,
    learning_rate: float | None = None,
) -> Bound:
    """Eq. (3.3), the rough form of Theorem 3.2."""
    options = _descent(seen, "information_space_simplified_random_initialization", activation, learning_rate)
    numbers: dict[str, Any] = {"alpha_bar": alpha_bar, "Gamma": Gamma, "zeta": zeta, "delta": delta}
    bound = information_space.simplified_random_initialization_bound(seen.inputs, seen.labels, **options, **numbers)
    return _of_descent(bound, seen, options["activation"], _initialization_conditions(bound, seen))


def full_rank(
    seen: ObservedTraining,
    *,
    delta: float,
    activation: str | Elementwise | None = None,
    variance_constant: float = 1.0,
    chance_constant: float = 1.0,
    width_constant: float | None = None,
) -> Bound:
    """Eq. (3.4), where everything is information."""
    chosen = _activation(seen, "information_space_full_rank", activation)
    bound = information_space.full_rank_bound(
        seen.inputs,
        seen.labels,
        activation=chosen,
        delta=delta,
        width=seen.width,
        variance_constant=variance_constant,
        chance_constant=chance_constant,
        width_constant=width_constant,
    )
    return _of_descent(bound, seen, chosen, [])


def arbitrary_initialization(
    seen: ObservedTraining,
    *,
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    sharp: bool = False,
    learning_rate: float | None = None,
) -> Bound:
    """Theorem 3.3, or 6.21 if ``sharp``: the initial residual on the Jacobian of the initial hidden weights."""
    name = "information_space_arbitrary_initialization"
    (W, V), _ = seen.networks(name)
    options = _descent(seen, name, None, learning_rate)
    X, phi = seen.inputs, options["activation"]
    bound = information_space.arbitrary_initialization_bound(
        gram_spectrum(information_space.hidden_gram(X, W, V, phi)),
        activation_function(phi).function(X @ W.T) @ V.T - seen.labels,
        inputs=X,
        nu=float(V.abs().max()) * math.sqrt(V.numel()),
        alpha_bar=alpha_bar,
        Gamma=Gamma,
        zeta=zeta,
        delta=delta,
        sharp=sharp,
        **options,
    )
    kept = [item for item in bound.conditions if item.name != "one_hot_labels"]
    return _of_descent(replace(bound, conditions=kept), seen, phi, [_label_condition(seen)])


def mixture(
    seen: ObservedTraining,
    *,
    centers: Sequence[Sequence[float]] | Tensor,
    sigma: float,
    Gamma: float,
    zeta: float,
    delta: float,
    activation: str | Elementwise | None = None,
    bias_constant: float = 1.0,
    variance_constant: float = 1.0,
    width_constant: float | None = None,
    noise_constant: float | None = None,
) -> Bound:
    """Theorem A.3: a Gaussian mixture whose centers, class by class, and noise are known."""
    chosen = _activation(seen, "information_space_mixture", activation)
    bound = information_space.mixture_bound(
        torch.as_tensor(centers, dtype=torch.float64).to(seen.labels.device),
        num_classes=max(seen.num_outputs, 2),
        num_samples=seen.num_samples,
        sigma=sigma,
        activation=chosen,
        Gamma=Gamma,
        zeta=zeta,
        delta=delta,
        width=seen.width,
        bias_constant=bias_constant,
        variance_constant=variance_constant,
        width_constant=width_constant,
        noise_constant=noise_constant,
    )
    return _of_descent(bound, seen, chosen, [_label_condition(seen)])


def classification(
    seen: ObservedTraining,
    *,
    distance: float,
    row_distance: float,
    delta: float,
    output_distance: float = 0.0,
    sharp: bool = False,
) -> Bound:
    """Lemma 6.18: the residual now, and the radii of a class that was fixed before; for any training."""
    complexity, conditions = _class(seen, "information_space_classification", distance, row_distance, output_distance)
    bound = information_space.classification_bound(
        float((seen.outputs - seen.labels).norm()),
        complexity,
        num_samples=seen.num_samples,
        delta=delta,
        signs=seen.num_outputs == 1,
        sharp=sharp,
    )
    return replace(bound, conditions=[*conditions, _label_condition(seen)])


def loss(
    seen: ObservedTraining, *, distance: float, row_distance: float, delta: float, output_distance: float = 0.0
) -> Bound:
    """Lemma 6.16 for the mean of ``min(1, |f(x) - y|)``, and the radii of a class that was fixed before."""
    complexity, conditions = _class(seen, "information_space_loss", distance, row_distance, output_distance)
    truncated = float((seen.outputs - seen.labels).norm(dim=1).clamp_max(1).mean())
    bound = information_space.loss_bound(truncated, complexity, num_samples=seen.num_samples, delta=delta)
    return replace(bound, conditions=conditions)


def _class(
    seen: ObservedTraining, name: str, distance: float, row_distance: float, output_distance: float
) -> tuple[float, list[Condition]]:
    """Rademacher complexity of the class of these radii, and whether the network is one of the class."""
    (W, V), (moved_W, moved_V) = seen.networks(name)
    width, phi = len(W), _activation(seen, name, None)
    where, nu = setting(seen.inputs, phi), float(V.abs().max()) * math.sqrt(V.numel())
    if not math.isfinite(where.B) or nu == 0:
        raise ValueError(
            f"Expected an activation of bounded slope and output weights other than 0 for the bound {name!r}, but got "
            f"a slope of up to {where.B} and weights of up to {float(V.abs().max())}; leave {name!r} out of `bounds`."
        )
    check_not_negative("output_distance", output_distance)
    complexity = information_space.rademacher_bound(
        nu=nu,
        B=where.B if output_distance == 0 else max(where.B, 1.0),  # A18
        num_samples=seen.num_samples,
        width=width,
        distance=distance,
        row_distance=row_distance,
        output_distance=output_distance,
        energy=_energy(seen.inputs, W, phi) if output_distance > 0 else 0.0,
    )
    rows = math.sqrt(width) * float((moved_W - W).norm(dim=1).max())
    outputs = math.sqrt(V.numel()) / nu * float((moved_V - V).norm())
    return complexity, [
        *where.conditions(),
        condition("distance", float((moved_W - W).norm()), "<=", distance, note="|W - W_0|_F <= M_W"),
        condition("row_distance", rows, "<=", row_distance, note="sqrt(k) |W - W_0|_2,inf <= R"),
        condition("output_distance", outputs, "<=", output_distance, note="sqrt(k K) |V - V_0|_F / nu <= M_V"),
        seen.network_condition(phi, trained=None),
    ]


def _energy(inputs: Tensor, hidden: Tensor, activation: str | Elementwise) -> float:
    return information_space.average_energy(activation_function(activation).function(inputs @ hidden.T))


def _descent(
    seen: ObservedTraining, name: str, activation: str | Elementwise | None, learning_rate: float | None
) -> dict[str, Any]:
    """What the theorems on gradient descent are told of the network."""
    return {
        "activation": _activation(seen, name, activation),
        "width": seen.width,
        "learning_rate": seen.learning_rate if learning_rate is None else learning_rate,
    }


def _of_descent(
    bound: Bound, seen: ObservedTraining, activation: str | Elementwise, conditions: Sequence[Condition]
) -> Bound:
    """The bound with what it assumes of the training."""
    network = seen.network_condition(activation)
    return replace(bound, conditions=[*bound.conditions, *conditions, network, *seen.conditions])


def _activation(seen: ObservedTraining, name: str, activation: str | Elementwise | None) -> str | Elementwise:
    chosen = seen.activation if activation is None else activation
    if chosen is None:
        raise ValueError(
            f"Expected a network f = V phi(W x) without biases, which tells the activation of the bound {name!r}, but "
            f"got {type(seen.snapshot.model).__name__}, which is none; name the one to be assumed as the setting "
            f"`activation`, if the bound has it, or leave {name!r} out of `bounds`."
        )
    return chosen


def _initialization_conditions(bound: Bound, seen: ObservedTraining) -> list[Condition]:
    """``W_0 ~ N(0, 1)``, as far as its size tells, and ``V = ±ν / √(k K)``."""
    if seen.initial is None or seen.kappa is None:
        return []
    W, V = seen.initial
    size = bound.assumptions["nu"] / math.sqrt(V.numel())
    # Five standard errors of the root mean square.
    sampling = 5 / math.sqrt(2 * W.numel())
    return [
        condition("initial_scale", seen.kappa, "==", 1.0, rtol=sampling, note="W_0 ~ N(0, 1)"),
        condition("output_deviation", seen.output_deviation(size), "<=", _ONE_SIZE, note="V = +-nu / sqrt(k K)"),
    ]


def _label_condition(seen: ObservedTraining) -> Condition:
    """One-hot rows; ±1 for one output, whose sign the value is about."""
    K, labels = seen.num_outputs, seen.labels
    good = (labels.abs() == 1).all() if K == 1 else (((labels == 0) | (labels == 1)).all() & (labels.sum(1) == 1).all())
    required = "-1 and +1" if K == 1 else "one-hot"
    return Condition("labels", required if good else "real", "", required, bool(good), note="Lemma 6.18")
