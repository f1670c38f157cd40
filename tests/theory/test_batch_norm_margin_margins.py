"""Margins of batch-normalized networks: definitions, the exact optimum, its solver."""

import math

import pytest
import torch
from scipy import optimize

from lightning_bounds.theory.batch_norm_margin import (
    Weights,
    derivatives,
    draw_weights,
    effective_directions,
    layer_margins,
    linear_max_margin,
    max_margin,
    maximal_layer_margins,
    network_margin,
    tangent_margins,
    unit_ball,
    whole_set_statistics,
)

N, D, M = 12, 3, 40


@pytest.fixture
def data():
    inputs = unit_ball(torch.randn(N, D))
    return inputs, torch.where(torch.randn(N) > 0, 1.0, -1.0)


def reference_case(positive_scales=True):
    a, c, V = draw_weights(M, D, seed=5)
    c = torch.rand(M) + 0.5 if positive_scales else torch.randn(M)
    reference = {
        "reference_output": torch.nn.functional.normalize(torch.randn(M), dim=0),
        "reference_scale": torch.nn.functional.normalize(torch.randn(M), dim=0),
    }
    return {"output_weights": a, "scales": c, "directions": V}, reference


def unit_by_unit(inputs, labels, network, reference, eps):
    """gamma_a, gamma_c and gamma_c with the gates of the reference, from the definition."""
    a, c, V = network.values()
    a_ref, c_ref = reference.values()
    centered = inputs - inputs.mean(dim=0)
    sigma = centered.T @ centered / N
    sums_a, sums_c, sums_followed = torch.zeros(N), torch.zeros(N), torch.zeros(N)
    for i in range(N):
        for j in range(M):
            z = V[j] @ centered[i] / torch.sqrt(V[j] @ sigma @ V[j] + eps)
            sums_a[i] += a_ref[j] * max(c[j] * z, 0.0)
            sums_c[i] += c_ref[j] * a[j] * (z if c[j] * z > 0 else 0.0)
            sums_followed[i] += a[j] * max(c_ref[j] * z, 0.0)
    return [float((labels * sums).min()) / math.sqrt(M) for sums in (sums_a, sums_c, sums_followed)]


@pytest.mark.parametrize("eps", [0.0, 0.2])
@pytest.mark.parametrize("positive_scales", [True, False])
def test_layer_margins_are_their_definition_unit_by_unit(data, eps, positive_scales):
    inputs, labels = data
    network, reference = reference_case(positive_scales)
    expected = unit_by_unit(inputs, labels, network, reference, eps)
    margins = layer_margins(inputs, labels, **network, **reference, eps=eps)
    assert [margins.gamma_a, margins.gamma_c, margins.gamma_c_reference_gates] == pytest.approx(expected)
    assert margins.gamma == pytest.approx(expected[0] + expected[1])
    assert margins.clipped == pytest.approx(max(expected[0], 0) + max(expected[1], 0))


def test_layer_margins_are_inner_products_with_derivatives(data):
    inputs, labels = data
    network, reference = reference_case()
    by_output, by_scale, _ = derivatives(inputs, whole_set_statistics(inputs), Weights(*network.values()))
    margins = layer_margins(inputs, labels, **network, **reference)
    assert margins.gamma_a == pytest.approx(
        float((labels * (by_output @ reference["reference_output"])).min()) / M**0.5
    )
    assert margins.gamma_c == pytest.approx(float((labels * (by_scale @ reference["reference_scale"])).min()) / M**0.5)


def test_margins_without_eps_do_not_see_the_scale_or_the_shift_of_inputs_or_the_scale_of_rows(data):
    inputs, labels = data
    network, reference = reference_case()
    expected = layer_margins(inputs, labels, **network, **reference)
    assert layer_margins(30 * inputs + 4, labels, **network, **reference) == pytest.approx(expected)
    network["directions"] = network["directions"] * torch.rand(M, 1)
    assert layer_margins(inputs, labels, **network, **reference) == pytest.approx(expected)


