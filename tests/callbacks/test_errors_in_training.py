"""What goes wrong in the middle of a training: no number is logged, the reason is, and training goes on."""

import sys
import warnings

import pytest
import torch
from small_training import (
    CALLBACKS,
    SMALL,
    Module,
    every_callback,
    fit,
    loader,
    measured_steps,
    mlp,
    quiet_trainer,
    series,
    statuses,
)
from torch import nn
from training_trace import Trace, differences

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.callbacks import DiagnosticCallback
from lightning_bounds.lightning import pl
from lightning_bounds.report import MemoryLogger

EACH_KIND = pytest.mark.parametrize("name", CALLBACKS)
EVERY_STEP, EVERY_EPOCH = Schedule(every_n_steps=1), Schedule(every_n_epochs=1)


class Spoils(pl.Callback):
    """Puts a value into a weight before the measurements of some steps, and takes it out after them."""

    def __init__(self, *steps, value=float("nan")):
        self.steps, self.value = steps, value

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step in self.steps:
            self.kept = pl_module.network[2].weight.detach().clone()
            pl_module.network[2].weight.data[0, 0] = self.value

    def on_train_batch_start(self, trainer, pl_module, *_):
        if trainer.global_step in self.steps:
            pl_module.network[2].weight.data.copy_(self.kept)


class Fails(DiagnosticCallback):
    """Measures one, or raises at some steps."""

    topic = "fails"

    def __init__(self, error, *steps, **options):
        super().__init__(SMALL, schedule=options.pop("schedule", EVERY_STEP), **options)
        self.error, self.steps = error, steps

    def measure(self, snapshot):
        if self.moment.step in self.steps:
            raise self.error
        return {"one": 1.0}


def warned(record):
    return [str(warning.message) for warning in record if "training goes on" in str(warning.message)]


