"""Nearly-linear networks that are really trained: norms and deviations below the bounds; proxies and their bound."""

import math
from itertools import pairwise

import pytest
import torch

from lightning_bounds.theory.nearly_linear import (
    corrected_derivative_norms,
    derivative_norm_bound,
    deviation_bound,
    input_layer_ratio,
    network_outputs,
    projected_loss,
    proxy_bound,
    proxy_outputs,
    rank_one,
    rescaled,
    risks,
    second_order_proxy,
    strength,
    weight_norm_bound,
    whiten,
)

SIZES = {2: [8], 3: [8, 8]}


def initial_weights(depth, d=5, beta=0.3):
    sizes = [d, *SIZES[depth], 1]
    return rescaled([torch.randn(after, before) for before, after in pairwise(sizes)], beta)


def trained(weights, inputs, labels, epsilon, time, steps=400):
    """Gradient flow on ``|y - f|² / 2m`` by the midpoint rule, with gradients by autograd."""

    def slope(current):
        current = [weight.detach().requires_grad_() for weight in current]
        loss = (labels - network_outputs(current, inputs, epsilon)).square().mean() / 2
        return torch.autograd.grad(loss, current)

    for _ in range(steps):
        half = [w - time / steps / 2 * g for w, g in zip(weights, slope(weights), strict=True)]
        weights = [w - time / steps * g for w, g in zip(weights, slope(half), strict=True)]
    return [weight.detach() for weight in weights]


@pytest.fixture
def data():
    inputs = whiten(torch.randn(80, 5) @ torch.randn(5, 5)).inputs
    return inputs, (inputs[:, 0] + 0.5 * inputs[:, 1] * inputs[:, 2] + 0.3).sign()


def norm(weight):
    return float(torch.linalg.matrix_norm(weight, 2))


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("epsilon", "time"), [(0.05, 1.5), (0.4, 1.0), (1.0, 0.5)])
def test_trained_networks_stay_below_their_bounds(data, depth, epsilon, time):
    inputs, labels = data
    beta, change = 0.3, 1e-4
    start = initial_weights(depth, beta=beta)
    numbers = {"rho": input_layer_ratio(start[0]), "beta": beta, "epsilon": epsilon, "depth": depth}
    numbers["strength"] = strength(inputs, labels)
    weights = trained(start, inputs, labels, epsilon, time)
    nearby = trained(start, inputs, labels, epsilon - change, time)
    linear = trained(start, inputs, labels, 0.0, time)
    m = len(inputs)
    # Assumption 5.1, at the end.
    outputs = network_outputs(weights, inputs, epsilon)
    first = network_outputs(start, inputs, epsilon)
    assert projected_loss(outputs, labels, inputs) <= projected_loss(first, labels, inputs)
    # Norms of the weights.
    u = weight_norm_bound(time, **numbers)
    bounds = corrected_derivative_norms(time, **numbers)
    assert max(norm(weight) for weight in weights) <= u
    assert float((inputs @ weights[0].T).norm()) / math.sqrt(m) <= bounds.input_norm
    # Norms of their derivatives.
    slopes = [(w - n) / change for w, n in zip(weights, nearby, strict=True)]
    assert norm(slopes[0]) <= min(bounds.first, derivative_norm_bound(time, **numbers)) * (1 + 1e-6)
    assert float((inputs @ slopes[0].T).norm()) / math.sqrt(m) <= bounds.first * (1 + 1e-6)
    assert max(norm(slope) for slope in slopes[1:]) <= bounds.later * (1 + 1e-6)
    # Deviations: the training data in the role of the distribution, where the mean of |x|^2 is d.
    found = proxy_outputs(inputs, weights=weights, linear_weights=linear, epsilon=epsilon, train_inputs=inputs)
    for order, proxy in ((1, found.first), (2, found.second)):
        deviation = 2 * float((found.network - proxy).abs().mean())
        for variant in ("theorem", "corrected_tight"):
            limit = deviation_bound(time, **numbers, dim=5, order=order, variant=variant)
            assert 0 < deviation <= limit * epsilon**order