def test_gates_of_a_positive_reference_are_the_gates_of_the_theorem(data):
    network, reference = reference_case()
    reference["reference_scale"] = reference["reference_scale"].abs()
    margins = layer_margins(*data, **network, **reference)
    assert margins.gamma_c_reference_gates == pytest.approx(margins.gamma_c)


def test_margin_of_the_a_network_is_gamma_a(data):
    inputs, labels = data
    network, reference = reference_case()
    network["scales"] = torch.ones(M)
    gamma_a = layer_margins(inputs, labels, **network, **reference).gamma_a
    network["output_weights"] = 3 * reference["reference_output"]
    assert network_margin(inputs, labels, **network) == pytest.approx(gamma_a)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_tangent_margins_are_products_with_derivatives(data, eps):
    inputs, labels = data
    weights, tangent = (Weights(torch.randn(M), torch.randn(M), torch.randn(M, D)) for _ in range(2))
    by_output, by_scale, by_direction = derivatives(inputs, whole_set_statistics(inputs), weights, eps=eps)
    expected = [
        float((labels * (by_output @ tangent.output_weights)).min() / tangent.output_weights.norm()),
        float((labels * (by_scale @ tangent.scales)).min() / tangent.scales.norm()),
        float((labels * (by_direction * tangent.directions).sum(dim=(1, 2))).min()),
    ]
    assert tangent_margins(inputs, labels, weights=weights, tangent=tangent, eps=eps) == pytest.approx(expected)


def test_tangent_margin_of_the_directions_themselves_vanishes_without_eps(data):
    weights = Weights(torch.randn(M), torch.randn(M), torch.randn(M, D))
    assert tangent_margins(*data, weights=weights, tangent=weights).gamma_v == pytest.approx(0.0, abs=1e-12)
    assert abs(tangent_margins(*data, weights=weights, tangent=weights, eps=0.5).gamma_v) > 1e-3


def test_gamma_a_of_section_1_4_is_the_root_of_the_width_times_that_of_the_theorems(data):
    network, reference = reference_case()
    tangent = Weights(reference["reference_output"], reference["reference_scale"], torch.zeros(M, D))
    margins = tangent_margins(*data, weights=Weights(*network.values()), tangent=tangent)
    expected = layer_margins(*data, **network, **reference)
    assert margins.gamma_a == pytest.approx(expected.gamma_a * M**0.5)
    assert margins.gamma_c == pytest.approx(expected.gamma_c * M**0.5)
    assert margins.gamma_v == 0.0


def test_network_that_is_zero_has_margin_zero(data):
    zero = {"output_weights": torch.zeros(M), "scales": torch.ones(M), "directions": torch.randn(M, D)}
    assert network_margin(*data, **zero) == 0.0
    assert tangent_margins(*data, weights=Weights(*zero.values()), tangent=Weights(*zero.values()))[:2] == (0.0, 0.0)


def support_vector_margin(features, labels):
    """Hard margin without bias by scikit-learn: the data and their mirror images, whose bias is 0."""
    from sklearn.svm import SVC

    both, signs = torch.cat([features, -features]).numpy(), torch.cat([labels, -labels]).numpy()
    machine = SVC(kernel="linear", C=1e10, tol=1e-8).fit(both, signs)
    weight = torch.from_numpy(machine.coef_[0].copy())
    return float((labels * (features @ weight)).min() / weight.norm())


def nearest_point_margin(features, labels):
    """Distance of 0 from the convex hull by a general constrained minimizer."""
    rows = (labels.unsqueeze(1) * features).numpy()
    gram = rows @ rows.T
    start = torch.full((len(rows),), 1 / len(rows)).numpy()
    found = optimize.minimize(
        lambda w: w @ gram @ w,
        start,
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, 1)] * len(rows),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: torch.ones(len(w)).numpy()},
        options={"ftol": 1e-15, "maxiter": 1000},
        method="SLSQP",
    )
    return math.sqrt(found.fun)


