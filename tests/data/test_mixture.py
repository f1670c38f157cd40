"""Gaussian mixtures: the geometry of their clusters, the spectrum that the theory promises, the same from a seed."""

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds import JacobianOperator
from lightning_bounds.data import ImageDataModule
from lightning_bounds.data.mixture import load, mixture_centers, mixture_samples
from lightning_bounds.models import TwoLayerNetwork
from lightning_bounds.theory import information_space
from lightning_bounds.theory.gaussian import neural_covariance


def unit_rows(data):
    return torch.nn.functional.normalize(data.train_inputs.flatten(1).double(), dim=1)


@pytest.mark.parametrize("min_distance", [0.0, 0.5, 1.3])
def test_centers_have_norm_one_and_keep_their_distance(min_distance):
    centers = mixture_centers(3, 4, 30, min_distance=min_distance, seed=1)
    assert centers.shape == (12, 30)
    assert_close(centers.norm(dim=1), torch.ones(12))
    distances = torch.cdist(centers, centers).fill_diagonal_(math.inf)
    assert float(distances.min()) >= min_distance
    # Without the condition they would not: two centers in the plane are often close.
    assert float(torch.pdist(mixture_centers(1, 20, 2, min_distance=0.0)).min()) < 0.5


def test_the_angles_of_the_centers_are_those_of_uniform_directions():
    centers = mixture_centers(1, 400, 5, min_distance=0.0)
    # E μ μ^T = I/d; the entries of the mean have standard deviation below 1/√400 each.
    assert_close(centers.T @ centers / 400, torch.eye(5) / 5, rtol=0, atol=0.05)
    assert float(centers.mean(dim=0).norm()) < 5 / math.sqrt(400)


def test_samples_without_noise_are_the_centers_of_their_clusters():
    centers = mixture_centers(3, 2, 10)
    samples = mixture_samples(centers, num_classes=3, num_samples=50, sigma=0.0)
    assert torch.equal(samples.inputs, centers[samples.clusters])
    assert [int(label) for label in samples.labels] == [[0, 0, 1, 1, 2, 2][cluster] for cluster in samples.clusters]


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_noise_has_variance_sigma_squared_over_d_in_each_feature(sigma):
    n, d = 4000, 8
    centers = mixture_centers(2, 2, d)
    samples = mixture_samples(centers, num_classes=2, num_samples=n, sigma=sigma)
    noise = samples.inputs - centers[samples.clusters]
    assert_close(noise.T @ noise / n, sigma**2 / d * torch.eye(d), rtol=0, atol=6 * sigma**2 / d / math.sqrt(n))
    assert float(samples.inputs.square().sum(dim=1).mean()) == pytest.approx(1 + sigma**2, abs=0.2 * sigma)


def test_clusters_are_equally_likely():
    counts = mixture_samples(mixture_centers(3, 2, 20), num_classes=3, num_samples=6000, sigma=0.0).clusters.bincount()
    assert int((counts - 1000).abs().max()) < 5 * math.sqrt(1000)
    assert int((counts - 1000).abs().max()) > 0


def test_little_noise_leaves_every_sample_at_its_center():
    centers = mixture_centers(3, 4, 50)
    samples = mixture_samples(centers, num_classes=3, num_samples=500, sigma=0.1)
    assert torch.equal(torch.cdist(samples.inputs, centers).argmin(dim=1), samples.clusters)


def test_the_kernel_without_noise_has_the_rank_and_the_eigenvalues_of_the_theorem():
    K, C = 3, 2
    centers = mixture_centers(K, C, 20)
    samples = mixture_samples(centers, num_classes=K, num_samples=60, sigma=0.0)
    promised = information_space.mixture_spectrum(
        centers, samples.clusters.bincount(minlength=K * C), num_classes=K, activation="softplus"
    )
    eigenvalues = torch.linalg.eigvalsh(neural_covariance(samples.inputs, "softplus"))
    nonzero = eigenvalues[eigenvalues > 1e-9]
    assert K * len(nonzero) == promised.rank == K * K * C
    assert promised.lower * (1 - 1e-9) <= float(nonzero.min()) <= float(nonzero.max()) <= promised.upper * (1 + 1e-9)


