"""Early stopping and the linearized model: against their sums, matrix powers, and gradient descent itself."""

import math

import pytest
import torch

from lightning_bounds.theory import information_space as spaces

VALUES = torch.tensor([4.0, 2.0, 2.0, 1.0, 0.25])
CUTOFFS = [0.25, 0.5, 2.0, 3.0, 4.0, 5.0]


def decomposed(shape):
    """A Jacobian with all its singular values, left vectors and right vectors, and a residual."""
    jacobian, residual = torch.randn(shape), torch.randn(shape[0])
    left, values, right = torch.linalg.svd(jacobian, full_matrices=True)
    size = shape[0]
    padded = torch.cat([values, values.new_zeros(size - len(values))])
    return jacobian, residual, left, padded, right[:size]


def value_by_loop(values, coefficients, cutoff, gamma):
    squares = 0.0
    for lam, a in zip(values.tolist(), coefficients.tolist(), strict=True):
        squares += (cutoff / lam * a) ** 2 if lam >= cutoff else (gamma * lam / cutoff * a) ** 2
    return squares**0.5


def descend(jacobian, residual, learning_rate, steps):
    """Gradient descent on 1/2 |r_0 + J θ|² from θ = 0: the residual and θ after the last step."""
    theta = torch.zeros(jacobian.shape[1])
    for _ in range(steps):
        theta = theta - learning_rate * jacobian.T @ (residual + jacobian @ theta)
    return residual + jacobian @ theta, theta


# Value and distance.


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_value_is_the_sum_of_its_definition_with_ties_inside(cutoff, gamma):
    coefficients = torch.randn(5)
    expected = value_by_loop(VALUES, coefficients, cutoff, gamma)
    value = spaces.early_stopping_value(VALUES, coefficients, cutoff=cutoff, Gamma=gamma)
    distance = spaces.early_stopping_distance(VALUES, coefficients, cutoff=cutoff, Gamma=gamma)
    assert float(value) == pytest.approx(expected, rel=1e-12)
    assert float(distance) == pytest.approx(expected / cutoff, rel=1e-12)


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_value_lies_between_the_limits_of_lemma_6_2(cutoff, gamma):
    coefficients = torch.randn(5)
    arguments = {"cutoff": cutoff, "Gamma": gamma}
    value = float(spaces.early_stopping_value(VALUES, coefficients, **arguments))
    limits = spaces.early_stopping_limits(VALUES, coefficients, **arguments)
    inside = cutoff <= VALUES
    assert float(limits.value_lower) == pytest.approx(cutoff / 4 * float(coefficients[inside].norm()))
    assert float(limits.value_lower) <= value * (1 + 1e-12)
    assert value <= float(limits.value_upper) * (1 + 1e-12) <= float(limits.value_crude) * (1 + 2e-12)
    assert value / cutoff <= float(limits.distance_upper) * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(5, 20), (6, 6)])
def test_distance_is_that_of_the_pseudo_inverse_where_everything_is_information(shape):
    jacobian, residual, left, values, _ = decomposed(shape)
    arguments = {"cutoff": float(values[-1]), "Gamma": 7.0}
    distance = spaces.early_stopping_distance(values, left.T @ residual, **arguments)
    expected = (torch.linalg.pinv(jacobian) @ residual).norm()
    torch.testing.assert_close(distance, expected, rtol=1e-9, atol=0)
    at_zero = spaces.early_stopping_distance(values, left.T @ residual, cutoff=0.0, Gamma=7.0)
    torch.testing.assert_close(at_zero, expected, rtol=1e-9, atol=0)
    limits = spaces.early_stopping_limits(values, left.T @ residual, cutoff=0.0, Gamma=7.0)
    torch.testing.assert_close(limits.distance_upper, expected, rtol=1e-9, atol=0)


def test_distance_with_the_root_of_a_kernel_is_the_root_of_a_quadratic_form():
    X, labels = torch.randn(6, 9), torch.randn(6)
    kernel = X @ X.T
    spectrum = spaces.kernel_spectrum(kernel, 1)
    distance = spaces.early_stopping_distance(
        spectrum.singular_values, spectrum.coefficients(labels), cutoff=0.0, Gamma=1.0
    )
    torch.testing.assert_close(distance.square(), labels @ torch.linalg.solve(kernel, labels), rtol=1e-9, atol=0)


@pytest.mark.parametrize("smallest", [0.0, 1e-13])
@pytest.mark.parametrize("coefficient", [0.0, 1.0])
def test_cutoff_zero_of_a_rank_deficient_jacobian_gives_infinity_and_never_nan(smallest, coefficient):
    values, coefficients = torch.tensor([2.0, 1.0, smallest]), torch.tensor([1.0, 1.0, coefficient])
    arguments = {"cutoff": 0.0, "Gamma": 2.0}
    assert float(spaces.early_stopping_value(values, coefficients, **arguments)) == math.inf
    assert float(spaces.early_stopping_distance(values, coefficients, **arguments)) == math.inf
    assert float(spaces.early_stopping_limits(values, coefficients, **arguments).distance_upper) == math.inf
    bound = spaces.linearized_distance_bound(values, coefficients, cutoff=0.0, learning_rate=0.1, steps=[0, 3])
    assert bound.tolist() == [math.inf, math.inf]