@pytest.mark.parametrize(("n", "p"), [(10, 30), (30, 40), (25, 20)])
def test_solvers_agree_on_the_largest_margin(n, p):
    features, labels = torch.randn(n, p), torch.where(torch.randn(n) > 0, 1.0, -1.0)
    solution = max_margin(features, labels)
    assert solution.margin == pytest.approx(solution.upper_bound, rel=1e-9)
    assert float((labels * (features @ solution.weight)).min()) == pytest.approx(solution.margin, rel=1e-9)
    assert float(solution.weight.norm()) == pytest.approx(1.0)
    assert solution.margin == pytest.approx(support_vector_margin(features, labels), rel=1e-5)
    assert solution.margin == pytest.approx(nearest_point_margin(features, labels), rel=1e-4)
    assert float(solution.multipliers.sum()) == pytest.approx(1.0)
    assert bool((solution.multipliers >= 0).all())


def test_support_vectors_are_at_the_margin_and_no_direction_does_better():
    features, labels = torch.randn(20, 30), torch.where(torch.randn(20) > 0, 1.0, -1.0)
    solution = max_margin(features, labels)
    margins = labels * (features @ solution.weight)
    torch.testing.assert_close(
        margins[solution.multipliers > 0], torch.tensor(solution.margin).expand(int((solution.multipliers > 0).sum()))
    )
    others = torch.nn.functional.normalize(solution.weight + 0.1 * torch.randn(500, 30), dim=1)
    assert float((labels * (others @ features.T)).amin(dim=1).max()) < solution.margin


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_largest_margin_scales_and_turns_with_the_data(scale):
    features, labels = torch.randn(15, 20), torch.where(torch.randn(15) > 0, 1.0, -1.0)
    rotation = torch.linalg.qr(torch.randn(20, 20)).Q
    expected = scale * linear_max_margin(features, labels)
    assert linear_max_margin(scale * features @ rotation, labels) == pytest.approx(expected, rel=1e-9)
    assert linear_max_margin(scale * features.flip(0), labels.flip(0)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(50, 5), (300, 20)])
def test_data_that_no_predictor_separates_have_margin_zero(n, p):
    solution = max_margin(torch.randn(n, p), torch.where(torch.randn(n) > 0, 1.0, -1.0))
    assert solution.margin == 0.0
    assert not bool(solution.weight.any())
    assert solution.upper_bound < 1e-9


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        ([[1.0, 0.0], [1.0, 0.0]], [1, -1]),
        ([[1.0, 0.0], [0.0, 0.0]], [1, -1]),
        ([[0.0, 0.0], [0.0, 0.0]], [1, 1]),
    ],
    ids=["contradiction", "zero sample", "only zeros"],
)
def test_degenerate_data_have_margin_zero_and_no_nan(features, labels):
    solution = max_margin(torch.tensor(features), torch.tensor(labels))
    assert solution.margin == 0.0
    assert bool(solution.multipliers.isfinite().all())


def test_duplicate_samples_and_constant_features_change_nothing():
    features, labels = torch.randn(10, 20), torch.where(torch.randn(10) > 0, 1.0, -1.0)
    padded = torch.cat([torch.cat([features, features]), torch.zeros(20, 4)], dim=1)
    expected = linear_max_margin(features, labels)
    assert linear_max_margin(padded, torch.cat([labels, labels])) == pytest.approx(expected, rel=1e-9)


def test_maximal_layer_margins_are_reached_by_their_reference_and_by_no_other(data):
    inputs, labels = data
    a, c, V = draw_weights(200, D, seed=5)
    best = maximal_layer_margins(inputs, labels, output_weights=a, directions=V)
    network = {"output_weights": a, "scales": c, "directions": V}
    reached = layer_margins(
        inputs, labels, **network, reference_output=best.reference_output, reference_scale=best.reference_scale
    )
    assert (reached.gamma_a, reached.gamma_c, reached.gamma) == pytest.approx(best[:3], rel=1e-8)
    assert best.gamma_a > 0
    assert best.gamma_c > 0
    other = torch.nn.functional.normalize(best.reference_output + 0.02 * torch.randn(200), dim=0)
    worse = layer_margins(inputs, labels, **network, reference_output=other, reference_scale=best.reference_scale)
    assert worse.gamma_a < best.gamma_a


