"""Every number of the convergence theorems, written out from the paper with its errata."""

import json
import math

import pytest
import torch
from torch.nn import functional

from lightning_bounds.theory import gaussian, overparameterization
from lightning_bounds.theory.guarantee import Guarantee


def sphere(n, d, seed=0):
    return functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def data():
    """Inputs, labels, and n, d, |X|, |y| of them."""
    X, y = sphere(10, 6), torch.randn(10)
    return X, y, 10, 6, float(torch.linalg.svdvals(X)[0]), float(y.norm())


def named(guarantee, name):
    return next(item for item in guarantee.conditions if item.name == name)


@pytest.mark.parametrize(("activation", "B"), [("softplus", 1.0), ("erf", 2 / math.sqrt(math.pi)), ("sigmoid", 0.5)])
@pytest.mark.parametrize(("eta", "delta"), [(1.0, 1.0), (0.3, 0.5)])
def test_smooth_theorem_is_its_formulas(data, activation, B, eta, delta):
    X, y, n, d, norm, size = data
    lam = float(torch.linalg.eigvalsh(gaussian.neural_covariance(X, activation))[0])
    guarantee = overparameterization.smooth_guarantee(
        X, y, width=500, activation=activation, step_fraction=eta, tolerance=delta
    )
    r0 = size * (1 + (1 + delta) * B)
    assert guarantee.learning_rate == pytest.approx(eta * n / (2 * B**2 * size**2 * norm**2))
    assert guarantee.rate == guarantee.printed_rate == pytest.approx(eta * lam / (32 * B**2 * norm**2))
    assert guarantee.initial_residual == pytest.approx(r0)
    assert guarantee.distance_coefficient == pytest.approx(size * math.sqrt(lam / (128 * n)))
    assert guarantee.printed_distance_coefficient == pytest.approx(size * math.sqrt(lam / (32 * n)))
    assert guarantee.path_length == guarantee.radius == pytest.approx(math.sqrt(128 * n / lam) * r0 / size)
    assert guarantee.printed_path_length == pytest.approx(math.sqrt(32 * n / lam) * r0 / size)
    assert guarantee.probability == pytest.approx(1 - 1 / n - math.exp(-(delta**2) * n / (2 * norm**2)))
    assert guarantee.printed_probability == pytest.approx(1 - 1 / n - math.exp(-(delta**2) / (2 * norm**2)))
    kappa_tilde = math.sqrt(d / n) * norm / lam
    assert named(guarantee, "sqrt(k d)").actual == pytest.approx(math.sqrt(500 * d))
    assert named(guarantee, "sqrt(k d)").required == pytest.approx(B**2 * (1 + delta) * kappa_tilde * n)
    explicit = 32 * B * (1 + (1 + delta) * B) * kappa_tilde * n
    assert named(guarantee, "sqrt(k d), explicit").required == pytest.approx(explicit)


def test_rate_of_the_smooth_theorem_is_that_of_its_proof(data):
    # Theorem 6.10 with α = |y| √(λ/(8n)) and the step size of the theorem: q = η α² / 2 of the squared residual (B1),
    # and α/4 in front of the distance (B2).
    X, y, n, _, _, size = data
    guarantee = overparameterization.smooth_guarantee(X, y, width=500, activation="tanh")
    alpha = size * math.sqrt(overparameterization.neural_eigenvalue(X, "tanh") / (8 * n))
    assert guarantee.rate == pytest.approx(guarantee.learning_rate * alpha**2 / 2)
    assert guarantee.distance_coefficient == pytest.approx(alpha / 4)


