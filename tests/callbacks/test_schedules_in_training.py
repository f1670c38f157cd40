"""When the callbacks measure in real trainings of every shape: on time, and never twice at one step."""

import pytest
import torch
from small_training import CALLBACKS, SMALL, Module, fit, loader, measured_steps, mlp, quiet_trainer, samples, series
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_bounds import JacobianSpectrum, MarginMonitor, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.lightning import pl

EACH_KIND = pytest.mark.parametrize("name", CALLBACKS)
NEVER = Schedule(at_init=False, at_end=False, every_n_epochs=100)


def scheduled(**moments):
    return TrajectoryMonitor(schedule=Schedule(**{"at_init": False, "at_end": False, **moments}))


class ByHand(Module):
    """Two optimizers by hand: every batch makes two steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.second = mlp(seed=5)

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(self.network(batch[0]) + self.second(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(network.parameters(), lr=0.1) for network in (self.network, self.second)]


class SkipsBatches(Module):
    """Makes nothing of every other batch; Lightning counts a step all the same."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 2 else None


@EACH_KIND
def test_beginning_and_end_are_measured_exactly_once(name):
    callback = CALLBACKS[name](schedule=Schedule(every_n_epochs=5))
    fit([callback])
    assert measured_steps(callback) == [0, 6]


@EACH_KIND
def test_the_end_of_training_is_not_measured_again_after_the_end_of_its_last_epoch(name):
    callback = CALLBACKS[name](schedule=Schedule(every_n_epochs=1, every_n_steps=3, steps=[6]))
    fit([callback])
    # The final basis is taken at the end; its row holds nothing that was measured before.
    assert measured_steps(callback) == ([0, 3, 6, 6] if name == "residual_projection" else [0, 3, 6])
    measured = [key for row in callback.history if row["step"] == 6 for key in row if key.startswith(name)]
    assert len(measured) == len(set(measured)) > 0


# Steps of 3 epochs of 3 batches, one step each if nothing else is said.
@pytest.mark.parametrize(
    ("moments", "options", "expected"),
    [
        ({"every_n_steps": 2}, {}, [2, 4, 6, 8]),
        ({"every_n_steps": 4}, {}, [4, 8]),
        ({"every_n_epochs": 1}, {}, [3, 6, 9]),
        ({"every_n_epochs": 2}, {}, [6]),
        ({"every_n_epochs": 3, "at_end": True}, {}, [9]),
        ({"steps": [1, 5, 100]}, {}, [1, 5]),
        ({"steps_per_decade": 2}, {}, [1, 3]),
        ({"every_n_steps": 3, "every_n_epochs": 1, "steps": [3, 6]}, {}, [3, 6, 9]),
        ({"every_n_steps": 2, "every_n_epochs": 1}, {}, [2, 3, 4, 6, 8, 9]),
        ({"at_init": True}, {}, [0]),
        ({"at_end": True}, {}, [9]),
        # Two batches make a step, and the last of an epoch makes one alone.
        ({"every_n_steps": 2}, {"accumulate_grad_batches": 2}, [2, 4, 6]),
        ({"every_n_steps": 1}, {"accumulate_grad_batches": 3}, [1, 2, 3]),
        ({"every_n_steps": 1, "every_n_epochs": 1, "at_end": True}, {"accumulate_grad_batches": 3}, [1, 2, 3]),
        ({"at_end": True}, {"max_steps": 4, "max_epochs": -1}, [4]),
        ({"every_n_epochs": 1}, {"max_steps": 4, "max_epochs": -1}, [3]),
        ({"every_n_epochs": 1, "at_end": True}, {"max_steps": 6, "max_epochs": -1}, [3, 6]),
        ({"every_n_epochs": 1}, {"limit_train_batches": 2}, [2, 4, 6]),
        ({"every_n_epochs": 1, "at_end": True}, {"limit_train_batches": 1}, [1, 2, 3]),
        ({"every_n_epochs": 1, "at_init": True}, {"overfit_batches": 1}, [0, 1, 2, 3]),
        ({"every_n_epochs": 1, "at_init": True, "at_end": True}, {"fast_dev_run": True}, [0, 1]),
        ({"every_n_epochs": 1}, {"val_check_interval": 1}, [3, 6, 9]),
        ({"every_n_epochs": 1}, {"check_val_every_n_epoch": 2}, [3, 6, 9]),
        ({"at_init": True, "at_end": True, "every_n_epochs": 1}, {"max_epochs": 0}, []),
        ({"at_init": True, "at_end": True, "every_n_epochs": 1}, {"limit_train_batches": 0}, []),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*overfit_batches.*", "ignore:.*max_epochs.*", "ignore:.*sampler has shuffling.*")
def test_each_rule_fires_at_its_steps(moments, options, expected):
    callback = scheduled(**moments)
    fit([callback], **{"max_epochs": 3, **options})
    assert measured_steps(callback) == expected


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ({"every_n_steps": 1}, [2, 4, 6, 8, 10, 12]),
        ({"every_n_steps": 3}, [4, 6, 10, 12]),
        ({"every_n_steps": 4}, [4, 8, 12]),
        ({"steps": [3]}, [4]),
        ({"every_n_epochs": 1}, [6, 12]),
    ],
    ids=str,
)
def test_a_step_that_two_optimizers_jump_over_fires_once_at_the_next(moments, expected):
    callback = scheduled(**moments)
    fit([callback], ByHand())
    assert measured_steps(callback) == expected


