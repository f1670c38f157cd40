"""The guarantees of :mod:`lightning_bounds.theory`, by name, applied to one training as it starts."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_bounds.callbacks.descent import Descent
from lightning_bounds.callbacks.trajectory.envelopes import Envelope
from lightning_bounds.callbacks.two_layer import TwoLayer, flat_inputs
from lightning_bounds.jacobian.spectrum import Spectrum
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.gaussian import derivative_bounds
from lightning_bounds.theory.guarantee import Guarantee
from lightning_bounds.theory.information_space import Tracking, hidden_jacobian_bounds, meta_theorem
from lightning_bounds.theory.overparameterization import (
    nonsmooth_descent_guarantee,
    output_weights,
    relu_guarantee,
    separated_guarantee,
    sgd_guarantee,
    smooth_descent_guarantee,
    smooth_guarantee,
)

Settings = Mapping[str, Any] | Guarantee | None

_NETWORK: dict[str, Callable[..., Guarantee]] = {
    "smooth": smooth_guarantee,
    "relu": relu_guarantee,
    "separated": separated_guarantee,
    "sgd": sgd_guarantee,
}
_DESCENT: dict[str, Callable[..., Guarantee]] = {
    "smooth_descent": smooth_descent_guarantee,
    "nonsmooth_descent": nonsmooth_descent_guarantee,
}
_MEASURED = {"inputs", "labels", "step_fraction", "sigma_min", "initial_residual", "learning_rate"}
_META = {"cutoff", "relative_cutoff", "Gamma", "tolerance", "spectral_bound", "jacobian_deviation"}
_OTHER_KEYS = {"layers", "kernel", "linearized", "fine_grained"}
# How far numbers that should be equal may differ by rounding in float32.
_SAME = 1e-5


class Start(NamedTuple):
    """Where a training starts: all that a theorem is applied to.

    Attributes:
        snapshot: The probe's samples.
        spectrum: Of the initial Jacobian.
        residual: ``r_0``, shape ``(n*K,)``.
        network: The two-layer network, if the module is one.
        descent: How it is trained.
        learning_rate: ``η`` of the summed loss.
    """

    snapshot: Snapshot
    spectrum: Spectrum
    residual: Tensor
    network: TwoLayer | None
    descent: Descent
    learning_rate: float


def checked_guarantees(guarantees: Mapping[str, Settings]) -> dict[str, Settings]:
    """Guarantees by name, with settings that their theorems have.

    Raises:
        ValueError: If a name or a setting is unknown, or one is missing.

    Example:
        >>> checked_guarantees({"smoth": None})
        Traceback (most recent call last):
        ValueError: Expected `guarantees` among ['smooth', 'relu', ..., 'meta_theorem'], ... but got 'smoth'.
    """
    names = [*_NETWORK, *_DESCENT, "meta_theorem"]
    if not isinstance(guarantees, Mapping):
        raise ValueError(f"Expected `guarantees` to map names to settings, but got {guarantees!r}; the names: {names}.")
    for name, settings in guarantees.items():
        if isinstance(settings, Guarantee):
            plain = isinstance(name, str) and all(c.isascii() and (c.isalnum() or c == "_") for c in name)
            if not plain or not name or name != name.lower() or name in _OTHER_KEYS:
                raise ValueError(
                    f"Expected a guarantee's name of lower-case letters, digits and underscores, other than "
                    f"{sorted(_OTHER_KEYS)}, but got {name!r}."
                )
            continue
        if name not in names:
            raise ValueError(
                f"Expected `guarantees` among {names}, or a Guarantee of your own by any name, but got {name!r}."
            )
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f"Expected settings of {name!r} by name, or a Guarantee, but got {settings!r}.")
        allowed = _META
        if name != "meta_theorem":
            allowed = set(inspect.signature((_NETWORK | _DESCENT)[name]).parameters) - _MEASURED
        unknown = sorted(set(settings or {}) - allowed)
        if unknown:
            raise ValueError(
                f"Expected settings of {name!r} among {sorted(allowed)}, but got {unknown}; what is not among them "
                "is measured."
            )
        if name == "meta_theorem":
            _check_meta(settings or {})
    return {name: {} if settings is None else settings for name, settings in guarantees.items()}


def made_envelopes(guarantees: Mapping[str, Settings], start: Start) -> dict[str, Envelope]:
    """Each guarantee, applied to a training that starts like this.

    Raises:
        ValueError: If a theorem cannot be applied to the network, or an argument of it is out of range.
    """
    size = float(start.residual.norm())
    return {name: Envelope(_theorem(name, settings, start), size) for name, settings in guarantees.items()}


def _theorem(name: str, settings: Settings, start: Start) -> Guarantee | Tracking:
    check_positive("the learning rate of the first step", start.learning_rate)
    theorem: Guarantee | Tracking
    if isinstance(settings, Guarantee):
        same = condition("learning_rate", start.learning_rate, "==", settings.learning_rate, rtol=_SAME)
        theorem, more = settings, [same]
    elif name in _NETWORK:
        theorem, more = _network_theorem(name, dict(settings or {}), start)
    elif name in _DESCENT:
        theorem, more = _descent_theorem(name, dict(settings or {}), start)
    else:
        theorem, more = _meta_theorem(dict(settings or {}), start)
    more += start.descent.conditions(len(start.snapshot.targets), stochastic=name == "sgd")
    return replace(theorem, conditions=(*theorem.conditions, *more))


def _network_theorem(name: str, settings: dict[str, Any], start: Start) -> tuple[Guarantee, list[Condition]]:
    inputs, labels = flat_inputs(start.snapshot.inputs), start.snapshot.labels.cpu()
    if len(labels) != len(inputs):
        raise ValueError(
            f"Expected one output for the guarantee {name!r}, but got {len(labels) // len(inputs)}; "
            "'smooth_descent' and 'nonsmooth_descent' are for any number."
        )
    required, network = inspect.signature(_NETWORK[name]).parameters, start.network
    found = {} if network is None else {"width": network.width, "activation": network.activation}
    arguments = {key: value for key, value in {**found, **settings}.items() if key in required}
    missing = [key for key in ("width", "activation") if key in required and key not in arguments]
    if missing:
        raise ValueError(
            f"Expected a two-layer network without biases for the guarantee {name!r}, but the module is another; "
            f"give {missing} as its settings if it can be compared with one."
        )
    # The largest step is that of step_fraction 1, also where it is 0, for an activation that the theorem excludes.
    largest = _NETWORK[name](inputs, labels, **arguments).learning_rate
    rate = start.learning_rate * len(inputs) if name == "sgd" else start.learning_rate
    fraction = rate / largest if largest > 0 else 1.0
    fraction = 1.0 if abs(fraction - 1) < _SAME else fraction
    theorem = _NETWORK[name](inputs, labels, **arguments, step_fraction=fraction)
    return theorem, _network_conditions(name, labels, network)


def _network_conditions(name: str, labels: Tensor, network: TwoLayer | None) -> list[Condition]:
    if network is None:
        return [Condition("network", "unknown", "==", "two layers", None, note="f = phi(X W^T) v")]
    trained = Condition("trained layers", network.trained, "==", "hidden", network.trained == "hidden")
    wanted = output_weights(labels, network.width).sort().values
    gap = network.output.detach().double().cpu().flatten().sort().values - wanted
    signs = "half of v is +|y|/sqrt(kn), half -|y|/sqrt(kn)"
    conditions = [
        trained,
        condition("deviation of v", float(gap.abs().max() / wanted.abs().max()), "<=", _SAME, note=signs),
    ]
    if name in ("relu", "separated"):
        activation = network.activation if isinstance(network.activation, str) else "another"
        conditions.append(Condition("activation", activation, "==", "relu", activation == "relu"))
    return conditions


def _descent_theorem(name: str, settings: dict[str, Any], start: Start) -> tuple[Guarantee, list[Condition]]:
    norms = _norm_bounds(start, smooth=name == "smooth_descent")
    required = inspect.signature(_DESCENT[name]).parameters
    arguments = {key: value for key, value in {**norms, **settings}.items() if key in required}
    missing = [key for key in ("norm_bound", "lipschitz") if key in required and key not in arguments]
    if missing:
        raise ValueError(
            f"Expected a two-layer network, of which the hidden layer is trained, with a bounded derivative for the "
            f"guarantee {name!r}, but the module is another; give {missing} as its settings."
        )
    smallest = float(start.spectrum.singular_values[-1])
    theorem = _DESCENT[name](
        # What is not resolved counts as nothing.
        sigma_min=smallest if smallest > start.spectrum.noise_floor else 0.0,
        initial_residual=float(start.residual.norm()),
        learning_rate=start.learning_rate,
        **arguments,
    )
    return theorem, []


def _meta_theorem(settings: dict[str, Any], start: Start) -> tuple[Tracking, list[Condition]]:
    norms, sigma = _norm_bounds(start, smooth=True), start.spectrum.singular_values.double()
    spectral_bound = settings.get("spectral_bound", norms.get("norm_bound"))
    if spectral_bound is None:
        raise ValueError(
            "Expected a two-layer network, of which the hidden layer is trained, with a bounded derivative for the "
            "guarantee 'meta_theorem', but the module is another; give `spectral_bound` as its setting."
        )
    cutoff = settings["cutoff"] if "cutoff" in settings else settings["relative_cutoff"] * float(sigma[0])
    arguments = {
        "cutoff": cutoff,
        "Gamma": settings["Gamma"],
        "tolerance": settings["tolerance"],
        "learning_rate": start.learning_rate,
        "spectral_bound": spectral_bound,
    }
    coefficients = start.spectrum.left_vectors.double().T @ start.residual.to(sigma)
    deviation = settings.get("jacobian_deviation")
    if deviation is None and "lipschitz" in norms:
        # ε/2 on the ball of radius R.
        radius = meta_theorem(sigma, coefficients, **arguments).radius
        deviation = 2 * norms["lipschitz"] * radius if math.isfinite(radius) else None
    return meta_theorem(sigma, coefficients, **arguments, jacobian_deviation=deviation), []


def _norm_bounds(start: Start, smooth: bool) -> dict[str, float]:
    """``β`` and, for a smooth activation, ``L`` of a two-layer network of which the hidden layer is trained."""
    network = start.network
    if network is None or network.trained != "hidden":
        return {}
    inputs, output = flat_inputs(start.snapshot.inputs), network.output.detach().double().cpu()
    first, second, _ = derivative_bounds(network.activation)
    bounds = {}
    if math.isfinite(first):
        bounds["norm_bound"] = hidden_jacobian_bounds(inputs, output, B=first).spectral
    if smooth and math.isfinite(second):
        # The rows' norms enter once more than in the bound for rows of norm 1.
        longest = max(1.0, float(torch.linalg.vector_norm(inputs, dim=1).max()))
        bounds["lipschitz"] = hidden_jacobian_bounds(inputs, output, B=second).row * longest
    return bounds


def _check_meta(settings: Mapping[str, Any]) -> None:
    if ("cutoff" in settings) == ("relative_cutoff" in settings) or not {"Gamma", "tolerance"} <= set(settings):
        raise ValueError(
            "Expected settings of 'meta_theorem' with `Gamma`, `tolerance`, and either `cutoff` or `relative_cutoff`, "
            f"but got {sorted(settings)}."
        )
