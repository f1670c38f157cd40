"""The first promise: the same training, bit for bit, with and without the callbacks."""

import random
import shutil

import numpy as np
import pytest
import torch
from small_training import Module, batch_statistics, every_callback, loader, mlp, quiet_trainer, samples, statuses
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split
from torchmetrics import CatMetric, MeanMetric, Metric, MetricCollection
from training_trace import Trace, differences

from lightning_bounds.lightning import pl
from lightning_bounds.report import MemoryLogger


def convolutional(*extra):
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


class PinnedAtStart(Module):
    """Keeps its batch norm in evaluation mode from the start on."""

    def on_train_start(self):
        self.network[2].eval()


class PinnedByTrain(Module):
    def train(self, mode=True):
        super().train(mode)
        self.network[2].eval()
        return self


class Frozen(Module):
    def __init__(self, network):
        super().__init__(network)
        self.network[1].requires_grad_(False)


class TwoOptimizers(Module):
    """Two optimizers by hand: one batch makes two steps, and gradients of the other are not thrown away."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.second = mlp(seed=5)

    def forward(self, inputs):
        return self.network(inputs) + self.second(inputs)

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = self.loss(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train/loss", loss)

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.network.parameters(), lr=0.01),
            torch.optim.SGD(self.second.parameters(), lr=0.1, momentum=0.9),
        ]


class Count(Metric):
    """Counts samples in place; leaves one out of each batch of a given size."""

    full_state_update = False

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, outputs):
        self.count += len(outputs) - (len(outputs) == self.size)

    def compute(self):
        return self.count


class LogsInForward(Module):
    """Its forward pass logs and feeds metrics.

    One adds up in place, one keeps the outputs with their graph, and two share their state until a batch of four tells
    them apart, which our probe never does.
    """

    def __init__(self):
        super().__init__()
        self.mean, self.kept = MeanMetric(), CatMetric()
        self.counts = MetricCollection({"all": Count(size=0), "some": Count(size=4)})

    def forward(self, inputs):
        outputs = self.network(inputs)
        self.mean.update(outputs)
        self.kept(outputs.sum(dim=1))
        self.counts.update(outputs)
        self.log("forward/mean", outputs.detach().mean(), on_step=True, on_epoch=True)
        self.log_dict({"forward/std": outputs.detach().std()}, on_step=False, on_epoch=True)
        return outputs

    def on_train_epoch_end(self):
        kept = self.kept.compute().detach()
        self.log_dict({"mean": self.mean.compute(), "kept": kept.std(), "number": len(kept), **self.counts.compute()})
        for metric in (self.mean, self.kept, self.counts):
            metric.reset()


class Scheduled(Module):
    """Learning rate schedule, gradient clipping by the Trainer, Adam with its running moments."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)]


class Augmented(Dataset):
    """Noise from torch's, numpy's and python's global streams for every sample."""

    def __init__(self):
        self.inputs, self.targets = samples()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = torch.randn(3) + np.random.randn() + random.gauss(0, 1)
        return self.inputs[index] + 0.1 * noise, self.targets[index]


class OwnStream(Augmented):
    """Noise from generators of its own."""

    def __init__(self):
        super().__init__()
        self.torch_stream, self.numpy_stream = torch.Generator().manual_seed(3), np.random.default_rng(3)

    def __getitem__(self, index):
        noise = torch.randn(3, generator=self.torch_stream) + self.numpy_stream.standard_normal()
        return self.inputs[index] + 0.1 * noise, self.targets[index]


class Stream(IterableDataset):
    """Samples that are used up."""

    def __init__(self, count=24):
        self.samples = iter(list(zip(*samples(count), strict=True)))

    def __iter__(self):
        return self.samples


class DrawsInForward(Module):
    """Draws from all global streams in its forward pass, also in evaluation mode, and makes nothing of it."""

    def forward(self, inputs):
        _ = torch.rand(()), np.random.rand(), random.random()
        return self.network(inputs)


class DrawsInLoader(Module):
    """A validation set that is split off by the global stream whenever its loader is asked for."""

    def train_dataloader(self):
        return loader(shuffle=True)

    def val_dataloader(self):
        return DataLoader(random_split(TensorDataset(*samples(16)), [8, 8])[0], batch_size=4)


def own_generator():
    return loader(shuffle=True, generator=torch.Generator().manual_seed(11))


def dropout():
    return nn.Sequential(nn.Linear(3, 6), nn.Dropout(), nn.Tanh(), nn.Linear(6, 2))


def attention():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 2))


def single_precision():
    inputs, targets = samples()
    return DataLoader(TensorDataset(inputs.float(), targets), batch_size=4, shuffle=True)


