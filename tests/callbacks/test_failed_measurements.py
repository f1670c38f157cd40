"""A measurement that fails or is interrupted, for each kind of callback: what is said, and what is left behind."""

import signal
import warnings

import pytest
import torch
from small_training import CALLBACKS, SMALL, Module, every_callback, fit, measured_steps, mlp, statuses
from torch import nn

from lightning_bounds import JacobianSpectrum, Probe, ResidualProjection, Schedule
from lightning_bounds.lightning import pl
from lightning_bounds.report import MemoryLogger

EVERY_STEP = Schedule(every_n_steps=1)
every_kind = pytest.mark.parametrize("kind", CALLBACKS)
# The trajectory looks at weights alone: no forward pass, no Gram matrix.
every_kind_of_outputs = pytest.mark.parametrize("kind", [kind for kind in CALLBACKS if kind != "trajectory"])


class Poison(pl.Callback):
    """Makes all weights NaN after the second step."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 2:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.fill_(float("nan"))


class Failing(JacobianSpectrum):
    """Raises an error at some of the steps."""

    def __init__(self, error, steps, **options):
        super().__init__(SMALL, schedule=EVERY_STEP, **options)
        self.error, self.fails_at = error, steps

    def measure(self, snapshot):
        if snapshot.step in self.fails_at:
            raise self.error
        return super().measure(snapshot)


def warned(callbacks, module=None, **options):
    """What warnings a training gives about measurements."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(callbacks, module, **options)
    return [str(warning.message) for warning in caught if "logged no numbers" in str(warning.message)]


def logged(logger, callback, step):
    """Names of the callback's own numbers and vectors at a step."""
    numbers = {name for row in logger.records if row.get("bounds/opt_step") == step for name in row}
    vectors = {name for name, found in logger.histograms.items() if step - 1 in [at for at, _ in found]}
    return {name for name in numbers | vectors if name.startswith(f"{callback.topic}/")}


@every_kind
def test_weights_that_become_nan_give_status_1_and_no_numbers_and_after_three_times_an_end(kind):
    callback, logger = CALLBACKS[kind](schedule=EVERY_STEP), MemoryLogger()
    messages = warned([Poison(), callback], logger=logger)
    assert statuses(callback) == [0, 0, 1, 1, 1]
    assert measured_steps(callback) == [0, 1, 2, 3, 4]
    status = f"bounds/status/{kind}"
    assert [(row["bounds/opt_step"], row[status]) for row in logger.records if row.get(status)] == [
        (2, 1),
        (3, 1),
        (4, 1),
    ]
    assert [bool(logged(logger, callback, step)) for step in range(1, 7)] == [True] + [False] * 5
    assert ["at step 2, training goes on: FloatingPointError" in message for message in messages] == [True, False]
    assert [message.endswith("It will not be tried again.") for message in messages] == [False, True]


@every_kind
def test_raise_ends_the_training_at_weights_that_are_nan(kind):
    callback = CALLBACKS[kind](schedule=EVERY_STEP, on_error="raise")
    with pytest.raises(FloatingPointError):
        fit([Poison(), callback])
    assert measured_steps(callback) == [0, 1]


@every_kind
def test_disable_stops_at_the_first_failure(kind):
    callback = CALLBACKS[kind](schedule=EVERY_STEP, on_error="disable")
    messages = warned([Poison(), callback])
    assert statuses(callback) == [0, 0, 1]
    assert [message.endswith("It will not be tried again.") for message in messages] == [True]


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_from_the_start_is_trained_all_the_same(kind, value):
    network = mlp()
    with torch.no_grad():
        network[2].weight.fill_(value)
    callback = CALLBACKS[kind](schedule=EVERY_STEP)
    messages = warned([callback], Module(network))
    assert statuses(callback) == [1, 1, 1]
    assert messages[-1].endswith("It will not be tried again.")


def test_a_stopped_callback_is_tried_again_in_the_next_fit():
    callback = Failing(RuntimeError("often"), steps=[1, 2, 3])
    assert [len(warned([callback])), len(warned([callback]))] == [2, 2]
    assert statuses(callback) == [0, 4, 4, 4]


def test_a_failing_callback_leaves_the_others_alone():
    failing = Failing(RuntimeError("always"), steps=range(9), name="failing")
    others = [CALLBACKS["jacobian_spectrum"](), CALLBACKS["margins"](schedule=EVERY_STEP)]
    warned([failing, *others])
    assert [statuses(callback) for callback in (failing, *others)] == [[4] * 3, [0] * 2, [0] * 7]


