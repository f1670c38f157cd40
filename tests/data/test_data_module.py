import copy
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch

from lightning_bounds.data import ImageDataModule, digits
from lightning_bounds.data.label_noise import flip_labels
from lightning_bounds.data.transforms import block_mean, select_classes, subsample, unit_norm

KNOWN_AFTER_SETUP = [
    "in_features", "input_shape", "num_classes", "train_inputs", "train_labels", "original_labels", "flipped",
    "test_inputs", "test_labels", "test_original_labels",
]  # fmt: skip


def test_preparation_is_the_documented_sequence_of_steps(numbered_images, ready):
    datamodule = ready(classes=[2, 0], train_samples=20, size=2, label_noise=0.3, seed=5)
    source = numbered_images()
    inputs, labels = select_classes(source.train_inputs, source.train_labels, [2, 0])
    inputs, labels = subsample(inputs, labels, 20, datamodule.train_seed)
    inputs = unit_norm(block_mean(inputs, 2)).flatten(1)
    noisy = flip_labels(labels, 0.3, 2, "different", datamodule.train_noise_seed)
    torch.testing.assert_close(datamodule.train_inputs, inputs, rtol=0, atol=0)
    assert torch.equal(datamodule.original_labels, labels)
    assert torch.equal(datamodule.train_labels, noisy.labels)
    assert torch.equal(datamodule.flipped, noisy.flipped)


def test_defaults_keep_all_samples_as_unit_vectors_with_their_labels(numbered_images, ready):
    datamodule, source = ready(), numbered_images()
    assert (datamodule.in_features, datamodule.input_shape, datamodule.num_classes) == (32, (32,), 4)
    torch.testing.assert_close(datamodule.train_inputs.norm(dim=1), torch.ones(60, dtype=torch.float32))
    torch.testing.assert_close(datamodule.test_inputs, unit_norm(source.test_inputs).flatten(1))
    assert torch.equal(datamodule.train_labels, source.train_labels)
    assert torch.equal(datamodule.test_labels, source.test_labels)
    assert datamodule.flipped.tolist() == []


def test_images_stay_images_without_flattening_and_unit_norm(numbered_images, ready):
    datamodule = ready(flatten=False, unit_norm=False)
    assert (datamodule.in_features, datamodule.input_shape) == (32, (2, 4, 4))
    torch.testing.assert_close(datamodule.train_inputs, numbered_images().train_inputs, rtol=0, atol=0)


def test_unit_norm_is_over_all_features_of_an_image(ready):
    inputs = ready(flatten=False, size=2).test_inputs
    torch.testing.assert_close(inputs.square().sum(dim=(1, 2, 3)), torch.ones(30, dtype=torch.float32))


@pytest.mark.parametrize(("options", "sizes"), [({}, (60, 30)), ({"train_samples": 7, "test_samples": 9}, (7, 9))])
def test_both_parts_have_the_number_of_samples_asked_for(options, sizes, ready):
    datamodule = ready(**options)
    assert (len(datamodule.train_inputs), len(datamodule.test_inputs)) == sizes
    assert (len(datamodule.original_labels), len(datamodule.test_original_labels)) == sizes


def test_labels_differ_from_the_original_ones_exactly_where_flipped(ready):
    datamodule = ready(label_noise=0.25)
    wrong = (datamodule.train_labels != datamodule.original_labels).nonzero().flatten()
    assert torch.equal(wrong, datamodule.flipped)
    assert len(wrong) == 15


def test_uniform_noise_leaves_some_of_the_chosen_labels_right(ready):
    assert 0 < len(ready(label_noise=1.0, noise_convention="uniform").flipped) < 60


@pytest.mark.parametrize(("noisy_test", "num_wrong"), [(False, 0), (True, 15)])
def test_test_labels_are_noisy_only_if_asked_for(noisy_test, num_wrong, numbered_images, ready):
    datamodule = ready(label_noise=0.5, noisy_test=noisy_test)
    assert int((datamodule.test_labels != datamodule.test_original_labels).sum()) == num_wrong
    assert torch.equal(datamodule.test_original_labels, numbered_images().test_labels)


def test_another_label_noise_meets_the_same_images(ready):
    clean, noisy = ready(train_samples=20), ready(train_samples=20, label_noise=0.5)
    assert torch.equal(clean.train_inputs, noisy.train_inputs)
    assert torch.equal(clean.original_labels, noisy.original_labels)


def test_draws_of_one_seed_are_independent_and_differ_between_seeds(numbered_images):
    seeds = ["train_seed", "test_seed", "train_noise_seed", "test_noise_seed", "order_seed"]
    drawn = [getattr(ImageDataModule(numbered_images, seed=seed), name) for seed in range(20) for name in seeds]
    assert len(set(drawn)) == 100