@pytest.mark.parametrize(("eta", "delta"), [(1.0, 1.0), (0.3, 0.5)])
def test_relu_theorem_is_its_formulas(data, eta, delta):
    X, y, n, _, norm, size = data
    lam = float(torch.linalg.eigvalsh(gaussian.relu_neural_covariance(X))[0])
    guarantee = overparameterization.relu_guarantee(X, y, width=500, step_fraction=eta, tolerance=delta)
    p = eta * lam / (24 * norm**2)
    coefficient = size * math.sqrt(lam) / (6 * math.sqrt(2 * n))
    assert guarantee.learning_rate == pytest.approx(eta * n / (3 * size**2 * norm**2))
    assert guarantee.printed_rate == pytest.approx(p)
    assert 1 - guarantee.rate == pytest.approx((1 - p) ** 2, rel=1e-14)
    assert guarantee.distance_coefficient == guarantee.printed_distance_coefficient == pytest.approx(coefficient)
    assert guarantee.initial_residual == pytest.approx(2 * (1 + delta) * size)
    assert guarantee.path_length == guarantee.radius == pytest.approx(2 * (1 + delta) * size / coefficient)
    assert guarantee.probability == pytest.approx(1 - 2 / n - math.exp(-(delta**2) * n / norm**2))
    required = (1 + delta) ** 2 * n * norm**6 / lam**4
    assert named(guarantee, "width").required == pytest.approx(required)
    assert named(guarantee, "width").holds is None
    assert named(guarantee, "width").ratio == pytest.approx(500 / required)
    assert named(guarantee, "width, explicit").required == pytest.approx((24 * math.sqrt(2)) ** 2 * 200**3 * required)


def test_constant_of_the_relu_width_is_where_the_proof_needs_it(data):
    # 12 (1+δ) √(2n) / √λ <= √k λ^{3/2} / (2 200^{3/2} |X|³), with equality at the explicit width.
    X, y, n, _, norm, _ = data
    lam = overparameterization.neural_eigenvalue(X, "relu")
    guarantee = overparameterization.relu_guarantee(X, y, width=500, tolerance=0.7)
    k = named(guarantee, "width, explicit").required
    left = 12 * 1.7 * math.sqrt(2 * n / lam)
    assert left == pytest.approx(math.sqrt(k) * lam**1.5 / (2 * 200**1.5 * norm**3))


def test_khatri_rao_form_is_theorem_2_1_and_2_3(data):
    X, y, n, d, norm, size = data
    sigma = overparameterization.khatri_rao_sigma_min(X)
    guarantee = overparameterization.smooth_guarantee(
        X,
        y,
        width=500,
        activation="softplus",
        smallest_eigenvalue=overparameterization.neural_eigenvalue_bound(X, "softplus"),
    )
    mu = 0.20662096414190734
    assert guarantee.rate == pytest.approx(mu**2 * sigma**2 / (32 * norm**2))
    assert guarantee.printed_distance_coefficient == pytest.approx(mu / math.sqrt(32) * size / math.sqrt(n) * sigma)
    required = 2 / mu**2 * overparameterization.kappa(X) * n
    assert named(guarantee, "sqrt(k d)").required == pytest.approx(required)
    relu = overparameterization.relu_guarantee(
        X, y, width=500, smallest_eigenvalue=overparameterization.neural_eigenvalue_bound(X, "relu")
    )
    assert relu.printed_rate == pytest.approx(sigma**2 / (48 * math.pi * norm**2))
    assert relu.distance_coefficient == pytest.approx(size * sigma / (12 * math.sqrt(math.pi * n)))
    # √(kd) >= C' (1+δ) (n²/d) κ³ σ² with C' = 9.6e4 * 4π².
    root = 9.6e4 * 4 * math.pi**2 * 2 * n**2 / d * overparameterization.kappa(X) ** 3 * sigma**2
    assert math.sqrt(named(relu, "width, explicit").required * d) == pytest.approx(root, rel=1e-6)


def test_separated_theorem_is_its_formulas(data):
    X, y, n, _, norm, _ = data
    delta = overparameterization.separation(X)
    guarantee = overparameterization.separated_guarantee(X, y, width=500, tolerance=0.5)
    assert guarantee.printed_rate == pytest.approx(delta / (2400 * n**2 * norm**2))
    required = 1.5**2 * n**9 * norm**6 / delta**4
    assert named(guarantee, "width").required == pytest.approx(required)
    assert named(guarantee, "width, explicit").required == pytest.approx(9.216e17 * required)
    assert named(guarantee, "separation").holds
    assert guarantee.rate < overparameterization.relu_guarantee(X, y, width=500).rate


