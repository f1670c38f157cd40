"""Inputs on the sphere with the values of functions that are, or are not, learnable."""

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.data.sphere import function_complexity, function_values, load, sphere_inputs
from lightning_bounds.theory import fine_grained

LEARNABLE = ["linear", "quadratic", "cosine", "arctangent"]
OF_ONE_NUMBER = {
    "linear": lambda z: z,
    "quadratic": lambda z: z * z,
    "cosine": lambda z: math.cos(z) - 1,
    "arctangent": lambda z: z * math.atan(z / 2),
    "cubic": lambda z: z * z * z,
}


def inverse_form(inputs, labels):
    """y^T H⁻¹ y by a plain solve."""
    return float(labels @ torch.linalg.solve(fine_grained.relu_gram(inputs), labels))


def test_inputs_are_uniform_on_the_sphere():
    inputs = sphere_inputs(4000, 5)
    assert_close(inputs.norm(dim=1), torch.ones(4000))
    assert_close(inputs.T @ inputs / 4000, torch.eye(5) / 5, rtol=0, atol=0.02)
    assert float(inputs.mean(dim=0).norm()) < 5 / math.sqrt(4000)
    # E x_1^4 = 3 / (d (d + 2)).
    assert float(inputs[:, 0].pow(4).mean()) == pytest.approx(3 / 35, rel=0.15)


def test_fewer_inputs_are_the_first_of_more():
    assert torch.equal(sphere_inputs(5, 7, seed=2), sphere_inputs(20, 7, seed=2)[:5])


@pytest.mark.parametrize("function", OF_ONE_NUMBER)
def test_values_are_those_of_the_definition(function):
    inputs, direction = torch.randn(6, 3), torch.randn(3)
    expected = [
        OF_ONE_NUMBER[function](sum(x * b for x, b in zip(row, direction.tolist(), strict=True)))
        for row in inputs.tolist()
    ]
    assert_close(function_values(function, inputs, direction), torch.tensor(expected))


@pytest.mark.parametrize("n", [40, 160])
@pytest.mark.parametrize("function", LEARNABLE)
def test_learnable_functions_keep_to_their_bound_for_any_number_of_samples(function, n):
    inputs, direction = sphere_inputs(n, 10), sphere_inputs(1, 10, seed=7)[0]
    bound = function_complexity(function, direction)
    value = inverse_form(inputs, function_values(function, inputs, direction))
    assert 0 < value <= bound.sharper <= bound.printed


def test_the_cube_has_no_bound_and_grows_with_the_samples():
    direction = sphere_inputs(1, 4, seed=7)[0]
    cube, square = (
        [
            inverse_form(inputs, function_values(function, inputs, direction))
            for inputs in (sphere_inputs(100, 4), sphere_inputs(800, 4))
        ]
        for function in ("cubic", "quadratic")
    )
    assert cube[1] > 2.5 * cube[0]
    assert square[1] < 1.5 * square[0]
    with pytest.raises(ValueError, match="Expected powers of 1, or even and positive, but got 3"):
        function_complexity("cubic", direction)


@pytest.mark.parametrize("function", OF_ONE_NUMBER)
def test_labels_without_noise_are_in_the_unit_interval_and_of_the_inputs_that_come_with_them(function):
    data = load(function, num_features=6, train_samples=50)
    assert torch.equal(data.train_labels, data.train_clean_labels)
    assert float(data.train_labels.abs().max()) <= 1
    # Only the direction is unknown: the linear labels of the same seed give it away.
    linear = load("linear", num_features=6, train_samples=50)
    direction = torch.linalg.lstsq(linear.train_inputs.double(), linear.train_labels.double()).solution
    assert float(direction.norm()) == pytest.approx(1, rel=1e-5)
    for_test = function_values(function, data.test_inputs.double(), direction)
    assert_close(data.test_labels.double(), for_test, rtol=1e-4, atol=1e-5)


def test_noise_is_on_the_labels_alone_and_has_its_standard_deviation():
    clean, noisy = load(), load(noise=0.3)
    assert torch.equal(clean.train_inputs, noisy.train_inputs)
    assert torch.equal(clean.train_labels, noisy.train_clean_labels)
    noise = torch.cat([noisy.train_labels - clean.train_labels, noisy.test_labels - clean.test_labels])
    assert float(noise.std()) == pytest.approx(0.3, rel=0.1)


def test_loading_is_deterministic_and_leaves_the_global_random_states(rng_untouched):
    with rng_untouched():
        first, again, other = load(noise=0.1, seed=1), load(noise=0.1, seed=1), load(noise=0.1, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.train_inputs, other.train_inputs)


def test_more_training_samples_leave_the_test_part_and_the_first_ones():
    few, many = load(train_samples=20), load(train_samples=60)
    assert torch.equal(few.test_labels, many.test_labels)
    assert torch.equal(few.train_labels, many.train_labels[:20])
    assert torch.equal(load(noise=0.1, train_samples=20).test_labels, load(noise=0.1).test_labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": "sine"}, r"Expected a function among \['arctangent', .*\], but got 'sine'"),
        ({"num_features": 0}, "`num_features` to be an integer of at least 1"),
        ({"train_samples": -3}, "`num_samples` to be an integer of at least 1, but got -3"),
        ({"direction_norm": 0.0}, "`direction_norm` to be positive"),
        ({"noise": -0.1}, "`noise` to be finite, 0 or more"),
        ({"seed": 0.5}, "`seed` to be an integer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)


def test_a_direction_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"but got \(2, 3\) and \(2,\)"):
        function_values("linear", torch.ones(2, 3), torch.ones(2))
