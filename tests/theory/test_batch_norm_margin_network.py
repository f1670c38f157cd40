"""The batch-normalized network: what it divides by, its outputs, and its derivatives through the statistics."""

import math

import pytest
import torch
from torch import nn

from lightning_bounds.theory.batch_norm_margin import (
    Weights,
    data_seminorm,
    derivatives,
    displacement,
    draw_weights,
    effective_directions,
    inverse_normalization,
    lemma_constants,
    network_outputs,
    normalization,
    pre_activations,
    typical_inverse_normalization,
    unit_ball,
    whole_set_statistics,
)

N, D, M = 9, 4, 6
EPSILONS = [0.0, 1e-5, 0.3]
# Statistics of two samples.
PAIR = whole_set_statistics(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))


@pytest.fixture
def inputs():
    return torch.randn(N, D) * torch.tensor([1.0, 0.1, 3.0, 1.0]) + 2.0


@pytest.fixture
def weights():
    return Weights(torch.randn(M), torch.rand(M) - 0.3, torch.randn(M, D))


def batch_norm_network(weights, eps):
    hidden, norm, readout = nn.Linear(D, M, bias=False), nn.BatchNorm1d(M, eps=eps), nn.Linear(M, 1, bias=False)
    hidden.weight.data, norm.weight.data = weights.directions.clone(), weights.scales.clone()
    readout.weight.data = weights.output_weights.clone().unsqueeze(0)
    return nn.Sequential(hidden, norm, nn.ReLU(), readout, nn.Flatten(0))


@pytest.mark.parametrize("eps", EPSILONS)
def test_normalization_is_the_root_of_the_quadratic_form_and_the_spread_of_projections(inputs, weights, eps):
    centered = inputs - inputs.mean(dim=0)
    sigma = sum(torch.outer(row, row) for row in centered) / N
    expected = torch.stack([torch.sqrt(v @ sigma @ v + eps) for v in weights.directions])
    spread = (inputs @ weights.directions.T).std(dim=0, unbiased=False)
    actual = normalization(weights.directions, inputs, eps)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual, (spread**2 + eps).sqrt())
    torch.testing.assert_close(data_seminorm(weights.directions, inputs), spread)
    torch.testing.assert_close(whole_set_statistics(inputs).covariance, sigma)
    assert inverse_normalization(weights.directions, inputs, eps) == pytest.approx(1 / float(actual.min()))


def test_normalization_does_not_see_a_shift_of_the_data_and_scales_with_it(inputs, weights):
    expected = normalization(weights.directions, inputs)
    torch.testing.assert_close(normalization(weights.directions, inputs + 100.0), expected)
    torch.testing.assert_close(normalization(weights.directions, 7 * inputs), 7 * expected)
    torch.testing.assert_close(normalization(-3 * weights.directions, inputs), 3 * expected)


def test_direction_that_the_data_do_not_have_is_zero_and_not_rounding():
    inputs = torch.randn(5, 3) @ torch.randn(3, 8) + 1.0
    deviations = inputs - inputs.mean(dim=0)
    orthogonal = torch.linalg.svd(deviations).Vh[-1:]
    directions = torch.cat([orthogonal, torch.randn(1, 8)])
    assert normalization(directions, inputs)[0] == 0
    assert inverse_normalization(directions, inputs) == math.inf
    assert inverse_normalization(directions, inputs, eps=0.04) == pytest.approx(5.0)
    assert torch.equal(effective_directions(directions, inputs)[0], torch.zeros(8))


def test_unit_ball_centers_then_divides_by_the_largest_norm(inputs):
    ball = unit_ball(inputs)
    torch.testing.assert_close(ball.mean(dim=0), torch.zeros(D))
    assert float(ball.norm(dim=1).max()) == pytest.approx(1.0)
    # E304: norms of at most 1 without centering leave centered ones up to 2.
    lopsided = torch.tensor([[1.0], [1.0], [1.0], [-1.0]])
    assert float((lopsided - lopsided.mean()).norm(dim=1).max()) == 1.5
    torch.testing.assert_close(unit_ball(lopsided).flatten(), torch.tensor([1.0, 1.0, 1.0, -3.0]) / 3)


def test_mean_square_of_the_normalization_is_at_most_that_of_the_unit_ball(inputs):
    directions = draw_weights(20_000, D, seed=0).directions
    mean_square = float(normalization(directions, unit_ball(inputs), 0.01).square().mean())
    assert mean_square <= 1.02 / typical_inverse_normalization(D, 0.01) ** 2