def test_stochastic_theorem_is_its_formulas(data):
    X, y, n, d, norm, size = data
    B, nu, eta = 2 / math.sqrt(math.pi), 5.0, 0.7
    activation = "erf"
    lam = 0.01
    guarantee = overparameterization.sgd_guarantee(
        X,
        y,
        width=500,
        activation=activation,
        step_fraction=eta,
        confidence_factor=nu,
        smallest_eigenvalue=lam,
        distance_factor=2.0,
    )
    assert guarantee.learning_rate == pytest.approx(eta * lam * n / (9 * nu * B**4 * size**2 * norm**2))
    assert guarantee.rate == guarantee.printed_rate == pytest.approx(eta * lam**2 / (144 * n * nu * B**4 * norm**2))
    start = 1 - 1 / n - math.exp(-n / (2 * norm**2))
    event = 1 - 4 / nu * (3 * B * norm / math.sqrt(lam)) ** (1 / (500 * d))
    assert guarantee.probability == pytest.approx(start + event - 1)
    assert guarantee.radius == pytest.approx(2.0 * nu * math.sqrt(n))
    assert guarantee.assumptions == {"distance_factor": 2.0}
    assert guarantee.path_length is None


def test_stochastic_theorem_takes_the_khatri_rao_product_and_three_at_least(data):
    X, y, n, _, norm, _ = data
    guarantee = overparameterization.sgd_guarantee(X, y, width=500, activation="softplus", confidence_factor=2.0)
    lam = gaussian.activation_constants("softplus").mu ** 2 * overparameterization.khatri_rao_sigma_min(X) ** 2
    assert guarantee.rate == pytest.approx(lam**2 / (144 * n * 2 * norm**2))
    assert named(guarantee, "confidence_factor").holds is False


@pytest.mark.parametrize(("activation", "denominator", "scale"), [("softplus", 2, 10), ("relu", 3, 100 / 6)])
def test_corollaries_on_the_sphere_are_their_scales(data, activation, denominator, scale):
    X, y, n, d, norm, size = data
    guarantee = overparameterization.sphere_guarantee(
        X, y, width=500, activation=activation, rate_factor=0.1, distance_factor=3.0
    )
    # Erratum B4: the step of Corollary 2.4 has the factor 3 as well.
    assert guarantee.learning_rate == pytest.approx(n / (denominator * size**2 * norm**2))
    assert guarantee.printed_rate == pytest.approx(0.1 * d / n)
    assert guarantee.residual_bound(3) == pytest.approx(3 * (1 - 0.1 * d / n) ** 3 * size)
    assert guarantee.radius == pytest.approx(3 * math.sqrt(n))
    assert named(guarantee, "sqrt(k d)").required == pytest.approx(scale)
    assert {item.holds for item in guarantee.conditions} == {True, None}


@pytest.mark.parametrize(("width", "holds"), [(10**12, True), (100, False)])
def test_hidden_factor_of_the_width_is_decided_by_the_caller(data, width, holds):
    X, y, *_ = data
    guarantee = overparameterization.smooth_guarantee(X, y, width=width, activation="softplus", width_factor=64.0)
    assert named(guarantee, "sqrt(k d)").holds is holds
    assert named(guarantee, "sqrt(k d), explicit").holds is holds


def test_conditions_that_data_and_arguments_violate_are_named(data):
    X, y, *_ = data
    guarantee = overparameterization.smooth_guarantee(2 * X, y, width=10, activation="softplus", step_fraction=1.5)
    violated = {item.name for item in guarantee.conditions if item.holds is False}
    assert {"norm of the inputs", "step_fraction", "sqrt(k d), explicit"} <= violated
    assert not guarantee.valid


def test_smooth_theorem_does_not_apply_to_relu(data):
    X, y, *_ = data
    guarantee = overparameterization.smooth_guarantee(X, y, width=10**9, activation="relu")
    assert named(guarantee, "B").holds is False
    assert (guarantee.learning_rate, guarantee.rate, guarantee.path_length) == (0.0, 0.0, math.inf)
    assert guarantee.vacuous


@pytest.mark.parametrize(
    "theorem",
    [
        lambda X, y: overparameterization.smooth_guarantee(X, y, width=10, activation="tanh"),
        lambda X, y: overparameterization.relu_guarantee(X, y, width=10),
        lambda X, y: overparameterization.separated_guarantee(X, y, width=10),
        lambda X, y: overparameterization.sgd_guarantee(X, y, width=10, activation="tanh"),
        lambda X, y: overparameterization.sgd_guarantee(X, y, width=10, activation="relu"),
    ],
)
def test_duplicates_leave_nothing_to_guarantee_and_nothing_is_nan(theorem):
    X = sphere(3, 4)
    guarantee = theorem(torch.cat([X, X[:1]]), torch.randn(4))
    assert guarantee.rate == 0.0
    assert guarantee.vacuous
    assert not guarantee.valid
    assert guarantee.path_length in (None, math.inf)
    assert not any(math.isnan(value) for value in guarantee.numbers.values())


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_a_single_sample_has_no_probability_left(activation):
    guarantee = overparameterization.smooth_guarantee(
        torch.ones(1, 1), torch.ones(1), width=10**8, activation=activation
    )
    assert guarantee.probability < 0


