"""The numbers that the callback of nearly-linear networks logs, and their tables and figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.nearly_linear.companions import Companions
from lightning_bounds.callbacks.nearly_linear.conditions import Setting
from lightning_bounds.callbacks.values import Table
from lightning_bounds.report import error_figure, trajectory_figure
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.arithmetic import times
from lightning_bounds.theory.bound import Bound, Condition
from lightning_bounds.theory.layer_norms import spectral_norm
from lightning_bounds.theory.nearly_linear import (
    apriori_bound,
    counting_term,
    derivative_norm_bound,
    deviation_bound,
    network_outputs,
    proxy_bound,
    risks,
    second_order_proxy,
    weight_norm_bound,
)

Values = dict[str, float | Tensor]


def samples_of(snapshot: Snapshot) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(m, d)``, labels ±1 and outputs ``(m,)``, in float64 on the device of the network.

    Raises:
        ValueError: If the inputs are not one tensor, or labels are not of two classes.
    """
    if not isinstance(snapshot.inputs, Tensor):
        raise ValueError(f"Expected one tensor of inputs, but got {type(snapshot.inputs).__name__}; pass `batch_fn`.")
    outputs = snapshot.outputs.double().flatten()
    return snapshot.inputs.to(outputs.device).double().flatten(1), snapshot.labels, outputs


def check_outputs(outputs: Tensor, composed: Tensor, precision: float) -> None:
    """Raise ValueError unless the module computes what its layers say.

    Args:
        outputs: Outputs of the module.
        composed: Outputs of the linear layers and the activations between them.
        precision: Machine epsilon of the module.
    """
    difference = float((outputs - composed).abs().max())
    if difference > math.sqrt(precision) * float(composed.abs().max()):
        raise ValueError(
            "Expected outputs W_L phi(... phi(W_1 x)) of the linear layers and activations that the module consists "
            f"of, but they differ by up to {difference:.3g}; make every activation a part of the module, such as "
            "torch.nn.LeakyReLU, and nothing else a part of `forward`."
        )


