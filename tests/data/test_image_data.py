import pytest
import torch

from lightning_bounds.data.image_data import ImageData, checked, random_split


@pytest.fixture
def data():
    return ImageData(
        train_inputs=torch.arange(48.0).reshape(3, 1, 4, 4) / 48,
        train_labels=torch.tensor([0, 1, 2]),
        test_inputs=torch.arange(32.0).reshape(2, 1, 4, 4) / 32,
        test_labels=torch.tensor([2, 0]),
        num_classes=3,
    )


def test_well_formed_data_passes_unchanged(data):
    assert checked(data) is data


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["train", "test"])
def test_samples_that_are_not_finite_are_named(data, part, bad):
    inputs = getattr(data, f"{part}_inputs").clone()
    inputs[1, 0, 2, 3] = bad
    with pytest.raises(ValueError, match=rf"Expected finite {part}\w* images, but samples \[1\] have NaN or infinite"):
        checked(data._replace(**{f"{part}_inputs": inputs}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_inputs": torch.ones(3, 16)}, r"training images as floats of shape \(n, C, H, W\).*\(3, 16\)"),
        ({"train_inputs": torch.ones(3, 1, 4, 4).byte()}, "training images as floats.*torch.uint8"),
        ({"test_inputs": torch.ones(0, 1, 4, 4)}, r"test images.*at least one pixel.*\(0, 1, 4, 4\)"),
        ({"train_labels": torch.tensor([0, 1])}, r"one int64 class for each of the 3 images.*\(2,\)"),
        ({"test_labels": torch.tensor([0.0, 1.0])}, "test labels as one int64 class.*float"),
        ({"train_labels": torch.tensor([0, 3, 1])}, r"training labels in 0\.\.2.*sample 1 has label 3"),
        ({"test_labels": torch.tensor([0, -1])}, r"test labels in 0\.\.2.*sample 1 has label -1"),
        ({"test_inputs": torch.ones(2, 1, 4, 2)}, r"equal shape.*\(1, 4, 4\) and \(1, 4, 2\)"),
    ],
)
def test_malformed_data_is_refused_with_what_was_found(data, change, message):
    with pytest.raises(ValueError, match=message):
        checked(data._replace(**change))


@pytest.mark.parametrize(
    ("n", "fraction", "num_test"), [(10, 0.2, 2), (10, 0.25, 3), (1797, 0.2, 360), (5000, 0.2, 1000), (2, 0.5, 1)]
)
def test_split_has_the_documented_sizes_and_uses_every_image_once(n, fraction, num_test):
    inputs = torch.arange(float(n)).reshape(n, 1, 1, 1)
    data = random_split(inputs, torch.arange(n) % 2, num_classes=2, test_fraction=fraction)
    together = torch.cat([data.train_inputs, data.test_inputs]).flatten()
    assert len(data.test_inputs) == num_test
    torch.testing.assert_close(together.sort().values, torch.arange(float(n)))


def test_split_keeps_images_and_labels_together():
    numbers = torch.arange(50)
    data = random_split(numbers.float().reshape(50, 1, 1, 1), numbers % 7, num_classes=7)
    torch.testing.assert_close(data.train_inputs.flatten().long() % 7, data.train_labels)
    torch.testing.assert_close(data.test_inputs.flatten().long() % 7, data.test_labels)


def test_split_depends_on_its_seed_alone(rng_untouched):
    inputs, labels = torch.arange(100.0).reshape(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64)
    with rng_untouched():
        first, again, other = [random_split(inputs, labels, 1, seed=seed) for seed in (3, 3, 4)]
    torch.testing.assert_close(first.test_inputs, again.test_inputs)
    assert not torch.equal(first.test_inputs, other.test_inputs)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, 0.95, float("nan")])
def test_split_with_an_empty_part_is_refused(fraction):
    with pytest.raises(ValueError, match=rf"`test_fraction` in \(0, 1\).*10 images.*but got {fraction}"):
        random_split(torch.ones(10, 1, 1, 1), torch.zeros(10).long(), 1, test_fraction=fraction)


def test_split_of_images_and_labels_of_other_number_is_refused():
    with pytest.raises(ValueError, match="10 images and 9 labels"):
        random_split(torch.ones(10, 1, 1, 1), torch.zeros(9).long(), 1)
