"""The a-priori bound of nearly-linear networks, against what it bounds, during training."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.nearly_linear.bounds import (
    Theorem,
    bounds_table,
    check_outputs,
    proxy_values,
    run_figures,
    samples_of,
)
from lightning_bounds.callbacks.nearly_linear.companions import Companions, loss_gradient
from lightning_bounds.callbacks.nearly_linear.conditions import (
    Setting,
    is_plain,
    leaky_layers,
    measured_conditions,
    setting_of,
    shown,
)
from lightning_bounds.callbacks.values import Table, metric_name
from lightning_bounds.lightning import pl
from lightning_bounds.probe import Probe
from lightning_bounds.theory.arguments import check_count, check_positive, check_probability
from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import Condition
from lightning_bounds.theory.nearly_linear import network_outputs, projected_loss

# As many first steps are compared with those of gradient descent: momentum shows in the second.
_CHECKED_STEPS = 2
_LARGEST = 3e38


class NearlyLinear(DiagnosticCallback):
    """A bound on the test error of a nearly-linear network, known before training, and what it is made of.

    Time is that of gradient flow on ``L = 1/(2m) Σ (f(x_i) - y_i)²``: the sum of the learning rates. All training
    samples are looked at, since the theorem speaks of them. The confidence is shared by all margins and all
    measurements (``δ/(k(k+1))`` for the ``k``-th), so that the smallest bound of a run may be quoted.

    Logs, below ``nearly_linear/``:
        ``time``, ``loss`` (``L``), ``projected_loss`` (``L_X``, which Assumption 5.1 wants below its first value),
        ``train/error`` and ``val/error`` (``y f <= 0``), ``val/input_energy`` (mean of ``|x|²/d``, 1 in the theorem),
        ``weight_norm`` (largest spectral norm of a layer) and ``weight_norm_bound`` (``u``), ``first_layer_norm``
        (``|W_1 X|_F/√m``) and ``first_layer_norm_bound`` (``u + βρ - β̄``), ``derivative_norm_bound`` (``v``),
        ``layers/<name>/spectral_norm``; ``generalization_bound``, the smallest of all margins ``γ = β^L/q``, with
        ``generalization_bound/train_margin_risk``, ``generalization_bound/counting``,
        ``generalization_bound/deviation``, ``generalization_bound/margin``, ``generalization_bound/strict_counting``
        (with the bits of the whitening map, E413), ``generalization_bound/valid`` and
        ``generalization_bound/vacuous``; and for each ``q``, below ``margin_<q>/``: ``generalization_bound``,
        ``theorem_bound`` (by the ``v`` of the paper, of which a step is not proved for ``ρ > 1``) and
        ``train_margin_risk``. With ``proxies``: ``halving_change`` (relative change of the outputs when every step is
        halved), and below ``proxy/<linear, order_1 or order_2>/``: ``train_deviation`` and ``val_deviation`` (mean of
        ``|f - g|``), ``deviation_bound`` (``Δ ε^κ``, of their sum), and with validation data in the role of the
        distribution ``gap`` and ``optimistic_bound``, the bound by that proxy, smallest over the margins. What is
        infinite, or above 3e38, is left out.

    Args:
        margin_ratios: Numbers ``q``.
        order: ``κ``, 1 or 2: which proxy the bound is by.
        delta: The probability that the bound fails.
        proxies: Whether the linear network, and the network itself by steps of half the size, are trained along; that
            takes about four times the training.
        time_scale: What the trained loss is of ``L``: 2 for ``torch.nn.MSELoss()``, 1 for ``least_squares`` here.
        assumed_samples: ``m`` in the counting term, to ask what more data like these would give.
        precision_bits: Bits ``p`` of a number of the training; those of the weights' type by default.
        covariance_known: Whether inputs were whitened by what does not depend on the training inputs (E413).
        probe: All training samples by default.
        arguments: See :class:`DiagnosticCallback`; training and validation data by default.

    Raises:
        ValueError: If an argument is out of range; before the first step, if the network is none to which the theorem
            applies, or labels are not of two classes.

    References:
        A generalization bound for nearly-linear networks, Theorem 5.2, Eq. (1), Figures 1 to 9.

    Example:
        >>> NearlyLinear(margin_ratios=[10], order=1).probe.seed
        0
    """

    topic = "nearly_linear"
    default_splits = ("train", "val")

    def __init__(
        self,
        margin_ratios: Sequence[float] = (1, 10, 100),
        order: int = 2,
        delta: float = 0.01,
        proxies: bool = False,
        time_scale: float = 1.0,
        assumed_samples: int | None = None,
        precision_bits: int | None = None,
        covariance_known: bool = False,
        probe: Probe | None = None,
        **arguments: Any,
    ) -> None:
        if not margin_ratios or len({_ratio_name(q) for q in margin_ratios}) < len(margin_ratios):
            raise ValueError(f"Expected `margin_ratios` of different numbers, but got {margin_ratios!r}.")
        for ratio in margin_ratios:
            check_positive("margin_ratios", ratio)
        check_probability("delta", delta)
        check_positive("time_scale", time_scale)
        if order not in (1, 2):
            raise ValueError(f"Expected `order`, kappa, to be 1 or 2, but got {order!r}.")
        for name, count in (("assumed_samples", assumed_samples), ("precision_bits", precision_bits)):
            if count is not None:
                check_count(name, count, least=2)
        self.margin_ratios = {_ratio_name(ratio): float(ratio) for ratio in margin_ratios}
        self.order, self.delta, self.proxies, self.time_scale = order, delta, proxies, float(time_scale)
        self.assumed_samples, self.precision_bits = assumed_samples, precision_bits
        self.covariance_known = covariance_known
        super().__init__(probe or Probe(num_samples=sys.maxsize), **arguments)
        if self.splits is not None and "train" not in self.splits:
            raise ValueError(
                f"Expected training data among `splits`, which the theorem is about, but got {self.splits}."
            )

    def reset(self) -> None:
        """Forget the setting, the time and the companions."""
        super().reset()
        self.setting: Setting | None = None
        self.companions: Companions | None = None
        self.time, self.visits, self.plain = 0.0, 0, True
        # The largest seen: of L_X(t) / L_X(0), and by how much a step differs from one of gradient descent.
        self.projected_ratio = 0.0
        self.step_difference: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._data: tuple[Tensor, Tensor] | None = None
        self._rate: float | None = None
        self._before: list[Tensor] | None = None

    @cached_property
    def state_key(self) -> str:
        """Another bound is another state."""
        given = (*self.margin_ratios.values(), self.order, self.delta, self.proxies, self.time_scale)
        return f"{super().state_key}{{'bound': {given}}}"

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise before the first step what the theorem cannot be applied to, and see where the training begins."""
        for split, probe in self.probes.items():
            dataset = getattr(self._shared.loader(trainer, split), "dataset", None)
            if dataset is not None and hasattr(dataset, "__len__"):
                # All there are, so that nobody is told that fewer were found than asked for.
                self.probes[split] = replace(probe, num_samples=max(min(probe.num_samples, len(dataset)), 1))
        layers = leaky_layers(pl_module)
        super().check(trainer, pl_module)
        snapshot = self.snapshot(trainer, pl_module, self.probes["train"])
        inputs, labels, outputs = samples_of(snapshot)
        check_outputs(
            outputs, network_outputs(layers.values(), inputs, layers.epsilon), snapshot.jacobian.row_precision
        )
        self._data, self._step = (inputs, labels), trainer.global_step
        self.plain = self.plain and is_plain(trainer.optimizers, trainer.gradient_clip_val)
        if self.setting is None:
            self.setting = setting_of(layers, inputs, labels, outputs, from_start=trainer.global_step == 0)
            self.companions = Companions(layers.values()) if self.proxies else None
        found = (len(layers.weights), inputs.shape[1], layers.epsilon)
        if found != (self.setting.depth, self.setting.features, self.setting.epsilon):
            raise ValueError(f"Expected the network of the checkpoint's run, but depth, features, epsilon are {found}.")
        if self.companions is not None:
            self.companions.to(inputs.device)

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Remember the learning rate of the step that comes, and the weights before it if it is one of the first."""
        super().on_train_batch_start(*arguments)
        trainer, pl_module = arguments[:2]
        # Of several batches that make one step, the first one counts.
        if self.enabled and self._data is not None and self._rate is None:
            self._rate = self.time_scale * float(trainer.optimizers[0].param_groups[0]["lr"])
            self._before = leaky_layers(pl_module).values() if trainer.global_step < _CHECKED_STEPS else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Add the step to the time, and take it with the companions, before anything is measured."""
        if self.enabled and self._rate is not None and trainer.global_step > self._step:
            _, error = self.attempt(self._follow, trainer, pl_module, "step")
            # A step that could not be followed leaves the time unknown.
            self.time = self.time if error is None else float("nan")
            self._rate, self._before, self._step = None, None, trainer.global_step
        super().on_train_batch_end(trainer, pl_module, *args)

    def _follow(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._data is None or self._rate is None:
            return
        (inputs, labels), rate, layers = self._data, self._rate, leaky_layers(pl_module)
        self.time += rate * (trainer.global_step - self._step)
        if self._before is not None:
            gradients = loss_gradient(self._before, inputs, labels, layers.epsilon)
            steps = [now - old for now, old in zip(layers.values(), self._before, strict=True)]
            missed = [step + rate * gradient for step, gradient in zip(steps, gradients, strict=True)]
            difference = _norm(missed) / max(rate * _norm(gradients), 1e-300)
            self.step_difference = max(self.step_difference or 0.0, difference)
        if self.companions is not None:
            self.companions.step(inputs, labels, layers.epsilon, rate)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """The bound, what it is made of, and what it bounds."""
        theorem, layers = self._theorem(), leaky_layers(pl_module)
        seen = {split: self.snapshot(trainer, pl_module, probe) for split, probe in self.probes.items()}
        samples = {split: samples_of(snapshot) for split, snapshot in seen.items()}
        inputs, labels, outputs = samples["train"]
        self.visits += 1
        projected = float(projected_loss(outputs, labels, inputs))
        self.projected_ratio = max(self.projected_ratio, over(projected, theorem.setting.projected_loss))
        names = [metric_name(name) for name in layers.names]
        values: dict[str, float | Tensor] = {
            "time": self.time,
            "loss": (outputs - labels).square().mean() / 2,
            "projected_loss": projected,
            **{f"{split}/error": (y * f <= 0).double().mean() for split, (_, y, f) in samples.items()},
            **theorem.norms(layers.values(), names, inputs, self.time),
            **theorem.bounds(outputs, labels, self.time, self.visits),
        }
        if "val" in samples:
            points = samples["val"][0]
            values["val/input_energy"] = points.square().sum() / (len(points) * theorem.setting.rank)
        if self.companions is not None:
            values.update(proxy_values(self.companions, theorem, self.time, samples["train"], samples.get("val")))
        halving = float(values["halving_change"]) if "halving_change" in values else None
        conditions = self._conditions(theorem, self.time, self.visits, halving)
        values["generalization_bound/valid"] = float(all(item.holds is not False for item in conditions))
        # Where the theorem says nothing, numbers are infinite, or larger than a metric in float32 can be.
        return {f"{self.topic}/{name}": value for name, value in values.items() if not abs(float(value)) > _LARGEST}

    def tables(self) -> dict[str, Table]:
        """The smallest bounds of the run, and the theorem's conditions at the smallest."""
        rows = [row for row in self.history if f"{self.topic}/time" in row]
        if not rows:
            return {}
        # The measurement's number decides its share of the confidence.
        smallest = f"{self.topic}/generalization_bound"
        visit, best = min(enumerate(rows, start=1), key=lambda pair: pair[1].get(smallest, math.inf))
        halving = rows[-1].get(f"{self.topic}/halving_change")
        conditions = self._conditions(self._theorem(), best[f"{self.topic}/time"], visit, halving)
        columns = ["condition", "actual", "required", "status", "note"]
        return {
            f"{self.topic}/bounds": bounds_table(rows, self.topic, self.margin_ratios),
            f"{self.topic}/conditions": Table(columns, shown(conditions)),
        }

    def figures(self) -> dict[str, Any]:
        """Bounds and errors, and norms of the layers, over training time."""
        return run_figures(self.history, self.topic, self.margin_ratios)

    def state_dict(self) -> dict[str, Any]:
        """The setting, the time, and the weights of the companions."""
        return {
            **super().state_dict(),
            "setting": None if self.setting is None else asdict(self.setting),
            "companions": None if self.companions is None else self.companions.state(),
            "time": self.time,
            "visits": self.visits,
            "plain": self.plain,
            "projected_ratio": self.projected_ratio,
            "step_difference": self.step_difference,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the time, the setting and the companions of a checkpoint."""
        super().restore(state)
        self.setting = None if state["setting"] is None else Setting(**state["setting"])
        self.companions = None if state["companions"] is None else Companions.from_state(state["companions"])
        self.time, self.visits, self.plain = float(state["time"]), int(state["visits"]), bool(state["plain"])
        self.projected_ratio, difference = float(state["projected_ratio"]), state["step_difference"]
        self.step_difference = None if difference is None else float(difference)

    def on_fit_end(self, *arguments: Any) -> None:
        """Free the data."""
        self._forget()
        super().on_fit_end(*arguments)

    def _theorem(self) -> Theorem:
        if self.setting is None:
            raise RuntimeError("Expected the network and its data before the first step, but they could not be seen.")
        samples = self.assumed_samples or self.setting.samples
        bits = self.precision_bits or self.setting.precision_bits
        return Theorem(self.setting, self.margin_ratios, self.order, self.delta, samples, bits, self.covariance_known)

    def _conditions(self, theorem: Theorem, time: float, visit: int, halving: float | None) -> list[Condition]:
        """What the training shows, and what comes with the bound itself."""
        measured = measured_conditions(
            theorem.setting,
            step_difference=self.step_difference,
            plain=self.plain,
            projected_ratio=self.projected_ratio,
            halving_change=halving,
            samples=theorem.samples,
            precision_bits=theorem.precision_bits,
            margins=len(theorem.margins),
        )
        return list(theorem.printed(time, visit, measured).conditions)


def _ratio_name(ratio: float) -> str:
    return metric_name(f"{ratio:g}")


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