@pytest.mark.parametrize("option", [{"train_samples": 20}, {"label_noise": 0.5}])
def test_seed_decides_the_draws(option, ready):
    first, again, other = [ready(seed=seed, **option) for seed in (1, 1, 2)]
    torch.testing.assert_close(first.train_inputs, again.train_inputs, rtol=0, atol=0)
    assert torch.equal(first.train_labels, again.train_labels)
    assert not torch.equal(first.train_labels, other.train_labels)


def test_data_is_loaded_once(numbered_images):
    calls = []

    def source():
        calls.append(1)
        return numbered_images()

    datamodule = ImageDataModule(source, label_noise=0.5)
    datamodule.setup("fit")
    labels = datamodule.train_labels
    datamodule.setup("test")
    assert len(calls) == 1
    assert datamodule.train_labels is labels


def test_source_with_arguments_is_a_partial_function(numbered_images):
    datamodule = ImageDataModule(partial(numbered_images, num_train=8))
    datamodule.setup()
    assert len(datamodule.train_inputs) == 8


@pytest.mark.parametrize("name", KNOWN_AFTER_SETUP)
def test_what_comes_from_the_data_is_an_error_before_set_up(name, numbered_images):
    with pytest.raises(AttributeError, match=rf"Expected `setup` before `{name}` is read; call `datamodule.setup\(\)`"):
        getattr(ImageDataModule(numbered_images), name)


def test_unknown_attribute_is_an_ordinary_error(ready):
    with pytest.raises(AttributeError, match="'ImageDataModule' object has no attribute 'trian_inputs'"):
        _ = ready().trian_inputs


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_have_the_same_data(copied):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    datamodule = ImageDataModule(digits.load, label_noise=0.5)
    datamodule.setup()
    assert torch.equal(copied(datamodule).train_labels, datamodule.train_labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_samples": 0}, "`train_samples` to be a positive integer or None, but got 0"),
        ({"test_samples": -3}, "`test_samples` to be a positive integer or None, but got -3"),
        ({"size": 2.0}, "`size` to be a positive integer or None, but got 2.0"),
        ({"batch_size": "all"}, "`batch_size` to be a positive integer or None, but got 'all'"),
        ({"classes": []}, r"`classes` to be a list of two or more different classes, but got \[\]"),
        ({"classes": [1]}, r"two or more different classes, but got \[1\]"),
        ({"classes": [1, 2, 1]}, r"two or more different classes, but got \[1, 2, 1\]"),
        ({"classes": 3}, "two or more different classes, but got 3"),
        ({"label_noise": 25}, r"in \[0, 1\], but got 25"),
        ({"noise_convention": "same"}, "'different' or 'uniform', but got 'same'"),
        ({"seed": -1}, "`seed` to be a non-negative integer, but got -1"),
        ({"seed": 0.5}, "`seed` to be a non-negative integer, but got 0.5"),
    ],
)
def test_arguments_out_of_range_are_refused_by_the_constructor(options, message, numbered_images):
    with pytest.raises(ValueError, match=message):
        ImageDataModule(numbered_images, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": [0, 9]}, r"among \[0, 1, 2, 3\], but got \[0, 9\]"),
        ({"train_samples": 61}, "as there are 60 samples, but got 61"),
        ({"test_samples": 31}, "as there are 30 samples, but got 31"),
        ({"size": 3}, r"among \[1, 2, 4\], which divide 4 x 4 pixels, but got 3"),
    ],
)
def test_arguments_that_do_not_fit_the_data_are_refused_by_set_up(options, message, numbered_images):
    datamodule = ImageDataModule(numbered_images, **options)
    with pytest.raises(ValueError, match=message):
        datamodule.setup()


def test_source_that_is_already_loaded_is_refused_with_a_hint(numbered_images):
    with pytest.raises(
        TypeError, match="a function that loads images, but got ImageData; in YAML, set `_partial_: true`"
    ):
        ImageDataModule(numbered_images())


def test_source_that_needs_arguments_is_refused_with_their_name(numbered_images):
    with pytest.raises(TypeError, match=r"no further arguments.*missing a required argument: 'folder'; bind it with"):
        ImageDataModule(lambda folder: numbered_images())


def test_source_that_returns_something_else_is_refused():
    datamodule = ImageDataModule(lambda: (1, 2))
    with pytest.raises(TypeError, match="to return ImageData, but got tuple"):
        datamodule.setup()


def test_malformed_data_of_a_source_is_refused(numbered_images):
    broken = numbered_images()._replace(num_classes=3)
    datamodule = ImageDataModule(lambda: broken)
    with pytest.raises(ValueError, match=r"training labels in 0\.\.2.*sample 3 has label 3"):
        datamodule.setup()


def test_blank_images_are_refused_with_unit_norm_only(numbered_images):
    data = numbered_images()
    data.train_inputs[5] = 0
    ImageDataModule(lambda: data, unit_norm=False).setup()
    with pytest.raises(ValueError, match=r"samples \[5\] are zero"):
        ImageDataModule(lambda: data).setup()


def test_importing_the_package_does_not_import_the_packages_of_its_sources():
    code = "import sys, lightning_bounds.data; print([name for name in ('sklearn', 'mlxtend') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