def test_displacement_of_effective_rows_against_the_loop(inputs):
    rows, others = torch.randn(5, 3), torch.randn(5, 3)
    expected = math.sqrt(sum(float((a - b).norm()) ** 2 for a, b in zip(rows, others, strict=True)) / 5)
    assert displacement(rows, others) == pytest.approx(expected)
    assert displacement(rows, rows) == 0.0


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_outputs_are_those_of_batch_norm_in_train_mode_on_the_full_batch(inputs, weights, eps):
    actual = network_outputs(inputs, whole_set_statistics(inputs), weights, eps=eps)
    torch.testing.assert_close(actual, batch_norm_network(weights, eps)(inputs).detach())


def test_other_inputs_use_the_statistics_of_the_training_set(inputs, weights):
    statistics = whole_set_statistics(inputs)
    together = network_outputs(inputs, statistics, weights)
    alone = torch.cat([network_outputs(row.unsqueeze(0), statistics, weights) for row in inputs])
    torch.testing.assert_close(alone, together)
    shifted = network_outputs(inputs + 1.0, statistics, weights)
    assert not torch.allclose(shifted, together)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("gradient", ["full", "mean", "none"])
def test_derivatives_are_those_of_autograd(inputs, weights, eps, gradient):
    statistics = whole_set_statistics(inputs)
    actual = derivatives(inputs, statistics, weights, eps=eps, gradient=gradient)
    expected = torch.autograd.functional.jacobian(
        lambda a, c, V: network_outputs(inputs, statistics, Weights(a, c, V), eps=eps, gradient=gradient),
        tuple(weights),
    )
    torch.testing.assert_close(tuple(actual), tuple(expected))


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_full_derivative_is_that_of_batch_norm_in_train_mode(inputs, weights, eps):
    network = batch_norm_network(weights, eps)
    parameters = {"3.weight": weights.output_weights, "1.weight": weights.scales, "0.weight": weights.directions}

    def outputs(a, c, V):
        named = {"3.weight": a.unsqueeze(0), "1.weight": c, "0.weight": V, "1.bias": torch.zeros(M)}
        return torch.func.functional_call(network, named, inputs)

    expected = torch.autograd.functional.jacobian(outputs, tuple(parameters.values()))
    actual = derivatives(inputs, whole_set_statistics(inputs), weights, eps=eps)
    torch.testing.assert_close(tuple(actual), tuple(expected))


def test_detached_derivatives_are_those_of_a_frozen_variance_and_of_evaluation_mode(inputs, weights):
    statistics, eps = whole_set_statistics(inputs), 0.1
    V = weights.directions.clone().requires_grad_()
    projected = inputs @ V.T
    spread = (projected.var(dim=0, unbiased=False) + eps).sqrt().detach()
    frozen = torch.relu(weights.scales * (projected - projected.mean(dim=0)) / spread) @ weights.output_weights
    [expected] = torch.autograd.grad(frozen.sum(), V)
    actual = derivatives(inputs, statistics, weights, eps=eps, gradient="mean").directions.sum(dim=0)
    torch.testing.assert_close(actual, expected)

    network = batch_norm_network(weights, eps).eval()
    network[1].running_mean = projected.detach().mean(dim=0)
    network[1].running_var = projected.detach().var(dim=0, unbiased=False)
    network(inputs).sum().backward()
    actual = derivatives(inputs, statistics, weights, eps=eps, gradient="none").directions.sum(dim=0)
    torch.testing.assert_close(actual, network[0].weight.grad)


def test_the_three_variants_differ_by_order_one(inputs, weights):
    statistics = whole_set_statistics(inputs)
    full, mean, none = (
        derivatives(inputs, statistics, weights, gradient=gradient).directions for gradient in ("full", "mean", "none")
    )
    assert 0.2 < float((full - mean).norm() / mean.norm()) < 2
    assert float((mean - none).norm() / none.norm()) > 0.2


@pytest.mark.parametrize("eps", EPSILONS)
def test_euler_identities(inputs, weights, eps):
    statistics = whole_set_statistics(inputs)
    by_output, by_scale, by_direction = derivatives(inputs, statistics, weights, eps=eps)
    outputs = network_outputs(inputs, statistics, weights, eps=eps)
    torch.testing.assert_close(by_output @ weights.output_weights, outputs)
    torch.testing.assert_close(by_scale @ weights.scales, outputs)
    # <v_j, d_v_j> is eps / N_j^2 times the unit's part of the output: 0 at eps = 0.
    parts = by_output * weights.output_weights
    expected = parts * eps / normalization(weights.directions, inputs, eps).square()
    actual = (by_direction * weights.directions).sum(dim=2)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)


