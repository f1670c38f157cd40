"""The nearly-linear network: its function, its spectral norms, its draws."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_bounds.models.nearly_linear import LeakyNetwork


def weights(network):
    return [layer.weight.detach() for layer in network.linear_layers]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_outputs_equal_the_definition_in_loops(depth, epsilon):
    network = LeakyNetwork(3, width=4, depth=depth, epsilon=epsilon, beta=0.7, seed=0)
    x = torch.randn(5, 3)
    matrices = [weight.tolist() for weight in weights(network)]

    def output(sample):
        hidden = sample
        for number, matrix in enumerate(matrices):
            hidden = [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in matrix]
            if number < depth - 1:
                hidden = [z - epsilon * min(0.0, z) for z in hidden]
        return hidden

    assert_close(network(x).detach(), torch.tensor([output(sample) for sample in x.tolist()]))


@pytest.mark.parametrize("beta", [1e-3, 0.5])
@pytest.mark.parametrize("rank_one", [False, True])
@pytest.mark.parametrize("depth", [2, 4])
def test_every_layer_has_the_spectral_norm_beta(beta, rank_one, depth):
    network = LeakyNetwork(49, depth=depth, beta=beta, rank_one=rank_one, seed=3)
    norms = [float(torch.linalg.svdvals(weight)[0]) for weight in weights(network)]
    assert norms == pytest.approx([beta] * depth, rel=1e-12)
    assert not any(layer.bias is not None for layer in network.linear_layers)


def test_the_first_layer_of_rank_one_has_rho_one_and_the_leading_directions_of_the_random_one():
    full, rank_one = (LeakyNetwork(49, rank_one=rank_one, beta=1.0, seed=5) for rank_one in (False, True))
    first, approximation = weights(full)[0], weights(rank_one)[0]
    assert float(approximation.norm()) == pytest.approx(1.0, rel=1e-12)
    left, _, right = torch.linalg.svd(first)
    assert_close(approximation, torch.outer(left[:, 0], right[0]), rtol=1e-9, atol=1e-12)
    assert_close(weights(full)[1], weights(rank_one)[1])


def test_rho_of_a_random_layer_is_about_that_of_the_paper():
    rho = [float(weights(LeakyNetwork(49, beta=1.0, seed=seed))[0].norm()) for seed in range(20)]
    # 3.7 on the page; for large layers, by the law of Marchenko and Pastur, sqrt(64 * 49) / (8 + 7).
    assert sum(rho) / 20 == pytest.approx(math.sqrt(64 * 49) / 15, rel=0.05)


@pytest.mark.parametrize("kind", ["linear", "relu"])
def test_the_ends_of_epsilon_are_the_linear_and_the_relu_network(kind):
    network = LeakyNetwork(6, width=9, depth=3, epsilon=float(kind == "relu"), beta=1.0, seed=1)
    activation = {"linear": nn.Identity(), "relu": nn.ReLU()}[kind]
    first, second, third = network.linear_layers
    x = torch.randn(8, 6)
    assert_close(network(x), nn.Sequential(first, activation, second, activation, third)(x))


def test_images_are_flattened():
    network = LeakyNetwork(12, width=5, seed=0)
    images = torch.randn(4, 1, 3, 4)
    assert_close(network(images), network(images.flatten(1)), rtol=0, atol=0)


def test_a_seed_leaves_the_global_state_alone_and_means_the_same_network_in_every_precision():
    before = torch.get_rng_state()
    double = weights(LeakyNetwork(5, seed=7))
    torch.set_default_dtype(torch.float32)
    single = weights(LeakyNetwork(5, seed=7))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    assert [weight.dtype for weight in single] == [torch.float32] * 2
    assert_close(single, [weight.float() for weight in double], rtol=0, atol=0)


def test_without_a_seed_the_global_state_draws():
    torch.manual_seed(4)
    first = weights(LeakyNetwork(5))
    assert any(not torch.equal(a, b) for a, b in zip(first, weights(LeakyNetwork(5)), strict=True))
    torch.manual_seed(4)
    assert_close(weights(LeakyNetwork(5)), first, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("in_features", 0, "`in_features` to be an integer of at least 1"),
        ("width", 2.5, "`width` to be an integer of at least 1"),
        ("depth", 1, "`depth` to be an integer of at least 2"),
        ("epsilon", 1.5, r"`epsilon` in \[0, 1\]"),
        ("epsilon", -0.1, "`epsilon` to be finite, 0 or more"),
        ("epsilon", math.nan, "`epsilon` to be finite, 0 or more"),
        ("beta", 0.0, "`beta` to be positive"),
        ("beta", math.inf, "`beta` to be positive and finite"),
        ("out_features", 0, "`out_features` to be an integer of at least 1"),
        ("seed", -1, "`seed` to be an integer of at least 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(argument, value, message):
    with pytest.raises(ValueError, match=message):
        LeakyNetwork(**{"in_features": 4, argument: value})
