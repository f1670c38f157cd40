"""The linear model of section 2.1: its losses against fresh noise, and the dip of Figure 2."""

import math

import pytest
import torch

from lightning_bounds.theory import information_space as spaces


def low_rank(n, d, r):
    """Clean features of rank r with singular values 1, clean labels of a unit vector in their row space."""
    left, right = torch.linalg.qr(torch.randn(n, r)).Q, torch.linalg.qr(torch.randn(d, r)).Q
    features = left @ right.T
    solution = torch.nn.functional.normalize(right @ torch.randn(r), dim=0)
    return features, features @ solution, left


@pytest.mark.parametrize("noise", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.5)])
def test_losses_are_means_over_fresh_noise(noise):
    n, draws = 8, 20_000
    features, labels, basis = low_rank(n, 6, 2)
    weights = torch.randn(6)
    given = {"features": features, "clean_labels": labels, "feature_noise": noise[0], "label_noise": noise[1]}
    loss = spaces.population_loss(weights, **given)
    # Z w of Z ~ N(0, σ²/n) is N(0, σ² |w|²/n).
    variance = noise[0] ** 2 * weights.norm() ** 2 + noise[1] ** 2
    misfit = features @ weights - labels + (variance / n) ** 0.5 * torch.randn(draws, n)
    inside = misfit @ basis @ basis.T
    assert float(loss.total) == pytest.approx(float(misfit.square().sum(1).mean() / 2), rel=0.03)
    assert float(loss.information) == pytest.approx(float(inside.square().sum(1).mean() / 2), rel=0.03)
    nuisance = float((misfit - inside).square().sum(1).mean() / 2)
    assert float(loss.nuisance) == pytest.approx(nuisance, rel=0.03, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 5])
def test_parts_add_up_to_the_total(rank):
    features, labels, _ = low_rank(10, 12, rank)
    weights = torch.randn(4, 12)
    given = {"features": features, "clean_labels": labels, "feature_noise": 0.2, "label_noise": 2.0}
    loss = spaces.population_loss(weights, **given)
    torch.testing.assert_close(loss.information + loss.nuisance, loss.total)
    each = torch.stack([spaces.population_loss(w, **given).nuisance for w in weights])
    torch.testing.assert_close(loss.nuisance, each)
    expected = 0.5 * (1 - rank / 10) * (0.04 * weights.square().sum(1) + 4)
    torch.testing.assert_close(loss.nuisance, expected)


def test_the_minimum_without_noise_in_features_is_the_clean_solution():
    features, labels, _ = low_rank(10, 12, 3)
    solution = torch.linalg.pinv(features) @ labels
    loss = spaces.population_loss(solution, features=features, clean_labels=labels, feature_noise=0.0, label_noise=2.0)
    assert float(loss.information) == pytest.approx(0.5 * 3 / 10 * 4)


@pytest.mark.parametrize("seed", range(2))
def test_test_loss_dips_as_the_information_is_learned_and_rises_with_the_nuisance(seed):
    # Figure 2: n = 200, d = 500, r = 5, σ_x = 0.2, σ_y = 2, with |w*| = 1, w_0 = 0 and η = 0.1 / |X|².
    torch.manual_seed(seed)
    features, labels, _ = low_rank(200, 500, 5)
    X = features + 0.2 / 200**0.5 * torch.randn(200, 500)
    y = labels + 2 / 200**0.5 * torch.randn(200)
    left, values, right = torch.linalg.svd(X, full_matrices=False)
    weights = spaces.linearized_displacement(
        values, -left.T @ y, learning_rate=0.1 / float(values[0]) ** 2, steps=range(0, 1501)
    )
    loss = spaces.population_loss(
        weights @ right, features=features, clean_labels=labels, feature_noise=0.2, label_noise=2.0
    )
    best = int(loss.total.argmin())
    assert 10 <= best <= 30
    assert float(loss.total[best]) == pytest.approx(2.05, abs=0.05)
    assert float(loss.total[0]) == pytest.approx(2.5, abs=1e-9)
    assert float(loss.total[1500]) == pytest.approx(3.2, abs=0.4)
    assert bool((loss.nuisance.diff() > 0).all())
    assert float(loss.information[best]) < 0.25 * float(loss.information[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_noise": -1.0}, "`feature_noise` to be finite, 0 or more"),
        ({"label_noise": math.inf}, "`label_noise` to be finite"),
        ({"clean_labels": torch.ones(3)}, r"but got \(2, 2\), \(2,\) and \(3,\)"),
        ({"features": torch.ones(2, 3)}, r"but got \(2, 3\), \(2,\) and \(2,\)"),
        ({"clean_labels": torch.tensor([1.0, math.nan])}, "NaN or infinite"),
        ({"clean_labels": torch.tensor([1.0, 1.0])}, "column space of the features, but 1 of 1.41 lies outside"),
    ],
)
def test_models_that_do_not_fit_are_refused(change, message):
    given = {
        "features": torch.diag(torch.tensor([1.0, 0.0])), "clean_labels": torch.tensor([1.0, 0.0]),
        "feature_noise": 0.1, "label_noise": 0.1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        spaces.population_loss(torch.ones(2), **given | change)
