"""What is known only of the paper's own network ``f(x; a, c, V)``: margins of references, and the theorems' bounds."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_bounds.callbacks.batch_norm_margin.conditions import Training
from lightning_bounds.callbacks.batch_norm_margin.layers import Observation, WholeSetNetwork, effective_rows
from lightning_bounds.jacobian.forward import prepared
from lightning_bounds.jacobian.guard import full_precision
from lightning_bounds.theory.batch_norm_margin.conditions import run_conditions
from lightning_bounds.theory.batch_norm_margin.guarantee import MarginGuarantee, gd_guarantee, sgd_guarantee
from lightning_bounds.theory.batch_norm_margin.margins import (
    LayerMargins,
    MaximalLayerMargins,
    layer_margins,
    maximal_layer_margins,
)
from lightning_bounds.theory.batch_norm_margin.network import Weights
from lightning_bounds.theory.batch_norm_margin.normalization import displacement, normalization, whole_set_statistics
from lightning_bounds.theory.batch_norm_margin.trajectory import movement, perceptron_sum_bound, potential
from lightning_bounds.theory.bound import Condition, condition
from lightning_bounds.theory.labels import class_indices

# How far N(v_j) of the network may be from that of all training samples, relative: float32 has seven digits.
_SAME = 1e-3


class Shallow(NamedTuple):
    """The paper's network at one moment, and the samples that it is seen on; all in float64 on the CPU.

    Attributes:
        inputs: Shape ``(n, d)``.
        signs: Labels ±1, shape ``(n,)``.
        weights: ``(a, c, V)`` now.
        initial: ``(a, c, V)`` where the training began.
        normalizers: ``N(v_j)`` of the network, now.
        initial_normalizers: The same where the training began.
        eps: ``ε``.
        gradient: How far it differentiates its statistics.
        num_samples: Size of the set that its statistics are of.
    """

    inputs: Tensor
    signs: Tensor
    weights: Weights
    initial: Weights
    normalizers: Tensor
    initial_normalizers: Tensor
    eps: float
    gradient: str
    num_samples: int

    @property
    def size(self) -> float:
        """``max_i |x_i - μ|``: what the inputs are divided by, as the theory wants them in the unit ball (E304)."""
        return float(whole_set_statistics(self.inputs).deviations.norm(dim=1).max())

    @property
    def inverse_normalization(self) -> float:
        """``max_j 1/N(v_j(0))`` for inputs in the unit ball; dividing inputs by a number divides every ``N`` by it."""
        least = float(self.initial_normalizers.min())
        return self.size / least if least > 0 and self.size > 0 else math.inf

    @property
    def displacement(self) -> float:
        """``Δ_V`` for inputs in the unit ball."""
        now = effective_rows(self.weights.directions, self.normalizers)
        return self.size * displacement(now, effective_rows(self.initial.directions, self.initial_normalizers))

    def margins(self) -> LayerMargins:
        """``gamma_a`` and ``gamma_c`` of the weights as they are now: ``a/|a|`` and ``c/|c|`` at ``V``."""
        a, c = (part / part.norm() if float(part.norm()) > 0 else part for part in self.weights[:2])
        return layer_margins(
            self.inputs,
            self.signs,
            output_weights=self.initial.output_weights,
            scales=self.initial.scales,
            directions=self.weights.directions,
            reference_output=a,
            reference_scale=c,
            eps=self.eps,
        )

    def best(self) -> MaximalLayerMargins:
        """The largest margins at the initial directions."""
        a, _, V = self.initial
        return maximal_layer_margins(self.inputs, self.signs, output_weights=a, directions=V, eps=self.eps)

    def statistics(self, training: Training) -> Condition:
        """Whether the network's statistics are those of the samples, if these are the whole training set."""
        there = normalization(self.weights.directions, self.inputs, self.eps)
        scale = torch.where(there > 0, there, torch.ones_like(there))
        apart = float(((self.normalizers - there).abs() / scale).max())
        name, note = "N(v_j) against the samples'", "relative difference"
        if training.samples is None or len(self.inputs) < training.samples:
            return Condition(name, apart, "<=", _SAME, None, note="not all samples were looked at")
        return condition(name, apart, "<=", _SAME, note=note)


def shallow_network(
    model: nn.Module,
    observation: Observation,
    inputs: Any,
    targets: Tensor,
    initial: Mapping[str, Mapping[str, Tensor]],
) -> Shallow | None:
    """The paper's network, if the outputs of the model are those of one.

    Args:
        model: The module that was observed.
        observation: Its layers with batch norm.
        inputs: Inputs of the samples.
        targets: Their targets.
        initial: The layers' weights by name, where the training began.
    """
    network = whole_set_network(model)
    # Something in front of it, or behind it, makes another network.
    alone = len(observation.layers) == 1 and not observation.called and observation.outputs.shape[1] == 1
    if network is None or not alone or not isinstance(inputs, Tensor):
        return None
    outputs = unseen_outputs(network, inputs)
    if not torch.allclose(outputs, observation.outputs, rtol=1e-4, atol=1e-6):
        return None
    (layer,) = observation.layers
    first = initial[layer.name]
    a, c, V = (_plain(tensor) for tensor in (network.output_weights, network.scales, network.directions))
    begun = Weights(_plain(first["readout"])[0], _plain(first["scales"]), _plain(first["directions"]))
    signs = 2.0 * class_indices(targets, 1).double().cpu() - 1
    return Shallow(
        _plain(inputs).flatten(1),
        signs,
        Weights(a[0], c, V),
        begun,
        _plain(layer.normalization),
        _plain(first["normalization"]),
        network.eps,
        network.gradient,
        int(network.num_samples),
    )


