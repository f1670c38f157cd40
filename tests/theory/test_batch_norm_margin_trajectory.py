"""What the proofs follow along a training, and the constants of their lemmas."""

import math

import pytest
import torch

from lightning_bounds.theory.batch_norm_margin import (
    Weights,
    derivatives,
    draw_weights,
    gradient_bounds,
    initial_output_bound,
    initial_output_norm_bound,
    initial_row_norm_bound,
    inverse_normalization,
    lemma_constants,
    loss_slopes,
    maximal_layer_margins,
    movement,
    network_outputs,
    perceptron_sum_bound,
    potential,
    radius,
    unit_ball,
    whole_set_statistics,
)


def test_lemma_constants_of_the_notes():
    constants = lemma_constants(3.0)
    assert constants.beta_v == pytest.approx(1 / 6)
    assert (constants.rho_n, constants.beta_n, constants.eps_ratio) == (2.0, 18.0, 6.0)
    # E314: 4e + 2 from the proof, 8e + 2 as stated, 9e as used.
    assert (constants.beta_pi, constants.printed_beta_pi) == pytest.approx((14.0, 26.0))
    assert constants.beta_pi <= 9 * 3.0 < constants.printed_beta_pi + 2


def test_gradients_at_initialization_are_within_their_bounds():
    inputs, width = unit_ball(torch.randn(20, 5)), 2000
    weights = draw_weights(width, 5, seed=0)
    weights = weights._replace(directions=weights.directions / weights.directions.norm(dim=1).max() * 2)
    eps_N = inverse_normalization(weights.directions, inputs, 0.01)
    bounds = gradient_bounds(eps_N=eps_N, width=width, radius=8.0)
    by_output, by_scale, by_direction = derivatives(inputs, whole_set_statistics(inputs), weights, eps=0.01)
    outer = float((by_output.square().sum(dim=1) + by_scale.square().sum(dim=1)).max())
    assert 0 < outer <= bounds.outer <= bounds.sgd_outer
    assert 0 < float(by_direction.square().sum(dim=(1, 2)).max()) <= bounds.inner <= bounds.sgd_inner
    e4 = max(1.0, eps_N) ** 4
    assert tuple(bounds) == pytest.approx((175 * e4 * width, 8100 * e4 * 8**4, 2**11 * e4 * width, 2**16 * e4 * 8**4))


@pytest.mark.parametrize("seed", range(10))
def test_initial_weights_and_outputs_are_within_their_bounds(seed):
    inputs = unit_ball(torch.randn(30, 8))
    weights = draw_weights(500, 8, seed)
    eps_N = inverse_normalization(weights.directions, inputs)
    outputs = network_outputs(inputs, whole_set_statistics(inputs), weights)
    assert float(outputs.abs().max()) <= initial_output_bound(eps_N, samples=30, delta=0.01)
    assert float(weights.output_weights.norm()) <= initial_output_norm_bound(width=500, delta=0.01)
    assert float(weights.directions.norm(dim=1).max()) <= initial_row_norm_bound(width=500, dim=8, delta=0.01)


def test_bounds_of_initial_weights_are_their_formulas():
    assert initial_output_bound(2.0, samples=100, delta=0.01) == pytest.approx(8 * math.log(10**4))
    assert initial_output_norm_bound(width=50, delta=0.01) == pytest.approx(1 + math.sqrt(math.log(100) / 25))
    assert initial_row_norm_bound(width=50, dim=8, delta=0.01) == pytest.approx(1 + math.sqrt(math.log(5000) / 4))


def test_initial_rows_are_at_most_2_at_the_top_of_the_window():
    width = math.floor(0.01 * math.exp(128 / 8))
    assert 1.4 < initial_row_norm_bound(width=width, dim=128, delta=0.01) <= 2


