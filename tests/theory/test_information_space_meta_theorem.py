"""The meta theorem on linear models and on networks that meet its assumptions; the lemmas that it stands on."""

import math

import pytest
import torch

from lightning_bounds.theory import fine_grained
from lightning_bounds.theory import information_space as spaces

ARGUMENTS = {"cutoff": 1.0, "Gamma": 2.0, "tolerance": 0.3, "learning_rate": 0.0625, "spectral_bound": 4.0}
VALUES = torch.tensor([4.0, 2.0, 1.0, 0.5])


def states(tracking):
    return {item.name: item.status for item in tracking.conditions}


def test_every_quantity_is_that_of_its_equation():
    a = torch.tensor([1.0, -2.0, 3.0, 4.0])
    tracking = spaces.meta_theorem(VALUES, a, **ARGUMENTS)
    norm, pinv, nuisance = 30**0.5, (1 / 16 + 1 + 9) ** 0.5, 4.0
    half = pinv + 2 * nuisance + 0.3 * 2 * norm
    assert tracking.stopping.time == pytest.approx(32)
    assert (tracking.radius, tracking.distance) == (pytest.approx(2 * half), pytest.approx(half))  # (5.10), (5.13)
    assert tracking.residual_deviation == pytest.approx(0.6 * 0.3 / 4 * norm)  # (5.12)
    assert tracking.parameter_deviation == pytest.approx(0.3 * 2 * norm)
    linear = math.exp(-2) * 14**0.5 + nuisance
    assert tracking.residual == pytest.approx(linear + 0.3 / 4 * norm)  # (5.14)
    assert tracking.sharp_residual == pytest.approx(linear + 0.6 * 0.3 / 4 * norm)
    value = spaces.early_stopping_value(VALUES, a, cutoff=1.0, Gamma=2.0)
    assert tracking.sharp_distance == pytest.approx(float(value) + 0.3 * 2 * norm)
    assert tracking.sharp_distance <= tracking.distance
    limits = {item.name: item.required for item in tracking.conditions}
    assert limits["reference_deviation"] == pytest.approx(min(0.3, (0.3 / 8) ** 0.5) / 5)  # (5.11)
    assert limits["jacobian_deviation"] == pytest.approx(0.3 / (5 * 2 * 16))


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ({}, "jacobian_deviation", "unknown"),
        ({"jacobian_deviation": 0.0018}, "jacobian_deviation", "holds"),
        ({"jacobian_deviation": 0.0019}, "jacobian_deviation", "violated"),
        ({"reference_deviation": 0.038}, "reference_deviation", "holds"),
        ({"reference_deviation": 0.039}, "reference_deviation", "violated"),
        ({"learning_rate": 0.07}, "learning_rate", "violated"),
        ({"spectral_bound": 3.9}, "spectral_bound", "violated"),
        ({"cutoff": 4.0}, "cutoff", "holds"),
        ({"cutoff": 4.1}, "cutoff", "violated"),
    ],
)
def test_conditions_are_decided_by_their_numbers(change, name, expected):
    tracking = spaces.meta_theorem(VALUES, torch.ones(4), **ARGUMENTS | change)
    assert states(tracking)[name] == expected
    assert tracking.valid is (expected != "violated")