def fit_and_listen(callbacks, **options):
    """The Trainer, and what was said about failures."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        trainer = fit(callbacks, **options)
    return trainer, warned(record)


@EACH_KIND
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_log_no_number_but_status_one_and_training_goes_on(name, value):
    callback = CALLBACKS[name](schedule=EVERY_STEP)
    trainer, said = fit_and_listen([Spoils(2, value=value), callback])
    assert trainer.global_step == 6
    # The path through weights that are not finite has no length any more: three failures in a row, and it stops.
    lasting = name == "trajectory"
    failed = [row for row in callback.history if row.get(f"bounds/status/{name}", 0) != 0]
    assert [(row["step"], row[f"bounds/status/{name}"]) for row in failed] == [
        (s, 1) for s in (2, 3, 4)[: 3 if lasting else 1]
    ]
    assert {key.split("/")[0] for row in failed for key in row} == {"step", "epoch", "bounds"}
    assert f"{type(callback).__name__} logged no numbers at step 2, training goes on: FloatingPointError: " in said[0]
    assert len(said) == (2 if lasting else 1)


@pytest.mark.parametrize("name", ["jacobian_spectrum", "residual_projection", "margins"])
def test_numbers_after_a_failure_are_right_again(name):
    spoiled, unspoiled = CALLBACKS[name](schedule=EVERY_STEP), CALLBACKS[name](schedule=EVERY_STEP)
    fit_and_listen([Spoils(2, 4), spoiled])
    fit([unspoiled])

    def later(callback):
        rows = [row for row in callback.history if row["step"] not in (2, 4)]
        return [{key: value for key, value in row.items() if "bounds/cost" not in key} for row in rows]

    assert statuses(spoiled).count(1.0) == 2
    assert differences(later(spoiled), later(unspoiled)) == []


def test_a_loss_gradient_that_overflows_is_not_kept_and_not_projected_later():
    def loss(outputs, targets):
        # Finite outputs whose gradient is infinite at the second step alone.
        return (outputs * (float("inf") if callback.moment.step == 2 else 1.0)).sum()

    options = {"splits": ["train"], "residual": "loss_gradient", "loss": loss}
    callback = ResidualProjection(rank=2, probe=SMALL, schedule=EVERY_STEP, **options)
    _, said = fit_and_listen([callback], val=False)
    assert statuses(callback) == [0, 0, 1, 0, 0, 0, 0, 0]
    assert len(said) == 1
    assert callback.records["train"].steps == [0, 1, 3, 4, 5, 6]
    final = series(callback, "residual_projection/train/final/residual_information")
    assert sorted(final) == [0, 1, 3, 4, 5, 6]


class SpoiledAtTheStart(pl.Callback):
    """Weights that are not finite until the first step begins."""

    def setup(self, trainer, pl_module, stage):
        self.kept = pl_module.network[2].weight.detach().clone()
        pl_module.network[2].weight.data[0, 0] = float("nan")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            pl_module.network[2].weight.data.copy_(self.kept)


@EACH_KIND
def test_weights_that_are_not_finite_at_the_start_stop_no_training(name):
    callback = CALLBACKS[name](schedule=EVERY_EPOCH)
    trainer, said = fit_and_listen([SpoiledAtTheStart(), callback])
    assert trainer.global_step == 6
    # Without the first residual or the first weights nothing later can be compared with them.
    expected = {"residual_projection": [1, 4, 4], "trajectory": [1, 1, 1]}.get(name, [1, 0, 0])
    assert statuses(callback) == expected
    wrong = [row for row in callback.history if row[f"bounds/status/{name}"] and any(k.startswith(name) for k in row)]
    assert wrong == []
    assert "logged no numbers at step 0, training goes on: FloatingPointError: " in said[0]


def test_what_is_missing_since_the_start_is_said():
    callback = CALLBACKS["residual_projection"](schedule=EVERY_EPOCH)
    _, said = fit_and_listen([SpoiledAtTheStart(), callback])
    assert "Expected the train residual before the first step, but it could not be measured" in said[1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FloatingPointError("nan"), 1),
        (MemoryError("too much"), 2),
        (torch.OutOfMemoryError("CUDA out of memory"), 2),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), 2),
        (ArithmeticError("checks disagree"), 3),
        (RuntimeError("other"), 4),
        (ValueError("value"), 4),
        (TypeError("type"), 4),
        (KeyError("key"), 4),
        (torch.linalg.LinAlgError("did not converge"), 4),
    ],
    ids=repr,
)
def test_every_kind_of_error_has_its_status(error, status):
    callback = Fails(error, 2)
    trainer, said = fit_and_listen([callback])
    assert trainer.global_step == 6
    assert statuses(callback) == [0, 0, status, 0, 0, 0, 0]
    assert [line.split(":")[0] for line in said] == ["Fails logged no numbers at step 2, training goes on"]


def test_a_failure_is_told_once_for_each_status():
    callback = Fails(RuntimeError("again"), 1, 3, 5)
    _, said = fit_and_listen([callback])
    assert statuses(callback) == [0, 4, 0, 4, 0, 4, 0]
    assert said == ["Fails logged no numbers at step 1, training goes on: RuntimeError: again"]


def test_a_training_in_which_nothing_can_be_measured_is_the_same_training():
    def traced(callbacks):
        torch.manual_seed(3)
        trace = Trace()
        trainer = quiet_trainer([*callbacks, trace])
        trainer.fit(Module(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))), loader())
        return trace.everything(trainer)

    tiny = Probe(num_samples=5, memory_budget=8)
    fails = Fails(RuntimeError("no"), *range(9))
    small = JacobianSpectrum(tiny, schedule=EVERY_STEP)
    expected = traced([])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = traced([fails, small])
    del got["metrics"], expected["metrics"], got["last"], expected["last"]
    assert (statuses(fails), statuses(small)) == ([4, 4, 4], [2, 2, 2])
    assert differences(expected, got) == []


def test_after_a_failed_measurement_the_module_logs_as_before():
    class FailsWhenMeasured(Module):
        def forward(self, inputs):
            if not self.network.training and self.trainer.training:
                raise RuntimeError("not now")
            return super().forward(inputs)

    class Logged(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            self.names = set(trainer.callback_metrics)

    module, logged = FailsWhenMeasured(), Logged()
    # The network fails when it is measured for the first time, after the data were checked.
    callback = Fails(RuntimeError("not now"), *range(9))
    fit_and_listen([callback, logged], module=Module(), val=False)
    assert statuses(callback) == [4, 4, 4]
    assert {"train/loss", "train/loss_step"} <= logged.names
    with pytest.raises(RuntimeError, match="not now"):
        fit([JacobianSpectrum(SMALL)], module)
    assert "log" not in vars(module)
    assert "log_dict" not in vars(module)


def test_a_gram_matrix_beyond_the_budget_is_status_two_with_the_numbers_in_the_message():
    callback = JacobianSpectrum(Probe(num_samples=5, memory_budget="400B"), schedule=EVERY_STEP)
    trainer, said = fit_and_listen([callback])
    assert trainer.global_step == 6
    assert statuses(callback) == [2, 2, 2]
    assert "MemoryError: Expected a Gram matrix within 400 bytes, but 10 x 10 entries take 800" in said[0]


@EACH_KIND
def test_numbers_that_are_not_finite_never_reach_a_logger(name):
    logger = MemoryLogger()
    callback = CALLBACKS[name](schedule=EVERY_STEP)
    trainer = quiet_trainer([Spoils(1, 2, 4), callback], logger)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), loader(), loader(8, seed=2))
    ours = {key: value for row in logger.records for key, value in row.items() if key.startswith((name, "bounds"))}
    assert [key for key, value in ours.items() if value != value or abs(value) == float("inf")] == []
    assert [
        key for key, value in trainer.callback_metrics.items() if key.startswith(name) and not value.isfinite()
    ] == []


@pytest.mark.parametrize("hook", ["training_step", "validation_step", "on_train_epoch_end", "on_train_batch_end"])
def test_an_error_in_the_users_code_comes_out_untouched(hook):
    error = ZeroDivisionError("the user's own")

    def fail(*_):
        if module.trainer.global_step >= 2:
            raise error
        return getattr(Module, hook)(module, *_)

    module = Module()
    setattr(module, hook, fail)
    callbacks = every_callback()
    with pytest.raises(ZeroDivisionError) as caught:
        fit(callbacks, module)
    assert caught.value is error
    assert [set(statuses(callback)) for callback in callbacks] == [{0.0}] * 4


class BrokenLogger(MemoryLogger):
    """Raises from some step on."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def log_metrics(self, metrics, step=None):
        if "bounds/opt_step" in metrics and step >= self.step:
            raise OSError("no space left on device")
        super().log_metrics(metrics, step)

    def log_figures(self, figures, step):
        raise OSError("no space left on device")

    def log_table(self, name, columns, rows, step):
        raise OSError("no space left on device")


