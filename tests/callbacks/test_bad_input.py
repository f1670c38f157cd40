"""Wrong arguments, data and networks are refused before the first step, and the message says what to do."""

import logging

import pytest
import torch
from small_training import CALLBACKS, SMALL, Module, fit, loader, measured_steps, mlp, quiet_trainer, samples, statuses
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised

NEVER = Schedule(at_init=False, at_end=False, every_n_epochs=50)
LATE = Schedule(at_init=False, at_end=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: JacobianSpectrum(on_error="ignore"), ValueError, "`on_error` to be 'warn', 'raise' or 'disable'"),
        (
            lambda: JacobianSpectrum(splits="train"),
            ValueError,
            r"`splits` to be different names like \['train', 'val'\]",
        ),
        (lambda: JacobianSpectrum(splits=[]), ValueError, "`splits`"),
        (lambda: JacobianSpectrum(splits=["train", "train"]), ValueError, "`splits`"),
        (
            lambda: JacobianSpectrum(splits=["test"]),
            ValueError,
            r"`split` to be one of \('train', 'val'\), but got 'test'",
        ),
        (lambda: JacobianSpectrum(name="My Name"), ValueError, "lower-case letters, digits and underscores"),
        (lambda: ResidualProjection(rank=0), ValueError, "`rank` of at least 1, but got 0"),
        (lambda: ResidualProjection(rank=2.0), TypeError, "`rank` to be an integer, but got 2.0"),
        (lambda: ResidualProjection(rank=2, energy=0.9), ValueError, "one of rank, cutoff, relative_cutoff and energy"),
        (lambda: ResidualProjection(cutoff=-1.0), ValueError, "`cutoff` to be a singular value, 0 or more"),
        (lambda: ResidualProjection(relative_cutoff=1.5), ValueError, r"`relative_cutoff` in \(0, 1\]"),
        (lambda: ResidualProjection(energy=0.0), ValueError, r"`energy` in \(0, 1\]"),
        (
            lambda: ResidualProjection(bases=["first"]),
            ValueError,
            "'initial', 'final', 'current' or a number of epochs",
        ),
        (lambda: ResidualProjection(bases=[0]), ValueError, "a number of epochs, but got 0"),
        (lambda: ResidualProjection(bases=[True]), ValueError, "a number of epochs, but got True"),
        (lambda: ResidualProjection(bases=[1.5]), ValueError, "a number of epochs, but got 1.5"),
        (lambda: ResidualProjection(bases="final"), ValueError, "`bases` to be a sequence"),
        (lambda: ResidualProjection(bases=[]), ValueError, "`bases` to be a sequence"),
        (lambda: ResidualProjection(residual="loss"), ValueError, "'labels' or 'loss_gradient', but got 'loss'"),
        (lambda: TrajectoryMonitor(layers="hidden"), ValueError, "`layers` to be a sequence of patterns"),
        (lambda: TrajectoryMonitor(path_every_n_steps=0), ValueError, "`every_n_steps` of 1 or more, but got 0"),
        (lambda: TrajectoryMonitor(path_every_n_steps=1.5), TypeError, "whole numbers"),
        (lambda: MarginMonitor(schedule=Schedule(at_init=False, at_end=False)), ValueError, "nothing is asked for"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


class Sentences(Dataset):
    """Samples that the default batch is made of in one structure or another."""

    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.sample


class TakesAnything(Module):
    def training_step(self, batch, batch_idx):
        return sum(parameter.sum() for parameter in self.parameters())


class Returns(Module):
    """Its forward pass returns what a function makes of its outputs."""

    def __init__(self, function, network=None):
        super().__init__(network)
        self.function = function

    def forward(self, inputs):
        return self.function(self.network(inputs))

    def training_step(self, batch, batch_idx):
        return self.loss(self.network(batch[0]), batch[1])

    validation_step = None


def broken(change):
    """Data whose inputs and targets are changed in place, all of which the probe sees."""
    inputs, targets = samples()
    change(inputs, targets)
    return DataLoader(TensorDataset(inputs, targets), batch_size=4)


def set_nan(inputs, targets):
    inputs[4, 1] = float("nan")
    inputs[7, 0] = float("inf")


def set_label(value):
    def change(inputs, targets):
        targets[3] = value

    return change


def real_targets(value):
    inputs, _ = samples()
    targets = torch.randn(12, 2)
    targets[5, 0] = value
    return DataLoader(TensorDataset(inputs, targets), batch_size=4)


def zero_targets():
    return DataLoader(TensorDataset(samples()[0], torch.zeros(12, 2)), batch_size=4)


class LearnsNothing(Module):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def noisy():
    """Its forward pass is random also in evaluation mode."""
    return Module(nn.Sequential(nn.Linear(3, 2), Noise()))


class Zero(nn.Module):
    def forward(self, inputs):
        return 0 * inputs


class Noise(nn.Module):
    def forward(self, inputs):
        return inputs + torch.randn_like(inputs)


def lazy():
    return Module(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)))