def test_steps_of_skipped_batches_count_as_lightning_counts_them():
    callback = scheduled(every_n_steps=2)
    trainer = fit([callback], SkipsBatches())
    assert trainer.global_step == 6
    assert measured_steps(callback) == [2, 4, 6]


@pytest.mark.parametrize("stop", [1, 4], ids=["first_epoch", "within_the_second"])
def test_a_training_that_is_told_to_stop_is_measured_at_its_end(stop):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == stop

    callback = scheduled(at_end=True, every_n_epochs=1)
    fit([Stop(), callback], max_epochs=5, min_epochs=0)
    assert measured_steps(callback) == ([3] if stop == 4 else []) + [stop]


def test_early_stopping_ends_with_one_measurement():
    stop = pl.callbacks.EarlyStopping("trajectory/distance", mode="min", patience=1)
    callback = TrajectoryMonitor(schedule=Schedule(every_n_epochs=1))
    trainer = fit([stop, callback], max_epochs=9)
    assert trainer.global_step == 6
    assert measured_steps(callback) == [0, 3, 6]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0, 1: 1 / 3, 2: 2 / 3, 3: 1, 4: 4 / 3, 5: 5 / 3, 6: 2}),
        ({"max_steps": 4, "max_epochs": -1}, {0: 0, 1: 1 / 3, 2: 2 / 3, 3: 1, 4: 4 / 3}),
        ({"limit_train_batches": 2}, {0: 0, 1: 1 / 2, 2: 1, 3: 3 / 2, 4: 2}),
        ({"accumulate_grad_batches": 2}, {0: 0, 1: 2 / 3, 2: 1, 3: 5 / 3, 4: 2}),
    ],
    ids=str,
)
def test_epochs_are_counted_in_fractions_up_to_the_end(options, expected):
    callback = scheduled(at_init=True, every_n_steps=1, at_end=True)
    fit([callback], **options)
    assert {row["step"]: row["epoch"] for row in callback.history} == pytest.approx(expected)


class Stream(IterableDataset):
    """Data of unknown length."""

    def __iter__(self):
        return iter(list(zip(*samples(), strict=True)))


def test_epochs_of_unknown_length_are_counted_when_they_end():
    callback = scheduled(at_init=True, every_n_epochs=1, at_end=True)
    fit([callback], train=DataLoader(Stream(), batch_size=4))
    assert [(row["step"], row["epoch"]) for row in callback.history] == [(0, 0), (3, 1), (6, 2)]


def test_a_basis_after_an_epoch_is_not_taken_of_an_epoch_that_is_broken_off():
    callback = ResidualProjection(rank=2, probe=SMALL, bases=[1, 2], schedule=NEVER)
    fit([callback], max_steps=4, max_epochs=-1)
    assert series(callback, "residual_projection/train/epoch_1/dimension") == {3: 2}
    assert [row for row in callback.history if "residual_projection/train/epoch_2/dimension" in row] == []


