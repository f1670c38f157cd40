"""Whitened images of two groups of classes."""

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.data import ImageData, ImageDataModule, digits
from lightning_bounds.data.transforms import block_mean
from lightning_bounds.data.whitened import WhitenedImageDataModule, group_classes


def images(n=40, side=4, dead=0, classes=10, seed=0):
    """Random images, of which the first ``dead`` pixels are always black in training."""
    generator = torch.Generator().manual_seed(seed)
    train, test = (torch.rand(count, 1, side, side, generator=generator) for count in (n, 15))
    train.flatten(1)[:, :dead] = 0
    labels = torch.arange(n) % classes
    return ImageData(train, labels, test, torch.arange(15) % classes, classes)


def prepared(source=images, **arguments):
    data = WhitenedImageDataModule(source, **arguments)
    data.setup()
    return data


def test_training_inputs_have_the_identity_as_second_moment_and_are_not_centered():
    data = prepared()
    assert_close(data.train_inputs.T @ data.train_inputs / 40, torch.eye(16))
    # Pixels in [0, 1] are far from their mean being zero.
    assert float(data.train_inputs.mean(dim=0).norm()) > 0.5


def test_test_inputs_go_through_the_transform_of_the_training_inputs():
    data, raw = prepared(), images()
    train = raw.train_inputs.flatten(1)
    moment = train.T @ train / 40
    # Inner products after any whitening are those in the inverse second moment.
    expected = raw.test_inputs.flatten(1) @ torch.linalg.inv(moment) @ raw.test_inputs.flatten(1).T
    assert_close(data.test_inputs @ data.test_inputs.T, expected)
    assert data.test_energy == pytest.approx(float(expected.diagonal().mean()) / 16)
    assert data.test_energy_outside == pytest.approx(0, abs=1e-12)


def test_dead_pixels_are_dropped_also_where_test_images_light_them():
    data = prepared(lambda: images(dead=3))
    raw = images(dead=3)
    assert (data.in_features, data.input_shape, data.whitening.rank) == (13, (13,), 13)
    assert_close(data.train_inputs.T @ data.train_inputs / 40, torch.eye(13))
    without = images(dead=3)
    without.test_inputs.flatten(1)[:, :3] = 0
    assert_close(data.test_inputs, prepared(lambda: without).test_inputs)
    lit = raw.test_inputs.flatten(1)
    assert data.test_energy_outside == pytest.approx(float(lit[:, :3].square().sum() / lit.square().sum()))


def test_the_first_group_has_label_zero_and_classes_in_no_group_are_left_out():
    inputs, labels = group_classes(torch.arange(7), torch.tensor([0, 5, 2, 9, 2, 5, 0]), [[5, 9], [0]])
    assert inputs.tolist() == [0, 1, 3, 5, 6]
    assert labels.tolist() == [1, 0, 0, 0, 1]


def test_the_digits_five_to_nine_stand_against_zero_to_four():
    data = prepared(lambda: images(n=20))
    assert data.num_classes == 2
    assert data.train_labels.tolist() == [1] * 5 + [0] * 5 + [1] * 5 + [0] * 5


@pytest.mark.parametrize("size", [1, 2])
def test_images_are_reduced_by_block_means_before_whitening(size):
    data = prepared(size=size)
    raw = images()
    reduced = raw._replace(
        train_inputs=block_mean(raw.train_inputs, size), test_inputs=block_mean(raw.test_inputs, size)
    )
    assert data.in_features == size**2
    assert_close(data.train_inputs, prepared(lambda: reduced).train_inputs)


def test_whitening_is_in_double_precision_also_for_single_precision_images():
    raw = images()
    # A condition number of 1e8 and more of the second moment, beyond float32.
    scales = torch.logspace(0, -4, 16, dtype=torch.float32).reshape(4, 4)
    single = raw._replace(train_inputs=raw.train_inputs.float() * scales, test_inputs=raw.test_inputs.float() * scales)
    data = prepared(lambda: single)
    assert data.train_inputs.dtype == data.test_inputs.dtype == torch.float32
    inputs = data.train_inputs.double()
    assert float((inputs.T @ inputs / 40 - torch.eye(16)).abs().max()) < 1e-6


def test_label_noise_flips_groups_not_classes():
    data = prepared(label_noise=0.25)
    assert len(data.flipped) == 10
    assert_close(data.train_labels[data.flipped], 1 - data.original_labels[data.flipped])


def test_the_whole_training_set_is_one_batch_in_its_order_equal_to_that_of_the_images():
    data = prepared()
    (batch,) = list(data.train_dataloader())
    assert_close(batch, [data.train_inputs, data.train_labels, data.original_labels], rtol=0, atol=0)
    plain = ImageDataModule.train_dataloader(data)
    assert_close(next(iter(plain)), batch, rtol=0, atol=0)
    # A probe picks samples one by one and collates them itself.
    loader = data.train_dataloader()
    assert_close(loader.collate_fn([loader.dataset[i] for i in (1, 3)])[0], data.train_inputs[[1, 3]], rtol=0, atol=0)


def test_smaller_batches_are_shuffled_as_for_images():
    batches = list(prepared(batch_size=16).train_dataloader())
    assert [len(batch[1]) for batch in batches] == [16, 16, 8]


def test_real_digits_are_white_and_nothing_random_moves(rng_untouched):
    with rng_untouched():
        data = prepared(digits.load)
        list(data.train_dataloader())
    # Of 64 pixels some are always black.
    assert data.in_features == torch.linalg.matrix_rank(digits.load().train_inputs.flatten(1).double())
    inputs = data.train_inputs.double()
    assert_close(inputs.T @ inputs / len(inputs), torch.eye(data.in_features), rtol=0, atol=1e-6)
    assert 1 < data.test_energy < 1.5


@pytest.mark.parametrize(
    "groups", [[[1, 2]], [[1], []], [[1, 2], [2, 3]], [[1, 1], [2]]], ids=["one", "empty", "overlap", "twice"]
)
def test_groups_that_are_none_are_refused(groups):
    with pytest.raises(ValueError, match="`groups` of at least two disjoint lists"):
        WhitenedImageDataModule(images, groups=groups)


def test_a_group_without_samples_is_named():
    with pytest.raises(ValueError, match=r"none of \[\[11\]\]"):
        prepared(groups=[[1], [11]])


def test_other_sources_and_arguments_are_refused_as_for_images():
    with pytest.raises(TypeError, match="to return ImageData"):
        prepared(lambda: 3)
    with pytest.raises(TypeError, match="`source` to be a function"):
        WhitenedImageDataModule(3)
    with pytest.raises(AttributeError, match="`setup` before `train_inputs`"):
        _ = WhitenedImageDataModule(images).train_inputs