class Theorem:
    """Theorem 5.2 for one training, at any time and margin.

    Args:
        setting: What the theorem takes from the data and the initial network.
        margin_ratios: Numbers ``q`` by name; margins are ``γ = β^L / q``.
        order: ``κ``.
        delta: Probability of failure, shared by all that is looked at.
        samples: ``m`` in the counting term.
        precision_bits: ``p``.
        covariance_known: Whether the inputs were whitened by what is independent of them.
    """

    def __init__(
        self,
        setting: Setting,
        margin_ratios: Mapping[str, float],
        order: int,
        delta: float,
        samples: int,
        precision_bits: int,
        covariance_known: bool,
    ) -> None:
        self.setting, self.order, self.delta, self.samples = setting, order, delta, samples
        self.precision_bits, self.covariance_known = precision_bits, covariance_known
        self.ratios, self.scale = dict(margin_ratios), setting.beta**setting.depth
        self.margins = {name: self.scale / ratio for name, ratio in margin_ratios.items()}
        self.envelope: dict[str, Any] = {
            "strength": setting.strength,
            "rho": setting.rho,
            "beta": setting.beta,
            "epsilon": setting.epsilon,
            "depth": setting.depth,
        }
        self._deviations: dict[tuple[float, int], float] = {}

    def printed(self, time: float, visit: int, conditions: Sequence[Condition] = ()) -> Bound:
        """The theorem at margin ``β^L`` without a training risk, at a time, which is the ``visit``-th one looked at."""
        return apriori_bound(
            **self.envelope,
            dim=self.setting.rank,
            samples=self.samples,
            time=time,
            margin=self.scale,
            order=self.order,
            delta=self._share(visit),
            precision_bits=self.precision_bits,
            sigma_known=self.covariance_known,
            conditions=conditions,
        )

    def deviation_bound(self, time: float, order: int) -> float:
        """``Δ ε^κ``, as proved for every ``ρ``: at most this are ``E |f - g_κ|`` and its training mean together."""
        if (time, order) not in self._deviations:
            bound = deviation_bound(
                time, **self.envelope, dim=self.setting.rank, order=order, variant="corrected_tight"
            )
            self._deviations[time, order] = times(self.setting.epsilon**order, float(bound))
        return self._deviations[time, order]

    def bounds(self, outputs: Tensor, labels: Tensor, time: float, visit: int) -> Values:
        """The bound for every margin, and the smallest of them with its terms.

        Args:
            outputs: ``f`` on the training samples.
            labels: Their labels ±1.
            time: Training time.
            visit: How many times were looked at, with this one.
        """
        printed = self.printed(time, visit)
        counting, proved = printed.terms["counting"], self.deviation_bound(time, self.order)
        strict = counting_term(
            order=self.order,
            dim=self.setting.rank,
            samples=self.samples,
            delta=self._share(visit),
            precision_bits=self.precision_bits,
            strict=True,
        )
        values: Values = {}
        found: list[tuple[float, float, float, float]] = []
        for name, margin in self.margins.items():
            risk = risks(outputs, labels, margin).margin
            found.append((risk + counting + proved / margin, risk, proved / margin, margin))
            values[f"margin_{name}/generalization_bound"] = found[-1][0]
            deviation = times(self.ratios[name], printed.terms["deviation"])
            values[f"margin_{name}/theorem_bound"] = risk + counting + deviation
            values[f"margin_{name}/train_margin_risk"] = risk
        smallest, risk, deviation, margin = min(found)
        terms = {
            "train_margin_risk": risk,
            "counting": counting,
            "deviation": deviation,
            "margin": margin,
            "strict_counting": strict,
            "vacuous": float(smallest >= printed.trivial),
        }
        return {
            **values,
            "generalization_bound": smallest,
            **{f"generalization_bound/{name}": value for name, value in terms.items()},
        }

    def _share(self, visit: int) -> float:
        # E419: the shares of all visits, 1/(k(k+1)), add up to 1; each is divided among the margins.
        return self.delta / (visit * (visit + 1) * len(self.margins))

    def norms(self, weights: Sequence[Tensor], names: Sequence[str], inputs: Tensor, time: float) -> Values:
        """Norms of the weights against what the theorem allows."""
        spectral = [float(spectral_norm(weight)) for weight in weights]
        values: Values = {f"layers/{name}/spectral_norm": norm for name, norm in zip(names, spectral, strict=True)}
        start = weight_norm_bound(0.0, **self.envelope)
        norm_bound = weight_norm_bound(time, **self.envelope)
        values.update(
            {
                "weight_norm": max(spectral),
                "weight_norm_bound": norm_bound,
                "first_layer_norm": (inputs @ weights[0].T).norm() / math.sqrt(len(inputs)),
                "first_layer_norm_bound": norm_bound + self.setting.beta * self.setting.rho - start,
                "derivative_norm_bound": derivative_norm_bound(time, **self.envelope),
            }
        )
        return values