VAL = pytest.mark.parametrize("name", ["jacobian_spectrum", "residual_projection", "margins"])


@VAL
def test_validation_data_that_is_not_there_is_left_out_if_nobody_asked_for_it(name):
    callback = CALLBACKS[name]()
    fit([callback], val=False)
    assert list(callback.probes) == ["train"]
    assert {key.split("/")[1] for row in callback.history for key in row if key.startswith(name)} == {"train"}


@VAL
def test_validation_data_that_is_asked_for_and_not_there_stops_the_training_before_its_first_step(name):
    trainer = quiet_trainer([CALLBACKS[name](splits=["train", "val"])])
    with pytest.raises(ValueError, match=r"Expected a val data loader .* leave 'val' out of `splits`"):
        trainer.fit(Module(), loader())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_sanity_val_steps": 0},
        {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2},
        {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": 4},
        {"limit_val_batches": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("splits", [None, ["val"]], ids=["by_default", "asked_for"])
def test_validation_data_is_there_from_the_start_whenever_validation_runs(options, splits):
    callback = MarginMonitor(probe=SMALL, splits=splits)
    fit([callback], **options)
    assert list(series(callback, "margins/val/mean")) == [0, 3, 6]


class LoadsOnce(Module):
    """Counts how often its loaders are asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def train_dataloader(self):
        self.asked.append("train")
        return loader()

    def val_dataloader(self):
        self.asked.append("val")
        return loader(8, seed=2)


def test_loaders_of_the_module_are_asked_for_no_more_than_without_callbacks():
    alone, together = LoadsOnce(), LoadsOnce()
    quiet_trainer().fit(alone)
    callbacks = [CALLBACKS[name]() for name in CALLBACKS]
    quiet_trainer(callbacks).fit(together)
    assert together.asked == alone.asked
    assert list(series(callbacks[2], "margins/val/mean")) == [0, 3, 6]


def test_validation_turned_off_is_validation_data_left_out():
    callback = MarginMonitor(probe=SMALL)
    fit([callback], limit_val_batches=0)
    assert list(callback.probes) == ["train"]


@pytest.mark.parametrize("several", [list, tuple])
def test_of_several_validation_loaders_the_first_is_looked_at(several):
    callback = MarginMonitor(probe=SMALL, schedule=Schedule(at_end=False))

    class TwoLoaders(Module):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    fit([callback], TwoLoaders(), val=several([loader(8, seed=2), loader(8, seed=3)]))
    alone = MarginMonitor(probe=SMALL, schedule=Schedule(at_end=False))
    fit([alone])
    assert series(callback, "margins/val/mean") == series(alone, "margins/val/mean")


def test_validation_data_of_unknown_length_is_taken_from_its_beginning():
    callback = MarginMonitor(probe=SMALL, schedule=Schedule(at_end=False))
    fit([callback], val=DataLoader(Stream(), batch_size=4))
    inputs, targets = samples()
    outputs = mlp()(inputs[:5]).detach()
    right = outputs.gather(1, targets[:5, None])[:, 0] - outputs.gather(1, 1 - targets[:5, None])[:, 0]
    torch.testing.assert_close(series(callback, "margins/val/margins")[0], right)


@EACH_KIND
def test_the_sanity_check_is_not_measured(name):
    class AfterSanityCheck(pl.Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            self.history = list(callback.history)

    callback, after = CALLBACKS[name](), AfterSanityCheck()
    fit([callback, after], num_sanity_val_steps=2)
    assert after.history == []


@EACH_KIND
@pytest.mark.parametrize("task", ["validate", "test", "predict"])
def test_nothing_is_measured_outside_of_training(name, task):
    class AllTasks(Module):
        def test_step(self, batch, batch_idx):
            pass

        def predict_step(self, batch, batch_idx):
            return self(batch[0])

    callback = CALLBACKS[name](on_error="raise")
    getattr(quiet_trainer([callback]), task)(AllTasks(), loader())
    assert callback.history == []


@EACH_KIND
def test_a_training_after_a_validation_measures_as_usual(name):
    callback = CALLBACKS[name](schedule=Schedule(every_n_epochs=5))
    trainer, module = quiet_trainer([callback]), Module()
    trainer.validate(module, loader(8, seed=2), verbose=False)
    trainer.fit(module, loader(), loader(8, seed=2))
    assert measured_steps(callback) == [0, 6]


@EACH_KIND
def test_a_validation_after_training_leaves_the_history_alone(name):
    callback, module = CALLBACKS[name](schedule=Schedule(every_n_epochs=5)), Module()
    trainer = fit([callback], module)
    before = values(callback)
    trainer.validate(module, loader(8, seed=2), verbose=False)
    assert values(callback) == before
    assert measured_steps(callback) == [0, 6]


def values(callback):
    rows = [{name: v for name, v in row.items() if "bounds/cost" not in name} for row in callback.history]
    return [{name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in row.items()} for row in rows]


@EACH_KIND
def test_the_same_callback_in_a_second_training_starts_anew(name):
    callback, fresh = CALLBACKS[name](), CALLBACKS[name]()
    # Without validation data the first time, which must not outlast it.
    fit([callback], Module(lr=0.3), train=loader(16), val=False, max_epochs=3)
    fit([callback], Module())
    fit([fresh], Module())
    assert values(callback) == values(fresh)


def test_a_trainer_that_trains_on_says_that_the_beginning_was_not_seen():
    callback = scheduled(every_n_epochs=1, every_n_steps=4)
    module, trainer = Module(), quiet_trainer([callback])
    trainer.fit(module, loader())
    start = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    trainer.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match="knows nothing of the first 6 steps"):
        trainer.fit(module, loader())
    # Step rules count on from there: 8 and 12, not those that have passed.
    assert measured_steps(callback) == [8, 9, 12]
    end = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert series(callback, "trajectory/distance")[12] == pytest.approx(float((end - start).norm()))


@pytest.mark.parametrize("late", ["setup", "configure_model"])
def test_a_network_that_is_built_late_is_measured(late):
    class BuiltLate(Module):
        def __init__(self):
            super().__init__()
            self.network = None

        def build(self):
            self.network = self.network or mlp()

        def setup(self, stage):
            if late == "setup":
                self.build()

        def configure_model(self):
            if late == "configure_model":
                self.build()

    callback, usual = (JacobianSpectrum(SMALL, schedule=Schedule(every_n_epochs=1)) for _ in range(2))
    trajectory = TrajectoryMonitor(layers=["network.0"])
    fit([callback, trajectory], BuiltLate())
    fit([usual])
    assert values(callback) == values(usual)
    assert measured_steps(trajectory) == [0, 3, 6]


def test_a_frozen_part_is_left_out_and_one_that_is_frozen_on_the_way_is_followed_on():
    class Freezes(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.network[0].requires_grad_(trainer.current_epoch < 1)

    module = Module()
    module.network[2].bias.requires_grad_(False)
    spectrum = JacobianSpectrum(SMALL, schedule=Schedule(every_n_epochs=1))
    trajectory = TrajectoryMonitor()
    fit([Freezes(), spectrum, trajectory], module)
    assert sorted(trajectory.initial) == ["network.0.bias", "network.0.weight", "network.2.weight"]
    assert measured_steps(spectrum) == measured_steps(trajectory) == [0, 3, 6]
    assert len(series(spectrum, "jacobian_spectrum/train/sigma_max")) == 3
    assert len(series(trajectory, "trajectory/layers/network_0_weight/distance")) == 3


def test_modules_inside_the_network_have_their_own_names():
    class Odd(Module):
        def __init__(self):
            super().__init__(nn.ModuleDict({"Conv-1": nn.Linear(3, 4), "größe": nn.Linear(4, 2)}))

        def forward(self, inputs):
            return self.network["größe"](torch.tanh(self.network["Conv-1"](inputs)))

    callback = TrajectoryMonitor(schedule=Schedule(at_end=False))
    fit([callback], Odd())
    layers = {name.split("/")[2] for row in callback.history for name in row if "/layers/" in name}
    assert layers == {"network_conv_1_weight", "network_gr__e_weight"}
