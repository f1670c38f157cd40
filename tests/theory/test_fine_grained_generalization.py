"""Bounds on the error on fresh data: their formulas, their conditions, and as theorems."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import (
    certificate,
    complexity_measure,
    generalization_bound,
    kernel_predictions,
    kernel_summary,
    rademacher_bound,
    ramp_loss,
    relu_gram,
    truncated_absolute_loss,
    uniform_deviation,
)

SETTINGS = {"delta": 0.1, "width": 10_000, "kappa": 0.01, "learning_rate": 1e-3, "steps": 5000}


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture
def inputs():
    return unit(torch.randn(30, 4))


@pytest.fixture
def signs():
    return torch.randn(30).sign()


def status(bound):
    return {item.name: item.status for item in bound.conditions}


def test_bound_is_the_complexity_and_the_confidence_term(inputs, signs):
    bound = generalization_bound(inputs, signs, delta=0.05)
    smallest = float(torch.linalg.eigvalsh(relu_gram(inputs))[0])
    expected = math.sqrt(math.log(30 / (smallest * 0.05)) / 30)
    assert bound.terms["complexity"] == pytest.approx(complexity_measure(inputs, signs), rel=1e-12)
    assert bound.terms["confidence"] == pytest.approx(expected, rel=1e-9)
    assert bound.value == pytest.approx(sum(bound.terms.values()), rel=1e-12)
    assert bound.confidence == 0.95


def test_bound_without_settings_leaves_their_conditions_open(inputs, signs):
    bound = generalization_bound(inputs, signs, delta=0.05)
    assert status(bound) == {
        "norm_deviation": "holds",
        "largest_label": "holds",
        "smallest_eigenvalue": "holds",
        "kappa": "unknown",
        "width": "unknown",
        "learning_rate": "unknown",
        "steps": "unknown",
    }
    assert bound.valid
    assert bound.assumptions == {"second_term": 1.0}


def test_conditions_with_hidden_factors_tell_the_largest_factor_that_holds(inputs, signs):
    bound = generalization_bound(inputs, signs, **SETTINGS)
    smallest = kernel_summary(inputs, signs).smallest_eigenvalue
    ratios = {item.name: item.ratio for item in bound.conditions if item.ratio is not None}
    assert ratios == pytest.approx(
        {
            "kappa": smallest * 0.1 / 30 / 0.01,
            "width": 10_000 * smallest**4 * 0.01**2 * 0.1**3 / 30**6,
            "learning_rate": smallest / 30**2 / 1e-3,
            "steps": 5000 * 1e-3 * smallest / math.log(300),
        },
        rel=1e-9,
        abs=0,
    )
    assert {status(bound)[name] for name in ratios} == {"unknown"}
    assert (status(bound)["step_size"], status(bound)["kappa_range"]) == ("holds", "holds")


def test_a_known_factor_decides_its_condition_and_scales_the_second_term(inputs, signs):
    factors = {"second_term": 3.0, "kappa": 1e-6, "width": 1.0, "steps": 1e9}
    bound = generalization_bound(inputs, signs, **SETTINGS, hidden_factors=factors)
    plain = generalization_bound(inputs, signs, **SETTINGS)
    assert bound.terms["confidence"] == pytest.approx(3 * plain.terms["confidence"])
    found = status(bound)
    assert (found["kappa"], found["width"], found["steps"]) == ("holds", "violated", "violated")
    assert found["learning_rate"] == "unknown"
    assert not bound.valid
    assert bound.assumptions == factors


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x, y: (2 * x, y), "norm_deviation"),
        (lambda x, y: (x, 1.5 * y), "largest_label"),
        (lambda x, y: (torch.cat([x, x[:1]]), torch.cat([y, y[:1]])), "smallest_eigenvalue"),
    ],
)
def test_data_that_the_theorem_is_not_about_violate_a_condition(inputs, signs, change, name):
    bound = generalization_bound(*change(inputs, signs), delta=0.1)
    assert not bound.valid
    assert [item.name for item in bound.conditions if item.holds is False] == [name]


@pytest.mark.parametrize(("changes", "name"), [({"learning_rate": 1.0}, "step_size"), ({"kappa": 2.0}, "kappa_range")])
def test_settings_that_the_theorem_is_not_about_violate_a_condition(inputs, signs, changes, name):
    bound = generalization_bound(inputs, signs, **(SETTINGS | changes))
    assert [item.name for item in bound.conditions if item.holds is False] == [name]


@pytest.mark.parametrize("label", [1.0, -1.0])
def test_a_singular_matrix_gives_nothing(inputs, signs, label):
    bound = generalization_bound(torch.cat([inputs, inputs[:1]]), torch.cat([signs, label * signs[:1]]), **SETTINGS)
    assert bound.value == math.inf
    assert bound.vacuous
    assert math.isinf(bound.terms["complexity"]) == (label == -1.0)


def test_long_inputs_give_a_number_although_their_logarithm_would_be_negative():
    bound = generalization_bound(1e4 * torch.eye(3), torch.ones(3), delta=0.5)
    assert bound.terms["confidence"] == 0.0


def test_bound_speaks_of_the_probability_of_error_only_for_signs(inputs, signs):
    assert "Corollary 5.2" in generalization_bound(inputs, signs, delta=0.1).source
    assert "no probability of error" in generalization_bound(inputs, 0.5 * signs, delta=0.1).source


def test_leading_term_is_root_two_times_that_of_oymak_et_al(inputs, signs):
    # Their Eq. (3.4) for one output: √(1/n) √(y^T Σ⁻¹ y) with Σ = H_infinity.
    theirs = math.sqrt(float(signs @ torch.linalg.solve(relu_gram(inputs), signs)) / 30)
    assert generalization_bound(inputs, signs, delta=0.1).terms["complexity"] == pytest.approx(2**0.5 * theirs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [1, 2])
def test_error_of_the_network_of_infinite_width_is_below_the_bound(seed, power):
    generator = torch.Generator().manual_seed(seed)
    rows = unit(torch.randn(1200, 3, generator=generator))
    labels, train, test = rows[:, 0] ** power, slice(0, 200), slice(200, None)
    gram, cross = relu_gram(rows[train]), relu_gram(rows[test], rows[train])
    outputs = kernel_predictions(gram, labels[train], cross)[0]
    bound = generalization_bound(rows[train], labels[train], delta=0.1)
    assert bound.valid
    assert not bound.vacuous
    assert truncated_absolute_loss(outputs, labels[test]) <= bound.value


def test_rademacher_bound_has_the_three_terms_of_the_lemma():
    bound = rademacher_bound(3.0, 0.01, num_samples=50, width=400, kappa=0.5, delta=0.1)
    first = 3 / math.sqrt(100) * (1 + (2 * math.log(20) / 400) ** 0.25)
    middle, last = 0.01**2 * 20 / 0.5, 0.01 * math.sqrt(2 * math.log(20))
    assert bound.printed == pytest.approx(first + 2 * middle + last)
    assert bound.proof == pytest.approx(first + 2 * math.sqrt(2 / math.pi) * middle + last)


def network(inputs, weight, signs):
    return torch.relu(inputs @ weight.T) @ signs / len(signs) ** 0.5


@pytest.mark.parametrize("seed", range(3))
def test_networks_near_their_start_correlate_with_noise_no_more_than_the_lemma_says(inputs, seed):
    width, distance, kappa = 20_000, 0.5, 1.0
    generator = torch.Generator().manual_seed(seed)
    weight, signs = kappa * torch.randn(width, 4, generator=generator), torch.randn(width, generator=generator).sign()
    correlations, rows = [], []
    for noise in torch.randn(40, 30, generator=generator).sign():
        # The direction in which the correlation grows the fastest, to the end of the ball.
        direction = signs.unsqueeze(1) * ((inputs @ weight.T >= 0) * noise.unsqueeze(1)).T @ inputs
        step = distance * direction / direction.norm()
        moved = network(inputs, weight + step, signs)
        correlations.append(float(noise @ (moved - network(inputs, weight, signs))) / 30)
        rows.append(float(step.norm(dim=1).max()))
    mean = sum(correlations) / len(correlations)
    bound = rademacher_bound(distance, max(rows), num_samples=30, width=width, kappa=kappa, delta=0.01)
    assert mean <= bound.proof
    # The first term alone is what it is in the limit: E|Zε| is close to |Z|_F = √(n/2).
    assert mean == pytest.approx(distance / math.sqrt(60), rel=0.15)


def test_uniform_deviation_has_the_constants_of_the_theorem():
    expected = 2 * 0.5 * 0.1 + 3 * 4.0 * math.sqrt(math.log(200) / 40)
    assert uniform_deviation(0.1, num_samples=20, delta=0.01, lipschitz=0.5, largest_loss=4.0) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("delta", [0.5, 0.1, 1e-6])
def test_confidence_term_is_below_that_of_oymak_et_al(delta):
    assert uniform_deviation(0.0, num_samples=77, delta=delta) <= math.sqrt(5 * math.log(2 / delta) / 77)


@pytest.mark.parametrize("seed", range(10))
def test_deviation_of_a_finite_class_is_below_the_theorem(seed):
    # Threshold functions of a uniform number; labels are fair coins, so that every loss has the mean 1/2.
    generator = torch.Generator().manual_seed(seed)
    n, thresholds = 200, torch.linspace(0, 1, 21)
    x, y = torch.rand(n, generator=generator), torch.randint(2, (n,), generator=generator).double()
    outputs = (x.unsqueeze(0) > thresholds.unsqueeze(1)).double()
    deviation = float((0.5 - (outputs - y).abs().mean(dim=1)).max())
    noise = torch.randn(2000, n, generator=generator).sign()
    rademacher = float((noise @ outputs.T).amax(dim=1).mean()) / n
    assert 0.0 < deviation <= uniform_deviation(rademacher, num_samples=n, delta=0.05)


def test_ramp_loss_is_between_the_share_of_errors_and_the_absolute_loss():
    outputs, labels = 2 * torch.randn(500), torch.randn(500).sign()
    errors = float((outputs * labels <= 0).double().mean())
    assert errors < ramp_loss(outputs, labels) < truncated_absolute_loss(outputs, labels) < 1.0


@pytest.mark.parametrize(("product", "expected"), [(-3.0, 1.0), (0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (7.0, 0.0)])
def test_ramp_loss_of_one_sample(product, expected):
    assert ramp_loss(torch.tensor([product]), torch.tensor([1.0])) == expected
    assert ramp_loss(torch.tensor([-product]), torch.tensor([-1.0])) == expected


def test_ramp_loss_refuses_labels_that_are_no_signs():
    with pytest.raises(ValueError, match=r"-1 and \+1"):
        ramp_loss(torch.ones(2), torch.tensor([0.0, 1.0]))


CERTIFICATE = {"row_radius": 0.01, "num_radii": 20, "num_samples": 500, "width": 40_000, "kappa": 0.5, "delta": 0.1}


def test_certificate_is_the_lemma_and_the_theorem_with_half_of_delta_each():
    bound = certificate(0.02, 2.3, 0.005, **CERTIFICATE)
    complexity = rademacher_bound(3.0, 0.01, num_samples=500, width=40_000, kappa=0.5, delta=0.05).proof
    # N classes share the other half: log(2 / (delta / 2N)).
    assert bound.value == pytest.approx(0.02 + uniform_deviation(complexity, num_samples=500, delta=0.05 / 20))
    assert bound.valid
    assert all(math.isfinite(value) and value > 0 for value in bound.terms.values())


@pytest.mark.parametrize(("distance", "radius"), [(0.0, 1.0), (0.4, 1.0), (1.0, 1.0), (1.0001, 2.0), (20.0, 20.0)])
def test_certificate_rounds_the_distance_up_to_the_grid(distance, radius):
    bound = certificate(0.0, distance, 0.0, **CERTIFICATE)
    assert bound.terms["distance"] == certificate(0.0, radius, 0.0, **CERTIFICATE).terms["distance"]


@pytest.mark.parametrize(("distance", "row_distance", "name"), [(20.5, 0.0, "distance"), (1.0, 0.011, "row_distance")])
def test_certificate_beyond_what_was_chosen_before_gives_nothing(distance, row_distance, name):
    bound = certificate(0.0, distance, row_distance, **CERTIFICATE)
    assert (bound.value, bound.valid) == (math.inf, False)
    assert [item.name for item in bound.conditions if item.holds is False] == [name]


def test_certificate_of_a_loss_above_one_is_not_valid():
    assert not certificate(1.5, 1.0, 0.0, **CERTIFICATE).valid


@pytest.mark.parametrize("changes", [{"num_samples": 5000}, {"delta": 0.5}, {"num_radii": 10}, {"row_radius": 0.005}])
def test_certificate_is_smaller_with_more_data_less_confidence_and_less_to_choose_from(changes):
    assert certificate(0.1, 2.0, 0.0, **(CERTIFICATE | changes)).value < certificate(0.1, 2.0, 0.0, **CERTIFICATE).value


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_certificate_of_a_very_wide_network_is_not_vacuous_and_holds(seed):
    generator = torch.Generator().manual_seed(seed)
    n, width, kappa, part = 1000, 100_000, 0.3, 10_000
    rows = unit(torch.randn(1500, 3, generator=generator))
    labels = rows @ unit(torch.randn(1, 3, generator=generator)).squeeze(0)
    # One step along Z, to the ridge solution of the kernel: the certificate is about any training.
    dual = torch.linalg.solve(relu_gram(rows[:n]) + torch.eye(n), labels[:n]).float()
    single, outputs, distance, row_distance = rows.float(), torch.zeros(1500), 0.0, 0.0
    for _ in range(width // part):
        weight = kappa * torch.randn(part, 3, generator=generator).float()
        signs = torch.randn(part, generator=generator).sign().float()
        active = (weight @ single[:n].T >= 0).float()
        step = signs.unsqueeze(1) * (active * dual) @ single[:n] / width**0.5
        outputs += torch.relu((weight + step) @ single.T).T @ signs / width**0.5
        distance += float(step.square().sum())
        row_distance = max(row_distance, float(step.norm(dim=1).max()))
    bound = certificate(
        truncated_absolute_loss(outputs[:n], labels[:n]),
        distance**0.5,
        row_distance,
        row_radius=0.008,
        num_radii=10,
        num_samples=n,
        width=width,
        kappa=kappa,
        delta=0.1,
    )
    assert bound.valid
    assert truncated_absolute_loss(outputs[n:], labels[n:]) <= bound.value < 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"width": 0}, "width"),
        ({"width": 10.5}, "width"),
        ({"kappa": 0.0}, "kappa"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"steps": -1}, "steps"),
        ({"hidden_factors": {"depth": 1.0}}, "hidden factors"),
        ({"hidden_factors": {"kappa": 0.0}}, "hidden factors"),
    ],
)
def test_bound_refuses_settings_out_of_range(inputs, signs, changes, message):
    with pytest.raises(ValueError, match=message):
        generalization_bound(inputs, signs, **(SETTINGS | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_radii": 0}, "num_radii"), ({"delta": 2.0}, "delta"), ({"row_radius": -1.0}, "row_radius")],
)
def test_certificate_refuses_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        certificate(0.0, 1.0, 0.0, **(CERTIFICATE | changes))


@pytest.mark.parametrize("measured", [(-0.1, 1.0, 0.0), (0.0, math.nan, 0.0), (0.0, 1.0, math.inf)])
def test_certificate_refuses_measurements_that_are_no_numbers(measured):
    with pytest.raises(ValueError, match="0 or more"):
        certificate(*measured, **CERTIFICATE)