def test_without_a_cutoff_a_singular_jacobian_gives_infinity():
    tracking = spaces.meta_theorem(torch.tensor([1.0, 0.0]), torch.ones(2), **ARGUMENTS | {"cutoff": 0.0})
    assert (tracking.radius, tracking.distance, tracking.stopping.time) == (math.inf, math.inf, math.inf)
    assert tracking.residual == pytest.approx(math.exp(-2) * 2**0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_linear_model_is_the_linearized_one_and_keeps_to_the_bounds(seed, rank):
    torch.manual_seed(seed)
    jacobian, residual = torch.randn(6, 15), torch.randn(6)
    left, values, _ = torch.linalg.svd(jacobian, full_matrices=False)
    step, cutoff = 0.9 / float(values[0]) ** 2, float(values[rank - 1])
    whole = spaces.stopping_time(cutoff=cutoff, Gamma=1.3, learning_rate=step)
    tracking = spaces.meta_theorem(
        values, left.T @ residual, cutoff=cutoff, Gamma=whole.effective_gamma, tolerance=1e-9,
        learning_rate=step, spectral_bound=float(values[0]), jacobian_deviation=0.0,
    )  # fmt: skip
    assert tracking.valid
    theta, path = torch.zeros(15), []
    for _ in range(int(whole.steps)):
        theta = theta - step * jacobian.T @ (residual + jacobian @ theta)
        path.append(theta)
    distances, final = torch.stack(path).norm(dim=1), residual + jacobian @ theta
    assert float(distances.max()) <= tracking.sharp_distance <= tracking.distance
    assert float(final.norm()) <= tracking.sharp_residual <= tracking.residual


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(5, 9), (6, 4)])
def test_a_linear_model_follows_that_of_a_reference_jacobian(seed, shape):
    # A reference from another Gram matrix, with fewer parameters than outputs too (zero columns).
    torch.manual_seed(seed)
    jacobian, residual, factor = torch.randn(shape), torch.randn(shape[0]), torch.randn(shape[0], shape[0])
    gram = jacobian @ jacobian.T
    reference = spaces.reference_jacobian(jacobian, gram + 1e-6 * factor @ factor.T)
    beta = 1.01 * float(torch.linalg.svdvals(jacobian)[0])
    left, values, right = torch.linalg.svd(reference, full_matrices=False)
    step, cutoff = 1 / beta**2, float(values[1])
    whole = spaces.stopping_time(cutoff=cutoff, Gamma=1.0, learning_rate=step)
    tracking = spaces.meta_theorem(
        values, left.T @ residual, cutoff=cutoff, Gamma=whole.effective_gamma, tolerance=1.0, learning_rate=step,
        spectral_bound=beta, reference_deviation=spaces.reference_deviation(jacobian, reference).epsilon,
        jacobian_deviation=0.0,
    )  # fmt: skip
    assert tracking.valid
    times = list(range(int(whole.steps) + 1))
    along = spaces.linearized_residual(values, left.T @ residual, learning_rate=step, steps=times) @ left.T
    moved = spaces.linearized_displacement(values, left.T @ residual, learning_rate=step, steps=times) @ right
    theta, path = torch.zeros(shape[1]), [torch.zeros(shape[1])]
    for _ in times[1:]:
        theta = theta - step * jacobian.T @ (residual + jacobian @ theta)
        path.append(theta)
    thetas = torch.stack(path)
    padded = torch.nn.functional.pad(thetas, (0, max(shape) - shape[1]))
    residuals = residual + thetas @ jacobian.T
    assert 0 < float((residuals - along).norm(dim=1).max()) <= tracking.residual_deviation
    assert float((padded - moved).norm(dim=1).max()) <= tracking.parameter_deviation
    assert float(thetas.norm(dim=1).max()) <= tracking.sharp_distance
    assert float(residuals[-1].norm()) <= tracking.sharp_residual


@pytest.mark.parametrize("seed", range(3))
def test_a_network_follows_its_linearization_where_the_conditions_hold(seed):
    torch.manual_seed(seed)
    n, d, k, nu = 12, 5, 300, 300.0
    X = torch.nn.functional.normalize(torch.eye(d)[torch.arange(n) % 2] + 0.1 * torch.randn(n, d), dim=1)
    Y, W = torch.randn(n, 1), 0.3 * torch.randn(k, d)
    V = nu / k**0.5 * (2.0 * torch.randint(2, (1, k)) - 1)
    jacobian = spaces.hidden_jacobian(X, W, V, "tanh")
    limits = spaces.hidden_jacobian_bounds(X, V, B=1.0)
    left, values, right = torch.linalg.svd(jacobian, full_matrices=False)
    start = torch.tanh(X @ W.T) @ V.T
    Y = start + torch.randn(n, 1)  # a residual of the usual size
    residual = (start - Y).flatten()
    step, cutoff = 1 / limits.spectral**2, float(values[1])
    whole = spaces.stopping_time(cutoff=cutoff, Gamma=1.0, learning_rate=step)
    arguments = {
        "cutoff": cutoff, "Gamma": whole.effective_gamma, "tolerance": 0.5, "learning_rate": step,
        "spectral_bound": limits.spectral,
    }  # fmt: skip
    radius = spaces.meta_theorem(values, left.T @ residual, **arguments).radius
    tracking = spaces.meta_theorem(values, left.T @ residual, **arguments, jacobian_deviation=2 * limits.row * radius)
    assert set(states(tracking).values()) == {"holds"}
    times = list(range(int(whole.steps) + 1))
    along = spaces.linearized_residual(values, left.T @ residual, learning_rate=step, steps=times) @ left.T
    moved = spaces.linearized_displacement(values, left.T @ residual, learning_rate=step, steps=times) @ right
    weights, residuals = [W], [residual]
    for _ in times[1:]:
        W = W - step * spaces.hidden_gradient(X, W, V, "tanh", residuals[-1])
        weights.append(W)
        residuals.append((torch.tanh(X @ W.T) @ V.T - Y).flatten())
    displacement = (torch.stack(weights) - weights[0]).flatten(1)
    assert 0 < float((torch.stack(residuals) - along).norm(dim=1).max()) <= tracking.residual_deviation
    assert float((displacement - moved).norm(dim=1).max()) <= tracking.parameter_deviation
    assert float(displacement.norm(dim=1).max()) <= tracking.sharp_distance <= tracking.distance
    assert float(residuals[-1].norm()) <= tracking.sharp_residual <= tracking.residual


def test_linearized_residual_is_the_prediction_of_arora_et_al():
    # Eq. (5.9) with J J^T = H and r_0 = -y is Eq. (8) of that paper.
    X, labels = torch.nn.functional.normalize(torch.randn(9, 4), dim=1), torch.randn(9)
    spectrum = spaces.neural_spectrum(X, "relu", 1)
    along = spaces.linearized_residual(
        spectrum.singular_values, -spectrum.coefficients(labels), learning_rate=0.3, steps=[0, 1, 10, 500]
    )
    predicted = fine_grained.predicted_residual_norm(fine_grained.relu_gram(X), labels, 0.3, [0, 1, 10, 500])
    torch.testing.assert_close(along.norm(dim=1), predicted.double(), rtol=1e-8, atol=1e-10)


