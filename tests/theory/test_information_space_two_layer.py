"""The Jacobian of the two-layer network: against autograd, and its norms against their bounds."""

import math

import pytest
import torch

from lightning_bounds.theory import information_space as spaces
from lightning_bounds.theory.gaussian import activation_function, derivative_bounds

ACTIVATIONS = ["softplus", "tanh", "sin", "erf", "identity"]


@pytest.fixture(params=[1, 3])
def network(request):
    """Inputs of norm 1, W and V."""
    X = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    return X, torch.randn(7, 4), torch.randn(request.param, 7)


def autograd_jacobian(X, W, V, activation):
    phi = activation_function(activation).function

    def outputs(output, hidden):
        return (phi(X @ hidden.T) @ output.T).flatten()

    return [part.reshape(X.shape[0] * V.shape[0], -1) for part in torch.autograd.functional.jacobian(outputs, (V, W))]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "relu", "quadratic", torch.nn.functional.gelu])
def test_jacobians_are_those_of_autograd(network, activation):
    by_output, by_hidden = autograd_jacobian(*network, activation)
    torch.testing.assert_close(spaces.output_jacobian(*network, activation), by_output)
    torch.testing.assert_close(spaces.hidden_jacobian(*network, activation), by_hidden)
    torch.testing.assert_close(spaces.joint_jacobian(*network, activation), torch.cat([by_output, by_hidden], dim=1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gram_and_gradient_are_products_of_the_jacobian(network, activation):
    jacobian = spaces.hidden_jacobian(*network, activation)
    torch.testing.assert_close(spaces.hidden_gram(*network, activation), jacobian @ jacobian.T)
    vector = torch.randn(len(jacobian))
    gradient = spaces.hidden_gradient(*network, activation, vector)
    torch.testing.assert_close(gradient, (jacobian.T @ vector).reshape(7, 4))


def test_hidden_jacobian_of_one_output_is_a_khatri_rao_product(network):
    X, W, V = network
    slopes = 1 - torch.tanh(X @ W.T) ** 2
    rows = [torch.kron(slopes[i] * V[0], X[i]) for i in range(len(X))]
    torch.testing.assert_close(spaces.hidden_jacobian(X, W, V, "tanh")[:: len(V)], torch.stack(rows))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_norms_stay_below_their_bounds(network, activation, scale):
    X, W, V = network
    W, V = scale * W, V / scale
    B, at_zero = derivative_bounds(activation).bound, derivative_bounds(activation).at_zero
    hidden, joint = (
        spaces.hidden_jacobian_bounds(X, V, B=B),
        spaces.joint_jacobian_bounds(X, W, V, B=B, at_zero=at_zero),
    )
    jacobian, everything = (f(X, W, V, activation) for f in (spaces.hidden_jacobian, spaces.joint_jacobian))
    vector = torch.nn.functional.normalize(torch.randn(len(jacobian)), dim=0)
    row = (jacobian.T @ vector).reshape(W.shape).norm(dim=1).max()
    entry = (everything[:, : V.numel()].T @ vector).abs().max()
    assert float(torch.linalg.svdvals(jacobian)[0]) <= hidden.spectral * (1 + 1e-12)
    assert float(torch.linalg.svdvals(everything)[0]) <= joint.spectral * (1 + 1e-12)
    assert float(row) <= hidden.row == joint.row
    assert float(entry) <= joint.entry


def test_the_spectral_bound_is_attained_and_needs_the_root_of_the_width():
    # Erratum A8: without √k the bound would be 1 here, and the norm is √9.
    X, W, V = torch.eye(1), torch.ones(9, 1), torch.ones(1, 9)
    norm = float(torch.linalg.svdvals(spaces.hidden_jacobian(X, W, V, "identity"))[0])
    assert spaces.hidden_jacobian_bounds(X, V, B=1.0).spectral == pytest.approx(norm) == pytest.approx(3.0)


def test_the_joint_bounds_need_the_value_at_zero():
    # Erratum A9: with W = 0 the output layer sees φ(0) alone.
    X, W, V = torch.eye(2), torch.zeros(9, 2), torch.full((1, 9), 1e-9)
    at_zero = math.log(2)
    jacobian = spaces.joint_jacobian(X, W, V, "softplus")
    bounds = spaces.joint_jacobian_bounds(X, W, V, B=1.0, at_zero=at_zero)
    norm, entry = float(torch.linalg.svdvals(jacobian)[0]), 2**0.5 * at_zero
    assert norm == pytest.approx(at_zero * 18**0.5, rel=1e-6)
    assert norm <= bounds.spectral <= norm * 1.001
    assert bounds.entry == pytest.approx(entry)
    assert spaces.joint_jacobian_bounds(X, W, V, B=1.0).spectral < norm


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-4, 0.1, 3.0])
def test_jacobians_move_by_no_more_than_their_lipschitz_constants(network, activation, size):
    X, W, V = network
    other_W, other_V = W + size * torch.randn_like(W), V + size * torch.randn_like(V)
    B = derivative_bounds(activation).bound
    row = spaces.hidden_jacobian_bounds(X, V, B=B).row
    moved = spaces.hidden_jacobian(X, other_W, V, activation) - spaces.hidden_jacobian(X, W, V, activation)
    assert float(torch.linalg.svdvals(moved)[0]) <= row * float((other_W - W).norm()) + 1e-12
    both = spaces.joint_jacobian(X, other_W, other_V, activation) - spaces.joint_jacobian(X, W, V, activation)
    limit = spaces.joint_jacobian_deviation(X, (W, V), (other_W, other_V), B=B)
    assert float(torch.linalg.svdvals(both)[0]) <= limit


def test_deviation_is_that_of_its_formula():
    X, W, V = torch.eye(2), torch.zeros(4, 2), torch.ones(3, 4)
    second = (torch.full((4, 2), 0.5), V + torch.eye(3, 4))
    expected = 2.0 * ((12**0.5) * 1.0 + (3**0.5 * 1.0 + 1) * 2**0.5)
    assert spaces.joint_jacobian_deviation(X, (W, V), second, B=2.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((6, 4), (7, 3), (1, 7)), r"but got \(6, 4\), \(7, 3\) and \(1, 7\)"),
        (((6, 4), (7, 4), (1, 6)), r"and \(1, 6\)"),
        (((6,), (7, 4), (1, 7)), r"`inputs` to be a finite matrix, but got shape \(6,\)"),
    ],
)
@pytest.mark.parametrize("function", [spaces.hidden_jacobian, spaces.output_jacobian, spaces.hidden_gram])
def test_shapes_that_do_not_fit_are_refused(function, shapes, message):
    with pytest.raises(ValueError, match=message):
        function(*(torch.ones(shape) for shape in shapes), "tanh")


def test_vectors_and_networks_of_another_size_are_refused(network):
    X, W, V = network
    with pytest.raises(ValueError, match="Expected a vector"):
        spaces.hidden_gradient(X, W, V, "tanh", torch.ones(5))
    with pytest.raises(ValueError, match="two networks of one size"):
        spaces.joint_jacobian_deviation(X, (W, V), (W[:6], V[:, :6]), B=1.0)
    with pytest.raises(ValueError, match="`B` to be finite, 0 or more, but got inf"):
        spaces.hidden_jacobian_bounds(X, V, B=math.inf)
