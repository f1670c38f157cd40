"""The bounds from random and from arbitrary initial weights: term by term, against each other, and as theorems."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_bounds.theory import fine_grained
from lightning_bounds.theory import information_space as spaces
from lightning_bounds.theory.gaussian import neural_covariance

PARAMETERS = {"activation": "softplus", "alpha_bar": 0.15, "Gamma": 2.0, "zeta": 0.2, "delta": 0.1}
ARBITRARY = {"activation": "tanh", "nu": 3.0, "alpha_bar": 0.3, "Gamma": 2.0, "zeta": 0.2, "delta": 0.1}


def unit_rows(n, d):
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


def clusters(n, d, K, noise=0.1):
    """Unit inputs near K orthogonal directions, with one-hot rows."""
    classes = torch.arange(n) % K
    inputs = torch.eye(d)[classes] + noise * torch.randn(n, d) / d**0.5
    return torch.nn.functional.normalize(inputs, dim=1), torch.eye(K)[classes]


def status(bound, name):
    return {item.name: item.status for item in bound.conditions}[name]


def actual(bound, name):
    return {item.name: item.actual for item in bound.conditions}[name]


def required(bound, name):
    return {item.name: item.required for item in bound.conditions}[name]


def spectrum_of(jacobian, **more):
    left, values, _ = torch.linalg.svd(jacobian, full_matrices=True)
    padded = torch.cat([values, values.new_zeros(len(left) - len(values))])
    return SimpleNamespace(singular_values=padded, left_vectors=left, **more)


# Random initialization.


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("sharp", [False, True])
def test_terms_are_those_of_the_large_kernel(K, sharp):
    X, n, B, gamma, zeta = unit_rows(7, 5), 7, 1.0, 2.0, 0.2
    Y = torch.nn.functional.normalize(torch.randn(n, K), dim=1)
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS, sharp=sharp)
    eigenvalues, U = torch.linalg.eigh(torch.kron(neural_covariance(X, "softplus"), torch.eye(K)))
    norm = float(torch.linalg.svdvals(X)[0])
    alpha = 0.15 * n**0.25 * (K * norm) ** 0.5 * B
    lam, a = eigenvalues.clamp_min(0).sqrt(), U.T @ Y.flatten()
    inside = lam >= alpha
    assert 0 < int(inside.sum()) < n * K
    information, nuisance, pinv = a[inside].norm(), a[~inside].norm(), (a / lam)[inside].norm()
    scale = 12 * B * (K / n) ** 0.5
    distance = torch.hypot(pinv, gamma / alpha**2 * (a * lam)[~inside].norm())
    expected = {
        "bias": 2 * nuisance / n**0.5,
        "precision": 12 * (1 + B * K**0.5 * gamma / alpha) * zeta,
        "chance": (2 * 5**0.5 if sharp else 5) * (math.log(20) / n) ** 0.5,
        "duration": 2 * math.exp(-gamma) * (information / n**0.5 if sharp else 1),
    }
    expected |= (
        {"distance": scale * distance}
        if sharp
        else {
            "information": scale * pinv,
            "nuisance": scale * gamma / alpha * nuisance,
        }
    )
    assert dict(bound.terms) == {name: pytest.approx(float(value), rel=1e-8) for name, value in expected.items()}
    assert bound.value == pytest.approx(sum(bound.terms.values()))
    assert bound.assumptions["information_dimension"] == int(inside.sum())
    nu = zeta / (50 * B * math.sqrt(math.log(2 * K)))
    assert bound.assumptions["nu"] == pytest.approx(nu)
    step = 1 / (nu * B * norm) ** 2
    assert bound.assumptions["learning_rate"] == pytest.approx(step)
    assert bound.assumptions["iterations"] == math.ceil(gamma * K / (step * nu**2 * alpha**2))


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("sharp", [False, True])
def test_it_is_the_bound_for_arbitrary_initialization_with_the_expected_jacobian(K, sharp):
    # Theorem 3.2 is Theorem 3.3 with J = ν/√K Σ^{1/2}, α = ν α_0 / √K and r_0 = -y, but for the terms with ζ and Γ.
    X = unit_rows(6, 5)
    Y = torch.nn.functional.normalize(torch.randn(6, K), dim=1)
    random = spaces.random_initialization_bound(X, Y, **PARAMETERS, sharp=sharp)
    nu, spectrum = random.assumptions["nu"], spaces.neural_spectrum(X, "softplus", K)
    scaled = SimpleNamespace(singular_values=nu / K**0.5 * spectrum.singular_values, left_vectors=spectrum.left_vectors)
    arbitrary = spaces.arbitrary_initialization_bound(scaled, -Y, inputs=X, nu=nu, **PARAMETERS, sharp=sharp)
    names = ["bias", "distance"] if sharp else ["bias", "information", "nuisance"]
    assert [arbitrary.terms[name] for name in names] == pytest.approx([random.terms[name] for name in names])
    assert arbitrary.assumptions["cutoff"] == pytest.approx(nu * random.assumptions["cutoff"] / K**0.5)
    assert arbitrary.assumptions["iterations"] == random.assumptions["iterations"]
    assert arbitrary.assumptions["information_dimension"] == random.assumptions["information_dimension"]


@pytest.mark.parametrize("alpha_bar", [0.01, 0.1, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("gamma", [1.0, 4.0])
@pytest.mark.parametrize("K", [1, 3])
def test_rough_forms_are_never_below_sharper_ones(alpha_bar, gamma, K):
    X, Y = clusters(12, 6, 3)
    Y = Y if K == 3 else 2 * Y[:, :1] - 1
    parameters = PARAMETERS | {"alpha_bar": alpha_bar, "Gamma": gamma}
    sharp = spaces.random_initialization_bound(X, Y, **parameters, sharp=True).value
    printed = spaces.random_initialization_bound(X, Y, **parameters).value
    rough = spaces.simplified_random_initialization_bound(X, Y, **parameters).value
    assert sharp <= printed <= rough


def test_simplified_terms_are_those_of_equation_3_3():
    X, Y = clusters(12, 6, 3)
    bound = spaces.simplified_random_initialization_bound(X, Y, **PARAMETERS)
    printed = spaces.random_initialization_bound(X, Y, **PARAMETERS)
    norm = float(torch.linalg.svdvals(X)[0])
    assert bound.terms["variance"] == pytest.approx(36 * 2 / (0.15 * (12 * norm**2) ** 0.25))
    assert bound.terms["precision"] == pytest.approx(12 * 0.2)
    same = ["bias", "chance", "duration"]
    assert [bound.terms[name] for name in same] == [printed.terms[name] for name in same]
    assert bound.confidence == printed.confidence


def test_value_does_not_depend_on_rotation_or_order_of_samples_or_classes():
    X, Y = clusters(9, 5, 3)
    before = spaces.random_initialization_bound(X, Y, **PARAMETERS).value
    order, rotation = torch.randperm(9), torch.linalg.qr(torch.randn(5, 5)).Q
    after = spaces.random_initialization_bound((X @ rotation)[order], Y[order][:, [2, 0, 1]], **PARAMETERS).value
    assert after == pytest.approx(before, rel=1e-8)
    flat = spaces.random_initialization_bound(X, Y.flatten(), **PARAMETERS).value
    assert flat == before


def test_class_major_labels_give_another_value():
    X, Y = clusters(9, 5, 3)
    right = spaces.random_initialization_bound(X, Y, **PARAMETERS)
    wrong = spaces.random_initialization_bound(X, spaces.class_major(Y.flatten(), 3), **PARAMETERS)
    assert abs(wrong.terms["bias"] - right.terms["bias"]) > 0.01


@pytest.mark.parametrize("alpha_bar", [0.0, 0.15])
@pytest.mark.parametrize("sharp", [False, True])
def test_no_cutoff_gives_infinity_and_never_nan(alpha_bar, sharp):
    X, Y = clusters(9, 5, 3)
    X, Y = torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]])
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS | {"alpha_bar": alpha_bar}, sharp=sharp, width=100)
    assert math.isinf(bound.value) is (alpha_bar == 0)
    assert bound.vacuous


@pytest.mark.parametrize("sharp", [False, True])
def test_a_cutoff_above_all_singular_values_is_computed_and_violated(sharp):
    X, Y = clusters(9, 5, 3)
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS | {"alpha_bar": 50.0}, sharp=sharp)
    assert (status(bound, "cutoff"), status(bound, "cutoff_of_activation")) == ("violated", "violated")
    assert not bound.valid
    assert bound.terms["bias"] == pytest.approx(2.0)
    assert math.isfinite(bound.value)
    assert required(bound, "width_of_proof") == math.inf  # c = 0


def test_widths_are_those_of_theorem_and_proof():
    X, Y = clusters(12, 6, 3)
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS, width=1000)
    needed = 2.0**4 * math.log(12) / (0.2**4 * 0.15**8)
    share = (1 - (bound.terms["bias"] / 2) ** 2) ** 0.5
    conditions = {item.name: item for item in bound.conditions}
    assert conditions["width"].required == pytest.approx(needed)
    assert conditions["width"].ratio == pytest.approx(1000 / needed)
    assert conditions["width"].status == "unknown"
    assert conditions["width_of_proof"].required == pytest.approx(12e7 * needed / share**4)
    assert conditions["width_of_proof"].status == "violated"
    assert conditions["precision"].required == pytest.approx(share / 2)


def test_conditions_without_a_width_are_undecided():
    bound = spaces.random_initialization_bound(*clusters(12, 6, 3), **PARAMETERS)
    assert (status(bound, "width"), status(bound, "width_of_proof")) == ("unknown", "unknown")
    assert bound.valid


@pytest.mark.parametrize(("factor", "expected"), [(0.5, "holds"), (1.0, "holds"), (1.01, "violated")])
def test_learning_rates_up_to_the_largest_hold(factor, expected):
    X, Y = clusters(12, 6, 3)
    largest = spaces.random_initialization_bound(X, Y, **PARAMETERS).assumptions["learning_rate"]
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS, learning_rate=factor * largest)
    assert status(bound, "learning_rate") == expected


def test_a_cutoff_at_a_singular_value_is_decided_by_rounding():
    X, Y = torch.eye(6)[[0, 0, 1, 2, 3, 4]], torch.eye(2)[torch.arange(6) % 2]  # |X|² = 2, the roots are √2 and 1
    parameters = PARAMETERS | {"activation": "identity", "alpha_bar": 1 / (6**0.25 * (2 * 2**0.5) ** 0.5)}
    at = spaces.random_initialization_bound(X, Y, **parameters)
    assert at.assumptions["cutoff"] == pytest.approx(1.0)
    assert status(at, "cutoff_gap") == "unknown"
    below = spaces.random_initialization_bound(X, Y, **parameters | {"alpha_bar": 0.99 * parameters["alpha_bar"]})
    assert (status(below, "cutoff_gap"), actual(below, "cutoff_gap")) == ("holds", pytest.approx(0.01))


def test_a_cutoff_below_the_noise_floor_is_a_violation():
    X, Y = clusters(9, 5, 3)
    tiny = spaces.random_initialization_bound(X, Y, **PARAMETERS | {"alpha_bar": 1e-9})
    assert status(tiny, "cutoff_resolved") == "violated"
    assert status(spaces.random_initialization_bound(X, Y, **PARAMETERS), "cutoff_resolved") == "holds"


def test_inputs_of_other_norms_and_labels_of_other_norms_are_violations():
    X, Y = clusters(12, 6, 3)
    assert status(spaces.random_initialization_bound(X, Y, **PARAMETERS), "input_norm_deviation") == "holds"
    assert status(spaces.random_initialization_bound(2 * X, Y, **PARAMETERS), "input_norm_deviation") == "violated"
    assert status(spaces.random_initialization_bound(X, 2 * Y, **PARAMETERS), "label_norm") == "violated"


def test_relu_is_computed_but_has_no_second_derivative():
    bound = spaces.random_initialization_bound(*clusters(12, 6, 3), **PARAMETERS | {"activation": "relu"})
    assert status(bound, "second_derivative") == "violated"
    assert math.isfinite(bound.value)


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("alpha_bar", [0.0, 0.1])
def test_an_activation_of_unbounded_slope_gives_infinity(sharp, alpha_bar):
    parameters = PARAMETERS | {"activation": "quadratic", "alpha_bar": alpha_bar}
    bound = spaces.random_initialization_bound(*clusters(12, 6, 3), **parameters, sharp=sharp)
    assert bound.value == math.inf
    assert status(bound, "first_derivative") == "violated"


def test_confidence_is_that_of_the_proof():
    bound = spaces.random_initialization_bound(unit_rows(1, 3), torch.ones(1), **PARAMETERS)
    assert bound.confidence == pytest.approx(1 - 0.1 - 2.0**-100 - 1)  # n = 1: the statement is empty
    assert bound.assumptions["printed_confidence"] == pytest.approx(0.9)


def test_caveats_are_printed():
    text = str(spaces.random_initialization_bound(unit_rows(3, 3), torch.ones(3), **PARAMETERS))
    assert text.count("(A12)") == 2
    assert "With one output the argmax is never wrong" in text
    assert "argmax" not in str(spaces.random_initialization_bound(*clusters(12, 6, 3), **PARAMETERS))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("K", [1, 2])
def test_networks_that_are_linear_in_their_weights_stay_within_the_bounds_of_the_proof(seed, K):
    # No real width meets the proof's condition, but with φ = identity it has nothing to make up for.
    torch.manual_seed(seed)
    n, k, zeta = 40, 4000, 0.02
    X, Y = clusters(n, 6, 2, noise=0.5)
    Y = torch.cat([Y[1:5], Y[4:]]) if seed == 2 else Y  # four wrong labels
    Y = Y if K == 2 else 2 * Y[:, :1] - 1
    parameters = {"activation": "identity", "alpha_bar": 0.2, "Gamma": 2.0, "zeta": zeta}
    bound = spaces.random_initialization_bound(X, Y, **parameters, delta=0.1)
    limits = spaces.random_initialization_trajectory(X, Y, **parameters, width=k)
    nu, step = bound.assumptions["nu"], bound.assumptions["learning_rate"]
    W, V = torch.randn(k, 6), nu / (k * K) ** 0.5 * (2.0 * torch.randint(2, (K, k)) - 1)
    start = W.clone()
    for _ in range(int(limits.stopping.steps)):
        W = W - step * V.T @ (X @ W.T @ V.T - Y).T @ X
    assert float((X @ W.T @ V.T - Y).norm()) <= limits.residual < float(Y.norm())
    assert float((W - start).norm()) <= limits.distance
    assert float((W - start).norm(dim=1).max()) <= limits.row_distance


def test_trajectory_is_that_of_its_equations():
    X, Y = clusters(12, 6, 3)
    n, K, B, gamma, zeta, width = 12, 3, 1.0, 2.0, 0.2, 50
    parameters = {name: PARAMETERS[name] for name in ("activation", "alpha_bar", "Gamma", "zeta")}
    limits = spaces.random_initialization_trajectory(X, Y, **parameters, width=width)
    bound = spaces.random_initialization_bound(X, Y, **PARAMETERS)
    spectrum, alpha, nu = spaces.neural_spectrum(X, "softplus", K), bound.assumptions["cutoff"], bound.assumptions["nu"]
    a, nuisance = spectrum.coefficients(Y.flatten()), bound.terms["bias"] * n**0.5 / 2
    value = spaces.early_stopping_value(spectrum.singular_values, a, cutoff=alpha, Gamma=gamma)
    information = (n - nuisance**2) ** 0.5
    norm = float(torch.linalg.svdvals(X)[0])
    assert limits.residual == pytest.approx(nuisance + math.exp(-gamma) * information + 4 * zeta * n**0.5)
    expected = 2 * K**0.5 * (float(value) + gamma * zeta * n**0.5) / (nu * alpha)
    assert limits.distance == pytest.approx(expected)
    assert limits.row_distance == pytest.approx(4 * gamma * B * K * norm * (n / width) ** 0.5 / (nu * alpha**2))


# Full rank.


def test_full_rank_variance_is_a_quadratic_form_for_each_output():
    X, Y = unit_rows(6, 8), torch.nn.functional.normalize(torch.randn(6, 3), dim=1)
    bound = spaces.full_rank_bound(X, Y, activation="erf", delta=0.1)
    kernel = neural_covariance(X, "erf")
    expected = sum(float(y @ torch.linalg.solve(kernel, y)) for y in Y.T)
    assert bound.terms["variance"] == pytest.approx((3 / 6 * expected) ** 0.5, rel=1e-9)
    assert bound.terms["chance"] == pytest.approx((math.log(20) / 6) ** 0.5)


def test_one_hot_labels_of_two_classes_are_half_of_ones_and_signs():
    X, signs = unit_rows(6, 8), torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    one_hot = torch.stack([signs > 0, signs < 0], dim=1).double()

    def form(labels):
        K = labels.numel() / 6
        return spaces.full_rank_bound(X, labels, activation="erf", delta=0.1).terms["variance"] ** 2 * 6 / K

    assert form(one_hot) == pytest.approx((form(torch.ones(6)) + form(signs)) / 2, rel=1e-9)


def test_full_rank_is_the_complexity_measure_of_arora_et_al_over_root_two():
    X, labels = unit_rows(8, 5), torch.randn(8)
    variance = spaces.full_rank_bound(X, labels, activation="relu", delta=0.1).terms["variance"]
    assert variance == pytest.approx(float(fine_grained.complexity_measure(X, labels)) / 2**0.5, rel=1e-8)


def test_full_rank_width_is_that_of_equation_3_5():
    X, Y = unit_rows(6, 8), torch.nn.functional.one_hot(torch.arange(6) % 2, 2)
    bound = spaces.full_rank_bound(X, Y, activation="erf", delta=0.1, width=10, width_constant=0.5)
    least = float(torch.linalg.eigvalsh(neural_covariance(X, "erf"))[0])
    expected = 36 * 2**4 * float(torch.linalg.svdvals(X)[0]) ** 4 * math.log(6) / least**4
    assert required(bound, "width") == pytest.approx(expected, rel=1e-8)
    assert status(bound, "width") == "violated"


def test_full_rank_is_infinite_with_a_duplicate():
    X, Y = clusters(6, 8, 2)
    bound = spaces.full_rank_bound(X[[0, 1, 2, 3, 4, 4]], Y, activation="erf", delta=0.1)
    assert bound.value == math.inf
    assert status(bound, "least_singular_value") == "violated"


# Arbitrary initialization.


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("sharp", [False, True])
def test_terms_are_those_of_the_jacobian(K, sharp):
    X, n, B, gamma, zeta, nu = unit_rows(7, 5), 7, 1.0, 2.0, 0.2, 3.0
    hidden, output = torch.randn(20, 5), nu / (20 * K) ** 0.5 * (2.0 * torch.randint(2, (K, 20)) - 1)
    jacobian, residual = spaces.hidden_jacobian(X, hidden, output, "tanh"), torch.randn(n * K)
    bound = spaces.arbitrary_initialization_bound(spectrum_of(jacobian), residual, inputs=X, **ARBITRARY, sharp=sharp)
    alpha = nu * B * 0.3 * n**0.25 * float(torch.linalg.svdvals(X)[0]) ** 0.5
    U, lam, _ = torch.linalg.svd(jacobian, full_matrices=False)
    a, inside = U.T @ residual, lam >= alpha
    assert 0 < int(inside.sum()) < n * K
    nuisance, pinv = a[~inside].norm(), (a / lam)[inside].norm()
    radius, scale = residual.norm() / n**0.5, 12 * nu * B / n**0.5
    expected = {
        "bias": 2 * nuisance / n**0.5,
        "chance": 5 * (math.log(20) / n) ** 0.5,
        "precision": 2 * radius * (math.exp(-gamma) + zeta),
    }
    distance = torch.hypot(pinv, gamma / alpha**2 * (a * lam)[~inside].norm())
    expected |= (
        {"distance": scale * distance}
        if sharp
        else {
            "information": scale * pinv,
            "nuisance": scale * gamma / alpha * nuisance,
        }
    )
    assert dict(bound.terms) == {name: pytest.approx(float(value), rel=1e-9) for name, value in expected.items()}
    assert status(bound, "spectral_norm") == "holds"
    conditions = {item.name: item for item in bound.conditions}
    needed = 25600 * float(radius) ** 2 * gamma**4 / (0.3**8 * nu**2 * B**2 * zeta**2)
    assert conditions["width_of_proof"].note.startswith("Eq. (6.57)")
    given = spaces.arbitrary_initialization_bound(
        spectrum_of(jacobian), residual, inputs=X, **ARBITRARY, width=math.ceil(needed)
    )
    assert required(given, "width_of_proof") == pytest.approx(needed)
    assert status(given, "width_of_proof") == "holds"
    assert required(given, "width") == pytest.approx(needed / 25600)
    assert bound.confidence == pytest.approx(0.9)


def test_a_jacobian_that_is_too_large_for_the_output_weights_is_a_violation():
    spectrum = SimpleNamespace(singular_values=torch.tensor([9.0, 1.0]), left_vectors=torch.eye(2))
    bound = spaces.arbitrary_initialization_bound(spectrum, torch.ones(2), inputs=torch.eye(2), **ARBITRARY)
    assert status(bound, "spectral_norm") == "violated"


@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 2)])
def test_residuals_are_vectors_or_rows(shape):
    inputs = unit_rows(shape[0], 4)
    spectrum = spectrum_of(torch.randn(6, 9))
    bound = spaces.arbitrary_initialization_bound(spectrum, torch.ones(shape), inputs=inputs, **ARBITRARY)
    assert bound.assumptions["residual_scale"] == pytest.approx((6 / shape[0]) ** 0.5)


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("rank", [5, 9])
def test_no_cutoff_is_infinite_if_rank_deficient(rank, sharp):
    jacobian = torch.randn(6, rank) @ torch.randn(rank, 9)
    parameters = ARBITRARY | {"alpha_bar": 0.0}
    bound = spaces.arbitrary_initialization_bound(
        spectrum_of(jacobian), torch.ones(6), inputs=unit_rows(6, 4), **parameters, sharp=sharp
    )
    expected = math.inf if rank < 6 else 12 * 3 / 6**0.5 * float((torch.linalg.pinv(jacobian) @ torch.ones(6)).norm())
    assert bound.terms["distance" if sharp else "information"] == pytest.approx(expected)
    assert bound.assumptions["iterations"] == math.inf


@pytest.mark.parametrize("sharp", [False, True])
def test_an_unbounded_slope_gives_infinity_for_any_weights(sharp):
    parameters = ARBITRARY | {"activation": "quadratic"}
    bound = spaces.arbitrary_initialization_bound(
        spectrum_of(torch.randn(6, 9)), torch.ones(6), inputs=unit_rows(6, 4), **parameters, sharp=sharp
    )
    assert bound.value == math.inf


def test_a_residual_of_zero_leaves_chance_alone():
    bound = spaces.arbitrary_initialization_bound(
        spectrum_of(torch.randn(6, 9)), torch.zeros(6), inputs=unit_rows(6, 4), **ARBITRARY
    )
    assert bound.value == bound.terms["chance"]


def partial(jacobian, rank, **more):
    full = spectrum_of(jacobian)
    return SimpleNamespace(
        singular_values=full.singular_values[:rank], left_vectors=full.left_vectors[:, :rank], **more
    )


def low_rank():
    """A Jacobian with singular values 10, 9, 8 and then small ones; the cut-off of ARBITRARY is about 2."""
    left, right = torch.linalg.qr(torch.randn(8, 8)).Q, torch.linalg.qr(torch.randn(12, 8)).Q
    return left @ torch.diag(torch.tensor([5.0, 4.5, 4.0, 0.4, 0.3, 0.2, 0.1, 0.0])) @ right.T


@pytest.mark.parametrize(("rank", "norm"), [(4, False), (4, True), (3, True)])
def test_a_partial_spectrum_gives_the_same_bound_and_a_sharp_one_from_above(rank, norm):
    jacobian, X, residual = low_rank(), unit_rows(8, 5), torch.randn(8)
    more = {"frobenius_norm": float(jacobian.norm())} if norm else {}
    arguments = {"inputs": X, **ARBITRARY}
    full = spaces.arbitrary_initialization_bound(spectrum_of(jacobian), residual, **arguments)
    part = spaces.arbitrary_initialization_bound(partial(jacobian, rank, **more), residual, **arguments)
    assert full.assumptions["information_dimension"] == 3
    assert dict(part.terms) == pytest.approx(dict(full.terms), rel=1e-9)
    full_sharp = spaces.arbitrary_initialization_bound(spectrum_of(jacobian), residual, **arguments, sharp=True)
    sharp = spaces.arbitrary_initialization_bound(partial(jacobian, rank, **more), residual, **arguments, sharp=True)
    assert full_sharp.value <= sharp.value <= full.value


@pytest.mark.parametrize(
    ("rank", "norm", "message"),
    [(3, None, "or give its `frobenius_norm`"), (2, 10.0, "may reach, but got .*ask for more of the spectrum")],
)
def test_a_partial_spectrum_that_does_not_reach_the_cutoff_is_refused(rank, norm, message):
    more = {} if norm is None else {"frobenius_norm": norm}
    with pytest.raises(ValueError, match=message):
        spaces.arbitrary_initialization_bound(
            partial(low_rank(), rank, **more), torch.randn(8), inputs=unit_rows(8, 5), **ARBITRARY
        )


@pytest.mark.parametrize("seed", range(3))
def test_theorem_holds_with_all_conditions_met_and_says_something(seed):
    # From W_0 = 0 with φ = sin the Jacobian is V ⊗ X, and a large ν makes a small width wide enough.
    torch.manual_seed(seed)
    n, d, k, nu, parameters = 4000, 4, 600, 2e4, {"activation": "sin", "alpha_bar": 0.45, "Gamma": 3.0, "zeta": 0.08}
    X, Y = clusters(n, d, 2, noise=0.05)
    signs = torch.ones(2, k)
    signs[1, ::2] = -1
    V, W = nu / (2 * k) ** 0.5 * signs, torch.zeros(k, d)
    values, left = torch.linalg.eigh(nu**2 / 2 * X.T @ X)  # V V^T = ν²/2 I, so J J^T = ν²/2 X X^T ⊗ I
    roots = values.flip(0).clamp_min(1e-9).sqrt()
    vectors = X @ left.flip(1) * (nu / 2**0.5) / roots
    spectrum = SimpleNamespace(
        singular_values=roots.repeat_interleave(2),
        left_vectors=torch.kron(vectors.contiguous(), torch.eye(2)),
    )
    bound = spaces.arbitrary_initialization_bound(
        spectrum, -Y.flatten(), inputs=X, nu=nu, **parameters, delta=0.1, width=k
    )
    undecided = {"width", "one_hot_labels"}
    assert {item.name for item in bound.conditions if item.holds is not True} == undecided
    assert bound.value < 1
    step, steps = bound.assumptions["learning_rate"], int(bound.assumptions["iterations"])
    cutoff, gamma = bound.assumptions["cutoff"], 3.0
    for _ in range(steps):
        W = W - step * spaces.hidden_gradient(X, W, V, "sin", (torch.sin(X @ W.T) @ V.T - Y).flatten())
    fresh, fresh_Y = clusters(1000, d, 2, noise=0.05)
    wrong = (torch.sin(fresh @ W.T) @ V.T).argmax(dim=1) != fresh_Y.argmax(dim=1)
    assert float(wrong.double().mean()) <= bound.value
    residual = float((torch.sin(X @ W.T) @ V.T - Y).norm()) / n**0.5
    assert residual <= bound.terms["bias"] / 2 + math.exp(-gamma) + 0.08 / 2  # (6.62)
    coefficients = spectrum.left_vectors.T @ Y.flatten()
    whole = spaces.stopping_time(cutoff=cutoff, Gamma=gamma, learning_rate=step).effective_gamma
    distance = spaces.early_stopping_distance(spectrum.singular_values, coefficients, cutoff=cutoff, Gamma=whole)
    assert float(W.norm()) <= 2 * float(distance)  # (6.60)
    row = 2 * nu * gamma * float(torch.linalg.svdvals(X)[0]) * n**0.5 / (k**0.5 * cutoff**2)
    assert float(W.norm(dim=1).max()) <= row  # (6.61)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"Gamma": 0.99}, "`Gamma` of at least 1, the learning duration, but got 0.99"),
        ({"Gamma": math.inf}, "`Gamma` .* but got inf"),
        ({"zeta": 0.51}, r"`zeta` in \(0, 1/2\], the precision, but got 0.51"),
        ({"zeta": 0.0}, r"`zeta` in \(0, 1/2\], .* but got 0.0"),
        ({"delta": 0.0}, r"`delta` in \(0, 1\), .* but got 0.0"),
        ({"delta": 1.0}, "`delta` .* but got 1.0"),
        ({"delta": math.nan}, "`delta` .* but got nan"),
        ({"alpha_bar": -0.1}, "`alpha_bar`, .* but got -0.1"),
        ({"activation": "swish"}, "activation among .* but got 'swish'"),
        ({"learning_rate": 0.0}, "`learning_rate` to be positive and finite, but got 0.0"),
        ({"width": 0}, "`width` to be positive and finite, but got 0"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    X, Y = clusters(6, 4, 2)
    with pytest.raises(ValueError, match=message):
        spaces.random_initialization_bound(X, Y, **PARAMETERS | arguments)
    with pytest.raises(ValueError, match=message):
        spaces.arbitrary_initialization_bound(spectrum_of(torch.randn(12, 13)), Y, inputs=X, **ARBITRARY | arguments)


@pytest.mark.parametrize("labels", [torch.ones(5), torch.ones(5, 2), torch.ones(7)])
def test_labels_that_do_not_fit_the_inputs_are_refused(labels):
    with pytest.raises(ValueError, match=r"one row of K numbers for each of 6 inputs, but got shape \("):
        spaces.random_initialization_bound(unit_rows(6, 4), labels, **PARAMETERS)


def test_a_spectrum_with_another_number_of_outputs_is_refused():
    with pytest.raises(ValueError, match=r"left vectors \(12, r\), as the residual has 12 entries, but got \(6,\)"):
        spaces.arbitrary_initialization_bound(
            spectrum_of(torch.randn(6, 9)), torch.ones(6, 2), inputs=unit_rows(6, 4), **ARBITRARY
        )


@pytest.mark.parametrize("nu", [0.0, -1.0, math.inf])
def test_output_scales_out_of_range_are_refused(nu):
    with pytest.raises(ValueError, match=f"`nu` to be positive and finite, but got {nu}"):
        spaces.arbitrary_initialization_bound(
            spectrum_of(torch.randn(6, 9)), torch.ones(6), inputs=unit_rows(6, 4), **ARBITRARY | {"nu": nu}
        )


@pytest.mark.parametrize("inputs", [torch.ones(6), torch.full((6, 4), math.nan), torch.ones(0, 4)])
def test_inputs_that_are_no_finite_matrix_are_refused(inputs):
    with pytest.raises(ValueError, match=r"Expected finite inputs \(n, d\), but got shape"):
        spaces.random_initialization_bound(inputs, torch.ones(6), **PARAMETERS)