def test_cutoff_above_all_singular_values_leaves_the_nuisance_part():
    values, coefficients = torch.tensor([2.0, 1.0]), torch.tensor([3.0, 4.0])
    value = spaces.early_stopping_value(values, coefficients, cutoff=10.0, Gamma=5.0)
    assert float(value) == pytest.approx(5 / 10 * math.hypot(6, 4))


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_scaling_jacobian_and_cutoff_keeps_the_value_and_scales_the_distance(factor):
    coefficients = torch.randn(5)
    before = spaces.early_stopping_value(VALUES, coefficients, cutoff=1.5, Gamma=2.0)
    after = spaces.early_stopping_value(factor * VALUES, coefficients, cutoff=factor * 1.5, Gamma=2.0)
    torch.testing.assert_close(after, before)
    scaled = spaces.early_stopping_value(VALUES, factor * coefficients, cutoff=1.5, Gamma=2.0)
    torch.testing.assert_close(scaled, factor * before)


def test_value_does_not_depend_on_the_order():
    coefficients, order = torch.randn(5), torch.tensor([3, 0, 4, 1, 2])
    before = spaces.early_stopping_value(VALUES, coefficients, cutoff=1.5, Gamma=2.0)
    torch.testing.assert_close(
        spaces.early_stopping_value(VALUES[order], coefficients[order], cutoff=1.5, Gamma=2.0), before
    )


# Stopping time.


@pytest.mark.parametrize(("gamma", "steps", "effective"), [(2.0, 3, 2.4), (2.4, 3, 2.4), (2.41, 4, 3.2), (0.1, 1, 0.8)])
def test_stopping_time_is_rounded_up_and_gamma_with_it(gamma, steps, effective):
    stopping = spaces.stopping_time(cutoff=2.0, Gamma=gamma, learning_rate=0.2)
    assert stopping.time == pytest.approx(gamma / 0.8)
    assert stopping.steps == steps
    assert stopping.effective_gamma == pytest.approx(effective)


def test_stopping_time_without_a_cutoff_is_infinite():
    assert spaces.stopping_time(cutoff=0.0, Gamma=2.0, learning_rate=0.2) == (math.inf, math.inf, 2.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [2, 5, 8])
def test_gradient_descent_keeps_to_the_bounds_at_the_whole_number_of_steps(seed, rank):
    torch.manual_seed(seed)
    jacobian, residual, left, values, _ = decomposed((8, 20))
    a, step, cutoff = left.T @ residual, 0.7 / float(values[0]) ** 2, float(values[rank - 1])
    stopping = spaces.stopping_time(cutoff=cutoff, Gamma=1.5, learning_rate=step)
    final, theta = descend(jacobian, residual, step, stopping.steps)
    information, nuisance = a[:rank].norm(), a[rank:].norm()
    distance = spaces.early_stopping_distance(values, a, cutoff=cutoff, Gamma=stopping.effective_gamma)
    assert float(final.norm()) <= math.exp(-1.5) * float(information) + float(nuisance)  # (6.10)
    assert float(theta.norm()) <= float(distance)  # Corollary 6.6


# The linearized model.


@pytest.mark.parametrize("shape", [(4, 9), (6, 6), (7, 3)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 17])
def test_residual_and_displacement_equal_gradient_descent(shape, scale, steps):
    jacobian, residual, left, values, right = decomposed(shape)
    step, a = scale / float(values[0]) ** 2, left.T @ residual
    final, theta = descend(jacobian, residual, step, steps)
    along = spaces.linearized_residual(values, a, learning_rate=step, steps=[steps])
    torch.testing.assert_close(left @ along[0], final, rtol=1e-10, atol=1e-10)
    moved = spaces.linearized_displacement(values, a, learning_rate=step, steps=[steps])
    rank = min(shape)
    torch.testing.assert_close(right[:rank].T @ moved[0, :rank], theta, rtol=1e-10, atol=1e-10)
    assert bool((moved[0, rank:] == 0).all())


def test_linearized_residual_is_a_matrix_power():
    gram = torch.randn(5, 7)
    gram, residual = gram @ gram.T, torch.randn(5)
    spectrum = spaces.kernel_spectrum(gram, 1)
    step = 0.9 / float(spectrum.roots[0]) ** 2
    along = spaces.linearized_residual(
        spectrum.singular_values, spectrum.coefficients(residual), learning_rate=step, steps=torch.tensor([0, 6])
    )
    expected = torch.linalg.matrix_power(torch.eye(5) - step * gram, 6) @ residual
    torch.testing.assert_close(along @ spectrum.vectors.T, torch.stack([residual, expected]))