def whole_set_network(model: nn.Module) -> Any:
    """The paper's network inside a module; None if there is none or more than one."""
    found = [part for part in model.modules() if isinstance(part, WholeSetNetwork)]
    return found[0] if len(found) == 1 else None


def unseen_outputs(network: Any, inputs: Any) -> Tensor:
    """``f(X)`` of the paper's network past all hooks, which are not to see this call, and without autocast."""
    device = network.directions.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False), full_precision(network):
        return network.forward(prepared(network, inputs))


def theorem_reports(
    shallow: Shallow, gamma: float, moved: float, training: Training, learning_rate: float | None, delta: float
) -> dict[str, MarginGuarantee]:
    """The theorem on stochastic gradient descent, and that on gradient descent if it is one; after one step or more.

    Args:
        shallow: The network.
        gamma: Margin of a reference.
        moved: ``Δ_V`` of the reference.
        training: How the network is trained, ``steps`` included.
        learning_rate: ``η`` of the mean loss, if known.
        delta: ``δ``.
    """
    numbers: dict[str, Any] = {
        "gamma": max(gamma, 0.0),
        "eps_N": shallow.inverse_normalization,
        "width": len(shallow.weights.scales),
    }
    counts = {"dim": shallow.inputs.shape[1], "samples": shallow.num_samples, "steps": training.steps}
    fresh = {"SGD": training.epochs <= 1, "GD": None, "unknown": None}.get(training.descent, False)
    run = run_conditions(
        **numbers,
        reference_norm=1.0,
        displacement=moved,
        # Inputs count in units of their largest centered norm.
        largest_norm=1.0,
        learning_rate=learning_rate,
        whole_set_statistics=None
        if (same := shallow.statistics(training).holds) is None
        else same and shallow.gradient == "full",
        no_shift=True,
        fresh_samples=fresh,
    )
    reports = {"": sgd_guarantee(**numbers, **counts, delta=delta)}
    if training.descent == "GD":
        reports["gd_"] = gd_guarantee(**numbers, **counts, delta=delta)
    return {prefix: report.with_conditions(run) for prefix, report in reports.items()}


def path_values(
    shallow: Shallow, best: MaximalLayerMargins | None, gamma: float, learning_rate: float | None
) -> dict[str, float]:
    """What the proof follows: the bound on the perceptron sum, and the potential of the best reference.

    Args:
        shallow: The network.
        best: The largest margins, if they are known.
        gamma: Margin of a reference; what needs a positive one is left out without it.
        learning_rate: ``η``, if known.
    """
    values, width = {}, len(shallow.weights.scales)
    if learning_rate is not None and learning_rate > 0 and gamma > 0:
        moved = movement(shallow.weights, shallow.initial).outer
        values["perceptron_bound"] = perceptron_sum_bound(moved, learning_rate=learning_rate, gamma=gamma, width=width)
    if best is not None and best.gamma > 0 and math.isfinite(shallow.inverse_normalization):
        references = {"reference_output": best.reference_output, "reference_scale": best.reference_scale}
        values["potential"] = potential(
            shallow.weights, shallow.initial, **references, gamma=best.gamma, eps_N=shallow.inverse_normalization
        )
    return values


def bound_values(reports: Mapping[str, MarginGuarantee]) -> dict[str, float]:
    """Bounds, their terms, whether they are valid and vacuous, by the names that are logged; without infinite ones."""
    values = {}
    for prefix, report in reports.items():
        for version, bound in report.bounds.items():
            name = f"generalization_bound/{prefix}{version}"
            numbers = {name: bound.value, **{f"{name}/{term}": value for term, value in bound.terms.items()}}
            values.update({key: value for key, value in numbers.items() if math.isfinite(value)})
            values.update({f"{name}/valid": float(bound.valid), f"{name}/vacuous": float(bound.vacuous)})
    return values


def bound_rows(reports: Mapping[str, MarginGuarantee]) -> list[list[str | float]]:
    """One row for each bound: its name, value, whether it is valid and vacuous, where it stands."""
    return [
        [f"{prefix}{version}", bound.value, str(bound.valid), str(bound.vacuous), bound.source]
        for prefix, report in reports.items()
        for version, bound in report.bounds.items()
    ]


def distinct_conditions(reports: Mapping[str, MarginGuarantee]) -> list[Condition]:
    """Conditions of all statements, each once, in the order of their first appearance."""
    found: dict[str, Condition] = {}
    for report in reports.values():
        lists = [report.guarantee.conditions, *(bound.conditions for bound in report.bounds.values())]
        for conditions in lists:
            for item in conditions:
                found.setdefault(item.name, replace(item, name=f"theorem: {item.name}"))
    return list(found.values())


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
