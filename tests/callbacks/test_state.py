"""What checkpoints keep of the callbacks, and how a training goes on with it."""

import copy
import functools
import pickle
import tempfile
import warnings

import pytest
import torch
from small_training import (
    CALLBACKS,
    SMALL,
    Module,
    fit,
    loader,
    measured_steps,
    quiet_trainer,
    samples,
    series,
    statuses,
)
from torch.utils.data import DataLoader, TensorDataset
from training_trace import differences

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.lightning import pl

EACH_KIND = pytest.mark.parametrize("name", CALLBACKS)
OFTEN = Schedule(every_n_epochs=1, every_n_steps=4)
BASES = ["initial", 1, "current", "final"]


def made(name, **options):
    options = {"schedule": OFTEN, **({"bases": BASES} if name == "residual_projection" else {}), **options}
    return CALLBACKS[name](**options)


def same_batches():
    """Three equal batches an epoch: a training that is resumed within an epoch gets no others."""
    inputs, targets = samples(4)
    return DataLoader(TensorDataset(inputs.repeat(3, 1), targets.repeat(3)), batch_size=4)


def trained(callbacks, keep=(), ckpt_path=None, max_epochs=4):
    trainer = quiet_trainer([*callbacks, *keep], max_epochs=max_epochs, enable_checkpointing=bool(keep))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(resuming from a checkpoint|callbacks used to create).*")
        trainer.fit(Module(), same_batches(), loader(8, seed=2), ckpt_path=ckpt_path)
    return trainer


def keeping(folder, **options):
    return pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, **options)


def timeless(callback):
    return [{key: value for key, value in row.items() if "bounds/cost/" not in key} for row in callback.history]


# More moments, and what Lightning makes of them, in test_resuming.py.
CHECKPOINTS = {
    "after_an_epoch": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, 6),
    "within_an_epoch": ({"every_n_train_steps": 5}, 5),
}


@EACH_KIND
@pytest.mark.parametrize("when", CHECKPOINTS)
def test_a_resumed_training_measures_what_an_uninterrupted_one_does(tmp_path, name, when):
    options, step = CHECKPOINTS[when]
    whole, resumed = made(name), made(name)
    trained([whole], [keeping(tmp_path, **options)])
    trained([resumed], ckpt_path=tmp_path / f"step={step}.ckpt")
    assert set(statuses(whole)) == {0.0}
    assert differences(timeless(whole), timeless(resumed)) == []


