"""Rows of a convolution with a group for each sample, against automatic differentiation in float64."""

import pytest
import torch
from torch import nn

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian import convolution
from lightning_bounds.jacobian.convolution import write_convolution_rows

SINGLE = torch.float32
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def options_of(layer):
    names = {"kernel": "kernel_size", "stride": "stride", "padding": "padding", "dilation": "dilation"}
    return {**{name: getattr(layer, attribute) for name, attribute in names.items()}, "groups": layer.groups}


def convolution_rows(inputs, gradients, options):
    """Rows, or None if patches are faster."""
    size = gradients[0].shape[1] * inputs.shape[1] // options["groups"] * torch.Size(options["kernel"]).numel()
    out = torch.empty(len(inputs), len(gradients), size, dtype=inputs.dtype)
    return out if write_convolution_rows(out, inputs, gradients, options) else None


def sample_gradients(layer, inputs, gradients):
    """Rows by the weight of each sample alone, in float64."""
    layer, rows = layer.double(), []
    for n in range(len(inputs)):
        for g in gradients:
            outputs = layer(inputs[n : n + 1].double())
            rows.append(torch.autograd.grad(outputs, layer.weight, g[n : n + 1].double())[0].flatten())
    return torch.stack(rows).unflatten(0, (len(inputs), len(gradients)))


@needs_onednn
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 5, "padding": 4, "dilation": 2},
        {"kernel_size": (3, 1), "padding": (2, 0), "stride": (1, 2)},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": "valid", "bias": False},
    ],
    ids=str,
)
def test_rows_are_the_gradients_of_each_sample(arguments, outputs):
    layer = nn.Conv2d(16, 32, **arguments, dtype=SINGLE)
    inputs = torch.randn(3, 16, 33, 36, dtype=SINGLE)
    shape = layer(inputs).shape
    gradients = [torch.randn(shape, dtype=SINGLE) for _ in range(outputs)]
    found = convolution_rows(inputs, gradients, options_of(layer))
    expected = sample_gradients(layer, inputs, gradients)
    assert found.shape == expected.shape
    assert float((found.double() - expected).norm() / expected.norm()) < 1e-6


@needs_onednn
@pytest.mark.parametrize("layout", ["channels last", "every other row"])
def test_inputs_may_lie_in_memory_as_they_like(layout):
    layer, inputs = nn.Conv2d(16, 16, 3, dtype=SINGLE), torch.randn(2, 16, 30, 30, dtype=SINGLE)
    odd = inputs.contiguous(memory_format=torch.channels_last) if layout == "channels last" else inputs[:, :, ::2]
    gradients = [torch.randn(layer(odd).shape, dtype=SINGLE).contiguous(memory_format=torch.channels_last)]
    found = convolution_rows(odd, gradients, options_of(layer))
    torch.testing.assert_close(
        found, convolution_rows(odd.contiguous(), [gradients[0].contiguous()], options_of(layer))
    )


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(16, 16, 3, padding="same", dilation=1), 8),
        (nn.Conv2d(3, 16, 3), 30),
        (nn.Conv2d(16, 10, 3), 30),
        (nn.Conv2d(16, 16, 1), 30),
        (nn.Conv2d(16, 16, 2, padding="same"), 30),
        (nn.Conv2d(32, 32, 3, groups=2), 30),
        (nn.Conv2d(256, 256, 3), 16),
    ],
    ids=["few places", "few channels", "odd outputs", "one place", "uneven padding", "groups", "many weights"],
)
def test_other_convolutions_are_left_to_patches(layer, size):
    inputs = torch.randn(1, layer.in_channels, size, size, dtype=SINGLE)
    gradients = [torch.randn(layer.to(SINGLE)(inputs).shape, dtype=SINGLE)]
    assert convolution_rows(inputs, gradients, options_of(layer)) is None
    assert convolution_rows(inputs.double(), [g.double() for g in gradients], options_of(layer)) is None


def test_onednn_can_be_switched_off():
    layer, inputs = nn.Conv2d(16, 16, 3, dtype=SINGLE), torch.randn(2, 16, 20, 20, dtype=SINGLE)
    with torch.backends.mkldnn.flags(enabled=False):
        assert convolution_rows(inputs, [torch.randn(2, 16, 18, 18, dtype=SINGLE)], options_of(layer)) is None


@needs_onednn
def test_samples_may_be_taken_a_few_at_a_time(monkeypatch):
    layer, inputs = nn.Conv2d(16, 16, 3, dtype=SINGLE), torch.randn(5, 16, 20, 20, dtype=SINGLE)
    gradients = [torch.randn(layer(inputs).shape, dtype=SINGLE) for _ in range(2)]
    whole = convolution_rows(inputs, gradients, options_of(layer))
    monkeypatch.setattr(convolution, "_ENTRIES", 2 * whole[0].numel())
    torch.testing.assert_close(convolution_rows(inputs, gradients, options_of(layer)), whole, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_network_has_the_same_gram_matrix_either_way(monkeypatch):
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 14 * 14, 2)),
    ).to(SINGLE)
    inputs = torch.rand(5, 1, 28, 28, dtype=SINGLE)
    jacobian = JacobianOperator(network, inputs)
    direct = jacobian.gram()
    monkeypatch.setattr(convolution, "_PLACES", 10**9)
    torch.testing.assert_close(direct, JacobianOperator(network, inputs).gram(), rtol=1e-5, atol=1e-7)
    rows = jacobian.rows(0, 5)
    monkeypatch.undo()
    torch.testing.assert_close(jacobian.rows(0, 5), rows, rtol=1e-4, atol=1e-5)