@EACH_KIND
def test_a_logger_that_raises_breaks_neither_training_nor_the_other_loggers(name):
    callback, broken, good = CALLBACKS[name](schedule=EVERY_EPOCH), BrokenLogger(step=2), MemoryLogger()
    trainer = quiet_trainer([callback], [broken, good])
    with pytest.warns(UserWarning, match="BrokenLogger could not log .OSError: no space left on device"):
        trainer.fit(Module(), loader(), loader(8, seed=2))
    assert trainer.global_step == 6
    assert set(statuses(callback)) == {0.0}
    steps = {row["bounds/opt_step"] for row in good.records if f"bounds/status/{name}" in row}
    assert steps == {0, 3, 6}
    assert good.figures


@EACH_KIND
def test_without_a_logger_everything_is_in_the_history(name):
    callback = CALLBACKS[name](schedule=EVERY_EPOCH)
    trainer = fit([callback], logger=False)
    assert trainer.loggers == []
    assert set(measured_steps(callback)) == {0, 3, 6}


@EACH_KIND
def test_figures_that_cannot_be_drawn_do_not_break_training(name, monkeypatch):
    # Not installed, as far as imports can tell.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    logger, callback = MemoryLogger(), CALLBACKS[name]()
    trainer = quiet_trainer([callback], logger)
    with pytest.warns(UserWarning, match="drew no figures: ModuleNotFoundError: Expected matplotlib"):
        trainer.fit(Module(), loader(), loader(8, seed=2))
    assert trainer.global_step == 6
    assert logger.figures == {}
    assert bool(logger.tables) == (name == "residual_projection")


def test_a_callback_that_has_stopped_still_shows_what_it_has_seen():
    logger, callback = MemoryLogger(), MarginMonitor(probe=SMALL, schedule=EVERY_STEP, on_error="disable")
    trainer = quiet_trainer([Spoils(2), callback], logger)
    with pytest.warns(UserWarning, match="It will not be tried again"):
        trainer.fit(Module(), loader(), loader(8, seed=2))
    assert set(logger.figures) == {"margins/train", "margins/val"}


def test_a_layer_that_is_exchanged_breaks_the_path_and_nothing_else():
    class Exchanges(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.network = mlp(width=6)

    trajectory, spectrum = TrajectoryMonitor(), JacobianSpectrum(SMALL, schedule=EVERY_EPOCH)
    trainer, said = fit_and_listen([Exchanges(), trajectory, spectrum], max_epochs=3)
    assert trainer.global_step == 9
    assert statuses(trajectory) == [0, 0, 4, 4]
    assert statuses(spectrum) == [0, 0, 0, 0]
    assert len(said) == 1


def test_early_failures_do_not_count_after_a_success():
    callback = Fails(RuntimeError("now and then"), 1, 2, 4, 5)
    _, said = fit_and_listen([callback])
    assert callback.enabled
    assert statuses(callback) == [0, 4, 4, 0, 4, 4, 0]
    assert len(said) == 1
