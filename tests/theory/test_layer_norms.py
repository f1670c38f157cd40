"""Norms of weights: singular values, products over layers, and what scaling a network does to them."""

import math

import pytest
import torch
from torch import nn

from lightning_bounds.theory.layer_norms import norm_products, spectral_norm, weight_matrix
from lightning_bounds.theory.margin import output_margins

SHAPES = [(4, 4), (3, 9), (9, 3), (1, 5), (5, 1), (6, 3, 2, 2), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_is_a_matrix_with_one_row_per_output(shape):
    weight = torch.randn(shape, dtype=torch.float32, requires_grad=True)
    matrix = weight_matrix(weight)
    assert (matrix.dtype, matrix.requires_grad) == (torch.float64, False)
    assert torch.equal(matrix, torch.stack([row.flatten() for row in weight.detach().double()]))


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_norm_is_the_largest_singular_value(shape):
    weight = torch.randn(shape)
    expected = torch.linalg.svdvals(weight.reshape(shape[0], -1))[0]
    torch.testing.assert_close(spectral_norm(weight), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_norm_is_the_most_that_a_vector_is_stretched(shape):
    weight = torch.randn(shape)
    matrix = weight_matrix(weight)
    inputs = torch.randn(matrix.shape[1], 200)
    assert float(((matrix @ inputs).norm(dim=0) / inputs.norm(dim=0)).max()) <= float(spectral_norm(weight)) * (
        1 + 1e-12
    )


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.diag(torch.tensor([-3.0, 2.0])), 3.0),
        (torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([5.0, 12.0])), 65.0),
        (torch.zeros(3, 2), 0.0),
        (torch.ones(2, 2, 2), 8**0.5),
    ],
)
def test_spectral_norm_in_closed_form(weight, expected):
    assert float(spectral_norm(weight)) == pytest.approx(expected, rel=1e-12)


def test_spectral_norm_does_not_change_with_a_rotation_and_scales_with_the_weight():
    weight, rotation = torch.randn(4, 6), torch.linalg.qr(torch.randn(6, 6)).Q
    assert float(spectral_norm(-3 * weight @ rotation)) == pytest.approx(3 * float(spectral_norm(weight)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spectral_norm_of_low_precision_weights_is_taken_in_float64(dtype):
    weight = torch.randn(5, 40).to(dtype)
    expected = torch.linalg.svdvals(weight.double())[0]
    torch.testing.assert_close(spectral_norm(weight), expected, rtol=1e-12, atol=0)


def test_norm_products_multiply_over_the_layers():
    weights = [torch.randn(shape) for shape in SHAPES]
    matrices = [weight.reshape(weight.shape[0], -1).numpy() for weight in weights]
    spectral = math.prod(float(torch.linalg.matrix_norm(torch.from_numpy(m), 2)) for m in matrices)
    frobenius = math.prod(float((m**2).sum() ** 0.5) for m in matrices)
    assert [float(p) for p in norm_products(weights)] == pytest.approx([spectral, frobenius], rel=1e-12)


def test_norm_products_leave_biases_and_scalars_out():
    module = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2))
    expected = norm_products([module[0].weight, module[2].weight])
    assert norm_products(module.parameters()) == expected


@pytest.mark.parametrize("weights", [[], [torch.ones(3)]])
def test_norm_products_of_nothing_are_one(weights):
    assert [float(product) for product in norm_products(weights)] == [1.0, 1.0]


def test_margins_over_norm_products_do_not_change_when_a_homogeneous_network_is_scaled():
    network, inputs, classes = (
        nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)),
        torch.randn(5, 3),
        torch.tensor([0, 1, 1, 0, 1]),
    )
    products = torch.stack(norm_products(network.parameters()))
    before = output_margins(network(inputs), classes).detach() / products.unsqueeze(1)
    with torch.no_grad():
        network[0].weight *= 5
        network[2].weight *= 0.3
    products = torch.stack(norm_products(network.parameters()))
    after = output_margins(network(inputs), classes).detach() / products.unsqueeze(1)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=0)


@pytest.mark.parametrize("function", [weight_matrix, spectral_norm])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_weights_with_fewer_than_two_dimensions_are_refused(function, shape):
    with pytest.raises(ValueError, match=r"two or more dimensions, but got shape \("):
        function(torch.ones(shape))