ALL = Probe(num_samples=12)
TRAIN = {"probe": ALL, "splits": ["train"]}
# Each: callbacks, module, training data, options of the Trainer; error and message.
CASES = {
    "rank_beyond_the_probe": (
        lambda: ([ResidualProjection(rank=25, **TRAIN)], Module(), loader(), {}),
        *(
            ValueError,
            "`rank` of at most 24, samples times outputs of the train probe, but got 25; look at more samples",
        ),
    ),
    "cutoff_above_all_singular_values": (
        lambda: ([ResidualProjection(cutoff=1e6, **TRAIN)], Module(), loader(), {}),
        *(ValueError, r"cut-off of at most \d+.*the largest singular value of the train Jacobian.*use relative_cutoff"),
    ),
    "schedule_that_never_fires": (
        lambda: ([MarginMonitor(schedule=NEVER)], Module(), loader(), {}),
        *(ValueError, "a schedule that fires within 2 epochs"),
    ),
    "basis_after_the_last_epoch": (
        lambda: ([ResidualProjection(rank=2, bases=[1, 3], **TRAIN)], Module(), loader(), {}),
        *(ValueError, r"`bases` within the 2 epochs of training, but got \[3\]"),
    ),
    "pattern_that_matches_nothing": (
        lambda: ([JacobianSpectrum(Probe(layers=["network.hiden"]))], Module(), loader(), {}),
        *(ValueError, r"'network.hiden' matches none; the nearest are \[.*'network.0'"),
    ),
    "trajectory_pattern_that_matches_nothing": (
        lambda: ([TrajectoryMonitor(layers=["network.0.weigth"])], Module(), loader(), {}),
        *(ValueError, r"'network.0.weigth' matches none; the nearest are \['network.0.weight'"),
    ),
    "nan_in_the_data": (
        lambda: ([JacobianSpectrum(**TRAIN, schedule=LATE)], Module(), broken(set_nan), {}),
        *(ValueError, r"finite inputs, but samples \[4, 7\] of the probe are NaN or infinite; remove or repair them"),
    ),
    "nan_in_real_targets": (
        lambda: ([ResidualProjection(rank=2, **TRAIN)], TakesAnything(), real_targets(float("nan")), {}),
        *(ValueError, r"finite targets, but samples \[5\]"),
    ),
    "label_out_of_range": (
        lambda: ([MarginMonitor(**TRAIN, schedule=LATE)], TakesAnything(), broken(set_label(2)), {}),
        *(ValueError, "classes in 0..1, as the network has 2 outputs, but sample 3 has label 2"),
    ),
    "negative_label": (
        lambda: ([ResidualProjection(rank=2, **TRAIN)], TakesAnything(), broken(set_label(-1)), {}),
        *(ValueError, "classes in 0..1, as the network has 2 outputs, but sample 3 has label -1"),
    ),
    "margins_of_real_targets": (
        lambda: ([MarginMonitor(**TRAIN, schedule=LATE)], Supervised(mlp(outputs=1)), real_targets(0.0), {}),
        *(ValueError, "one class per sample|labels -1 and"),
    ),
    "nothing_to_train": (
        lambda: ([JacobianSpectrum()], LearnsNothing(), loader(), {}),
        *(ValueError, "Expected a trainable parameter in the model, but all 4 are frozen"),
    ),
    "nothing_to_follow": (
        lambda: ([TrajectoryMonitor()], LearnsNothing(), loader(), {}),
        *(ValueError, "Expected a trainable parameter in the model, but all 4 are frozen"),
    ),
    "parameters_without_values": (
        lambda: ([JacobianSpectrum(**TRAIN)], lazy(), loader(), {"num_sanity_val_steps": 0}),
        *(ValueError, "Expected parameters with values, but .*network.0.weight.* are lazy; run one batch through"),
    ),
    "random_network": (
        lambda: ([JacobianSpectrum(**TRAIN)], noisy(), loader(), {}),
        *(ValueError, "equal outputs from two forward passes .* the Jacobian of a random function is undefined"),
    ),
    "two_callbacks_with_one_name": (
        lambda: ([MarginMonitor(), MarginMonitor(probe=SMALL)], Module(), loader(), {}),
        *(ValueError, "one callback that logs as 'margins', but got several.*pass `name`"),
    ),
    "batch_without_labels": (
        lambda: ([JacobianSpectrum()], TakesAnything(), DataLoader(Sentences({"tokens": torch.ones(3)})), {}),
        *(TypeError, r"\(inputs, targets\) or a mapping with 'labels', but got {'tokens': 'Tensor'}; pass `batch_fn`"),
    ),
    "batch_of_texts": (
        lambda: ([JacobianSpectrum(SMALL)], TakesAnything(), DataLoader(Sentences("text")), {}),
        *(TypeError, r"but got list of \['str', 'str', 'str', 'str', 'str'\]; pass `batch_fn`"),
    ),
    "batch_of_inputs_alone": (
        lambda: ([JacobianSpectrum(SMALL)], TakesAnything(), DataLoader(Sentences(torch.ones(3))), {}),
        *(TypeError, "but got Tensor; pass `batch_fn`"),
    ),
    "outputs_in_a_pair": (
        lambda: ([JacobianSpectrum(SMALL)], Returns(lambda outputs: (outputs, None)), loader(), {}),
        *(TypeError, "a real floating-point tensor of outputs, but got tuple; pass `output_fn`"),
    ),
    "outputs_in_a_mapping": (
        lambda: ([JacobianSpectrum(SMALL)], Returns(lambda outputs: {"scores": outputs}), loader(), {}),
        *(TypeError, "a real floating-point tensor of outputs, but got dict; pass `output_fn`"),
    ),
    "outputs_that_are_classes": (
        lambda: ([JacobianSpectrum(SMALL)], Returns(lambda outputs: outputs.argmax(dim=1)), loader(), {}),
        *(TypeError, "but got dtype torch.int64; pass `output_fn`"),
    ),
    "outputs_that_are_a_mean": (
        lambda: ([JacobianSpectrum(SMALL)], Returns(torch.mean), loader(), {}),
        *(ValueError, "one row of outputs for each of the"),
    ),
    "loaders_in_a_mapping": (
        lambda: ([JacobianSpectrum(SMALL)], TakesAnything(), {"a": loader(), "b": loader()}, {}),
        *(TypeError, "one train DataLoader with a data set, but got dict; the probe indexes the data set itself"),
    ),
    "combined_loader": (
        lambda: (
            *([JacobianSpectrum(SMALL)], TakesAnything()),
            *(pl.utilities.CombinedLoader([loader(), loader()], "max_size"), {}),
        ),
        *(TypeError, "one train DataLoader with a data set, but got list"),
    ),
    "no_loss_for_its_gradient": (
        lambda: ([ResidualProjection(rank=2, residual="loss_gradient", **TRAIN)], Module(), loader(), {}),
        *(ValueError, "a summed loss for residual='loss_gradient', but the module has no `summed_loss`; pass `loss`"),
    ),
    "nothing_to_compare_with": (
        lambda: (
            [ResidualProjection(rank=2, **TRAIN)],
            *(Module(nn.Sequential(nn.Linear(3, 2), Zero())), zero_targets()),
            {"num_sanity_val_steps": 0},
        ),
        *(ValueError, "an initial residual other than zero, but the outputs equal the labels already"),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*lazy modules.*", "ignore:Lazy modules.*", "ignore:.*uninitialized.*")
@pytest.mark.parametrize("on_error", ["warn", "disable"])
def test_what_cannot_be_measured_is_refused_before_the_first_step(name, on_error):
    case, error, message = CASES[name]
    callbacks, module, train, options = case()
    for callback in callbacks:
        callback.on_error = on_error
    steps = Steps()
    trainer = quiet_trainer([*callbacks, steps], **options)
    with pytest.raises(error, match=message):
        trainer.fit(module, train)
    assert (trainer.global_step, steps.begun) == (0, 0)
    assert all(parameter.grad is None for parameter in module.parameters())


class Steps(pl.Callback):
    """Counts the batches that are begun."""

    def __init__(self):
        self.begun = 0

    def on_train_batch_start(self, *_):
        self.begun += 1


def test_callbacks_with_names_of_their_own_stand_side_by_side():
    few, many = MarginMonitor(probe=SMALL, name="few"), MarginMonitor(probe=ALL, name="many")
    trainer = fit([few, many], max_epochs=1)
    assert {"few/train/mean", "many/train/mean"} <= set(trainer.callback_metrics)
    assert measured_steps(few) == measured_steps(many) == [0, 3]


def test_a_probe_larger_than_the_data_takes_all_and_says_so_once_per_split(caplog):
    callbacks = [JacobianSpectrum(Probe(num_samples=1000)), MarginMonitor(probe=Probe(num_samples=1000))]
    with caplog.at_level(logging.INFO):
        fit(callbacks)
    said = [record.getMessage() for record in caplog.records if "probe asks for" in record.getMessage()]
    assert sorted(said) == [
        "The train probe asks for 1000 samples; all 12 there are are used.",
        "The val probe asks for 1000 samples; all 8 there are are used.",
    ]
    assert [len(row["margins/train/margins"]) for row in callbacks[1].history] == [12, 12, 12]


def test_a_probe_that_fits_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        fit([JacobianSpectrum(ALL)])
    assert [record for record in caplog.records if "probe asks for" in record.getMessage()] == []


@pytest.mark.parametrize("topic", ["jacobian_spectrum", "residual_projection", "margins"])
def test_one_sample_is_enough(topic):
    callback = CALLBACKS[topic](probe=Probe(num_samples=1))
    fit([callback])
    assert set(statuses(callback)) == {0.0}


def test_all_zero_inputs_and_a_single_class_are_measured():
    data = DataLoader(TensorDataset(torch.zeros(12, 3), torch.ones(12, dtype=torch.long)), batch_size=4)
    callbacks = [CALLBACKS[topic]() for topic in CALLBACKS]
    fit(callbacks, train=data, val=False)
    assert [set(statuses(callback)) for callback in callbacks] == [{0.0}] * 4
