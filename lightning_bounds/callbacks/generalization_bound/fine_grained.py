"""The bounds of Arora et al. 2019 during training, each from an :class:`ObservedTraining` and its settings."""

import math
from collections.abc import Mapping
from dataclasses import replace

from lightning_bounds.callbacks.generalization_bound.observed_training import ObservedTraining
from lightning_bounds.theory import fine_grained
from lightning_bounds.theory.bound import Bound, Condition, condition

# Rounding that inputs of norm 1, and output weights of one size, may have.
_NORMALIZATION = 1e-6
_ONE_SIZE = 1e-3


def generalization_bound(
    seen: ObservedTraining,
    *,
    delta: float,
    kappa: float | None = None,
    learning_rate: float | None = None,
    hidden_factors: Mapping[str, float] | None = None,
) -> Bound:
    """Theorem 5.1: the complexity of the labels under the ReLU kernel."""
    bound = fine_grained.generalization_bound(
        seen.inputs,
        seen.single_column("fine_grained"),
        delta=delta,
        width=seen.width,
        kappa=seen.kappa if kappa is None else kappa,
        learning_rate=seen.learning_rate if learning_rate is None else learning_rate,
        steps=seen.snapshot.step,
        hidden_factors=hidden_factors,
    )
    return replace(bound, conditions=[*bound.conditions, *_network_conditions(seen, "hidden"), *seen.conditions])


def certificate(
    seen: ObservedTraining, *, row_radius: float, num_radii: int, delta: float, kappa: float | None = None
) -> Bound:
    """Lemma 5.4 and Theorem B.1, from how far the weights have moved: the ramp loss of labels ±1, for any training."""
    labels = seen.single_column("fine_grained_certificate")
    initial, current = seen.networks("fine_grained_certificate")
    signs = bool((labels.abs() == 1).all())
    loss = fine_grained.ramp_loss if signs else fine_grained.truncated_absolute_loss
    moved = current.hidden - initial.hidden
    bound = fine_grained.certificate(
        loss(seen.outputs[:, 0], labels),
        float(moved.norm()),
        float(moved.norm(dim=1).max()),
        row_radius=row_radius,
        num_radii=num_radii,
        num_samples=seen.num_samples,
        width=len(initial.hidden),
        kappa=float(initial.hidden.square().mean().sqrt()) if kappa is None else kappa,
        delta=delta,
    )
    norms = float((seen.inputs.norm(dim=1) - 1).abs().max())
    kept = [item for item in bound.conditions if item.name != "inputs"]
    fixed = condition("output_distance", float((current.output - initial.output).norm()), "<=", 0.0, note="a is fixed")
    unit = condition("norm_deviation", norms, "<=", _NORMALIZATION, note="section 3.1: |x| = 1")
    return replace(bound, conditions=[*kept, unit, fixed, *_network_conditions(seen, None)])


def _network_conditions(seen: ObservedTraining, trained: str | None) -> list[Condition]:
    """A two-layer ReLU network whose output weights are ``±1/√m``."""
    conditions = [seen.network_condition("relu", trained)]
    if seen.width is not None:
        deviation = seen.output_deviation(1 / math.sqrt(seen.width))
        conditions.append(condition("output_deviation", deviation, "<=", _ONE_SIZE, note="a = +-1, over sqrt(m)"))
    return conditions
