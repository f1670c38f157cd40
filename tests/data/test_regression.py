"""Samples with real targets through their data module, and a training on them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lightning_bounds.data import digits, linear_model, sphere
from lightning_bounds.data.regression import RegressionData, RegressionDataModule
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def small():
    """Source of 6 training and 4 test samples with 3 features, whose targets are their numbers; noise adds 0.5."""
    train, test = torch.arange(18.0).reshape(6, 3), torch.arange(12.0).reshape(4, 3)
    clean = torch.arange(6.0), torch.arange(4.0)
    return RegressionData(train, clean[0] + 0.5, clean[0], test, clean[1] + 0.5, clean[1])


def test_attributes_are_those_of_the_image_data_module(small):
    data = RegressionDataModule(lambda: small)
    data.setup("fit")
    assert (data.in_features, data.input_shape, data.num_classes, len(data.flipped)) == (3, (3,), 1, 0)
    assert torch.equal(data.train_inputs, small.train_inputs)
    assert torch.equal(data.train_labels - 0.5, data.original_labels)
    assert torch.equal(data.test_labels - 0.5, data.test_original_labels)


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [6]), (4, [4, 2])])
def test_loaders_give_inputs_and_both_targets(small, batch_size, sizes):
    data = RegressionDataModule(lambda: small, batch_size=batch_size)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(labels) for _, labels, _ in batches] == sizes
    assert all(torch.equal(labels, original + 0.5) for _, labels, original in batches)
    assert sorted(torch.cat([labels for _, labels, _ in batches]).tolist()) == small.train_labels.tolist()
    test, train = (torch.cat([labels for _, labels, _ in loader]) for loader in data.val_dataloader())
    assert torch.equal(test, small.test_labels)
    assert torch.equal(train, small.train_labels)


def test_samples_are_made_once(small):
    calls = []
    data = RegressionDataModule(lambda: calls.append(0) or small)
    data.setup("fit")
    data.setup("test")
    assert calls == [0]


@pytest.mark.parametrize(
    ("name", "override", "features"),
    [("linear_model", "data.source.rank=3", 500), ("sphere", "data.source.function=cosine", 20)],
)
def test_configurations_make_their_samples(name, override, features):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = instantiate(compose(f"data/{name}", overrides=[override]).data)
    data.setup()
    assert isinstance(data, RegressionDataModule)
    assert (data.in_features, len(next(iter(data.train_dataloader()))[0])) == (features, len(data.train_inputs))


def test_a_linear_network_learns_linear_targets():
    torch.set_default_dtype(torch.float32)
    data = RegressionDataModule(partial(sphere.load, num_features=5, train_samples=50))
    module = Supervised(
        torch.nn.Linear(5, 1, bias=False), optimizer=partial(torch.optim.SGD, lr=4.0), classification=False
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=60, accelerator="cpu", **quiet)
    trainer.fit(module, data)
    assert float(trainer.callback_metrics["test/loss"]) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.arange(6)}, "training labels as one float for each of the 6 samples"),
        ({"train_labels": torch.ones(5)}, r"of shapes \(5,\) and \(6,\)"),
        ({"test_clean_labels": torch.ones(4, 1)}, "test labels as one float for each of the 4"),
        ({"test_inputs": torch.ones(4, 2)}, "equally many features, but got 3 and 2"),
        ({"train_inputs": torch.ones(6, 3, 1)}, r"training inputs as floats of shape \(n, d\)"),
        ({"train_inputs": torch.full((6, 3), torch.nan)}, "Expected finite training inputs and labels"),
    ],
)
def test_samples_that_are_not_well_formed_are_refused(small, change, message):
    data = RegressionDataModule(lambda: small._replace(**change))
    with pytest.raises(ValueError, match=message):
        data.setup()


def test_another_kind_of_data_is_refused():
    data = RegressionDataModule(digits.load)
    with pytest.raises(TypeError, match="Expected `source` to return RegressionData, but got ImageData"):
        data.setup()


@pytest.mark.parametrize("source", [3, lambda needed: needed])
def test_a_source_that_cannot_be_called_is_refused(source):
    with pytest.raises(TypeError, match="Expected `source` to be a function"):
        RegressionDataModule(source)


def test_reading_before_setup_says_so():
    with pytest.raises(AttributeError, match="Expected `setup` before `train_inputs` is read"):
        _ = RegressionDataModule(linear_model.load).train_inputs
