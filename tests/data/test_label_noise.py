import pytest
import torch

from lightning_bounds.data.label_noise import check_noise, flip_labels


@pytest.mark.parametrize("convention", ["different", "uniform"])
@pytest.mark.parametrize(
    ("n", "fraction", "count"),
    [(100, 0.25, 25), (100, 0.29, 29), (10, 0.0, 0), (10, 1.0, 10), (7, 0.5, 4), (3, 0.1, 0)],
)
def test_exactly_the_rounded_portion_is_chosen(n, fraction, count, convention):
    noisy = flip_labels(torch.arange(n) % 3, fraction, num_classes=3, convention=convention)
    assert len(noisy.selected) == len(set(noisy.selected.tolist())) == count


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_different_labels_are_wrong_for_all_chosen_samples_and_for_no_other(num_classes):
    labels = torch.arange(500) % num_classes
    noisy = flip_labels(labels, 0.4, num_classes)
    wrong = [i for i in range(500) if int(noisy.labels[i]) != int(labels[i])]
    assert noisy.flipped.tolist() == noisy.selected.tolist() == wrong
    assert 0 <= int(noisy.labels.min()) <= int(noisy.labels.max()) < num_classes


def test_different_labels_are_uniform_over_the_other_classes():
    noisy = flip_labels(torch.full((9000,), 1), 1.0, num_classes=4)
    counts = noisy.labels.bincount(minlength=4).tolist()
    assert counts[1] == 0
    assert [counts[0], counts[2], counts[3]] == pytest.approx([3000] * 3, abs=180)  # 4 standard deviations


def test_uniform_labels_are_uniform_over_all_classes():
    noisy = flip_labels(torch.full((8000,), 1), 1.0, num_classes=4, convention="uniform")
    assert noisy.labels.bincount(minlength=4).tolist() == pytest.approx([2000] * 4, abs=160)


@pytest.mark.parametrize(("convention", "portion"), [("different", 0.5), ("uniform", 0.25)])
def test_half_noise_on_two_classes_flips_a_half_or_a_quarter(convention, portion):
    noisy = flip_labels(torch.arange(10000) % 2, 0.5, num_classes=2, convention=convention)
    assert len(noisy.flipped) / 10000 == pytest.approx(portion, abs=0.015 if convention == "uniform" else 0)


def test_flipped_samples_of_uniform_noise_are_those_of_the_chosen_that_changed():
    labels = torch.arange(600) % 3
    noisy = flip_labels(labels, 0.5, num_classes=3, convention="uniform")
    assert noisy.flipped.tolist() == [i for i in noisy.selected.tolist() if int(noisy.labels[i]) != int(labels[i])]
    assert set(noisy.flipped.tolist()) < set(noisy.selected.tolist())


@pytest.mark.parametrize("convention", ["different", "uniform"])
def test_every_sample_is_chosen_equally_often(convention):
    draws = [flip_labels(torch.zeros(10).long(), 0.3, 2, convention, seed).selected for seed in range(2000)]
    torch.testing.assert_close(
        torch.cat(draws).bincount() / 2000, torch.full((10,), 0.3), atol=0.045, rtol=0
    )  # 4.4 standard deviations


@pytest.mark.parametrize("convention", ["different", "uniform"])
def test_noise_of_a_smaller_fraction_is_part_of_that_of_a_larger_one(convention):
    labels = torch.arange(200) % 5
    less, more = [flip_labels(labels, fraction, 5, convention, seed=7) for fraction in (0.25, 0.75)]
    torch.testing.assert_close(more.labels[less.selected], less.labels[less.selected])
    assert set(less.flipped.tolist()) < set(more.flipped.tolist())


@pytest.mark.parametrize("convention", ["different", "uniform"])
def test_noise_depends_on_its_seed_alone(convention, rng_untouched):
    labels = torch.arange(200) % 5
    with rng_untouched():
        first, again, other = [flip_labels(labels, 0.5, 5, convention, seed).labels for seed in (0, 0, 1)]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_that_were_given_are_not_changed():
    labels = torch.arange(20) % 2
    before = labels.clone()
    flip_labels(labels, 1.0, 2)
    assert torch.equal(labels, before)


def test_no_noise_is_the_identity():
    noisy = flip_labels(torch.arange(20) % 2, 0.0, 2)
    assert torch.equal(noisy.labels, torch.arange(20) % 2)
    assert noisy.flipped.shape == noisy.selected.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": -0.1}, r"in \[0, 1\], but got -0.1"),
        ({"fraction": 1.01}, r"in \[0, 1\], but got 1.01"),
        ({"fraction": float("nan")}, r"in \[0, 1\], but got nan"),
        ({"num_classes": 1}, "at least 2, or no label can be wrong, but got 1"),
        ({"convention": "random"}, "`convention` 'different' or 'uniform', but got 'random'"),
        ({"labels": torch.tensor([0, 3])}, r"labels in 0\.\.2, as there are 3 classes, but sample 1 has label 3"),
        ({"labels": torch.tensor([-1, 0])}, "sample 0 has label -1"),
        ({"labels": torch.tensor([0.0, 1.0])}, "integer classes of shape.*float"),
        ({"labels": torch.tensor([True])}, "integer classes of shape.*bool"),
        ({"labels": torch.tensor([[0, 1]])}, r"integer classes of shape.*\(1, 2\)"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_was_found(change, message):
    with pytest.raises(ValueError, match=message):
        flip_labels(**{"labels": torch.tensor([0, 1]), "fraction": 0.5, "num_classes": 3, **change})


@pytest.mark.parametrize(("fraction", "convention"), [(0, "different"), (1, "uniform"), (0.5, "different")])
def test_both_conventions_pass_with_every_portion(fraction, convention):
    check_noise(fraction, convention)
