"""Gaussian mixtures: rank and eigenvalues of the kernel, where the labels lie, and the guarantees."""

import math

import pytest
import torch

from lightning_bounds.theory import information_space as spaces
from lightning_bounds.theory.gaussian import neural_covariance

BOUND = {"num_classes": 3, "num_samples": 600, "sigma": 0.01, "Gamma": 3.0, "zeta": 0.1, "delta": 0.1}


def mixture(K, C, counts, d=12):
    """Centers (K*C, d), inputs at the centers, one-hot rows."""
    centers = torch.nn.functional.normalize(torch.randn(K * C, d), dim=1)
    members = torch.arange(K * C).repeat_interleave(torch.tensor(counts))
    return centers, centers[members], torch.eye(K)[members // C]


SIZES = [(2, 1, [5, 9]), (3, 2, [4, 1, 7, 3, 3, 6]), (1, 4, [2, 3, 4, 5])]


@pytest.mark.parametrize(("K", "C", "counts"), SIZES)
@pytest.mark.parametrize("activation", ["softplus", "relu", "tanh"])
def test_kernel_has_the_rank_and_the_eigenvalues_that_are_claimed(K, C, counts, activation):
    centers, X, Y = mixture(K, C, counts)
    claim = spaces.mixture_spectrum(centers, torch.tensor(counts), num_classes=K, activation=activation)
    spectrum = spaces.neural_spectrum(X, activation, K)
    resolved = spectrum.singular_values > spectrum.noise_floor
    assert int(resolved.sum()) == claim.rank == K**2 * C
    eigenvalues = spectrum.singular_values[resolved] ** 2
    assert claim.lower * (1 - 1e-9) <= float(eigenvalues.min())
    assert float(eigenvalues.max()) <= claim.upper * (1 + 1e-9)
    # The labels lie in the range.
    coefficients = spectrum.coefficients(Y.flatten())
    assert float(coefficients[~resolved].norm()) < 1e-5 * float(Y.norm())


@pytest.mark.parametrize("C", [1, 3])
def test_equal_clusters_attain_both_ends(C):
    centers, X, _ = mixture(2, C, [6] * (2 * C))
    claim = spaces.mixture_spectrum(centers, torch.full((2 * C,), 6), num_classes=2, activation="erf")
    eigenvalues = torch.linalg.eigvalsh(neural_covariance(X, "erf"))
    assert float(eigenvalues[-1]) == pytest.approx(claim.upper)
    assert float(eigenvalues[-2 * C]) == pytest.approx(claim.lower)
    assert (claim.expected_lower, claim.expected_upper) == pytest.approx((claim.lower / 2, claim.upper * 2))


@pytest.mark.parametrize("width", [3, 50])
def test_the_jacobian_of_any_weights_has_no_larger_rank(width):
    K, C, counts = SIZES[1]
    _, X, _ = mixture(K, C, counts)
    jacobian = spaces.hidden_jacobian(X, torch.randn(width, 12), torch.randn(K, width), "softplus")
    assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-10)) == min(K**2 * C, width * 12, 24 * K)


