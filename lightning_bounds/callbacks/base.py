"""What every diagnostic callback does: schedule, guard, shared snapshots, logging, cost, errors, state."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_bounds.callbacks.shared import SharedSnapshots
from lightning_bounds.callbacks.silence import silenced
from lightning_bounds.jacobian.forward import OutputFn
from lightning_bounds.jacobian.parameters import selected_parameters
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe, inputs_and_targets
from lightning_bounds.report import log_figures, log_record, log_table
from lightning_bounds.schedule import Schedule
from lightning_bounds.snapshot import Snapshot

# Failures in a row after which a callback stops trying.
_MAX_FAILURES = 3


class Moment(NamedTuple):
    """A moment of the training: which hook, after how many optimizer steps and epochs."""

    event: str  # "init", "step", "epoch" or "end"
    step: int
    epoch: float


class Table(NamedTuple):
    """A table to be logged and printed."""

    columns: list[str]
    rows: list[list[str | float]]


class DiagnosticCallback(pl.Callback):
    """Measures one topic on a schedule, and never changes the training.

    A subclass names its ``topic`` and writes :meth:`measure`. Its scalars go to every logger and to
    ``trainer.callback_metrics`` as ``<topic>/<split>/<quantity>``, its vectors as histograms to the loggers that can
    show them, and both to :attr:`history`. Besides, every callback logs ``bounds/opt_step`` (optimizer steps done),
    ``bounds/status/<topic>`` (0 measured, 1 not finite, 2 out of memory, 3 failed its own check, 4 another error) and
    ``bounds/cost/<topic>/seconds`` with ``.../share``, the share of the time since training began.

    Args:
        probe: Which samples are looked at and how; 256 samples in evaluation mode by default.
        splits: On which data: ``"train"``, ``"val"`` or both, each seen through its own copy of the probe. If not
            given, what the callback's own page says; validation data is left out where the Trainer has none.
        schedule: When; before and after training and every ten epochs by default.
        output_fn: Picks the outputs out of what the module's ``forward`` returns.
        batch_fn: Makes ``(inputs, targets)`` out of a batch; by default the first two parts, or ``labels`` and the
            rest of a mapping.
        on_error: What follows when a measurement fails in the middle of a training: ``"warn"`` once, ``"raise"``, or
            ``"disable"`` the callback. Wrong arguments and data always raise, before the first step.
        name: Stands in the place of the topic in all names, so that two callbacks of a kind can be told apart.

    Raises:
        ValueError: If an argument is not one of those.

    Attributes:
        history: One mapping per measurement: ``step``, ``epoch`` and every scalar (float) and vector (tensor) by name.
    """

    topic: str
    default_splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self,
        probe: Probe | None = None,
        splits: Sequence[str] | None = None,
        schedule: Schedule | None = None,
        output_fn: OutputFn | None = None,
        batch_fn: BatchFn | None = None,
        on_error: str = "warn",
        name: str | None = None,
    ) -> None:
        if on_error not in ("warn", "raise", "disable"):
            raise ValueError(f"Expected `on_error` to be 'warn', 'raise' or 'disable', but got {on_error!r}.")
        if splits is not None and (isinstance(splits, str) or not splits or len(set(splits)) != len(splits)):
            raise ValueError(f"Expected `splits` to be different names like ['train', 'val'], but got {splits!r}.")
        if name is not None and not re.fullmatch("[a-z0-9_]+", name):
            raise ValueError(f"Expected `name` of lower-case letters, digits and underscores, but got {name!r}.")
        self.probe = probe or Probe()
        self.splits = tuple(splits) if splits is not None else None
        self.probes = {split: replace(self.probe, split=split) for split in self.splits or self.default_splits}
        self.schedule = schedule or Schedule(every_n_epochs=10)
        self.output_fn, self.batch_fn, self.on_error = output_fn, batch_fn or inputs_and_targets, on_error
        self.topic = name or type(self).topic
        self._own_shared = self._shared = SharedSnapshots()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was measured."""
        self.history: list[dict[str, Any]] = []
        self.last_step: int | None = None
        self.moment = Moment("init", 0, 0.0)
        self.failures, self.enabled = 0, True
        self._warned: set[int] = set()
        self._seconds = 0.0
        self._started = time.perf_counter()

    # What a subclass says.

    def measure(self, snapshot: Snapshot) -> Mapping[str, float | Tensor]:
        """Scalars and vectors of one snapshot, by name."""
        raise NotImplementedError

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Everything measured at this moment, by full name: :meth:`measure` for each split."""
        return {
            f"{self.topic}/{split}/{name}": value
            for split, probe in self.probes.items()
            for name, value in self.measure(self.snapshot(trainer, pl_module, probe)).items()
        }

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise before the first step what would fail at the first measurement."""
        for probe in self.probes.values():
            _ = self.snapshot(trainer, pl_module, probe).jacobian

    def wanted(self, moment: Moment) -> bool:  # noqa: ARG002 - subclasses look at it
        """Whether a moment is needed whatever the schedule says."""
        return False

    def figures(self) -> dict[str, Any]:
        """Figures of the whole run by name, drawn at its end."""
        return {}

    def tables(self) -> dict[str, Table]:
        """Tables of the whole run by name, made at its end."""
        return {}

    # Lightning's hooks.

    @property
    def state_key(self) -> str:
        """Where checkpoints keep this callback: its type and what it looks at."""
        return self._generate_state_key(topic=self.topic, probes=repr(tuple(self.probes.values())))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what can be checked before there is data; forget an earlier fit."""
        if stage != "fit":
            return
        self.reset()
        self.schedule.check_reached(trainer.max_epochs, trainer.max_steps)
        selected_parameters(pl_module, self.probe.layers)
        siblings = [c for c in trainer.callbacks if isinstance(c, DiagnosticCallback)]  # type: ignore[attr-defined]
        if sum(sibling.topic == self.topic for sibling in siblings) > 1:
            raise ValueError(
                f"Expected one callback that logs as {self.topic!r}, but got several, whose numbers would overwrite "
                "each other; pass `name` to tell them apart."
            )
        self._own_shared = SharedSnapshots()
        # Setup runs in this order, so the first has made its own anew by now.
        self._shared = siblings[0]._own_shared

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the data, and measure before the first step."""
        self._started = time.perf_counter()
        if self.splits is None and not trainer.val_dataloaders:
            self.probes.pop("val", None)
        with silenced(pl_module):
            self.check(trainer, pl_module)
        # A resumed training has measured its beginning before.
        if self.last_step is None:
            self._visit(trainer, pl_module, "init", self.schedule.at_init)

    def on_train_batch_start(self, *_: Any) -> None:
        """Free what was held for the last step."""
        self._own_shared.release()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure when a step rule was reached."""
        last = -1 if self.last_step is None else self.last_step
        self._visit(trainer, pl_module, "step", self.schedule.fires_at_step(max(last, 0), trainer.global_step))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure when the epoch rule was reached."""
        self._visit(trainer, pl_module, "epoch", self.schedule.fires_at_epoch(trainer.current_epoch + 1))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after the last step, and log what is known only then."""
        self._visit(trainer, pl_module, "end", self.schedule.at_end)
        self._own_shared.release()
        if trainer.is_global_zero and self.enabled:
            step = max(trainer.global_step - 1, 0)
            log_figures(trainer.loggers, self.figures() if trainer.loggers else {}, step)
            for name, table in self.tables().items():
                log_table(trainer.loggers, name, table.columns, table.rows, step)

    def on_exception(self, *_: Any) -> None:
        """Free memory when the training breaks off."""
        self._own_shared.release()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python types only, so that checkpoints load with ``weights_only=True``."""
        return {"schema_version": 1, "last_step": self.last_step, "history": self.history, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; an unknown state is left alone."""
        if state_dict.get("schema_version") != 1:
            pl.utilities.rank_zero_warn(
                f"{type(self).__name__} starts anew: the checkpoint holds no state that it knows."
            )
            return
        self.last_step, self.history = state_dict["last_step"], list(state_dict["history"])
        self._seconds = state_dict["seconds"]

    # How it is done.

    def snapshot(self, trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe) -> Snapshot:
        """The snapshot of this step that all callbacks with an equal probe share."""
        return self._shared.snapshot(trainer, pl_module, probe, self.batch_fn, self.output_fn)

    def _visit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, event: str, scheduled: bool) -> None:
        moment = Moment(event, trainer.global_step, _epoch(trainer, event))
        fresh = self.last_step != trainer.global_step
        if not self.enabled or not (self.wanted(moment) or (scheduled and fresh)):
            return
        self.moment, begin = moment, time.perf_counter()
        try:
            with silenced(pl_module):
                values, status = self.observe(trainer, pl_module), 0
            _check_values(values)
            self.failures = 0
        except Exception as error:
            if self.on_error == "raise" or (event == "init" and isinstance(error, (TypeError, ValueError))):
                raise
            values, status = {}, _status(error)
            self._failed(error, status)
        self.last_step = trainer.global_step
        self._record(trainer, values, status, time.perf_counter() - begin)

    def _record(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor], status: int, seconds: float) -> None:
        self._seconds += seconds
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        costs = {
            f"bounds/status/{self.topic}": float(status),
            f"bounds/cost/{self.topic}/seconds": seconds,
            f"bounds/cost/{self.topic}/share": min(self._seconds / elapsed, 1.0),
        }
        self.log_values(trainer, {**values, **costs}, self.moment.step, self.moment.epoch)

    def log_values(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor], step: int, epoch: float) -> None:
        """Record values of a step, also of one that lies in the past, in the history and with every logger."""
        scalars, vectors = split_values(values)
        self.history.append({"step": step, "epoch": epoch, **scalars, **vectors})
        if step == trainer.global_step:
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
        if trainer.is_global_zero:
            stamped = {"bounds/opt_step": float(step), "epoch": epoch, **scalars}
            log_record(trainer.loggers, stamped, vectors, max(step - 1, 0))

    def _failed(self, error: Exception, status: int) -> None:
        self.failures += 1
        self.enabled = self.on_error != "disable" and self.failures < _MAX_FAILURES
        if status not in self._warned or not self.enabled:
            self._warned.add(status)
            after = "" if self.enabled else " It will not be tried again."
            pl.utilities.rank_zero_warn(
                f"{type(self).__name__} logged no numbers at step {self.moment.step}, training goes on: "
                f"{type(error).__name__}: {error}{after}"
            )


def split_values(values: Mapping[str, float | Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars as floats, and vectors on the CPU.

    Example:
        >>> split_values({"a": 1, "b": torch.tensor(2.0), "c": torch.zeros(2)})
        ({'a': 1.0, 'b': 2.0}, {'c': tensor([0., 0.])})
    """
    vectors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.dim() > 0}
    scalars = {name: float(value) for name, value in values.items() if name not in vectors}
    return scalars, {name: value.detach().cpu() for name, value in vectors.items()}


def data_name(split: str) -> str:
    """What a split is called in figures."""
    return {"train": "training data", "val": "validation data"}[split]


def _check_values(values: Mapping[str, float | Tensor]) -> None:
    bad = [name for name, value in values.items() if not bool(torch.as_tensor(value).isfinite().all())]
    if bad:
        raise FloatingPointError(f"Expected finite values, but {', '.join(bad)} are not.")


def _epoch(trainer: pl.Trainer, event: str) -> float:
    """Epochs done: whole ones at the end of an epoch, a fraction within."""
    if event == "epoch":
        return float(trainer.current_epoch + 1)
    batches = trainer.num_training_batches
    if event == "step" and 0 < batches < float("inf"):
        return trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / batches
    return float(trainer.current_epoch)


def _status(error: Exception) -> int:
    if isinstance(error, FloatingPointError):
        return 1
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return 2
    return 3 if isinstance(error, ArithmeticError) else 4