def test_noise_of_the_default_leaves_a_gap_after_the_clusters():
    eigenvalues = torch.linalg.eigvalsh(neural_covariance(unit_rows(load()), "softplus")).flip(0)
    ratios = eigenvalues[:-1] / eigenvalues[1:]
    assert int(ratios[5:100].argmax()) + 6 == 12


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_as_many_singular_values_of_the_initial_jacobian_stand_out_as_figure_4_shows(activation):
    # K² C = 36 of them, in units of √(n / KC) those of twice as many samples; the others lie far below.
    network = TwoLayerNetwork(50, 1024, 3, activation=activation, seed=0)
    few, many = (
        torch.linalg.eigvalsh(JacobianOperator(network, unit_rows(load(train_samples=n))).gram()).flip(0) * 12 / n
        for n in (120, 240)
    )
    assert_close(many[:36].sqrt(), few[:36].sqrt(), rtol=0.3, atol=0)
    assert min(float(values[35] / values[36]) ** 0.5 for values in (few, many)) > 3
    assert int((few[:99] / few[1:100]).argmax()) == 35


def test_fewer_samples_are_the_first_and_sigma_stretches_the_noise():
    centers = mixture_centers(2, 2, 10)
    few, many = (mixture_samples(centers, num_classes=2, num_samples=n, sigma=0.5, seed=3) for n in (7, 30))
    assert torch.equal(few.inputs, many.inputs[:7])
    assert torch.equal(few.clusters, many.clusters[:7])
    less = mixture_samples(centers, num_classes=2, num_samples=7, sigma=0.25, seed=3)
    assert_close(2 * (less.inputs - centers[less.clusters]), few.inputs - centers[few.clusters])


def test_loading_is_deterministic_and_leaves_the_global_random_states(rng_untouched):
    with rng_untouched():
        first, again, other = load(seed=1), load(seed=1), load(seed=2)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.test_labels, again.test_labels)
    assert not torch.equal(first.train_inputs, other.train_inputs)


def test_test_samples_do_not_depend_on_the_training_samples():
    assert torch.equal(load(train_samples=30).test_inputs, load(train_samples=60).test_inputs)


def test_training_and_test_samples_are_others_of_the_same_centers():
    data = load(sigma=0.0, num_classes=2, clusters_per_class=2, num_features=10)
    centers = mixture_centers(2, 2, 10).float()
    assert torch.equal(data.train_inputs.flatten(1).unique(dim=0), centers.unique(dim=0))
    assert torch.equal(data.test_inputs.flatten(1).unique(dim=0), centers.unique(dim=0))
    assert not torch.equal(data.train_labels, data.test_labels[: len(data.train_labels)])


def test_the_data_module_makes_rows_of_norm_one_and_adds_label_noise():
    data = ImageDataModule(lambda: load(sigma=0.5), label_noise=0.25)
    data.setup()
    assert (data.in_features, data.num_classes, len(data.flipped)) == (50, 3, 60)
    assert_close(data.train_inputs.norm(dim=1), torch.ones(240, dtype=torch.float32))
    assert data.train_inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 1}, "`num_classes` to be an integer of at least 2, but got 1"),
        ({"clusters_per_class": 0}, "`clusters_per_class` to be an integer of at least 1"),
        ({"num_features": 2.5}, "`num_features` to be an integer"),
        ({"sigma": -0.1}, "`sigma` to be finite, 0 or more, but got -0.1"),
        ({"sigma": math.nan}, "`sigma` to be finite"),
        ({"min_distance": -1.0}, "`min_distance` to be finite, 0 or more"),
        ({"train_samples": 0}, "`num_samples` to be an integer of at least 1, but got 0"),
        ({"seed": -1}, "`seed` to be an integer of at least 0"),
        (
            {"num_features": 2, "min_distance": 1.0},
            "12 centers at least 1 apart in 2 dimensions, but got room for",
        ),
        ({"min_distance": 2.5}, "but got room for 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)


@pytest.mark.parametrize("centers", [torch.ones(5, 3), torch.ones(4), torch.full((4, 3), math.nan), torch.ones(0, 3)])
def test_centers_that_are_no_matrix_of_classes_are_refused(centers):
    with pytest.raises(ValueError, match=r"Expected finite centers \(K\*C, d\)"):
        mixture_samples(centers, num_classes=2, num_samples=3, sigma=0.1)