def test_derivative_of_the_second_layer_exceeds_the_printed_bound_and_not_the_corrected_one():
    # E410: uniform signs, y = +1 where the first two are positive, an identity as the first layer. The 128 rows of a
    # Hadamard matrix and its negative have the moments that matter.
    hadamard = torch.ones(1, 1)
    for _ in range(6):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    inputs = torch.cat([hadamard, -hadamard])
    labels = torch.where((inputs[:, 1] > 0) & (inputs[:, 2] > 0), 1.0, -1.0)
    beta, epsilon, time, change = 0.01, 1e-3, 0.1, 5e-4
    start = [beta * torch.eye(64), torch.full((1, 64), beta / 8)]
    weights, nearby = (trained(start, inputs, labels, slope, time, 50) for slope in (epsilon, epsilon - change))
    found = norm((weights[1] - nearby[1]) / change)
    numbers = {"strength": strength(inputs, labels), "rho": 8.0, "beta": beta, "epsilon": epsilon, "depth": 2}
    assert input_layer_ratio(start[0]) == pytest.approx(8.0)
    assert found == pytest.approx(0.00210, abs=2e-5)
    assert derivative_norm_bound(time, **numbers) == pytest.approx(0.00109, abs=2e-5)
    assert found > 1.8 * derivative_norm_bound(time, **numbers)
    for tight in (True, False):
        assert found <= corrected_derivative_norms(time, **numbers, tight=tight).later


@pytest.mark.parametrize("depth", [2, 3])
def test_deviations_of_the_proxies_have_their_orders(data, depth):
    inputs, labels = data
    start = initial_weights(depth)
    linear = trained(start, inputs, labels, 0.0, 1.5, 200)
    sizes = []
    for epsilon in (0.02, 0.01):
        weights = trained(start, inputs, labels, epsilon, 1.5, 200)
        found = proxy_outputs(inputs, weights=weights, linear_weights=linear, epsilon=epsilon, train_inputs=inputs)
        sizes.append([float((found.network - proxy).norm()) for proxy in (found.linear, found.first, found.second)])
    orders = [math.log2(large / small) for large, small in zip(*sizes, strict=True)]
    assert orders == pytest.approx([1, 1, 2], abs=0.1)


def test_second_proxy_leaves_nothing_that_is_linear(data):
    inputs, _ = data
    weights, linear = initial_weights(3), initial_weights(3)
    found = proxy_outputs(inputs, weights=weights, linear_weights=linear, epsilon=0.7, train_inputs=inputs)
    torch.testing.assert_close((found.network - found.second) @ inputs, torch.zeros(5), rtol=0, atol=1e-12)
    assert float((found.network - found.first) @ inputs @ torch.ones(5)) != pytest.approx(0, abs=1e-6)
    correction = torch.linalg.lstsq(inputs, (found.network - found.first).unsqueeze(1)).solution
    torch.testing.assert_close(found.second, found.first + (inputs @ correction).squeeze(1))
    torch.testing.assert_close(
        second_order_proxy(found.first, inputs, found.network - found.first, inputs), found.second
    )


def test_without_a_nonlinearity_all_proxies_are_the_network(data):
    inputs, labels = data
    weights = trained(initial_weights(2), inputs, labels, 0.0, 1.0, 50)
    found = proxy_outputs(torch.randn(7, 5), weights=weights, linear_weights=weights, epsilon=0.0, train_inputs=inputs)
    for proxy in found[1:]:
        torch.testing.assert_close(proxy, found.network)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_outputs_are_the_definition(epsilon):
    weights, inputs = initial_weights(3), torch.randn(6, 5)

    def activation(z):
        return z - epsilon * z.clamp_max(0)

    expected = torch.stack(
        [(weights[2] @ activation(weights[1] @ activation(weights[0] @ x))).squeeze() for x in inputs]
    )
    torch.testing.assert_close(network_outputs(weights, inputs, epsilon), expected)
    torch.testing.assert_close(network_outputs(weights, 2 * inputs, epsilon), 2 * expected)


def test_projected_loss_is_between_zero_and_n_losses(data):
    inputs, labels = data
    outputs = torch.randn(80)
    found = projected_loss(outputs, labels, inputs)
    naive = sum(sum((labels[i] - outputs[i]) * inputs[i, j] for i in range(80)) ** 2 for j in range(5)) / 160
    assert found == pytest.approx(float(naive))
    assert 0 <= found <= 80 * float((labels - outputs).square().mean()) / 2
    zero = projected_loss(torch.zeros(80), labels, inputs)
    assert zero == pytest.approx(80 * strength(inputs, labels) ** 2 / 2)


def test_projected_loss_of_a_linear_network_falls(data):
    inputs, labels = data
    weights = [initial_weights(2)]
    for _ in range(5):
        weights.append(trained(weights[-1], inputs, labels, 0.0, 1.0, 50))
    losses = [projected_loss(network_outputs(w, inputs, 0.0), labels, inputs) for w in weights]
    assert losses == sorted(losses, reverse=True)