def test_a_billion_steps_on_a_tiny_singular_value_keep_their_digits():
    value, step, steps = torch.tensor([1e-6]), 1e-3, 10**9
    along = spaces.linearized_residual(value, torch.ones(1), learning_rate=step, steps=[steps])
    assert float(along) == pytest.approx(math.exp(steps * math.log1p(-1e-15)), rel=1e-12)
    moved = spaces.linearized_displacement(value, torch.ones(1), learning_rate=step, steps=[steps])
    assert float(moved) == pytest.approx(math.expm1(-1e-6) / 1e-6, rel=1e-12)


def test_divergence_gives_infinity_and_nothing_where_there_is_no_residual():
    values, coefficients = torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0])
    along = spaces.linearized_residual(values, coefficients, learning_rate=1.0, steps=[1, 2001])
    assert along[0].tolist() == [pytest.approx(-3.0), 0.0]
    assert along[1].tolist() == [-math.inf, 0.0]


@pytest.mark.parametrize("steps", [[0, 1, 5, 40, 1000]])
@pytest.mark.parametrize("cutoff", [0.3, 1.0, 2.0])
def test_linearized_distance_and_residual_keep_to_their_bounds(steps, cutoff):
    coefficients = torch.randn(5)
    given = {"learning_rate": 1 / 16, "steps": steps}
    distance = spaces.linearized_displacement(VALUES, coefficients, **given).norm(dim=1)
    residual = spaces.linearized_residual(VALUES, coefficients, **given).norm(dim=1)
    assert bool((distance <= spaces.linearized_distance_bound(VALUES, coefficients, cutoff=cutoff, **given)).all())
    bound = spaces.linearized_residual_bound(VALUES, coefficients, cutoff=cutoff, **given)
    assert bool((residual <= bound * (1 + 1e-12)).all())
    inside = cutoff <= VALUES
    shrink = (1 - cutoff**2 / 16) ** torch.tensor(steps, dtype=torch.float64)
    torch.testing.assert_close(bound, shrink * coefficients[inside].norm() + coefficients[~inside].norm())


def test_the_residual_bound_is_attained_where_all_inside_lies_on_the_cutoff():
    values, coefficients = torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.0])
    given = {"cutoff": 2.0, "learning_rate": 0.1, "steps": [4]}
    assert float(spaces.linearized_residual_bound(values, coefficients, **given)) == pytest.approx(3 * 0.6**4)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff": -1.0}, "`cutoff` to be finite, 0 or more, but got -1.0"),
        ({"cutoff": math.nan}, "`cutoff` .* but got nan"),
        ({"Gamma": 0.0}, "`Gamma` to be positive and finite, but got 0.0"),
        ({"Gamma": math.inf}, "`Gamma` .* but got inf"),
    ],
)
@pytest.mark.parametrize(
    "function", [spaces.early_stopping_value, spaces.early_stopping_distance, spaces.early_stopping_limits]
)
def test_parameters_out_of_range_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(VALUES, torch.ones(5), **{"cutoff": 1.0, "Gamma": 1.0, **arguments})


@pytest.mark.parametrize(
    ("values", "coefficients", "message"),
    [
        (torch.ones(3), torch.ones(2), r"but got \(3,\) and \(2,\)"),
        (torch.ones(2, 2), torch.ones(2, 2), r"but got \(2, 2\)"),
        (torch.ones(0), torch.ones(0), r"but got \(0,\)"),
        (torch.tensor([1.0, -1.0]), torch.ones(2), r"0 or more, but the singular values lie in \[-1.0, 1.0\]"),
        (torch.tensor([1.0, math.nan]), torch.ones(2), "finite"),
        (torch.ones(2), torch.tensor([1.0, math.inf]), "1 coefficients are NaN or infinite"),
    ],
)
def test_singular_values_and_coefficients_that_do_not_fit_are_refused(values, coefficients, message):
    with pytest.raises(ValueError, match=message):
        spaces.early_stopping_value(values, coefficients, cutoff=1.0, Gamma=1.0)


@pytest.mark.parametrize("steps", [[-1], [0.5], [math.nan], 3])
def test_steps_that_are_no_whole_numbers_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` to be a list of whole numbers, 0 or more, but got"):
        spaces.linearized_residual(VALUES, torch.ones(5), learning_rate=0.1, steps=steps)


@pytest.mark.parametrize("function", [spaces.linearized_distance_bound, spaces.linearized_residual_bound])
def test_a_learning_rate_beyond_the_proof_is_refused(function):
    with pytest.raises(ValueError, match=r"at most 1 / sigma_max\^2 = 0.0625, .* but got 0.07"):
        function(VALUES, torch.ones(5), cutoff=1.0, learning_rate=0.07, steps=[1])
