"""Bounds on the error on fresh data, during training."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.generalization_bound.observed_training import (
    TwoLayerWeights,
    observed_training,
    two_layer_weights,
)
from lightning_bounds.callbacks.generalization_bound.settings import BOUNDS, BOUNDS_OF_DATA, at_step, checked_settings
from lightning_bounds.callbacks.values import Table
from lightning_bounds.jacobian.forward import OutputFn
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe
from lightning_bounds.report import dynamics_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.theory.bound import Bound

_COLUMNS = ["condition", "actual", "relation", "required", "status", "largest_factor"]


class GeneralizationBound(DiagnosticCallback):
    """What theorems guarantee of the error on fresh data, with their terms and whether what they assume holds.

    The available bounds are, with the settings that each needs (more in brackets):

    * ``fine_grained``: Arora et al. 2019, Theorem 5.1. ``delta`` [``kappa``, ``learning_rate``, ``hidden_factors``];
    * ``fine_grained_certificate``: their Lemma 5.4 and Theorem B.1, from how far the weights have moved; no constant is
      hidden. ``row_radius``, ``num_radii``, ``delta`` [``kappa``];
    * ``information_space_random_initialization``: Oymak et al. 2019, Theorem 3.2. ``alpha_bar``, ``Gamma``, ``zeta``,
      ``delta`` [``sharp``, ``activation``, ``learning_rate``];
    * ``information_space_simplified_random_initialization``: Eq. (3.3). ``alpha_bar``, ``Gamma``, ``zeta``, ``delta``
      [``activation``, ``learning_rate``];
    * ``information_space_full_rank``: Eq. (3.4). ``delta`` [``activation``, ``variance_constant``,
      ``chance_constant``, ``width_constant``];
    * ``information_space_arbitrary_initialization``: Theorem 3.3. ``alpha_bar``, ``Gamma``, ``zeta``, ``delta``
      [``sharp``, ``learning_rate``];
    * ``information_space_mixture``: Theorem A.3. ``centers``, ``sigma``, ``Gamma``, ``zeta``, ``delta``
      [``activation``, ``bias_constant``, ``variance_constant``, ``width_constant``, ``noise_constant``];
    * ``information_space_classification``: Lemma 6.18 for networks within radii that are chosen before the data are
      seen. ``distance``, ``row_distance``, ``delta`` [``output_distance``, ``sharp``];
    * ``information_space_loss``: Lemma 6.16, the same for the loss ``min(1, |f(x) - y|)``. ``distance``,
      ``row_distance``, ``delta`` [``output_distance``].

    The settings are the arguments of the functions in ``theory`` that have these names; what is not a setting is taken
    from the training: ``n`` is the probe's number of samples, inputs are flattened, labels are one-hot (±1 for one
    output), the weights are those before the first step and now. The learning rate is that of the optimizer for the
    summed loss, if the module says in an attribute ``reduction`` that its loss is a ``"sum"``, or a ``"mean"`` over the
    samples of a step. The ``fine_grained`` bounds know one output only. Those of moved or initial weights, which are
    the certificate, ``arbitrary_initialization``, ``classification`` and ``loss``, need two linear layers without
    biases; the others are computed for any network, and say in their conditions that it is another one. So they do of
    inputs that have not norm 1, of a probe that is not the whole training set, of mini-batches, and of other losses and
    optimizers. Bounds of data are computed once, before the first step, in a time that grows as ``n³``.

    Logs, below ``<bound>/generalization_bound``, for each of the bounds:
        the value itself, ``<term>`` (its terms, by the names that the theorem's function gives them), ``valid`` (1
        unless a condition is violated) and ``vacuous`` (1 if the value is 1 or more). A value is infinite where a
        theorem gives nothing, and is logged as that.

    At the end come the figure ``generalization_bound`` of all bounds beside the module's own error, and for each bound
    the table ``<bound>/generalization_bound/conditions`` of what it assumes.

    Args:
        bounds: Settings by the name of the bound.
        probe: See :class:`DiagnosticCallback`; training data. Bounds are about a training on the probe's samples, so
            take ``num_samples`` as many as there are.
        schedule: Every epoch by default.
        error: Name of the metric of the module that the figure shows beside the bounds, read after each validation.
        output_fn: See :class:`DiagnosticCallback`.
        batch_fn: See :class:`DiagnosticCallback`.
        on_error: See :class:`DiagnosticCallback`.
        name: Stands in the place of ``generalization_bound`` in all names.

    Raises:
        ValueError: If a bound or a setting is unknown, or a setting is missing; before the first step, if a bound
            cannot be computed for the network or the data, or a setting is out of range.

    Attributes:
        latest: The last :class:`Bound` of each name; ``print`` shows its terms, conditions and caveats.

    References:
        Arora et al. 2019, section 5; Oymak et al. 2019, sections 3 and 6.3.

    Example:
        >>> GeneralizationBound({"fine_grained": {"delta": 0.05}}).settings
        {'fine_grained': {'delta': 0.05}}
        >>> GeneralizationBound({"finegrained": {"delta": 0.05}})
        Traceback (most recent call last):
        ValueError: Expected bounds among ['fine_grained', ...
    """

    topic = "generalization_bound"
    default_splits = ("train",)

    def __init__(
        self,
        bounds: Mapping[str, Mapping[str, Any] | None],
        probe: Probe | None = None,
        schedule: Schedule | None = None,
        error: str = "test/error",
        output_fn: OutputFn | None = None,
        batch_fn: BatchFn | None = None,
        on_error: str = "warn",
        name: str | None = None,
    ) -> None:
        self.settings = checked_settings(bounds)
        self.error = error
        schedule = schedule or Schedule(every_n_epochs=1)
        super().__init__(probe, None, schedule, output_fn, batch_fn, on_error, name)

    def reset(self) -> None:
        """Forget the bounds, the errors and where the weights began."""
        super().reset()
        self.initial: TwoLayerWeights | None = None
        self.latest: dict[str, Bound] = {}
        self.errors: list[tuple[int, float]] = []
        self._of_data: dict[str, Bound] = {}

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the weights that the training begins with, and compute every bound once."""
        weights = two_layer_weights(pl_module)
        if not self._resumed:
            self.initial = None if weights is None else TwoLayerWeights(*(w.detach().clone() for w in weights))
        elif [w.shape for w in self.initial or ()] != [w.shape for w in weights or ()]:
            raise ValueError(
                f"Expected the two-layer network of the checkpoint's run, with weights of "
                f"{[tuple(w.shape) for w in self.initial or ()]}, but got {[tuple(w.shape) for w in weights or ()]}."
            )
        self._measured(trainer, pl_module)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Values, terms and verdicts of all bounds at this moment."""
        self.latest = self._measured(trainer, pl_module)
        values: dict[str, float | Tensor] = {}
        for name, bound in self.latest.items():
            key = f"{name}/{self.topic}"
            values[key] = bound.value
            values.update({f"{key}/{term}": value for term, value in bound.terms.items()})
            values[f"{key}/valid"], values[f"{key}/vacuous"] = float(bound.valid), float(bound.vacuous)
        return values

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Take down the module's own error."""
        value = trainer.callback_metrics.get(self.error)
        if value is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.errors.append((trainer.global_step, float(value)))

    def tables(self) -> dict[str, Table]:
        """What each bound assumes, as it was last found."""
        return {f"{name}/{self.topic}/conditions": _conditions(bound) for name, bound in self.latest.items()}

    def figures(self) -> dict[str, Any]:
        """The bounds and the module's own error over the steps."""
        keys = {name: f"{name}/{self.topic}" for name in self.settings}
        rows = [row for row in self.history if all(key in row for key in keys.values())]
        if not rows:
            return {}
        steps = [row["step"] for row in rows]
        curves = {name: (steps, [_drawn(row[key]) for row in rows]) for name, key in keys.items()}
        if self.errors:
            curves[self.error] = ([step for step, _ in self.errors], [error for _, error in self.errors])
        limits = {"says nothing from here on": ([steps[0], steps[-1]], [1.0, 1.0])}
        title = "Bounds on the error on fresh data"
        figure = dynamics_figure(curves, limits, ylabel="probability of error", title=title, logarithmic=True)
        return {self.topic: figure}

    def state_dict(self) -> dict[str, Any]:
        """Where the weights began, and the errors so far; bounds of data follow from the first."""
        initial = None if self.initial is None else {k: w.cpu() for k, w in self.initial._asdict().items()}
        return {**super().state_dict(), "initial": initial, "errors": list(self.errors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the weights that the checkpoint's run began with."""
        super().restore(state)
        initial = state["initial"]
        self.initial = (
            None if initial is None else TwoLayerWeights(initial["hidden"].detach(), initial["output"].detach())
        )
        self.errors = [(int(step), float(error)) for step, error in state["errors"]]

    def observe_loggable(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Infinite values too: infinity is what a theorem says where it says nothing, and no bound is NaN."""
        return self.observe(trainer, pl_module)

    def _measured(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Bound]:
        snapshot = self.snapshot(trainer, pl_module, self.probes["train"])
        weights = [] if self.initial is None else [*self.initial, *(two_layer_weights(pl_module) or ())]
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise FloatingPointError("Expected finite weights, but some are NaN or infinite.")
        seen = observed_training(trainer, pl_module, snapshot, self.initial)
        found: dict[str, Bound] = {}
        with torch.inference_mode(False), torch.no_grad():
            for name, settings in self.settings.items():
                if name not in BOUNDS_OF_DATA:
                    found[name] = BOUNDS[name](seen, **settings)
                    continue
                if name not in self._of_data:
                    self._of_data[name] = BOUNDS[name](seen, **settings)
                found[name] = at_step(self._of_data[name], snapshot.step)
        return found


def _drawn(value: float) -> float:
    """What a curve can show."""
    return value if math.isfinite(value) else math.nan


def _conditions(bound: Bound) -> Table:
    rows: list[list[str | float]] = [
        [item.name, item.actual, item.relation, item.required, item.status, "" if item.ratio is None else item.ratio]
        for item in bound.conditions
    ]
    return Table(list(_COLUMNS), rows)