# Lemma 6.8.


def largest_perturbation(*, epsilon, gamma, cutoff, growth, rho, learning_rate):
    """The recursion with equality, up to T."""
    information, nuisance = rho
    e = largest = 0.0
    for t in range(math.floor(gamma / (learning_rate * cutoff**2))):
        r = (1 - learning_rate * cutoff**2) ** t * information + nuisance
        e = (1 + learning_rate * epsilon**2) * e + learning_rate * growth * r
        largest = max(largest, e)
    return largest


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("rho", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.4)])
@pytest.mark.parametrize("learning_rate", [1.0, 0.1, 0.01])
def test_perturbations_stay_below_the_bound(epsilon, rho, learning_rate):
    given = {"epsilon": epsilon, "cutoff": 1.0, "growth": 0.2}
    reached = largest_perturbation(**given, gamma=2.0, rho=rho, learning_rate=learning_rate)
    assert 0 < reached <= spaces.perturbation_bound(*rho, **given, Gamma=2.0)


def test_the_printed_hypothesis_of_lemma_6_8_is_not_enough():
    # Erratum A11: α >= √(2 Γ ε) holds with ε = 4, α = 2.9 and Γ = 1, but the recursion leaves the bound.
    given = {"epsilon": 4.0, "cutoff": 2.9, "growth": 1.0}
    assert given["cutoff"] >= math.sqrt(2 * given["epsilon"])
    reached = largest_perturbation(**given, gamma=1.0, rho=(0.0, 1.0), learning_rate=0.001)
    assert reached > 2 / 2.9**2
    assert spaces.perturbation_bound(0.0, 1.0, **given, Gamma=1.0) == math.inf


# Reference Jacobians.


@pytest.mark.parametrize("shape", [(4, 9), (5, 5), (6, 2)])
@pytest.mark.parametrize("noise", [1e-6, 0.1, 3.0])
def test_reference_has_the_gram_matrix_and_is_as_close_as_lemma_6_4_says(shape, noise):
    jacobian, factor = torch.randn(shape), torch.randn(shape[0], shape[0] + 2)
    gram = jacobian @ jacobian.T + noise * factor @ factor.T
    reference = spaces.reference_jacobian(jacobian, gram)
    assert reference.shape == (shape[0], max(shape))
    torch.testing.assert_close(reference @ reference.T, gram)
    deviation = spaces.reference_deviation(jacobian, reference)
    assert deviation.jacobian <= 2 * deviation.gram**0.5 * (1 + 1e-9)
    assert deviation.epsilon == max(deviation.gram**0.5, deviation.jacobian)
    assert deviation.spectral_norm == pytest.approx(float(torch.linalg.svdvals(gram)[0]) ** 0.5)


def test_the_root_of_the_gram_matrix_itself_is_no_reference():
    jacobian = torch.randn(4, 4)
    gram = jacobian @ jacobian.T
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.sqrt()) @ vectors.T
    assert spaces.reference_deviation(jacobian, root).gram < 1e-9
    assert spaces.reference_deviation(jacobian, root).jacobian > 0.5
    assert spaces.reference_deviation(jacobian, spaces.reference_jacobian(jacobian, gram)).jacobian < 1e-9


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Gamma": 0.9}, "`Gamma` of at least 1, but got 0.9"),
        ({"tolerance": 0.0}, r"`tolerance` in \(0, 1\], but got 0.0"),
        ({"tolerance": 1.1}, "`tolerance` .* but got 1.1"),
        ({"learning_rate": 0.0}, "`learning_rate` to be positive"),
        ({"spectral_bound": 0.0}, "`spectral_bound` to be positive"),
        ({"reference_deviation": -1.0}, "`reference_deviation` to be finite, 0 or more"),
        ({"jacobian_deviation": math.nan}, "`jacobian_deviation` to be finite, 0 or more"),
    ],
)
def test_parameters_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spaces.meta_theorem(VALUES, torch.ones(4), **ARGUMENTS | change)


@pytest.mark.parametrize(
    ("jacobian", "gram", "message"),
    [
        (torch.ones(2), torch.eye(2), r"finite Jacobian \(n\*K, p\), but got shape \(2,\)"),
        (torch.full((2, 2), math.inf), torch.eye(2), "finite Jacobian"),
        (torch.eye(2), torch.eye(3), r"but got shape \(3, 3\)"),
        (torch.eye(2), -torch.eye(2), "positive semi-definite `gram`, but its least eigenvalue is -1"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(jacobian, gram, message):
    with pytest.raises(ValueError, match=message):
        spaces.reference_jacobian(jacobian, gram)


def test_references_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"finite `reference` \(3, 3\), but got \(3, 2\)"):
        spaces.reference_deviation(torch.ones(3, 2), torch.ones(3, 2))
