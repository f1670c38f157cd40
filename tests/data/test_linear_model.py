"""The linear model of low rank: its geometry, its noise, and what early stopping gains on it."""

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.data.linear_model import linear_model, load, observation
from lightning_bounds.theory.information_space import population_loss


@pytest.mark.parametrize(("n", "d", "rank"), [(20, 30, 5), (30, 20, 1), (6, 6, 6)])
def test_features_have_rank_many_singular_values_one(n, d, rank):
    model = linear_model(n, d, rank)
    expected = torch.cat([torch.ones(rank), torch.zeros(min(n, d) - rank)])
    assert_close(torch.linalg.svdvals(model.features), expected)


@pytest.mark.parametrize("norm", [1.0, 2.5])
def test_labels_are_those_of_weights_in_the_row_space(norm):
    model = linear_model(20, 30, 4, weight_norm=norm, seed=3)
    assert_close(model.features @ model.weights, model.labels)
    assert float(model.weights.norm()) == pytest.approx(norm)
    assert float(model.labels.norm()) == pytest.approx(norm)
    assert_close(torch.linalg.pinv(model.features) @ model.labels, model.weights)


def test_the_information_basis_spans_the_columns_of_the_features():
    model = linear_model(20, 30, 4)
    U = model.information_basis
    assert_close(U.T @ U, torch.eye(4))
    assert_close(U @ (U.T @ model.features), model.features)
    assert_close(U @ U.T, model.features @ torch.linalg.pinv(model.features))


def test_noise_has_the_variances_of_the_model():
    model = linear_model(100, 150, 3)
    seen = observation(model, feature_noise=0.5, label_noise=2.0)
    Z, z = seen.features - model.features, seen.labels - model.labels
    assert float(Z.square().mean()) == pytest.approx(0.25 / 100, rel=0.06)
    assert float(Z.mean().abs()) < 5 * 0.05 / math.sqrt(15_000)
    assert float(z.square().mean()) == pytest.approx(4 / 100, rel=0.75)


def test_the_mean_loss_over_observations_is_the_population_loss():
    model = linear_model(10, 12, 2)
    weights = torch.randn(12)
    noise = {"feature_noise": 0.3, "label_noise": 0.5}
    seen = [observation(model, **noise, seed=seed) for seed in range(3000)]
    losses = torch.stack([0.5 * (X @ weights - y).square().sum() for X, y in seen])
    expected = population_loss(weights, features=model.features, clean_labels=model.labels, **noise).total
    assert float(losses.mean()) == pytest.approx(float(expected), abs=5 * float(losses.std()) / math.sqrt(3000))


def test_gradient_descent_on_the_loaded_data_dips_and_rises_on_fresh_noise():
    # Figure 2, with w_0 = 0 and η = 0.1 / |X|², which the paper does not tell: 2.5, then 2.05 near step 18, then 3.2.
    data, model = load(), linear_model()
    X, y = data.train_inputs.double(), data.train_labels.double()
    step = 0.1 / float(torch.linalg.matrix_norm(X, 2)) ** 2
    weights = [torch.zeros(500)]
    for _ in range(1500):
        weights.append(weights[-1] - step * X.T @ (X @ weights[-1] - y))
    loss = population_loss(
        torch.stack(weights), features=model.features, clean_labels=model.labels, feature_noise=0.2, label_noise=2.0
    )
    best = int(loss.total.argmin())
    assert 10 <= best <= 30
    assert float(loss.total[best]) == pytest.approx(2.05, abs=0.05)
    assert float(loss.total[-1]) == pytest.approx(3.2, abs=0.4)
    fresh = [float((data.test_inputs.double() @ weights[k] - data.test_labels.double()).square().sum()) / 2
             for k in (best, 1500)]  # fmt: skip
    assert fresh[0] < fresh[1]


def test_loading_is_deterministic_and_leaves_the_global_random_states(rng_untouched):
    with rng_untouched():
        first, again, other = load(seed=1), load(seed=1), load(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.train_inputs, other.train_inputs)


def test_the_two_parts_have_one_clean_model_and_noise_of_their_own():
    data, model = load(), linear_model()
    assert torch.equal(data.train_clean_labels, model.labels.float())
    assert torch.equal(data.test_clean_labels, data.train_clean_labels)
    assert not torch.equal(data.train_labels, data.test_labels)
    assert_close(load(feature_noise=0.0).test_inputs, model.features.float())
    assert torch.equal(load(label_noise=0.0).train_labels, data.train_clean_labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 201}, "`rank` of at most 200, as the features are 200 x 500, but got 201"),
        ({"rank": 0}, "`rank` to be an integer of at least 1"),
        ({"num_samples": 0}, "`num_samples` to be an integer"),
        ({"feature_noise": -1.0}, "`feature_noise` to be finite, 0 or more"),
        ({"label_noise": math.inf}, "`label_noise` to be finite"),
        ({"weight_norm": 0.0}, "`weight_norm` to be positive"),
        ({"seed": -1}, "`seed` to be an integer of at least 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)