def test_row_norms_never_fall_under_gradient_descent_without_eps(inputs, weights):
    statistics = whole_set_statistics(inputs)
    gradient = derivatives(inputs, statistics, weights).directions.sum(dim=0)
    moved = weights.directions - 0.1 * gradient
    assert bool((moved.norm(dim=1) >= weights.directions.norm(dim=1) - 1e-12).all())


def test_dead_unit_has_pre_activation_zero_and_no_gradient():
    inputs = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    statistics = whole_set_statistics(inputs)
    V = torch.tensor([[0.0, 2.0], [1.0, 1.0]], requires_grad=True)
    z = pre_activations(inputs, statistics, V)
    assert z[:, 0].tolist() == [0.0, 0.0]
    z.square().sum().backward()
    assert bool(V.grad.isfinite().all())
    assert V.grad[0].tolist() == [0.0, 0.0]
    weights = Weights(torch.ones(2), torch.ones(2), V.detach())
    assert bool(derivatives(inputs, statistics, weights).directions.isfinite().all())


@pytest.mark.parametrize("eps_N_scale", [1.0, 2.5])
def test_lemma_on_normalizers_holds_within_its_radius(inputs, eps_N_scale):
    ball = unit_ball(inputs)
    directions = draw_weights(200, D, seed=1).directions
    directions = directions * (2 / directions.norm(dim=1).max()) / eps_N_scale
    eps_N = inverse_normalization(directions, ball)
    constants = lemma_constants(eps_N)
    moves = torch.nn.functional.normalize(torch.randn(200, D), dim=1) * constants.beta_v
    before, after = normalization(directions, ball), normalization(directions + moves, ball)
    assert bool((1 / after <= constants.rho_n / before + 1e-12).all())
    assert bool(((1 / after - 1 / before).abs() <= constants.beta_n * constants.beta_v + 1e-12).all())
    moved = effective_directions(directions + moves, ball)
    sigma = whole_set_statistics(ball).covariance
    projected = ball.unsqueeze(1) - (ball @ moved.T).unsqueeze(2) * (moved @ sigma).unsqueeze(0)
    assert float(projected.norm(dim=2).max()) <= constants.beta_pi
    assert float((ball @ effective_directions(directions, ball).T).abs().max()) <= constants.eps_ratio


def test_initial_weights_have_the_law_of_the_paper_and_leave_the_global_state_alone():
    state = torch.random.get_rng_state()
    a, c, V = draw_weights(4000, 25, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(c, torch.ones(4000))
    assert float(a.norm()) == pytest.approx(1.0, abs=0.05)
    assert float(V.square().sum(dim=1).mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(a, draw_weights(4000, 25, seed=3).output_weights)
    assert not torch.equal(a, draw_weights(4000, 25, seed=4).output_weights)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: normalization(torch.ones(2, 3), torch.ones(5, 4)), r"shape \(m, 4\)"),
        (lambda: normalization(torch.ones(2, 3), torch.ones(1, 3)), "n >= 2"),
        (lambda: normalization(torch.ones(2, 3), torch.ones(4, 3), eps=-1.0), "`eps`"),
        (lambda: normalization(torch.ones(2, 3), torch.full((4, 3), torch.nan)), "finite `inputs`"),
        (lambda: unit_ball(torch.ones(4, 3)), "all inputs are equal"),
        (lambda: displacement(torch.ones(3, 2), torch.ones(4, 2)), "as many rows"),
        (lambda: draw_weights(0, 2, seed=0), "`width`"),
        (lambda: lemma_constants(1.0, fraction=1.0), "`fraction`"),
        (lambda: network_outputs(torch.ones(2, 3), PAIR, draw_weights(3, 2, 0)), "have 2 features"),
        (
            lambda: network_outputs(torch.ones(2, 2), PAIR, draw_weights(3, 2, 0)._replace(scales=torch.ones(2))),
            "scales",
        ),
        (lambda: pre_activations(torch.ones(2, 2), PAIR, torch.ones(1, 2), gradient="both"), "full, mean, none"),
    ],
)
def test_wrong_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
