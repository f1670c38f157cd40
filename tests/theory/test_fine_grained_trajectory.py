"""The linear recursion of gradient descent, in closed form against its own steps; predictions on other inputs."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import (
    auxiliary_movement,
    kernel_predictions,
    predicted_loss,
    predicted_residual_norm,
    relu_gram,
    step_size,
)

STEPS = [0, 1, 2, 7, 60]


@pytest.fixture
def features():
    """A linear model, whose gradient descent is the recursion with the Gram matrix of its features."""
    return torch.randn(6, 9)


@pytest.fixture
def labels():
    return torch.randn(6)


def descend(features, labels, learning_rate, steps, start=None, others=None):
    """Gradient descent on ½ |Φ w - y|², step by step; residual norms, movements, outputs."""
    weight = torch.zeros(features.shape[1])
    start = torch.zeros(len(labels)) if start is None else start
    norms, movements, outputs = {}, {}, {}
    for step in range(max(steps) + 1):
        residual = labels - start - features @ weight
        norms[step], movements[step] = float(residual.norm()), float(weight.norm())
        outputs[step] = (features if others is None else others) @ weight
        weight = weight + learning_rate * features.T @ residual
    return [norms[k] for k in steps], [movements[k] for k in steps], torch.stack([outputs[k] for k in steps])


def rate(gram, product):
    return product / float(torch.linalg.eigvalsh(gram)[-1])


@pytest.mark.parametrize("product", [0.3, 1.0, 1.7, 2.5])
@pytest.mark.parametrize("with_start", [False, True])
def test_residual_loss_and_movement_are_those_of_gradient_descent_step_by_step(features, labels, product, with_start):
    gram = features @ features.T
    learning_rate = rate(gram, product)
    start = torch.randn(6) if with_start else None
    norms, movements, _ = descend(features, labels, learning_rate, STEPS, start)
    arguments = (gram, labels, learning_rate, STEPS, start)
    torch.testing.assert_close(predicted_residual_norm(*arguments), torch.tensor(norms), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(predicted_loss(*arguments), torch.tensor(norms) ** 2 / 2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(auxiliary_movement(*arguments), torch.tensor(movements), rtol=1e-9, atol=1e-12)


def test_residual_is_the_power_of_the_matrix_on_the_labels(labels):
    gram = relu_gram(torch.randn(6, 3))
    power = torch.linalg.matrix_power(torch.eye(6) - 0.3 * gram, 13)
    torch.testing.assert_close(predicted_residual_norm(gram, labels, 0.3, [13])[0], (power @ labels).norm())


def test_prediction_depends_on_the_samples_not_on_their_order(features, labels):
    gram, order = features @ features.T, torch.randperm(6)
    expected = predicted_residual_norm(gram, labels, 0.01, STEPS)
    actual = predicted_residual_norm(gram[order][:, order], labels[order], 0.01, STEPS)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("steps", [[3, 0, 3], range(4), torch.tensor([0, 5]), (1,), [2, math.inf]])
def test_steps_may_come_in_any_order_and_container(features, labels, steps):
    gram = features @ features.T
    alone = torch.cat([predicted_residual_norm(gram, labels, 0.01, [k]) for k in steps])
    assert torch.equal(predicted_residual_norm(gram, labels, 0.01, steps), alone)


@pytest.mark.parametrize("steps", [10**6, 10**8, 10**12])
def test_many_steps_keep_full_precision(steps):
    slow = 1.0 / steps
    norm = predicted_residual_norm(torch.diag(torch.tensor([1.0, slow])), torch.ones(2), 0.5, [steps])
    # (1 - x/2k)^k with 1/k of 1e-6 to 1e-12: the second order of the logarithm is known.
    assert float(norm) == pytest.approx(math.exp(steps * math.log1p(-0.5 * slow)), rel=1e-12)


@pytest.mark.parametrize(("product", "expected"), [(0.5, 0.0), (1.0, 0.0), (2.0, 3.0), (2.5, math.inf)])
def test_limits_of_the_residual(product, expected):
    assert float(predicted_residual_norm(torch.eye(1), torch.tensor([3.0]), product, [math.inf])) == expected


def test_what_lies_outside_the_range_is_never_fitted():
    gram, labels = torch.ones(2, 2), torch.tensor([2.0, 0.0])
    norms = predicted_residual_norm(gram, labels, 0.3, [0, 10**6, math.inf])
    torch.testing.assert_close(norms, torch.tensor([2.0, math.sqrt(2), math.sqrt(2)]))


def test_rounding_below_the_noise_floor_is_never_fitted(labels):
    features = torch.randn(6, 3)
    gram = features @ features.T
    outside = labels - features @ torch.linalg.pinv(features) @ labels
    limit = predicted_residual_norm(gram, labels, rate(gram, 1.0), [math.inf])
    torch.testing.assert_close(limit[0], outside.norm())
    movement = auxiliary_movement(gram, labels, rate(gram, 1.0), [math.inf])
    torch.testing.assert_close(movement[0], (torch.linalg.pinv(features) @ labels).norm())


def test_a_recursion_that_diverges_gives_infinity_and_no_nan():
    gram, labels = torch.diag(torch.tensor([5.0, 1.0])), torch.tensor([1.0, 0.0])
    steps = [0, 10**6, math.inf]
    assert predicted_residual_norm(gram, labels, 1.0, steps).tolist() == [1.0, math.inf, math.inf]
    assert auxiliary_movement(gram, labels, 1.0, steps).tolist() == [0.0, math.inf, math.inf]
    # Without a part along the eigenvector that diverges, nothing does.
    assert predicted_residual_norm(gram, labels.flip(0), 1.0, steps).tolist() == [1.0, 0.0, 0.0]


def test_movement_at_infinity_is_the_root_of_the_inverse_form(features, labels):
    gram = features @ features.T
    limit = auxiliary_movement(gram, labels, rate(gram, 0.9), [math.inf])
    expected = (labels @ torch.linalg.solve(gram, labels)).sqrt()
    torch.testing.assert_close(limit[0], expected)
    torch.testing.assert_close(limit[0], (torch.linalg.pinv(features) @ labels).norm())


def test_movement_grows_with_the_steps_up_to_its_limit(features, labels):
    gram = features @ features.T
    movements = auxiliary_movement(gram, labels, rate(gram, 1.0), [*range(0, 200, 5), math.inf])
    assert bool((movements.diff() >= 0).all())
    assert float(movements[0]) == 0.0


def test_true_labels_are_learned_faster_than_random_and_these_faster_than_the_worst():
    from lightning_bounds.theory.fine_grained import worst_case_labels

    inputs = torch.randn(60, 5)
    inputs = inputs / inputs.norm(dim=1, keepdim=True)
    gram = relu_gram(inputs)
    sets = [inputs[:, 0].sign(), torch.randn(60).sign(), worst_case_labels(gram)]
    losses = [float(predicted_loss(gram, y, rate(gram, 1.0), [200])[0]) for y in sets]
    assert losses[0] < 0.5 * losses[1] < losses[1] < losses[2]


@pytest.mark.parametrize(
    ("learning_rate", "expected"),
    [(0.05, (0.5, True, True)), (0.1, (1.0, True, True)), (0.15, (1.5, False, True)), (0.2, (2.0, False, False))],
)
def test_step_size_tells_which_regime_it_is_in(learning_rate, expected):
    assert step_size(10.0, learning_rate) == pytest.approx(expected)


@pytest.mark.parametrize("product", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("with_start", [False, True])
def test_predictions_on_other_inputs_are_those_of_gradient_descent(features, labels, product, with_start):
    gram, others = features @ features.T, torch.randn(4, 9)
    learning_rate = rate(gram, product)
    starts = (torch.randn(6), torch.randn(4)) if with_start else (None, None)
    _, _, outputs = descend(features, labels, learning_rate, STEPS, starts[0], others)
    expected = outputs + starts[1] if with_start else outputs
    actual = kernel_predictions(
        gram,
        labels,
        others @ features.T,
        learning_rate=learning_rate,
        steps=STEPS,
        initial_outputs=starts[0],
        initial_other_outputs=starts[1],
    )
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_predictions_on_the_training_inputs_have_the_predicted_residual(features, labels):
    gram, start = features @ features.T, torch.randn(6)
    settings = {"learning_rate": 0.02, "steps": [0, 3, 50, math.inf], "initial_outputs": start}
    residuals = labels - kernel_predictions(gram, labels, **settings)
    torch.testing.assert_close(residuals.norm(dim=1), predicted_residual_norm(gram, labels, **settings))


def test_predictions_at_infinity_interpolate_and_are_those_of_kernel_regression(labels):
    inputs, others = torch.randn(6, 3), torch.randn(5, 3)
    gram, cross = relu_gram(inputs), relu_gram(others, inputs)
    torch.testing.assert_close(kernel_predictions(gram, labels)[0], labels)
    torch.testing.assert_close(kernel_predictions(gram, labels, cross)[0], cross @ torch.linalg.solve(gram, labels))


def test_predictions_for_duplicates_with_different_labels_are_their_mean():
    inputs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    outputs = kernel_predictions(relu_gram(inputs), torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(outputs[0], torch.tensor([0.5, 0.5, 3.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": None, "steps": [3]}, "learning_rate"),
        ({"cross_gram": torch.ones(4, 5)}, "cross_gram"),
        ({"cross_gram": torch.full((4, 6), math.nan)}, "cross_gram"),
        ({"cross_gram": torch.ones(4, 6), "initial_outputs": torch.ones(6)}, "initial_other_outputs"),
        ({"initial_other_outputs": torch.ones(6)}, "cross_gram"),
        ({"initial_outputs": torch.ones(5)}, "initial_outputs"),
        ({"learning_rate": 100.0, "steps": [10**5]}, "diverges"),
        ({"learning_rate": 100.0, "steps": [math.inf]}, "diverges"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_predictions_refuse_what_has_no_answer(features, labels, changes, message):
    arguments = {"learning_rate": 0.01, "steps": [1]} | changes
    with pytest.raises(ValueError, match=message):
        kernel_predictions(features @ features.T, labels, **arguments)


@pytest.mark.parametrize("function", [predicted_residual_norm, predicted_loss, auxiliary_movement])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"steps": []}, "steps"),
        ({"steps": [-1]}, "steps"),
        ({"steps": [0.5]}, "steps"),
        ({"steps": [math.nan]}, "steps"),
        ({"steps": 3}, "steps"),
        ({"labels": torch.ones(3)}, "labels"),
        ({"initial_outputs": torch.ones(3)}, "initial_outputs"),
        ({"gram": torch.ones(2, 3)}, "gram"),
    ],
)
def test_trajectories_refuse_bad_arguments(function, changes, message):
    arguments = {"gram": torch.eye(2), "labels": torch.ones(2), "learning_rate": 0.1, "steps": [1]} | changes
    with pytest.raises(ValueError, match=message):
        function(**arguments)


@pytest.mark.parametrize(("largest", "learning_rate"), [(-1.0, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, math.nan)])
def test_step_size_refuses_numbers_out_of_range(largest, learning_rate):
    with pytest.raises(ValueError, match="Expected"):
        step_size(largest, learning_rate)
