import pytest
import torch

from lightning_bounds.data import transforms


def images(n, channels=1, height=4, width=4):
    return torch.arange(float(n * channels * height * width)).reshape(n, channels, height, width) + 1


def naive_block_mean(inputs, size):
    block = inputs.shape[-1] // size
    means = inputs.new_empty(*inputs.shape[:2], size, size)
    for i in range(size):
        for j in range(size):
            patch = inputs[:, :, i * block : (i + 1) * block, j * block : (j + 1) * block]
            means[:, :, i, j] = patch.mean(dim=(2, 3))
    return means


@pytest.mark.parametrize("classes", [[0, 1], [1, 0], [2, 0, 1], [2]])
def test_selected_classes_are_those_of_a_loop_over_the_samples(classes):
    inputs, labels = images(12), torch.tensor([0, 1, 2, 0, 0, 2, 1, 1, 2, 0, 1, 2])
    kept = [i for i in range(12) if int(labels[i]) in classes]
    selected = transforms.select_classes(inputs, labels, classes)
    torch.testing.assert_close(selected.inputs, inputs[kept])
    assert selected.labels.tolist() == [classes.index(int(labels[i])) for i in kept]


def test_selecting_all_classes_in_order_changes_nothing():
    inputs, labels = images(6), torch.tensor([2, 0, 1, 1, 0, 2])
    torch.testing.assert_close(transforms.select_classes(inputs, labels, [0, 1, 2]), (inputs, labels))


@pytest.mark.parametrize("classes", [[], [0, 0], [0, 5], [-1]])
def test_classes_that_cannot_be_selected_are_refused_with_the_available_ones(classes):
    with pytest.raises(ValueError, match=r"different classes among \[0, 2, 3\], but got"):
        transforms.select_classes(images(3), torch.tensor([3, 0, 2]), classes)


def test_subsample_is_without_replacement_in_order_and_keeps_the_labels():
    drawn = transforms.subsample(images(50), torch.arange(50), count=20, seed=1)
    assert drawn.labels.tolist() == sorted(set(drawn.labels.tolist()))
    torch.testing.assert_close(drawn.inputs, images(50)[drawn.labels])
    assert len(drawn.labels) == 20


def test_subsample_of_all_samples_is_the_identity():
    torch.testing.assert_close(
        transforms.subsample(images(7), torch.arange(7), 7, seed=3), (images(7), torch.arange(7))
    )


def test_subsamples_of_one_seed_are_nested():
    small, large = [
        set(transforms.subsample(images(50), torch.arange(50), n, seed=2).labels.tolist()) for n in (10, 30)
    ]
    assert small < large


def test_subsample_draws_all_samples_equally_often():
    draws = [transforms.subsample(torch.arange(10), torch.arange(10), 3, seed).labels for seed in range(2000)]
    torch.testing.assert_close(
        torch.cat(draws).bincount() / 2000, torch.full((10,), 0.3), atol=0.045, rtol=0
    )  # 4.4 standard deviations


def test_subsample_depends_on_its_seed_alone(rng_untouched):
    inputs, labels = images(50), torch.arange(50)
    with rng_untouched():
        first, again, other = [transforms.subsample(inputs, labels, 20, seed).labels for seed in (1, 1, 2)]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, -1, 8])
def test_subsample_of_more_than_all_or_none_is_refused_with_both_numbers(count):
    with pytest.raises(ValueError, match=rf"in 1\.\.7, as there are 7 samples, but got {count}"):
        transforms.subsample(images(7), torch.arange(7), count, seed=0)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 8, 8), (1, 1)])
def test_unit_norm_divides_every_sample_by_its_norm(shape):
    inputs = torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)
    normalized = transforms.unit_norm(inputs)
    naive = torch.stack([sample / sample.square().sum().sqrt() for sample in inputs])
    torch.testing.assert_close(normalized, naive)
    torch.testing.assert_close(normalized.flatten(1).norm(dim=1), torch.ones(shape[0]))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
def test_unit_norm_ignores_the_scale_also_in_float32(scale):
    inputs = images(4).to(torch.float32)
    torch.testing.assert_close(transforms.unit_norm(inputs * scale), transforms.unit_norm(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_norm_keeps_the_type(dtype):
    assert transforms.unit_norm(images(2).to(dtype)).dtype == dtype


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_samples_without_a_direction_are_named(bad):
    inputs = images(5)
    inputs[1], inputs[3] = 0.0, bad
    with pytest.raises(ValueError, match=r"samples \[1, 3\] are zero or not finite"):
        transforms.unit_norm(inputs)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 14, 28])
def test_block_mean_is_the_loop_over_blocks(size):
    inputs = images(2, channels=3, height=28, width=28).sin()
    torch.testing.assert_close(transforms.block_mean(inputs, size), naive_block_mean(inputs, size))


def test_block_mean_is_average_pooling_of_wide_images():
    inputs = images(2, height=4, width=6)
    torch.testing.assert_close(transforms.block_mean(inputs, 2), torch.nn.functional.avg_pool2d(inputs, (2, 3)))


def test_block_mean_keeps_the_mean_of_every_image():
    inputs = images(3, channels=2, height=8, width=8).cos()
    torch.testing.assert_close(transforms.block_mean(inputs, 4).mean(dim=(2, 3)), inputs.mean(dim=(2, 3)))


@pytest.mark.parametrize("size", [0, -2, 3, 5, 8, 24])
def test_size_that_does_not_divide_is_refused_with_the_sizes_that_do(size):
    with pytest.raises(ValueError, match=rf"among \[1, 2, 4\], which divide 12 x 8 pixels, but got {size}"):
        transforms.block_mean(images(2, height=12, width=8), size)


def test_block_mean_of_vectors_is_refused():
    with pytest.raises(ValueError, match=r"images of shape \(n, C, H, W\), but got shape \(2, 16\)"):
        transforms.block_mean(torch.ones(2, 16), 2)