def test_a_function_without_a_name_says_that_its_bound_is_no_proof(data):
    X, y, *_ = data
    named_, free = (
        overparameterization.smooth_guarantee(X, y, width=500, activation=activation)
        for activation in ("softplus", lambda z: functional.softplus(z))
    )
    assert free.rate == pytest.approx(named_.rate, rel=1e-6)
    assert any("grid" in caveat for caveat in free.caveats)
    assert not any("grid" in caveat for caveat in named_.caveats)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 1}, "at least 2"),
        ({"step_fraction": 0.0}, "`step_fraction` to be positive"),
        ({"tolerance": -1.0}, "`tolerance` to be positive"),
        ({"smallest_eigenvalue": -1.0}, "0 or more"),
        ({"activation": "swish"}, "activation among"),
        ({"activation": torch.zeros_like}, "not constant"),
        ({"labels": torch.ones(3)}, "per sample of 10, but got"),
        ({"inputs": torch.zeros(10, 2)}, "other than zero"),
    ],
)
def test_arguments_out_of_range_are_refused(data, arguments, message):
    given = {"inputs": data[0], "labels": data[1], "width": 10, "activation": "tanh", **arguments}
    with pytest.raises(ValueError, match=message):
        overparameterization.smooth_guarantee(**given)


# How a guarantee reports itself.


def test_residual_and_distance_follow_from_rate_and_coefficient():
    guarantee = Guarantee("toy", "", 0.1, rate=0.75, initial_residual=8.0, distance_coefficient=2.0)
    assert [guarantee.residual_bound(t) for t in (0, 1, 4)] == pytest.approx([8.0, 4.0, 0.5])
    assert guarantee.residual_bound(1, initial_residual=1.0) == pytest.approx(0.5)
    assert guarantee.distance_bound(2.0) == 3.0
    assert guarantee.distance_bound(2.0, initial_residual=4.0) == 1.0
    assert guarantee.radius == 4.0


def test_tiny_rates_over_many_steps_keep_their_digits():
    guarantee = Guarantee("toy", "", 0.1, rate=1e-18, initial_residual=1.0)
    assert guarantee.residual_bound(2 * 10**18) == pytest.approx(math.exp(-1))
    assert Guarantee("toy", "", 0.1, rate=1.0, initial_residual=1.0).residual_bound(1) == 0.0


def test_what_a_theorem_does_not_state_is_refused_or_none():
    guarantee = Guarantee("toy", "", 0.1, rate=0.5)
    assert guarantee.radius is None
    assert Guarantee("toy", "", 0.1, rate=0.5, max_distance=3.0).radius == 3.0
    with pytest.raises(ValueError, match="relates distance and residual"):
        guarantee.distance_bound(0.0)
    with pytest.raises(ValueError, match="pass the norm of r_0"):
        guarantee.residual_bound(1)
    with pytest.raises(ValueError, match="0 or more, but got -1"):
        guarantee.residual_bound(-1)
    with pytest.raises(ValueError, match="but got NaN"):
        Guarantee("toy", "", 0.1, rate=math.nan)


def test_report_is_plain_data_and_readable(data):
    X, y, *_ = data
    guarantee = overparameterization.smooth_guarantee(X, y, width=500, activation="softplus")
    report = json.loads(json.dumps(guarantee.to_dict()))
    assert report["rate"] == guarantee.rate
    assert report["valid"] is False
    assert [item["name"] for item in report["conditions"]] == [item.name for item in guarantee.conditions]
    text = str(guarantee)
    assert "smooth activation (conditions violated)" in text
    assert all(name in text for name in guarantee.numbers)
    assert all(item.name in text for item in guarantee.conditions)
    valid = overparameterization.smooth_guarantee(X, y, width=10**15, activation="softplus")
    assert "no condition violated, some unknown" in str(valid)