@EACH_KIND
def test_a_training_that_goes_on_after_its_end_measures_what_a_longer_one_does(tmp_path, name):
    whole, first, resumed = (made(name, schedule=Schedule(every_n_epochs=1)) for _ in range(3))
    trained([whole])
    trained([first], max_epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    trained([resumed], ckpt_path=tmp_path / "end.ckpt")
    assert measured_steps(first)[-1] == 6
    assert differences(timeless(whole), timeless(resumed)) == []


@pytest.mark.parametrize("name", ["jacobian_spectrum", "margins", "trajectory"])
def test_no_step_is_measured_twice_by_a_resumed_training(tmp_path, name):
    resumed = made(name)
    trained([made(name)], [keeping(tmp_path, every_n_train_steps=4)])
    trained([resumed], ckpt_path=tmp_path / "step=4.ckpt")
    assert measured_steps(resumed) == [0, 3, 4, 6, 8, 9, 12]


def test_reference_basis_and_first_residual_come_from_the_first_run(tmp_path):
    first, resumed = made("residual_projection"), made("residual_projection")
    trained([first], max_epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    trained([resumed], ckpt_path=tmp_path / "end.ckpt")
    for_both = [callback.records["train"] for callback in (first, resumed)]
    assert differences(*(record.residuals[0] for record in for_both)) == []
    assert differences(*(record.spaces["initial"].basis for record in for_both)) == []


def test_a_coarse_path_goes_on_in_the_middle_of_a_piece(tmp_path):
    schedule = Schedule(at_init=False, every_n_epochs=4)
    whole, resumed = (TrajectoryMonitor(path_every_n_steps=4, schedule=schedule) for _ in range(2))
    trained([whole], [keeping(tmp_path, every_n_train_steps=6)])
    trained([resumed], ckpt_path=tmp_path / "step=6.ckpt")
    assert series(resumed, "trajectory/path_length") == series(whole, "trajectory/path_length")


def test_a_part_that_is_frozen_for_the_second_run_is_followed_on(tmp_path):
    class Frozen(Module):
        def __init__(self):
            super().__init__()
            self.network[0].requires_grad_(False)

    trained([made("trajectory")], max_epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    resumed, trainer = made("trajectory"), quiet_trainer(max_epochs=4)
    trainer.callbacks.append(resumed)
    trainer.fit(Frozen(), same_batches(), loader(8, seed=2), ckpt_path=tmp_path / "end.ckpt")
    assert measured_steps(resumed) == [0, 3, 4, 6, 8, 9, 12]
    moved = series(resumed, "trajectory/layers/network_0_weight/distance")
    assert moved[12] == pytest.approx(moved[6]) != 0


def test_the_share_of_time_goes_on_from_the_first_run(tmp_path):
    path = with_state(tmp_path / "kept.ckpt", "margins", lambda state: {**state, "seconds": 500.0, "elapsed": 1000.0})
    resumed = made("margins")
    trained([resumed], ckpt_path=path)
    shares = [row["bounds/cost/margins/share"] for row in resumed.history if row["step"] > 6]
    assert shares == pytest.approx([0.5] * len(shares), abs=0.01)


PLAIN = (dict, list, tuple, str, int, float, bool, type(None), torch.Tensor)


def parts(value):
    """A value and everything inside it."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [value, *(part for one in inside for part in parts(one))]


def saved_state(tmp_path, callback):
    trained([callback], max_epochs=3).save_checkpoint(tmp_path / "end.ckpt")
    # Fails if there is anything but tensors and plain types.
    return torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"][callback.state_key]


@EACH_KIND
def test_checkpoints_hold_tensors_and_plain_types_alone(tmp_path, name):
    state = saved_state(tmp_path, made(name))
    assert {type(part) for part in parts(state)} <= set(PLAIN)
    assert state["schema_version"] == 1
    assert len(state["history"]) >= 4


@EACH_KIND
def test_no_tensor_in_a_checkpoint_drags_a_larger_one_along(tmp_path, name):
    tensors = [part for part in parts(saved_state(tmp_path, made(name))) if isinstance(part, torch.Tensor)]
    assert tensors
    assert [t.shape for t in tensors if t.untyped_storage().nbytes() > t.numel() * t.element_size()] == []


@EACH_KIND
def test_checkpoints_are_not_larger_than_what_is_in_them(tmp_path, name):
    callback = made(name)
    trained([]).save_checkpoint(tmp_path / "without.ckpt")
    tensors = [part for part in parts(saved_state(tmp_path, callback)) if isinstance(part, torch.Tensor)]
    grown = (tmp_path / "end.ckpt").stat().st_size - (tmp_path / "without.ckpt").stat().st_size
    # A tensor of any size takes some 300 bytes besides its content, a number in the history some 50.
    numbers = sum(len(row) for row in callback.history)
    assert grown < sum(t.nbytes for t in tensors) + 400 * len(tensors) + 100 * numbers + 10_000


@EACH_KIND
def test_a_state_is_a_copy_that_later_measurements_leave_alone(name):
    class Keeps(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                self.state = callback.state_dict()
                self.then = copy.deepcopy(self.state)

    callback, keeps = made(name), Keeps()
    trained([callback, keeps])
    assert differences(keeps.state, keeps.then) == []


@functools.cache
def kept(name):
    """A checkpoint at step 6, as a loaded one."""
    with tempfile.TemporaryDirectory() as folder:
        trained([made(name)], max_epochs=2).save_checkpoint(f"{folder}/kept.ckpt")
        return torch.load(f"{folder}/kept.ckpt", weights_only=True)


def with_state(path, name, change):
    """Write a checkpoint at step 6 of a training with a callback, whose state is changed by hand."""
    key = made(name).state_key
    states = {**kept(name)["callbacks"], key: change(kept(name)["callbacks"][key])}
    torch.save({**kept(name), "callbacks": states}, path)
    return path


def without(*keys):
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def with_value(key, value):
    return lambda state: {**state, key: value}


UNREADABLE = {
    "older": ("margins", with_value("schema_version", 0)),
    "newer": ("margins", with_value("schema_version", 99)),
    "no_version": ("margins", without("schema_version")),
    "no_history": ("margins", without("history")),
    "no_rows": ("margins", with_value("history", ["text"])),
    "no_step": ("margins", with_value("last_step", "late")),
    "no_time": ("margins", without("elapsed", "seconds")),
    "another": ("jacobian_spectrum", lambda state: {"something": "else"}),
    "list": ("margins", lambda state: [1, 2, 3]),
    "text": ("margins", lambda state: "text"),
    "no_records": ("residual_projection", without("records")),
    "empty_record": ("residual_projection", with_value("records", {"train": {}})),
    "record_of_nothing": ("residual_projection", with_value("records", {"train": None})),
    "no_weights": ("trajectory", without("initial")),
    "weights_of_a_number": ("trajectory", with_value("initial", 3)),
    "path_of_text": ("trajectory", with_value("path_length", "long")),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_state_that_cannot_be_read_is_told_and_the_callback_starts_anew(tmp_path, what):
    name, change = UNREADABLE[what]
    callback, fresh = made(name), made(name)
    with pytest.warns(UserWarning, match="starts anew: the checkpoint holds no state of it that can be read"):
        trained([callback], ckpt_path=with_state(tmp_path / "kept.ckpt", name, change), max_epochs=3)
    with pytest.warns(UserWarning, match="knows nothing of the first 6 steps"):
        trained([fresh], ckpt_path=with_state(tmp_path / "kept.ckpt", name, lambda state: {}), max_epochs=3)
    assert set(statuses(callback)) == {0.0}
    assert min(measured_steps(callback)) == 6
    assert differences(timeless(callback), timeless(fresh)) == []


@EACH_KIND
def test_a_callback_that_the_checkpoint_does_not_know_begins_where_it_is(tmp_path, name):
    trained([], max_epochs=2).save_checkpoint(tmp_path / "kept.ckpt")
    callback = made(name)
    with pytest.warns(UserWarning, match="knows nothing of the first 6 steps of this training"):
        trained([callback], ckpt_path=tmp_path / "kept.ckpt")
    assert set(statuses(callback)) == {0.0}
    assert min(measured_steps(callback)) == 6


def test_a_checkpoint_for_another_network_is_refused_in_words(tmp_path):
    def narrower(state):
        return {**state, "initial": {key: value[:1] for key, value in state["initial"].items()}}

    path, message = tmp_path / "kept.ckpt", "weights of the checkpoint's run, but .*network.0.weight.* another shape"
    with pytest.raises(ValueError, match=message):
        trained([made("trajectory")], ckpt_path=with_state(path, "trajectory", narrower))


DIFFERENT = {
    "samples": (lambda: JacobianSpectrum(SMALL), lambda: JacobianSpectrum(Probe(num_samples=4))),
    "seed": (lambda: JacobianSpectrum(SMALL), lambda: JacobianSpectrum(Probe(num_samples=5, seed=1))),
    "mode": (lambda: JacobianSpectrum(SMALL), lambda: JacobianSpectrum(Probe(num_samples=5, mode="train"))),
    "splits": (lambda: MarginMonitor(), lambda: MarginMonitor(splits=["val"])),
    "name": (lambda: MarginMonitor(), lambda: MarginMonitor(name="other")),
    "kind": (lambda: MarginMonitor(), lambda: JacobianSpectrum()),
    "rule": (lambda: ResidualProjection(rank=2), lambda: ResidualProjection(rank=3)),
    "residual": (lambda: ResidualProjection(), lambda: ResidualProjection(residual="loss_gradient")),
    "layers": (lambda: TrajectoryMonitor(), lambda: TrajectoryMonitor(layers=["network.0"])),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_callbacks_that_look_at_something_else_have_states_of_their_own(what):
    first, second = DIFFERENT[what]
    assert first().state_key == first().state_key != second().state_key


@EACH_KIND
@pytest.mark.parametrize("val", [None, False], ids=["with_validation", "without_validation"])
def test_the_key_of_a_state_is_the_same_before_and_after_training(name, val):
    callback = made(name)
    before = callback.state_key
    fit([callback], val=val)
    assert callback.state_key == before


def test_a_training_without_validation_data_resumes_its_state(tmp_path):
    def trained_on_train_alone(callback, **options):
        trainer = quiet_trainer([callback], **options)
        trainer.fit(Module(), same_batches(), ckpt_path=tmp_path / "kept.ckpt" if options["max_epochs"] > 2 else None)
        return trainer

    trained_on_train_alone(made("margins"), max_epochs=2).save_checkpoint(tmp_path / "kept.ckpt")
    resumed = made("margins")
    trained_on_train_alone(resumed, max_epochs=4)
    assert measured_steps(resumed) == [0, 3, 4, 6, 8, 9, 12]


def test_another_probe_does_not_take_over_the_state(tmp_path):
    trained([made("margins")], max_epochs=2).save_checkpoint(tmp_path / "kept.ckpt")
    other = made("margins", probe=Probe(num_samples=4))
    with pytest.warns(UserWarning, match="knows nothing of the first 6 steps"):
        trained([other], ckpt_path=tmp_path / "kept.ckpt")
    assert {len(row["margins/train/margins"]) for row in other.history} == {4}


@EACH_KIND
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_a_copy_before_training_measures_the_same(name, copied):
    callback = made(name)
    twin = copied(callback)
    assert twin.state_key == callback.state_key
    trained([callback], max_epochs=2)
    trained([twin], max_epochs=2)
    assert differences(timeless(twin), timeless(callback)) == []


@EACH_KIND
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_a_copy_after_training_has_the_history_and_can_train_again(name, copied):
    callback = made(name)
    trained([callback], max_epochs=2)
    twin = copied(callback)
    assert differences(twin.history, callback.history) == []
    trained([twin], max_epochs=2)
    assert differences(timeless(twin), timeless(callback)) == []


@EACH_KIND
def test_a_copy_in_the_middle_of_a_training_takes_no_network_along(name):
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                self.size, self.twin = len(pickle.dumps(callback)), copy.deepcopy(callback)

    class Large(Module):
        """Has a frozen part of a megabyte."""

        def __init__(self):
            super().__init__()
            self.register_buffer("large", torch.zeros(2**17))

    callback, copies = made(name), Copies()
    fit([callback, copies], Large())
    assert copies.size < 100_000
    assert measured_steps(copies.twin) == [0, 3, 4]