def test_initial_layers_have_the_norm_and_the_first_one_rank_one():
    weights = [rank_one(torch.randn(8, 5)), torch.randn(1, 8)]
    weights = rescaled(weights, 1e-3)
    assert [norm(weight) for weight in weights] == pytest.approx([1e-3, 1e-3], rel=1e-12)
    assert input_layer_ratio(weights[0]) == pytest.approx(1.0, abs=1e-12)
    assert int(torch.linalg.matrix_rank(weights[0])) == 1


def test_rank_one_is_the_best_approximation():
    weight = torch.randn(8, 5)
    values = torch.linalg.svdvals(weight)
    assert float((weight - rank_one(weight)).norm()) == pytest.approx(float(values[1:].norm()))
    assert input_layer_ratio(weight) == pytest.approx(float(weight.norm() / values[0]))


def test_risks_are_their_definitions_and_ordered():
    outputs, labels, margin = torch.cat([torch.randn(50), torch.zeros(3)]), torch.randn(53).sign(), 0.7
    found = risks(outputs, labels, margin)
    z = [float(f * y) for f, y in zip(outputs, labels, strict=True)]
    assert found.error == pytest.approx(sum(x <= 0 for x in z) / 53)
    assert found.ramp == pytest.approx(sum(min(max(1 - x / margin, 0), 1) for x in z) / 53)
    assert found.margin == pytest.approx(sum(x < margin for x in z) / 53)
    assert found.error <= found.ramp <= found.margin


def test_zero_network_is_always_wrong():
    assert risks(torch.zeros(4), torch.tensor([1, -1, 1, -1]), 1e-9) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_proxy_bound_is_at_least_the_test_error_whatever_the_functions(seed):
    generator = torch.Generator().manual_seed(seed)
    f, g, test_f, test_g = (torch.randn(40, generator=generator) * (1 + seed % 3) for _ in range(4))
    labels, test_labels = (torch.randn(40, generator=generator).sign() for _ in range(2))
    margin = float(torch.rand((), generator=generator)) + 1e-3
    # Half of the seeds have functions that are good, and proxies that are close.
    if seed % 2:
        f, test_f = labels * f.abs(), test_labels * test_f.abs()
        g, test_g = f + 0.01 * g, test_f + 0.01 * test_g
    bound = proxy_bound(f, g, labels, test_f, test_g, test_labels, margin)
    assert bound.value >= risks(test_f, test_labels, margin).error
    assert list(bound.terms) == ["train_margin_risk", "gap", "test_deviation", "train_deviation"]


def test_proxy_bound_of_the_network_itself_is_the_gap_of_its_ramp_risks():
    f, y, test_f, test_y = torch.randn(30), torch.randn(30).sign(), torch.randn(20), torch.randn(20).sign()
    train, test = risks(f, y, 0.5), risks(test_f, test_y, 0.5)
    bound = proxy_bound(f, f, y, test_outputs=test_f, test_proxy=test_f, test_labels=test_y, margin=0.5)
    assert bound.value == pytest.approx(train.margin + test.ramp - train.ramp)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([torch.ones(1, 5)], "at least 2 layers"),
        ([torch.ones(8, 4), torch.ones(1, 8)], "5 features"),
        ([torch.ones(8, 5), torch.ones(1, 7)], "Expected weights"),
        ([torch.ones(8, 5), torch.ones(2, 8)], "Expected weights"),
        ([torch.ones(8, 5), torch.full((1, 8), math.nan)], "finite weights"),
    ],
)
def test_weights_of_another_network_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        network_outputs(weights, torch.ones(2, 5), 0.1)


@pytest.mark.parametrize("function", [rank_one, input_layer_ratio])
@pytest.mark.parametrize("weight", [torch.zeros(3, 2), torch.ones(3), torch.tensor([[math.inf]])])
def test_layers_without_a_norm_are_named(function, weight):
    with pytest.raises(ValueError, match="finite matrix other than zero"):
        function(weight)


@pytest.mark.parametrize(
    ("outputs", "labels", "margin", "message"),
    [
        (torch.ones(2), torch.ones(2), 0.0, "`margin`"),
        (torch.ones(2), torch.zeros(2), 1.0, "labels -1 and"),
        (torch.ones(2), torch.ones(3), 1.0, "each of the 2"),
        (torch.tensor([math.nan, 1.0]), torch.ones(2), 1.0, "NaN or infinity at \\[0\\]"),
        (torch.ones(2, 2), torch.ones(2), 1.0, "single output"),
    ],
)
def test_risks_name_what_they_do_not_take(outputs, labels, margin, message):
    with pytest.raises(ValueError, match=message):
        risks(outputs, labels, margin)