@pytest.mark.parametrize("n", [80, 400])
def test_probability_is_that_of_the_union_over_both_tails(n):
    claim = spaces.mixture_spectrum(torch.eye(4), torch.full((4,), n // 4), num_classes=2, activation="identity")
    assert claim.printed_probability == pytest.approx(1 - 4 * math.exp(-n / 32))
    assert claim.probability == pytest.approx(1 - 4 * math.exp(-n / 32) - 4 * math.exp(-n / 12))


def test_sampled_clusters_are_as_large_as_claimed_as_often_as_claimed():
    n, groups = 100, 4
    counts = torch.stack([torch.bincount(torch.randint(groups, (n,)), minlength=groups) for _ in range(2000)])
    expected = n / groups
    inside = ((counts >= expected / 2) & (counts <= 2 * expected)).all(dim=1).double().mean()
    claim = spaces.mixture_spectrum(torch.eye(4), torch.full((4,), 25), num_classes=2, activation="identity")
    assert float(inside) >= claim.probability > 0.8


def test_centers_that_coincide_claim_nothing():
    centers = torch.eye(3)[[0, 1, 2, 2]]
    claim = spaces.mixture_spectrum(centers, torch.full((4,), 3), num_classes=2, activation="erf")
    assert (claim.rank, claim.lower) == (-1, 0.0)
    bound = spaces.mixture_bound(centers, activation="erf", **BOUND | {"num_classes": 2})
    assert bound.value == math.inf
    assert {item.name: item.status for item in bound.conditions}["center_eigenvalue"] == "violated"


# Noise.


@pytest.mark.parametrize("constant", [1.0, 3.0])
def test_perturbation_is_that_of_equation_a_1(constant):
    X, sigma, B = torch.nn.functional.normalize(torch.randn(20, 8), dim=1), 0.3, 2 / math.pi**0.5
    norm, chance = float(torch.linalg.svdvals(X)[0]), math.log(20)
    terms = [
        sigma**2 * chance * norm**2,
        sigma**2 * (20 / 8 + 1),
        chance**0.5 * sigma * norm**2,
        sigma * (20 / 8 + 1) ** 0.5 * norm,
    ]
    # B is the largest of |φ'|, |φ''| and |φ(0)|: for erf that is |φ'|.
    value = spaces.mixture_perturbation(X, sigma=sigma, activation="erf", constant=constant)
    assert value == pytest.approx(constant * B**2 * sum(terms))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("activation", ["tanh", "softplus", "sin"])
def test_noise_moves_the_kernel_by_less_than_claimed(sigma, activation):
    _, X, _ = mixture(3, 2, [5] * 6, d=30)
    noisy = X + sigma / 30**0.5 * torch.randn_like(X)
    moved = neural_covariance(noisy, activation) - neural_covariance(X, activation)
    assert float(torch.linalg.matrix_norm(moved, 2)) <= spaces.mixture_perturbation(
        X, sigma=sigma, activation=activation
    )


@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 1e-2])
def test_projectors_and_labels_move_by_less_than_claimed(sigma):
    _, X, Y = mixture(2, 2, [10] * 4, d=30)
    noisy = X + sigma / 30**0.5 * torch.randn_like(X)
    before, after = (torch.linalg.eigh(neural_covariance(inputs, "tanh")) for inputs in (X, noisy))
    P, Q = (vectors[:, -4:] @ vectors[:, -4:].T for _, vectors in (before, after))
    delta = float(torch.linalg.matrix_norm(neural_covariance(noisy, "tanh") - neural_covariance(X, "tanh"), 2))
    bound = spaces.projector_deviation(delta, float(before[0][-4]))
    assert 0 < float(torch.linalg.matrix_norm(P - Q, 2)) <= bound < math.inf
    assert float((Y - Q @ Y).norm()) <= bound * float(Y.norm())


@pytest.mark.parametrize(
    ("moved", "expected"), [(0.0, 0.0), (0.5, 1 / 3), (1.0, 1.0), (2.0, math.inf), (3.0, math.inf)]
)
def test_projectors_move_by_davis_kahan_or_nothing_is_claimed(moved, expected):
    assert spaces.projector_deviation(moved, 2.0) == pytest.approx(expected)


# Guarantees.


def test_terms_and_conditions_are_those_of_theorem_a_3():
    centers, K, C, n, sigma = mixture(3, 2, [1] * 6)[0], 3, 2, 600, 0.01
    bound = spaces.mixture_bound(centers, activation="softplus", **BOUND, width=1000)
    least, root = float(torch.linalg.eigvalsh(neural_covariance(centers, "softplus"))[0]), math.log(n) ** 0.5
    assert dict(bound.terms) == pytest.approx(
        {
            "bias": (sigma * root * K * C / least) ** 0.5,
            "variance": 3 * K * C**0.5 / (n * least) ** 0.5,
            "precision": 1.2,
            "chance": 5 * (math.log(20) / n) ** 0.5,
            "duration": 2 * math.exp(-3),
        }
    )
    required = {item.name: item.required for item in bound.conditions}
    assert required["noise"] == pytest.approx(least / (K * C * root))
    assert required["noise_of_short_form"] == pytest.approx(K / n)
    assert required["width"] == pytest.approx(3**4 * K**8 * C**4 * math.log(n) / (0.1**4 * least**4))
    assert required["width_of_short_form"] == pytest.approx(3**4 * K**8 * C**4 / least**4)
    assert bound.assumptions["iterations_at_largest_step"] == pytest.approx(2 * 3 * K**2 * C / least)
    statuses = {item.name: item.status for item in bound.conditions}
    assert {statuses[name] for name in ("noise", "width", "constants")} == {"unknown"}