def test_gamma_a_is_at_most_the_root_mean_square_of_the_active_units(data):
    inputs, labels = data
    a, _, V = draw_weights(200, D, seed=5)
    best = maximal_layer_margins(inputs, labels, output_weights=a, directions=V)
    features = (inputs @ effective_directions(V, inputs).T).relu()
    assert best.gamma_a <= float(features.square().mean(dim=1).sqrt().min())
    assert best.gamma_a <= 1
    assert best.gamma_c <= float(a.norm() * features.max()) / math.sqrt(200)


def test_moving_the_directions_within_the_ball_stays_below_the_upper_end(data):
    inputs, labels = data
    a, _, V = draw_weights(100, D, seed=5)
    best = maximal_layer_margins(inputs, labels, output_weights=a, directions=V)
    assert best.gamma_upper == pytest.approx(best.gamma / (1 - (1 + float(a.abs().max())) / 32))
    rows = effective_directions(V, inputs)
    # Towards larger activations of the units that the best reference uses with the sign of each sample.
    pull = torch.outer(best.reference_output, (labels.unsqueeze(1) * inputs).sum(dim=0))
    moved = rows + pull * (best.gamma / 32 * 10 / pull.norm())
    features = (inputs @ moved.T).relu()
    gamma = (max_margin(features, labels).margin + max_margin(features * a, labels).margin) / 10
    assert best.gamma < gamma <= best.gamma_upper


def test_upper_end_of_data_outside_the_unit_ball_grows_with_their_norm(data):
    inputs, labels = data
    a, _, V = draw_weights(100, D, seed=5)
    inside = maximal_layer_margins(inputs / 2, labels, output_weights=a, directions=V)
    outside = maximal_layer_margins(5 * inputs, labels, output_weights=a, directions=V)
    largest = float((5 * (inputs - inputs.mean(dim=0))).norm(dim=1).max())
    assert inside.gamma_upper == pytest.approx(inside.gamma / (1 - (1 + float(a.abs().max())) / 32))
    assert outside.gamma_upper == pytest.approx(outside.gamma / (1 - (1 + float(a.abs().max())) * largest / 32))


@pytest.mark.parametrize("weight", [40.0, 31.0])
def test_upper_end_is_infinite_where_the_output_weights_are_too_large(data, weight):
    a = torch.full((M,), weight)
    best = maximal_layer_margins(*data, output_weights=a, directions=draw_weights(M, D, 0).directions)
    assert best.gamma_upper == math.inf


def test_narrow_networks_that_cannot_separate_have_margin_zero():
    inputs, labels = torch.randn(50, 2), torch.where(torch.randn(50) > 0, 1.0, -1.0)
    best = maximal_layer_margins(inputs, labels, output_weights=torch.randn(4), directions=torch.randn(4, 2))
    assert best[:4] == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("labels", [[0, 1], [1, 2], [1.0, math.nan], [1], [[1, -1], [1, -1]]])
def test_labels_other_than_signs_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels -1 and \+1|one label for each"):
        linear_max_margin(torch.randn(2, 3), torch.tensor(labels))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"output_weights": torch.ones(3)}, "`output_weights` with 4"),
        ({"scales": torch.ones(5)}, "`scales` with 4"),
        ({"directions": torch.ones(4, 3)}, r"shape \(m, 2\)"),
        ({"reference_output": torch.full((4,), math.inf)}, "finite `reference_output`"),
        ({"reference_scale": torch.ones(3)}, "`reference_scale` with 4"),
        ({"eps": -1.0}, "`eps`"),
        ({"labels": torch.tensor([1.0, 0.0, 1.0])}, "labels -1 and"),
        ({"inputs": torch.ones(1, 2), "labels": torch.ones(1)}, "n >= 2"),
    ],
)
def test_wrong_arguments_are_named(changed, match):
    ones = {name: torch.ones(4) for name in ("output_weights", "scales", "reference_output", "reference_scale")}
    right = {
        "inputs": torch.randn(3, 2),
        "labels": torch.tensor([1.0, -1.0, 1.0]),
        "directions": torch.randn(4, 2),
        **ones,
    }
    with pytest.raises(ValueError, match=match):
        layer_margins(**{**right, **changed})
