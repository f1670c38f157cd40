"""What every diagnostic callback does: schedule, guard, shared snapshots, logging, cost, errors, state."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_bounds.callbacks.checks import check_arguments, check_initialized, check_names
from lightning_bounds.callbacks.conclusion import log_conclusion
from lightning_bounds.callbacks.shared import SharedSnapshots
from lightning_bounds.callbacks.silence import silenced
from lightning_bounds.callbacks.values import Moment, Table, check_finite, epochs_done, split_values, status_of
from lightning_bounds.jacobian.forward import OutputFn
from lightning_bounds.jacobian.parameters import selected_parameters
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe, inputs_and_targets
from lightning_bounds.report import log_record
from lightning_bounds.schedule import Schedule
from lightning_bounds.snapshot import Snapshot

# Failures in a row after which a callback stops trying.
_MAX_FAILURES = 3
_SCHEMA_VERSION = 1

Result = TypeVar("Result")


class DiagnosticCallback(pl.Callback):
    """Measures one topic on a schedule, and never changes the training.

    A subclass names its ``topic`` and writes :meth:`measure`. Its scalars go to every logger and to
    ``trainer.callback_metrics`` as ``<topic>/<split>/<quantity>``, its vectors as histograms to the loggers that can
    show them, and both to :attr:`history`. Besides, every callback logs ``bounds/opt_step`` (optimizer steps done),
    ``epoch`` (epochs done, in fractions within one), ``bounds/status/<topic>`` (0 measured, 1 not finite, 2 out of
    memory, 3 failed its own check, 4 another error) and ``bounds/cost/<topic>/seconds`` with ``.../share``, the share
    of the time since training began. Of several processes all take the numbers of the first.

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
        max_seconds: A look at the Jacobian that is predicted to take longer is an error before the first step.

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
        max_seconds: float | None = None,
    ) -> None:
        check_arguments(splits, on_error, name, max_seconds)
        self.probe = probe or Probe()
        self.splits = tuple(splits) if splits is not None else None
        self.schedule = schedule or Schedule(every_n_epochs=10)
        self.output_fn, self.batch_fn, self.on_error = output_fn, batch_fn or inputs_and_targets, on_error
        self.topic, self.max_seconds = name or type(self).topic, max_seconds
        self._own_shared = self._shared = SharedSnapshots()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was measured."""
        splits = self.default_splits if self.splits is None else self.splits
        self.probes = {split: replace(self.probe, split=split) for split in splits}
        self.history: list[dict[str, Any]] = []
        self.last_step: int | None = None
        self.moment = Moment("init", 0, 0.0)
        self.failures, self.enabled = 0, True
        self._warned: set[int] = set()
        self._first_step, self._epochs_done, self._epochs_ended, self._resumed = 0, 0.0, 0, False
        self._seconds, self._started = 0.0, time.perf_counter()

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hangs the module's methods on its callbacks; a copy is to leave the network behind.
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")}

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

    def observe_loggable(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """The same, if it may be logged: if it is finite, unless a subclass knows better."""
        values = self.observe(trainer, pl_module)
        check_finite(values)
        return values

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

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; any exception means that it is not such a state."""
        self.last_step = None if state["last_step"] is None else int(state["last_step"])
        self.history = [{**row, "step": int(row["step"]), "epoch": float(row["epoch"])} for row in state["history"]]
        self._epochs_done, self._epochs_ended = float(state["epochs_done"]), int(state["epochs_ended"])
        self._resumed = True
        self._seconds, self._started = float(state["seconds"]), time.perf_counter() - float(state["elapsed"])

    # Lightning's hooks.

    @cached_property
    def state_key(self) -> str:
        """Where checkpoints keep this callback: its type and what it looks at. Lightning asks for it at every hook."""
        splits = self.default_splits if self.splits is None else self.splits
        return self._generate_state_key(topic=self.topic, splits=splits, probe=repr(self.probe))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Check what can be checked before there is a network; forget an earlier fit."""
        if stage != "fit":
            return
        self.reset()
        self.schedule.check_reached(trainer.max_epochs, trainer.max_steps)
        siblings = [c for c in trainer.callbacks if isinstance(c, DiagnosticCallback)]  # type: ignore[attr-defined]
        check_names([sibling.topic for sibling in siblings])
        self._own_shared = SharedSnapshots()
        # Setup runs in this order, so the first has made its own anew by now.
        self._shared = siblings[0]._own_shared

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Check the network, which is complete by now, also if it is built in Lightning's ``configure_model``."""
        selected_parameters(pl_module, self.probe.layers)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the data, and measure before the first step."""
        self._first_step = trainer.global_step
        if not self._resumed:
            self._started, self._epochs_done = time.perf_counter(), float(trainer.current_epoch)
        check_initialized(pl_module)
        if self.splits is None and "val" in self.probes and self._shared.loader(trainer, "val") is None:
            del self.probes["val"]
        try:
            with silenced(pl_module):
                self.check(trainer, pl_module)
        except Exception as error:
            # What is not finite or too large is told by the measurement, and stops no training.
            if status_of(error) == 4:
                raise
        # A resumed training has measured its beginning before.
        if not self._resumed:
            if trainer.global_step > 0:
                pl.utilities.rank_zero_warn(
                    f"{type(self).__name__} knows nothing of the first {trainer.global_step} steps of this training: "
                    "what it calls initial is the network as it is now."
                )
            self._visit(trainer, pl_module, "init", self.schedule.at_init)
        elif self._epochs_ended < trainer.current_epoch:
            # Lightning does not end an epoch whose last batch was followed by the checkpoint.
            self._end_epoch(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_start(self, *_: Any) -> None:
        """Free what was held for the last step."""
        self._own_shared.release()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure when a step rule was reached."""
        self._epochs_done = epochs_done(trainer)
        last = self._first_step if self.last_step is None else self.last_step
        self._visit(trainer, pl_module, "step", self.schedule.fires_at_step(last, trainer.global_step))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure when the epoch rule was reached; an epoch that is broken off does not count."""
        self._epochs_done = epochs_done(trainer, over=True)
        self._end_epoch(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after the last step, and log what is known only then."""
        self._visit(trainer, pl_module, "end", self.schedule.at_end)
        if trainer.is_global_zero and trainer.loggers:
            log_conclusion(trainer, self.figures, self.tables(), self.on_error == "raise", type(self).__name__)

    def on_fit_end(self, *_: Any) -> None:
        """Free all that is shared; not sooner, as other callbacks measure after this one."""
        self._own_shared = self._shared = SharedSnapshots()

    def on_exception(self, *_: Any) -> None:
        """Free it also when the training breaks off."""
        self.on_fit_end()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python types only, so that checkpoints load with ``weights_only=True``."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "last_step": self.last_step,
            "history": list(self.history),
            "epochs_done": self._epochs_done,
            "epochs_ended": self._epochs_ended,
            "seconds": self._seconds,
            "elapsed": time.perf_counter() - self._started,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; start anew, with a warning, from a state that is not known."""
        try:
            if state_dict["schema_version"] != _SCHEMA_VERSION:
                raise ValueError(f"schema version {state_dict['schema_version']}, not {_SCHEMA_VERSION}")
            self.restore(state_dict)
        except Exception as error:
            self.reset()
            why = f"the checkpoint holds no state of it that can be read ({type(error).__name__}: {error})"
            pl.utilities.rank_zero_warn(f"{type(self).__name__} starts anew: {why}.")

    # How it is done.

    def snapshot(self, trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe) -> Snapshot:
        """The snapshot of this step that all callbacks with an equal probe share."""
        return self._shared.snapshot(trainer, pl_module, probe, self.batch_fn, self.output_fn)

    def attempt(
        self,
        work: Callable[[pl.Trainer, pl.LightningModule], Result],
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        event: str,
        runs_module: bool = True,
    ) -> tuple[Result | None, Exception | None]:
        """The result of some work at this moment, or its error; without logging and metrics if the module runs."""
        self.moment, begin = Moment(event, trainer.global_step, self._epochs_done), time.perf_counter()
        try:
            with silenced(pl_module) if runs_module else nullcontext():
                return work(trainer, pl_module), None
        except Exception as error:
            if self.on_error == "raise" or (event == "init" and isinstance(error, (TypeError, ValueError))):
                raise
            return None, error
        finally:
            self._seconds += time.perf_counter() - begin

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, done: int) -> None:
        self._epochs_ended = done
        self._visit(trainer, pl_module, "epoch", self._epochs_done == done and self.schedule.fires_at_epoch(done))

    def _visit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, event: str, scheduled: bool) -> None:
        moment = Moment(event, trainer.global_step, self._epochs_done)
        fresh = self.last_step != trainer.global_step
        if not self.enabled or not (self.wanted(moment) or (scheduled and fresh)):
            return
        before = self._seconds
        values, error = self.attempt(self.observe_loggable, trainer, pl_module, event)
        costs = {
            f"bounds/status/{self.topic}": float(status_of(error)),
            f"bounds/cost/{self.topic}/seconds": self._seconds - before,
            f"bounds/cost/{self.topic}/share": self._seconds / max(time.perf_counter() - self._started, 1e-9),
        }
        # Processes may differ, by batch statistics of their own or by an error: all take what the first one has, so
        # that whoever monitors a number decides alike everywhere.
        scalars, vectors = split_values({**(values or {}), **costs})
        scalars, vectors = trainer.strategy.broadcast((scalars, vectors))
        self._judge(int(scalars[f"bounds/status/{self.topic}"]), error)
        self.last_step = trainer.global_step
        self.log_values(trainer, {**scalars, **vectors}, moment.step, moment.epoch)

    def log_values(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor], step: int, epoch: float) -> None:
        """Record values of a step, also of one that lies in the past, in the history and with every logger."""
        scalars, vectors = split_values(values)
        self.history.append({"step": step, "epoch": epoch, **scalars, **vectors})
        if step == trainer.global_step:
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
        if trainer.is_global_zero:
            stamped = {"bounds/opt_step": float(step), "epoch": epoch, **scalars}
            log_record(trainer.loggers, stamped, vectors, max(step - 1, 0))

    def _judge(self, status: int, error: Exception | None) -> None:
        """Count failures in a row, and tell each kind once."""
        self.failures = self.failures + 1 if status else 0
        self.enabled = not status or (self.on_error != "disable" and self.failures < _MAX_FAILURES)
        if status and (status not in self._warned or not self.enabled):
            self._warned.add(status)
            after = "" if self.enabled else " It will not be tried again."
            pl.utilities.rank_zero_warn(
                f"{type(self).__name__} logged no numbers at step {self.moment.step}, training goes on: "
                f"{type(error).__name__}: {error}{after}"
            )
