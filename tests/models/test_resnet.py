import copy
import math

import pytest
import torch
from torch.nn.functional import conv2d, linear, pad
from torch.testing import assert_close

from lightning_bounds.models import ResNet20

IMAGE = 3 * 32 * 32


def by_hand(network, x):
    """The network from its weights alone, as the paper's figure 3 and option A describe it."""
    W = dict(network.named_parameters())
    x = conv2d(x, W["stem.weight"], W["stem.bias"], padding=1).clamp(min=0)
    for block, channels in enumerate([16, 16, 16, 32, 32, 32, 64, 64, 64]):
        stride = 2 if block in (3, 6) else 1
        name = f"blocks.{block}"
        hidden = conv2d(x, W[f"{name}.first.weight"], W[f"{name}.first.bias"], stride=stride, padding=1).clamp(min=0)
        branch = conv2d(hidden, W[f"{name}.last.weight"], W[f"{name}.last.bias"], padding=1)
        shortcut = x[:, :, ::stride, ::stride]
        shortcut = pad(shortcut, (0, 0, 0, 0, 0, channels - shortcut.shape[1]))
        x = (shortcut + branch).clamp(min=0)
    return linear(x.flatten(2).mean(2), W["output.weight"], W["output.bias"])


@pytest.mark.parametrize("side", [32, 28, 5])
def test_outputs_equal_the_definition_from_the_weights(side):
    network = ResNet20(3 * side**2, 4, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    x = torch.randn(2, 3, side, side)
    assert_close(network(x), by_hand(network, x))


@pytest.mark.parametrize(
    ("batch_norm", "expected"),
    # The convolutions, their 688 biases or twice as many batch norm parameters, and the linear layer.
    [(False, 267_696 + 688 + 650), (True, 267_696 + 2 * 688 + 650)],
)
def test_number_of_parameters_is_the_papers_27_hundredths_of_a_million(batch_norm, expected):
    number = sum(parameter.numel() for parameter in ResNet20(IMAGE, 10, batch_norm).parameters())
    assert number == expected
    assert round(number / 1e6, 2) == 0.27


@pytest.mark.parametrize("batch_norm", [False, True])
def test_there_are_twenty_weighted_layers(batch_norm):
    layers = [m for m in ResNet20(IMAGE, 10, batch_norm).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 20


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_outputs_and_their_gradients_neither_explode_nor_vanish(batch_norm, seed):
    network = ResNet20(IMAGE, 10, batch_norm, seed=seed)
    outputs = network(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    assert 0.1 < float(outputs.detach().square().mean().sqrt()) < 10
    gradients = torch.autograd.grad(outputs.square().mean(), [next(network.stem.parameters()), network.output.weight])
    assert 1e-2 < float(gradients[0].norm() / gradients[1].norm()) < 1e2


@pytest.mark.parametrize("block", range(9))
def test_a_block_raises_the_second_moment_by_at_most_a_ninth_in_expectation_over_its_weights(block):
    blocks = [ResNet20(3 * 8**2, seed=seed).blocks[block] for seed in range(30)]
    x = torch.randn(4, blocks[0].first.in_channels, 8, 8).relu()
    growth = torch.stack([block(x).square().sum() / x.square().sum() for block in blocks]).detach()
    assert float(growth.mean()) <= 1 + 1 / 9 + 5 * float(growth.std()) / math.sqrt(30)
    branch = torch.stack([b.last(torch.relu(b.first(x))).square().sum() for b in blocks]).detach() / x.square().sum()
    # Zeros around the image take some of it; a stage that begins with a stride has half as many entries.
    expected = 1 / 9 / (2 if block in (3, 6) else 1)
    assert 0.6 * expected < float(branch.mean()) <= expected + 5 * float(branch.std()) / math.sqrt(30)


@pytest.mark.parametrize("name", ["stem.weight", "blocks.4.first.weight", "blocks.4.last.weight", "output.weight"])
def test_weights_are_gaussian_with_the_documented_variance(name):
    gain = {"blocks.4.last.weight": 1 / 9, "output.weight": 1.0}.get(name, 2.0)
    draws = torch.stack([dict(ResNet20(IMAGE, 50, seed=seed).named_parameters())[name] for seed in range(8)]).detach()
    g = draws.flatten() / math.sqrt(gain / draws[0, 0].numel())
    # Standard errors of mean, variance and fourth moment of N standard normals: 1, sqrt(2), sqrt(96) over sqrt(N).
    N = g.numel()
    assert abs(float(g.mean())) <= 5 / math.sqrt(N)
    assert abs(float(g.square().mean()) - 1) <= 5 * math.sqrt(2 / N)
    assert abs(float(g.pow(4).mean()) - 3) <= 5 * math.sqrt(96 / N)


def test_scaling_inputs_scales_outputs_while_biases_are_zero():
    network, x = ResNet20(IMAGE, 3, seed=0), torch.randn(2, 3, 32, 32)
    assert_close(network(3 * x), 3 * network(x))


def test_flattened_images_are_images():
    network, x = ResNet20(28 * 28, 3, seed=0), torch.randn(2, 1, 28, 28)
    assert_close(network(x.flatten(1)), network(x), rtol=0, atol=0)


def test_a_seed_means_the_same_network_in_every_precision_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    double = ResNet20(IMAGE, 3, seed=1)
    torch.set_default_dtype(torch.float32)
    single = ResNet20(IMAGE, 3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = copy.deepcopy(double).float().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in single.state_dict().items())
    assert not torch.equal(ResNet20(IMAGE, 3, seed=2).stem.weight, single.stem.weight)


def test_without_a_seed_the_global_state_draws_the_weights():
    torch.manual_seed(7)
    first = ResNet20(IMAGE, 3)
    torch.manual_seed(7)
    second = ResNet20(IMAGE, 3)
    assert torch.equal(first.stem.weight, second.stem.weight)
    assert not torch.equal(ResNet20(IMAGE, 3).stem.weight, first.stem.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 3071}, "H² or 3 H²"),
        ({"in_features": 0}, "`in_features` to be an integer of at least 1, but got 0"),
        ({"in_features": IMAGE, "out_features": 0}, "`out_features`"),
        ({"in_features": IMAGE, "out_features": 2.0}, "but got 2.0"),
        ({"in_features": IMAGE, "seed": -1}, "`seed` to be an integer of at least 0, but got -1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet20(**arguments)