@pytest.mark.parametrize("error", [ValueError("wrong"), TypeError("wrong")], ids=repr)
def test_wrong_arguments_are_raised_before_the_first_step(error):
    with pytest.raises(type(error), match="wrong") as raised:
        fit([Failing(error, steps=[0])])
    assert raised.value is error


@pytest.mark.parametrize("splits", [["train"], ["val"], ["train", "val"]], ids=str)
def test_a_projection_beyond_its_memory_budget_has_status_2_and_no_numbers(splits):
    probe, logger = Probe(num_samples=5, memory_budget=8), MemoryLogger()
    options = {"splits": splits, "bases": ["initial", "current"], "schedule": EVERY_STEP}
    callback = ResidualProjection(rank=2, probe=probe, **options)
    messages = warned([callback], logger=logger)
    assert statuses(callback) == [2, 2, 2]
    assert not {name for row in logger.records for name in row if name.startswith(callback.topic)}
    assert "10 x 10 entries take 800 and" in messages[0]
    assert "look at fewer samples or raise `memory_budget`" in messages[0]


def test_margins_need_no_memory_budget():
    callback = CALLBACKS["margins"](probe=Probe(num_samples=5, memory_budget=8))
    fit([callback])
    assert set(statuses(callback)) == {0}


class Interrupted(Module):
    """Interrupts our look at it after two steps; has a part that is kept in evaluation mode."""

    def __init__(self, error):
        super().__init__(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Tanh(), nn.Linear(4, 2)))
        self.error = error

    def on_train_start(self):
        self.network[1].eval()

    def forward(self, inputs):
        outputs = super().forward(inputs)
        if self.trainer.training and not self.network.training and self.trainer.global_step == 2:
            raise self.error
        return outputs


class Witness(pl.Callback):
    """The module after each batch and when the training breaks off."""

    def __init__(self):
        self.looks, self.exception = [], None

    def on_train_batch_end(self, trainer, pl_module, *_):
        self._look(trainer, pl_module)

    def on_exception(self, trainer, pl_module, exception):
        self.exception = exception
        self._look(trainer, pl_module)

    def _look(self, trainer, pl_module):
        flags = [submodule.training for submodule in pl_module.modules()]
        weights = {name: tensor.tolist() for name, tensor in pl_module.state_dict().items()}
        gradients = [parameter.grad.tolist() for parameter in pl_module.parameters()]
        settings = (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled())
        stream = torch.get_rng_state().tolist()
        self.looks.append((trainer.global_step, flags, weights, gradients, settings, stream, sorted(vars(pl_module))))


@pytest.fixture
def _interrupt_handler():
    """Lightning ignores further interrupts after the first."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@every_kind_of_outputs
@pytest.mark.parametrize("on_error", ["warn", "raise", "disable"])
@pytest.mark.usefixtures("_interrupt_handler")
def test_an_interrupt_during_a_measurement_ends_the_training_and_leaves_the_module_as_it_was(kind, on_error):
    error, witness = KeyboardInterrupt(), Witness()
    callback = CALLBACKS[kind](schedule=EVERY_STEP, on_error=on_error)
    # Lightning turns the interrupt into an exit after it has told the callbacks.
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit([witness, callback], Interrupted(error))
    assert witness.exception is error
    assert witness.looks[-1] == witness.looks[-2]
    assert witness.looks[-1][1].count(False) == 1
    assert measured_steps(callback) == [0, 1]


@every_kind_of_outputs
def test_an_error_of_the_network_during_a_measurement_leaves_the_module_as_it_was(kind):
    before, after, callback = Witness(), Witness(), CALLBACKS[kind](schedule=EVERY_STEP)
    warned([before, callback, after], Interrupted(RuntimeError("not now")))
    assert statuses(callback)[:4] == [0, 0, 4, 0]
    assert before.looks == after.looks
    assert len(before.looks) == 6


class UserError(Exception):
    pass


class Breaks(Module):
    """The user's own code fails at the fourth step."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("on_error", ["warn", "raise", "disable"])
def test_an_error_of_the_user_has_nothing_added_whatever_on_error_says(on_error):
    error, callbacks = UserError("mine"), every_callback(on_error=on_error)
    with pytest.raises(UserError) as raised:
        fit(callbacks, Breaks(error))
    assert raised.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", [])) == (None, None, [])


def test_callbacks_of_a_training_that_broke_off_can_be_used_again():
    callbacks, fresh = every_callback(), every_callback()
    with pytest.raises(UserError):
        fit(callbacks, Breaks(UserError()))
    fit(callbacks)
    fit(fresh)
    assert [measured_steps(callback) for callback in callbacks] == [measured_steps(callback) for callback in fresh]