def proxy_values(
    companions: Companions,
    theorem: Theorem,
    time: float,
    train: tuple[Tensor, Tensor, Tensor],
    val: tuple[Tensor, Tensor, Tensor] | None,
) -> Values:
    """Deviations of the proxies from the network, and the bound by each with validation data as the distribution.

    Args:
        companions: The networks that are trained along.
        theorem: The theorem for this training.
        time: Training time.
        train: Training inputs ``(m, d)``, labels ``(m,)`` and outputs of the network ``(m,)``, float64.
        val: The same of the validation data.
    """
    inputs, labels, outputs = train
    epsilon = theorem.setting.epsilon
    change = (network_outputs(companions.halved, inputs, epsilon) - outputs).norm() / outputs.norm()
    values: Values = {"halving_change": change}
    on_train = _proxies(companions.linear, epsilon, inputs, inputs, outputs)
    for proxy, g in on_train.items():
        values[f"proxy/{proxy}/train_deviation"] = (outputs - g).abs().mean()
    for order in (1, 2):
        values[f"proxy/order_{order}/deviation_bound"] = theorem.deviation_bound(time, order)
    if val is not None:
        for proxy, g in _proxies(companions.linear, epsilon, val[0], inputs, outputs).items():
            bounds = [
                proxy_bound(outputs, on_train[proxy], labels, val[2], g, val[1], margin)
                for margin in theorem.margins.values()
            ]
            smallest = min(bounds, key=lambda bound: bound.value)
            values[f"proxy/{proxy}/val_deviation"] = (val[2] - g).abs().mean()
            values[f"proxy/{proxy}/optimistic_bound"] = smallest.value
            values[f"proxy/{proxy}/gap"] = smallest.terms["gap"]
    return values


def _proxies(
    linear: Sequence[Tensor], epsilon: float, points: Tensor, inputs: Tensor, outputs: Tensor
) -> dict[str, Tensor]:
    """The three proxies at some points."""
    first = network_outputs(linear, points, epsilon)
    residual = outputs - network_outputs(linear, inputs, epsilon)
    return {
        "linear": network_outputs(linear, points, 0.0),
        "order_1": first,
        "order_2": second_order_proxy(first, points, residual, inputs),
    }


def bounds_table(history: Sequence[Mapping[str, Any]], topic: str, ratios: Mapping[str, float]) -> Table:
    """The smallest bound of the run for every margin, and when it was reached."""
    rows: list[list[str | float]] = []
    for name, ratio in ratios.items():
        prefix = f"{topic}/margin_{name}/"
        found = [row for row in history if f"{prefix}generalization_bound" in row]
        if found:
            row = min(found, key=lambda row: row[f"{prefix}generalization_bound"])
            values = [row[f"{prefix}{key}"] for key in ("train_margin_risk", "generalization_bound")]
            printed = min(row.get(f"{prefix}theorem_bound", math.inf) for row in found)
            rows.append([f"beta^L/{ratio:g}", row[f"{topic}/time"], *values, printed])
    return Table(["margin", "time", "train margin risk", "smallest bound", "smallest theorem bound"], rows)


def run_figures(history: Sequence[Mapping[str, Any]], topic: str, ratios: Mapping[str, float]) -> dict[str, Any]:
    """The bounds and errors, and the norms of the weights, over training time."""
    rows = [row for row in history if f"{topic}/time" in row]
    names = {
        f"bound at margin beta^L / {ratio:g}": f"margin_{name}/generalization_bound" for name, ratio in ratios.items()
    }
    names |= {"training margin risk": "generalization_bound/train_margin_risk", "training error": "train/error"}
    names |= {"validation error": "val/error"}
    norms = {"largest spectral norm": "weight_norm", "its bound u": "weight_norm_bound"}
    figures: dict[str, Any] = {}
    if rows:
        figures[topic] = error_figure(_curves(rows, topic, names), title="Bound for nearly-linear networks")
        figures[topic].axes[0].set(xlabel="training time", ylabel="bound and risk", ylim=(0, 1))
        curves = _curves(rows, topic, norms)
        figures[f"{topic}/norms"] = trajectory_figure(curves, title="Norms of the layers", logarithmic=True)
        figures[f"{topic}/norms"].axes[0].set(xlabel="training time", ylabel="spectral norm")
    return figures


def _curves(
    rows: Sequence[Mapping[str, Any]], topic: str, names: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Times and values of each name, where it was logged."""
    curves = {}
    for label, name in names.items():
        found = [(row[f"{topic}/time"], row[f"{topic}/{name}"]) for row in rows if f"{topic}/{name}" in row]
        if found:
            curves[label] = ([time for time, _ in found], [value for _, value in found])
    return curves