def descend(outer_only, steps=60, learning_rate=0.05):
    """Stochastic gradient descent, one sample a step; weights before and after, and the sum of loss slopes."""
    inputs = unit_ball(torch.randn(10, 4))
    labels = torch.where(torch.randn(10) > 0, 1.0, -1.0)
    start = draw_weights(300, 4, seed=1)
    best = maximal_layer_margins(inputs, labels, output_weights=start.output_weights, directions=start.directions)
    statistics, slopes = whole_set_statistics(inputs), 0.0
    parts = [part.clone().requires_grad_() for part in start]
    for step in range(steps):
        i = step % 10
        output = network_outputs(inputs[i : i + 1], statistics, Weights(*parts))
        slopes += float(loss_slopes(output.detach(), labels[i : i + 1]).sum())
        trained = parts[:1] if outer_only else parts
        gradients = torch.autograd.grad(torch.nn.functional.softplus(-labels[i] * output).sum(), trained)
        with torch.no_grad():
            _ = [part.sub_(learning_rate * gradient) for part, gradient in zip(trained, gradients, strict=True)]
    return start, Weights(*(part.detach() for part in parts)), best, slopes


def test_perceptron_argument_bounds_the_sum_of_slopes():
    # With c and V frozen <a_ref, d_a p> >= gamma_a sqrt(m) at every step, so that the bound is a theorem.
    start, end, best, slopes = descend(outer_only=True)
    bound = perceptron_sum_bound(movement(end, start).outer, learning_rate=0.05, gamma=best.gamma_a, width=300)
    assert 0 < slopes <= bound / 4
    assert movement(end, start).inner == 0.0


def test_potential_is_its_definition():
    start, end, best, _ = descend(outer_only=False)
    reference = {"reference_output": best.reference_output, "reference_scale": best.reference_scale}
    R = radius(gamma=best.gamma, eps_N=7.0, width=300)
    target = [start.output_weights + R / 8 * best.reference_output, start.scales + R / 8 * best.reference_scale]
    now = sum(float((w - t).square().sum()) for w, t in zip(end[:2], target, strict=True))
    before = sum(float((w - t).square().sum()) for w, t in zip(start[:2], target, strict=True))
    inner = float((end.directions - start.directions).square().sum())
    expected = now - before + (R * 2 * 7.0) ** 2 * inner
    assert potential(end, start, **reference, gamma=best.gamma, eps_N=7.0) == pytest.approx(expected, rel=1e-9)
    moved = movement(end, start)
    assert moved.outer**2 == pytest.approx(
        float((end.output_weights - start.output_weights).square().sum() + (end.scales - start.scales).square().sum())
    )
    assert moved.inner**2 == pytest.approx(inner)


def test_potential_falls_towards_the_reference():
    start = draw_weights(50, 3, seed=0)
    unit = torch.nn.functional.normalize(torch.randn(50), dim=0)
    reference = {"reference_output": unit, "reference_scale": torch.zeros(50)}
    r = radius(gamma=0.2, eps_N=3.0, width=50) / 8
    at_reference = start._replace(output_weights=start.output_weights + r * unit)
    assert potential(at_reference, start, **reference, gamma=0.2, eps_N=3.0) == pytest.approx(-(r**2))


def test_slopes_are_at_least_half_on_an_error_and_the_derivative_of_the_loss():
    outputs, labels = torch.linspace(-3, 3, 13), torch.where(torch.randn(13) > 0, 1.0, -1.0)
    margins = (labels * outputs).requires_grad_()
    torch.nn.functional.softplus(-margins).sum().backward()
    slopes = loss_slopes(outputs, labels)
    torch.testing.assert_close(slopes, -margins.grad)
    assert bool((2 * slopes >= (labels * outputs <= 0).double()).all())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: perceptron_sum_bound(-1.0, learning_rate=0.1, gamma=0.1, width=9), "`movement`"),
        (lambda: perceptron_sum_bound(1.0, learning_rate=0.0, gamma=0.1, width=9), "`learning_rate`"),
        (lambda: movement(draw_weights(3, 2, 0), draw_weights(4, 2, 0)), "initial shapes"),
        (lambda: loss_slopes(torch.zeros(3), torch.zeros(3)), "labels -1 and"),
        (lambda: gradient_bounds(eps_N=1.0, width=3, radius=-1.0), "`radius`"),
    ],
)
def test_wrong_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_sum_bound_without_a_margin_is_infinite():
    assert perceptron_sum_bound(1.0, learning_rate=0.1, gamma=-0.1, width=9) == math.inf