@pytest.mark.parametrize(("factor", "expected"), [(1e-9, "holds"), (1e9, "violated")])
def test_constants_that_are_given_decide_the_conditions(factor, expected):
    centers = mixture(3, 2, [1] * 6)[0]
    bound = spaces.mixture_bound(
        centers, activation="softplus", **BOUND, width=1000, noise_constant=factor, width_constant=factor * 1e-9
    )
    statuses = {item.name: item.status for item in bound.conditions}
    assert statuses["noise"] == expected
    assert statuses["width"] == ("holds" if factor < 1 else "violated")


def test_it_is_the_rough_bound_at_its_cutoff_without_noise():
    # α_0 = √(λ n / 2KC) and |X|² <= n put 36 Γ / (ᾱ (n |X|²)^{1/4}) at 36 √2 times the variance term for B = 1.
    K, C, counts = 2, 2, [10] * 4
    centers, X, Y = mixture(K, C, counts)
    bound = spaces.mixture_bound(
        centers, activation="tanh", **BOUND | {"num_classes": K, "num_samples": 40, "sigma": 0.0}
    )
    norm = float(torch.linalg.svdvals(X)[0])
    alpha_bar = bound.assumptions["cutoff"] / (40**0.25 * (K * norm) ** 0.5)
    rough = spaces.simplified_random_initialization_bound(
        X, Y, activation="tanh", alpha_bar=alpha_bar, Gamma=3.0, zeta=0.1, delta=0.1
    )
    assert rough.terms["variance"] == pytest.approx(36 * 2**0.5 * bound.terms["variance"])
    assert rough.terms["bias"] < 1e-4
    assert bound.terms["bias"] == 0.0
    assert rough.assumptions["information_dimension"] == K**2 * C


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_an_activation_of_unbounded_slope_gives_infinity(sigma):
    bound = spaces.mixture_bound(torch.eye(3), activation="quadratic", **BOUND | {"sigma": sigma})
    assert bound.value == math.inf


def test_confidence_adds_all_failures_up():
    bound = spaces.mixture_bound(torch.eye(12)[:6], activation="tanh", **BOUND)
    failures = [2 * 600 * math.exp(-6), 6 * math.exp(-600 / 48), 6 * math.exp(-600 / 18), 6.0**-100, 0.1]
    assert bound.confidence == pytest.approx(1 - sum(failures))


# What is refused.


@pytest.mark.parametrize(
    ("centers", "counts", "K", "message"),
    [
        (torch.eye(3), torch.ones(3), 2, r"C for each of 2 classes, but got shape \(3, 3\)"),
        (torch.ones(3), torch.ones(3), 3, r"but got shape \(3,\)"),
        (torch.eye(3), torch.ones(3), 0, "for each of 0 classes"),
        (torch.eye(4), torch.ones(3), 2, r"counts \(4,\) of at least 1"),
        (torch.eye(2), torch.tensor([1, 0]), 2, r"at least 1, but got \[1, 0\]"),
    ],
)
def test_mixtures_that_are_none_are_refused(centers, counts, K, message):
    with pytest.raises(ValueError, match=message):
        spaces.mixture_spectrum(centers, counts, num_classes=K, activation="tanh")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": -0.1}, "`sigma` to be finite, 0 or more, but got -0.1"),
        ({"Gamma": 0.5}, "`Gamma` of at least 1"),
        ({"zeta": 0.6}, "`zeta` in"),
        ({"delta": 0.0}, "`delta` in"),
        ({"num_samples": 0}, "`num_samples` to be positive"),
        ({"bias_constant": 0.0}, "`bias_constant` to be positive"),
        ({"variance_constant": math.inf}, "`variance_constant` to be positive and finite"),
        ({"width": -1}, "`width` to be positive"),
    ],
)
def test_parameters_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spaces.mixture_bound(torch.eye(3), activation="tanh", **BOUND | change)


def test_perturbations_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`perturbation` to be finite, 0 or more"):
        spaces.projector_deviation(-1.0, 1.0)
    with pytest.raises(ValueError, match="`center_eigenvalue` to be finite"):
        spaces.mixture_iterations(math.nan, Gamma=1.0, num_classes=2, num_clusters=1)