# Each: module, training loader or None for the module's own, options of the Trainer.
CASES = {
    "plain": lambda: (Module(), loader(shuffle=True), {}),
    "batch_norm": lambda: (Module(convolutional(nn.BatchNorm1d(4))), loader(shuffle=True), {}),
    "dropout": lambda: (Module(dropout()), loader(shuffle=True), {}),
    "attention": lambda: (Module(attention()), loader(shuffle=True), {}),
    "pinned_at_start": lambda: (PinnedAtStart(convolutional(nn.BatchNorm1d(4))), loader(shuffle=True), {}),
    "pinned_by_train": lambda: (PinnedByTrain(convolutional(nn.BatchNorm1d(4))).train(), loader(shuffle=True), {}),
    "frozen_layer": lambda: (Frozen(convolutional(nn.BatchNorm1d(4))), loader(shuffle=True), {}),
    "accumulation": lambda: (Module(), loader(shuffle=True), {"accumulate_grad_batches": 3}),
    "two_optimizers": lambda: (TwoOptimizers(), loader(shuffle=True), {}),
    "schedule_and_clipping": lambda: (Scheduled(), loader(shuffle=True), {"gradient_clip_val": 0.5}),
    "bf16_mixed": lambda: (Module().float(), single_precision(), {"precision": "bf16-mixed"}),
    "bf16_true": lambda: (Module(), single_precision(), {"precision": "bf16-true"}),
    "loader_with_its_own_generator": lambda: (Module(), own_generator(), {}),
    "augmentation": lambda: (Module(), DataLoader(Augmented(), batch_size=4, shuffle=True), {}),
    "data_set_with_its_own_streams": lambda: (Module(), DataLoader(OwnStream(), batch_size=4, shuffle=True), {}),
    "iterable_data_set": lambda: (Module(), DataLoader(Stream(), batch_size=4), {"max_epochs": 1}),
    "forward_logs": lambda: (LogsInForward(), loader(shuffle=True), {"num_sanity_val_steps": 0}),
    "forward_draws": lambda: (DrawsInForward(), loader(shuffle=True), {}),
    "loaders_that_draw": lambda: (DrawsInLoader(), None, {}),
    "late_loaders_that_draw": lambda: (
        DrawsInLoader(),
        None,
        {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    ),
    "logger_and_figures": lambda: (Module(), loader(shuffle=True), {"logger": MemoryLogger()}),
    "stopped_within_an_epoch": lambda: (Module(), loader(shuffle=True), {"max_steps": 4, "max_epochs": -1}),
    "validation_within_the_epoch": lambda: (Module(), loader(shuffle=True), {"val_check_interval": 2}),
    "anomaly_detection": lambda: (Module(), loader(shuffle=True), {"detect_anomaly": True}),
}
RANDOM_FORWARD = {"dropout", "attention"}


def seed_everything():
    torch.manual_seed(21)
    random.seed(22)
    np.random.seed(23)


def traced(case, callbacks, fit_options=None, **options):
    """What a training leaves behind."""
    seed_everything()
    module, train, chosen = case()
    trace = Trace()
    trainer = quiet_trainer([*callbacks, trace], **{"max_epochs": 3, **chosen, **options})
    val = None if train is None else loader(8, seed=2)
    if chosen.get("precision"):
        val = single_precision()
    trainer.fit(module, train, val, **(fit_options or {}))
    return trace.everything(trainer)


def measured(callbacks):
    """Whether every callback measured, and never failed."""
    return [(c.topic, len(statuses(c)) > 1, set(statuses(c))) for c in callbacks]


def unfailing(callbacks):
    return [(c.topic, True, {0.0}) for c in callbacks]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:Error detected in")
def test_training_is_bit_identical_with_all_callbacks(name):
    callbacks = [*every_callback(), *([] if name in RANDOM_FORWARD else [batch_statistics()])]
    expected, got = traced(CASES[name], []), traced(CASES[name], callbacks)
    assert measured(callbacks) == unfailing(callbacks)
    assert differences(expected, got) == []


@pytest.mark.slow
def test_training_with_worker_processes_is_bit_identical():
    def case():
        return Module(), DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2), {}

    callbacks = every_callback()
    expected, got = traced(case, []), traced(case, callbacks)
    assert measured(callbacks) == unfailing(callbacks)
    assert differences(expected, got) == []


def compiled():
    """Dropout and batch norm in a part that inductor has compiled, afresh."""
    torch.compiler.reset()
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 2)).float()
    inputs, targets = samples()
    train = DataLoader(TensorDataset(inputs.float(), targets), batch_size=4, shuffle=True)
    return Module(torch.compile(network)), train, {"precision": "32-true"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_training_of_a_compiled_network_is_bit_identical():
    callbacks = every_callback()
    expected, got = traced(compiled, []), traced(compiled, callbacks)
    assert measured(callbacks) == unfailing(callbacks)
    assert differences(expected, got) == []


def resumed(folder, callbacks, every_n_train_steps, more_callbacks):
    """What a training leaves behind that was stopped, and went on from its checkpoint."""
    seed_everything()
    keep = pl.callbacks.ModelCheckpoint(folder, "kept", every_n_train_steps=every_n_train_steps, save_top_k=-1)
    train = loader(shuffle=True, generator=torch.Generator().manual_seed(5))
    trainer = quiet_trainer([*callbacks, keep], max_epochs=2, enable_checkpointing=True)
    trainer.fit(Module(convolutional(nn.BatchNorm1d(4))), train, loader(8, seed=2))

    def case():
        return Module(convolutional(nn.BatchNorm1d(4))), loader(shuffle=True), {"max_epochs": 4}

    return traced(case, more_callbacks, {"ckpt_path": folder / "kept.ckpt"})


@pytest.mark.parametrize("every_n_train_steps", [6, 5], ids=["end_of_epoch", "within_an_epoch"])
@pytest.mark.filterwarnings("ignore:.*mid-epoch.*", "ignore:.*exists and is not empty.*")
def test_resumed_training_is_bit_identical_with_all_callbacks(tmp_path, every_n_train_steps):
    callbacks = every_callback()
    expected = resumed(tmp_path / "without", [], every_n_train_steps, [])
    got = resumed(tmp_path / "with", every_callback(), every_n_train_steps, callbacks)
    assert measured(callbacks) == unfailing(callbacks)
    assert differences(expected, got) == []
    assert got["step"] == 12
