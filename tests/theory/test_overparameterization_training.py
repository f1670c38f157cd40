"""The theorems, on networks that are trained."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian, overparameterization


def train(X, y, activation, width, learning_rate, steps, seed=0, batches=None):
    """Gradient descent on the summed loss, by its formula: norms of the residual, distances, lengths of the path."""
    chosen = gaussian.activation_function(activation)
    W = torch.randn(width, X.shape[1], generator=torch.Generator().manual_seed(seed))
    v, start = overparameterization.output_weights(y, width), W.clone()
    residuals, distances, path = [], [], [0.0]
    for t in range(steps + 1):
        r = chosen.function(X @ W.T) @ v - y
        residuals.append(float(r.norm()))
        distances.append(float((W - start).norm()))
        rows = slice(None) if batches is None else [batches[t]]
        gradient = (chosen.derivative(X[rows] @ W.T) * v * r[rows].unsqueeze(1)).T @ X[rows]
        W = W - learning_rate * gradient
        path.append(path[-1] + learning_rate * float(gradient.norm()))
    return torch.tensor(residuals), torch.tensor(distances), torch.tensor(path[:-1])


def orthogonal_data(n=3, seed=0):
    Q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed))).Q
    return Q, torch.randn(n, generator=torch.Generator().manual_seed(seed + 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("activation", "width"), [("softplus", 400_000), ("tanh", 180_000)])
def test_smooth_networks_that_are_wide_enough_for_the_proof_converge_as_proven(activation, width, seed):
    X, y = orthogonal_data(seed=seed)
    guarantee = overparameterization.smooth_guarantee(X, y, width=width, activation=activation)
    explicit = [item for item in guarantee.conditions if item.holds is not None]
    assert all(item.holds for item in explicit)
    residuals, distances, path = train(X, y, activation, width, guarantee.learning_rate, 30, seed)
    bounds = torch.tensor([guarantee.residual_bound(t, float(residuals[0])) for t in range(31)])
    assert float(residuals[0]) <= guarantee.initial_residual
    assert bool((residuals <= bounds).all())
    assert bool((guarantee.distance_coefficient * distances + residuals <= residuals[0] * (1 + 1e-12)).all())
    assert float(path[-1]) <= float(residuals[0]) / guarantee.distance_coefficient <= guarantee.path_length
    # It learns indeed, and the constants are within what the factors of the proof explain.
    assert float(residuals[-1]) < 0.2 * float(residuals[0])
    assert float(distances[-1]) > 0.01 * guarantee.radius


@pytest.mark.parametrize("seed", range(3))
def test_wide_relu_networks_converge_as_proven(seed):
    # The explicit width is far out of reach; the conclusions hold long before.
    X = functional.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)))
    y = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    guarantee = overparameterization.relu_guarantee(X, y, width=4000)
    residuals, distances, path = train(X, y, "relu", 4000, guarantee.learning_rate, 200, seed)
    bounds = torch.tensor([guarantee.residual_bound(t, float(residuals[0])) for t in range(201)])
    assert float(residuals[0]) <= guarantee.initial_residual
    assert bool((residuals <= bounds * (1 + 1e-12)).all())
    assert bool((guarantee.distance_coefficient * distances + residuals <= residuals[0] * (1 + 1e-12)).all())
    assert float(path[-1]) <= guarantee.path_length
    separated = overparameterization.separated_guarantee(X, y, width=4000)
    assert float(residuals[-1]) <= separated.residual_bound(200, float(residuals[0]))


def test_a_mean_loss_needs_a_step_size_n_times_as_large():
    X, y = orthogonal_data(4)
    guarantee = overparameterization.relu_guarantee(X, y, width=1000)
    W = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    v = overparameterization.output_weights(y, 1000)
    optimizer = torch.optim.SGD([W], lr=guarantee.learning_rate * 4)
    for _ in range(20):
        loss = 0.5 * functional.mse_loss((X @ W.T).relu() @ v, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    by_formula, _, _ = train(X, y, "relu", 1000, guarantee.learning_rate, 20)
    assert float(((X @ W.detach().T).relu() @ v - y).norm()) == pytest.approx(float(by_formula[-1]))


def test_stochastic_gradient_descent_converges_as_proven():
    X, y = orthogonal_data(4)
    guarantee = overparameterization.sgd_guarantee(X, y, width=3000, activation="softplus", confidence_factor=5.0)
    draws = [torch.randint(4, (401,), generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    runs = [train(X, y, "softplus", 3000, guarantee.learning_rate, 400, batches=order.tolist()) for order in draws]
    squares = torch.stack([residuals.square() for residuals, _, _ in runs]).mean(dim=0)
    bounds = squares[0] * torch.tensor([(1 - guarantee.rate) ** t for t in range(401)])
    assert bool((squares <= bounds * (1 + 1e-12)).all())
    assert max(float(distances.max()) for _, distances, _ in runs) <= guarantee.radius
    assert float(squares[-1]) < float(squares[0])


# The theorems on any least-squares problem, f(θ) = J θ + c sin(θ) in part, whose constants are known.


def descend(J, c, theta, y, eta, steps):
    residuals, distances, path, start = [], [], 0.0, theta
    for _ in range(steps):
        r = J @ theta + c * theta[: len(y)].sin() - y
        residuals.append(float(r.norm()))
        distances.append(float((theta - start).norm()))
        jacobian = J.clone()
        jacobian[:, : len(y)] += c * torch.diag(theta[: len(y)].cos())
        step = eta * jacobian.T @ r
        theta, path = theta - step, path + float(step.norm())
    return torch.tensor(residuals), torch.tensor(distances), path


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("c", [0.0, 0.05])
def test_smooth_descent_converges_as_proven(seed, c):
    generator = torch.Generator().manual_seed(seed)
    J, theta = torch.randn(4, 30, generator=generator), torch.randn(30, generator=generator)
    y = J @ theta + 0.5 * torch.randn(4, generator=generator)
    start = J.clone()
    start[:, :4] += c * torch.diag(theta[:4].cos())
    sigma, beta = float(torch.linalg.svdvals(start)[-1]), float(torch.linalg.svdvals(J)[0]) + c
    r0 = float((J @ theta + c * theta[:4].sin() - y).norm())
    guarantee = overparameterization.smooth_descent_guarantee(sigma, beta, lipschitz=c, initial_residual=r0)
    assert guarantee.valid
    residuals, distances, path = descend(J, c, theta, y, guarantee.learning_rate, 100)
    assert float(residuals[0]) == pytest.approx(r0)
    assert bool((residuals <= torch.tensor([guarantee.residual_bound(t) for t in range(100)])).all())
    assert bool((guarantee.distance_coefficient * distances + residuals <= r0 * (1 + 1e-12)).all())
    assert path <= guarantee.path_length
    nonsmooth = overparameterization.nonsmooth_descent_guarantee(sigma, beta, r0, jacobian_change=2 * c)
    assert nonsmooth.valid
    residuals, distances, path = descend(J, c, theta, y, nonsmooth.learning_rate, 100)
    assert bool((residuals <= torch.tensor([nonsmooth.residual_bound(t) for t in range(100)])).all())
    assert bool((nonsmooth.distance_coefficient * distances + residuals <= r0 * (1 + 1e-12)).all())
    assert path <= nonsmooth.path_length


def test_descent_theorems_are_their_formulas():
    smooth = overparameterization.smooth_descent_guarantee(1.2, 2.0, 0.1, 0.8, learning_rate=0.1)
    assert smooth.rate == pytest.approx(0.1 * 0.6**2 / 2)
    assert smooth.path_length == pytest.approx(4 * 0.8 / 0.6)
    assert [item.actual for item in smooth.conditions if "alpha" in item.name] == pytest.approx([0.6**2 / 0.4])
    nonsmooth = overparameterization.nonsmooth_descent_guarantee(1.2, 2.0, 0.8)
    assert nonsmooth.learning_rate == pytest.approx(1 / 12)
    assert nonsmooth.printed_rate == pytest.approx(0.36 / 12)
    assert nonsmooth.path_length == pytest.approx(3 * 0.8 / 0.6)
    assert [item.holds for item in nonsmooth.conditions] == [True, True, True, None]


def test_a_step_that_is_too_long_or_a_singular_jacobian_violates_the_conditions():
    assert not overparameterization.smooth_descent_guarantee(1.0, 1.0, 0.1, 1.0, learning_rate=0.6).valid
    singular = overparameterization.nonsmooth_descent_guarantee(0.0, 1.0, 1.0)
    assert (singular.rate, singular.path_length, singular.valid) == (0.0, math.inf, False)


@pytest.mark.parametrize("arguments", [(-1.0, 1.0, 0.1, 1.0), (1.0, 0.0, 0.1, 1.0), (1.0, math.inf, 0.1, 1.0)])
def test_descent_refuses_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match="finite numbers, 0 or more"):
        overparameterization.smooth_descent_guarantee(*arguments)
    with pytest.raises(ValueError, match="`learning_rate` to be positive"):
        overparameterization.smooth_descent_guarantee(1.0, 1.0, 0.1, 1.0, learning_rate=0.0)


# Training the output layer only.


@pytest.mark.parametrize("width", [3, 20, 60])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_minimum_norm_fit_is_that_of_the_pseudo_inverse(width, activation):
    X, y, W = torch.randn(10, 4), torch.randn(10), torch.randn(width, 4)
    fit = overparameterization.random_feature_interpolation(X, y, W, activation)
    features = gaussian.activation_function(activation).function(X @ W.T)
    torch.testing.assert_close(fit.output_weights, torch.linalg.pinv(features) @ y)
    torch.testing.assert_close(fit.residual, features @ fit.output_weights - y)
    if width > 10:
        torch.testing.assert_close(fit.residual, torch.zeros(10), rtol=0, atol=1e-9)
        expected = float(torch.linalg.eigvalsh(features @ features.T)[0])
        assert fit.smallest_eigenvalue == pytest.approx(expected, rel=1e-6)
        # Any other interpolation is longer.
        other = fit.output_weights + torch.linalg.svd(features).Vh[-1]
        torch.testing.assert_close(features @ other, y)
        assert float(other.norm()) > float(fit.output_weights.norm())
    else:
        assert fit.smallest_eigenvalue == 0.0
        assert float(fit.residual.norm()) > 0.01


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("activation", ["relu", "softplus", "tanh"])
def test_wide_random_features_interpolate_as_proven(activation, seed):
    X = functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(seed)))
    lam = overparameterization.output_eigenvalue(X, activation)
    width = math.ceil(math.log(12) ** 2 * 12 / lam)
    guarantee = overparameterization.random_feature_guarantee(X, width=width, activation=activation)
    W = torch.randn(width, 8, generator=torch.Generator().manual_seed(seed + 100))
    fit = overparameterization.random_feature_interpolation(X, torch.randn(12), W, activation)
    assert guarantee.smallest_eigenvalue == pytest.approx(width * lam / 2)
    assert fit.smallest_eigenvalue >= guarantee.smallest_eigenvalue
    assert float(fit.residual.norm()) < 1e-6
    assert [item.ratio for item in guarantee.conditions if item.name == "width"] == pytest.approx([1.0], rel=0.01)


def test_width_of_random_features_has_the_squared_bound_that_the_print_hides():
    X = functional.normalize(torch.randn(2, 3))
    guarantee = overparameterization.random_feature_guarantee(X, width=100, activation="sigmoid", width_factor=1.0)
    lam = overparameterization.output_eigenvalue(X, "sigmoid")
    required = {item.name: item.required for item in guarantee.conditions}
    assert required["width"] == pytest.approx(math.log(2) ** 2 * 2 / lam)
    assert required["width with B^2"] == pytest.approx(required["width"] / 4)
    # For a single input the term that vanishes like n^-100 does not: 6 B² (erratum B5), printed 6 B.
    one = overparameterization.random_feature_guarantee(X[:1], width=100, activation="sigmoid")
    lam = overparameterization.output_eigenvalue(X[:1], "sigmoid")
    assert one.smallest_eigenvalue == pytest.approx(50 * (lam - 6 / 4))
    assert one.printed_smallest_eigenvalue == pytest.approx(50 * (lam - 6 / 2))


def test_features_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"\(k, 3\), .* but got \(5, 2\)"):
        overparameterization.random_feature_interpolation(torch.ones(4, 3), torch.ones(4), torch.ones(5, 2), "relu")
