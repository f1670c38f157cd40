from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lightning_bounds.data import ImageDataModule

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def datamodule():
    """Data module built from one configuration with overrides, as the scripts build it."""

    def build(name, *overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(f"data/{name}", overrides=list(overrides))
        return instantiate(config.data)

    return build


@pytest.mark.parametrize(
    ("name", "sizes", "input_shape", "num_flipped"),
    [("digits", (1437, 360), (64,), 359), ("mnist5000", (4000, 1000), (784,), 0)],
)
def test_configurations_without_files_load_as_they_are(datamodule, name, sizes, input_shape, num_flipped):
    data = datamodule(name)
    data.setup()
    assert isinstance(data, ImageDataModule)
    assert (len(data.train_inputs), len(data.test_inputs)) == sizes
    assert (data.input_shape, len(data.flipped)) == (input_shape, num_flipped)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_configurations_load_the_folder_that_is_given(datamodule, idx_folder, name):
    data = datamodule(name, f"data.source.folder={idx_folder}")
    data.setup()
    assert (len(data.train_inputs), len(data.test_inputs), data.in_features) == (20, 10, 24)
    assert torch.equal(data.train_labels, torch.arange(20) % 10)


def test_cifar10_configuration_loads_the_folder_that_is_given(datamodule, cifar_folder):
    data = datamodule("cifar10", f"data.source.folder={cifar_folder}")
    data.setup()
    assert (len(data.train_inputs), len(data.test_inputs), data.in_features) == (20, 4, 3072)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "mnist5000", "cifar10"])
def test_label_noise_is_overridden_by_one_key(datamodule, tmp_path, name):
    folder = [f"data.source.folder={tmp_path}"] if name in ("mnist", "fashion_mnist", "cifar10") else []
    assert datamodule(name, "data.label_noise=0.5", *folder).label_noise == 0.5


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_folder_is_named_before_anything_is_loaded(datamodule, name):
    with pytest.raises(
        InstantiationException, match=r"needs no further arguments.*missing a required argument: 'folder'"
    ):
        datamodule(name)


def test_every_option_is_reached_from_the_command_line(datamodule):
    data = datamodule(
        "digits", "+data.classes=[3,7]", "+data.train_samples=50", "+data.test_samples=20", "+data.size=4",
        "+data.unit_norm=false", "+data.flatten=false", "+data.noise_convention=uniform", "+data.noisy_test=true",
        "++data.batch_size=null", "+data.seed=3", "+data.source.seed=1", "data.label_noise=1.0",
    )  # fmt: skip
    data.setup()
    assert (data.input_shape, data.num_classes) == ((1, 4, 4), 2)
    assert (len(data.train_inputs), len(data.test_inputs), len(data.train_dataloader())) == (50, 20, 1)
    assert 0 < len(data.flipped) < 50


def test_configurations_are_those_of_this_test():
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == {
        "digits", "mnist", "fashion_mnist", "mnist5000", "cifar10", "mixture", "linear_model", "sphere", "dyadic",
    }  # fmt: skip
