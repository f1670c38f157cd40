"""A training that goes on from a checkpoint, wherever in an epoch that was written: no measurement lost or repeated."""

import warnings

import pytest
import torch
from small_training import CALLBACKS, SMALL, Module, loader, measured_steps, quiet_trainer, samples, series, statuses
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.lightning import pl

OFTEN = Schedule(every_n_steps=2, every_n_epochs=1)
KINDS = {
    "jacobian_spectrum": lambda: JacobianSpectrum(SMALL, splits=["train", "val"], schedule=OFTEN),
    "residual_projection": lambda: ResidualProjection(
        rank=2, bases=["initial", 1, 2, "current", "final"], probe=SMALL, schedule=OFTEN
    ),
    "loss_gradient": lambda: ResidualProjection(rank=2, residual="loss_gradient", probe=SMALL, schedule=OFTEN),
    "margins": lambda: MarginMonitor(probe=SMALL, schedule=OFTEN),
    "trajectory": lambda: TrajectoryMonitor(schedule=OFTEN),
    "coarse_trajectory": lambda: TrajectoryMonitor(path_every_n_steps=2, schedule=OFTEN),
}


class Summed(Module):
    """Offers its summed loss to the callbacks."""

    def summed_loss(self, outputs, targets):
        return self.loss(outputs, targets) * outputs.numel() / 2


def train(callbacks, max_epochs=4, ckpt_path=None, **options):
    """Three equal batches an epoch: a training that is resumed within an epoch gets no others."""
    inputs, targets = samples(4)
    batches = DataLoader(TensorDataset(inputs.repeat(3, 1), targets.repeat(3)), batch_size=4)
    trainer = quiet_trainer(callbacks, max_epochs=max_epochs, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(resuming from a checkpoint|callbacks used to create).*")
        trainer.fit(Summed(), batches, loader(8, seed=2), ckpt_path=ckpt_path)
    return trainer


def checkpoint(folder, callbacks, step=5, **when):
    """The file that was written after a step, in the middle of a training of four epochs."""
    keeper = pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, **(when or {"every_n_train_steps": step}))
    train([*callbacks, keeper], enable_checkpointing=True)
    return folder / f"step={step}.ckpt"


def measurements(callback):
    """The history without what depends on the clock; tensors as lists, so that it can be compared."""
    return [
        {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in row.items()
            if not name.startswith("bounds/cost/")
        }
        for row in callback.history
    ]


AFTER_VALIDATION = {"every_n_epochs": 1, "save_on_train_epoch_end": False}
CHECKPOINTS = {
    # Before the validation and the end of the epoch; Lightning ends it no more.
    "last_batch_of_an_epoch": (3, {"every_n_train_steps": 3}),
    "last_batch_of_an_epoch_measured_by_the_step_rule": (6, {"every_n_train_steps": 6}),
    "last_batch_of_all": (12, {"every_n_train_steps": 12}),
    "within_an_epoch": (5, {"every_n_train_steps": 5}),
    # Before the end of the epoch, which Lightning ends at once.
    "after_the_validation": (3, AFTER_VALIDATION),
    "after_the_validation_measured_by_the_step_rule": (6, AFTER_VALIDATION),
    "end_of_an_epoch": (3, {"every_n_epochs": 1, "save_on_train_epoch_end": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", CHECKPOINTS)
def test_the_history_of_a_resumed_training_is_that_of_an_uninterrupted_one(tmp_path, kind, when):
    (step, options), uninterrupted, again = CHECKPOINTS[when], KINDS[kind](), KINDS[kind]()
    file = checkpoint(tmp_path, [uninterrupted], step, **options)
    train([again], ckpt_path=file)
    assert set(statuses(again)) == {0.0}
    assert measurements(again) == measurements(uninterrupted)


@pytest.mark.parametrize("kind", ["jacobian_spectrum", "margins", "trajectory"])
@pytest.mark.parametrize("when", ["within_an_epoch", "after_the_validation"])
def test_a_state_in_which_nothing_was_measured_yet_is_a_state(tmp_path, kind, when):
    schedule = Schedule(at_init=False, every_n_epochs=2)
    uninterrupted, again = CALLBACKS[kind](schedule=schedule), CALLBACKS[kind](schedule=schedule)
    step, options = CHECKPOINTS[when]
    file = checkpoint(tmp_path, [uninterrupted], step, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*knows nothing.*")
        train([again], ckpt_path=file)
    assert measured_steps(again) == [6, 12]
    assert measurements(again) == measurements(uninterrupted)


@pytest.mark.parametrize("residual", ["labels", "loss_gradient"])
def test_a_training_that_goes_on_after_its_end_has_one_final_basis(tmp_path, residual):
    uninterrupted, finished, again = (ResidualProjection(rank=2, residual=residual, probe=SMALL) for _ in range(3))
    train([uninterrupted])
    train([finished], max_epochs=2).save_checkpoint(tmp_path / "finished.ckpt")
    train([again], ckpt_path=tmp_path / "finished.ckpt")
    key = "residual_projection/train/final/residual_information"
    assert series(again, key) == series(uninterrupted, key)
    assert len([row for row in again.history if "residual_projection/train/final/dimension" in row]) == 1


def test_two_callbacks_of_one_type_are_resumed_each_with_its_own_state(tmp_path):
    def pair():
        few = JacobianSpectrum(Probe(num_samples=3), schedule=OFTEN, name="few")
        return [JacobianSpectrum(SMALL, schedule=OFTEN), few]

    uninterrupted, again = pair(), pair()
    file = checkpoint(tmp_path, uninterrupted)
    train(again, ckpt_path=file)
    assert [measurements(callback) for callback in again] == [measurements(callback) for callback in uninterrupted]


def texts(named):
    return dict.fromkeys(named, "garbage")


RECORD = {"steps": [0], "epochs": [0.0], "residuals": ["garbage"], "spaces": {}}
GARBAGE = {
    "history_without_steps": ("margins", "history", lambda history: [{"a": 1.0}]),
    "part_of_a_record": ("residual_projection", "records", lambda records: {"train": {"steps": [0]}}),
    "record_of_text": ("residual_projection", "records", lambda records: {"train": RECORD}),
    "no_weights": ("trajectory", "initial", lambda initial: None),
    "weights_of_text": ("trajectory", "initial", texts),
    "length_of_text": ("trajectory", "path_length", lambda length: "garbage"),
    "last_weights_of_text": ("coarse_trajectory", "previous", texts),
    "one_of_the_last_weights": ("coarse_trajectory", "previous", lambda previous: dict([*previous.items()][:1])),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_one_part_of_a_state_starts_anew_with_a_warning(tmp_path, garbage):
    kind, part, change = GARBAGE[garbage]
    file, callback = checkpoint(tmp_path, [KINDS[kind]()]), KINDS[kind]()
    content = torch.load(file, weights_only=True)
    state = content["callbacks"][callback.state_key]
    state[part] = change(state[part])
    torch.save(content, file)
    with pytest.warns(UserWarning, match="starts anew: the checkpoint holds no state of it that can be read"):
        train([callback], ckpt_path=file)
    assert measured_steps(callback)[0] == 5
    assert set(statuses(callback)) == {0.0}
