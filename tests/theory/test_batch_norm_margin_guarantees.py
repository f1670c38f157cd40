"""What the theorems guarantee: windows, step sizes, bounds in every version, conditions, what the proofs follow."""

import math

import pytest
import torch

from lightning_bounds.theory.batch_norm_margin import (
    draw_weights,
    gd_guarantee,
    horizon,
    inverse_normalization,
    layer_margins,
    maximal_layer_margins,
    movement_bounds,
    perceptron_sum_bound,
    radius,
    run_conditions,
    sgd_guarantee,
    step_conditions,
    step_sizes,
    steps_to_error,
    unit_ball,
    width_window,
)

SMALL = {"gamma": 0.05, "eps_N": 5.0, "width": 200, "dim": 49, "samples": 1000, "steps": 1000, "delta": 0.01}
IMAGES = {"gamma": 0.07, "eps_N": 18.4, "width": 4096, "dim": 3072, "samples": 1000, "steps": 1000, "delta": 0.01}
# Everything that a number can decide holds here.
INSIDE = {"gamma": 0.5, "eps_N": 2.0, "width": 10**18, "dim": 3072, "samples": 100, "steps": 1000, "delta": 0.01}
SGD = ["main", "appendix", "rederived"]
GD = ["main", "appendix", "proof"]


def only(numbers, *names):
    return {name: numbers[name] for name in names}


def status(conditions):
    return {item.name: item.holds for item in conditions}


def violated(result):
    return [name for name, holds in status(result.conditions).items() if holds is False]


def test_width_window_of_the_notes():
    small = width_window(**{key: value for key, value in SMALL.items() if key != "width"})
    assert small.least == pytest.approx(2.4e15, rel=0.02)
    assert small.most == pytest.approx(4.6, rel=0.01)
    assert small.empty
    images = width_window(**{key: value for key, value in IMAGES.items() if key != "width"})
    assert images.least == pytest.approx(6.1e16, rel=0.01)
    assert not images.empty


def test_width_window_is_its_formula():
    window = width_window(gamma=0.3, eps_N=4.0, dim=100, samples=70, steps=50, delta=0.02)
    assert window.least == pytest.approx(2**29 * 64 * math.log(5 * 70 * 50 / 0.02) ** 1.5 / 0.09, rel=1e-12)
    assert window.most == pytest.approx(0.02 * math.exp(100 / 8), rel=1e-12)
    assert window.least_for_radius == pytest.approx((216 * 4) ** 6 / 0.09, rel=1e-12)


def test_largest_width_at_49_dimensions_is_always_below_457():
    assert width_window(gamma=0.3, eps_N=4.0, dim=49, samples=70, steps=50, delta=0.999999).most < 457.2


def test_horizon_inverts_the_width_window():
    numbers = {"gamma": 0.3, "eps_N": 4.0, "samples": 70, "delta": 0.02}
    last = horizon(width=10**14, **numbers)
    assert width_window(dim=9, steps=round(last), **numbers).least == pytest.approx(1e14, rel=1e-6)
    assert horizon(**only(IMAGES, "gamma", "eps_N", "width", "samples", "delta")) == pytest.approx(2e-6, rel=0.02)


def test_eps_n_below_one_counts_as_one():
    numbers = {**SMALL, "eps_N": 0.2}
    at_one = sgd_guarantee(**{**SMALL, "eps_N": 1.0})
    assert [bound.value for bound in sgd_guarantee(**numbers).bounds.values()] == [
        bound.value for bound in at_one.bounds.values()
    ]
    assert radius(gamma=0.1, eps_N=0.2, width=9) == radius(gamma=0.1, eps_N=1.0, width=9)


@pytest.mark.parametrize(("gamma", "eps_N", "width"), [(0.07, 18.4, 4096), (0.5, 1.0, 10**17), (1e-6, 3.0, 1)])
def test_perceptron_sum_of_the_printed_step_is_112_over_27_and_of_the_consistent_one_what_the_proof_says(
    gamma, eps_N, width
):
    R = radius(gamma=gamma, eps_N=eps_N, width=width)
    printed, consistent = step_sizes(gamma=gamma, eps_N=eps_N, width=width)
    sums = [perceptron_sum_bound(R, learning_rate=step, gamma=gamma, width=width) for step in (printed, consistent)]
    assert sums == pytest.approx([112 / 27, 2**22 * eps_N**4 / gamma**2], rel=1e-12)
    assert printed == pytest.approx(1 / (28 * eps_N * gamma ** (2 / 3) * width ** (1 / 3)), rel=1e-12)
    assert pytest.approx(gamma ** (1 / 3) * width ** (1 / 6) / (27 * eps_N), rel=1e-12) == R


@pytest.mark.parametrize("width", [10, 4096, 10**17])
def test_consistent_step_satisfies_the_proof_and_the_printed_one_never_does(width):
    numbers = {"gamma": 0.3, "eps_N": 2.0, "width": width}
    printed, consistent = step_sizes(**numbers)
    assert [item.holds for item in step_conditions(consistent, **numbers)] == [True, True]
    outer, inner = step_conditions(printed, **numbers)
    R = radius(**numbers)
    assert inner.actual == pytest.approx(printed * 2**20 * 2**6 * R**6 / (0.3 * math.sqrt(width)), rel=1e-12)
    assert inner.required == outer.required == R / 8
    assert outer.holds is False
    # E306: it would need gamma^2 >= 2^13 216/28 e^4.
    assert outer.actual / outer.required == pytest.approx(2**13 * 216 / 28 * 2**4 / 0.3**2, rel=1e-12)


def test_window_does_not_imply_the_radius_that_the_proof_needs():
    numbers = {"gamma": 0.1, "eps_N": 2.0}
    window = width_window(dim=3072, samples=1000, steps=1000, delta=0.01, **numbers)
    at_least = radius(width=math.ceil(window.least), **numbers)
    assert at_least < 8
    assert at_least == pytest.approx(1.06 * math.log(5e8) ** 0.25 / 2**0.5, rel=0.01)
    assert radius(width=math.ceil(window.least_for_radius), **numbers) == pytest.approx(8, rel=1e-9)


def test_bounds_of_the_notes():
    bounds = sgd_guarantee(**{**IMAGES, "steps": 10**6}).bounds
    assert list(bounds) == SGD
    assert [bound.value for bound in bounds.values()] == pytest.approx([7.7e5, 2.0e8, 7.9e8], rel=0.03)
    assert all(bound.vacuous for bound in bounds.values())


@pytest.mark.parametrize(
    ("version", "constant", "factor"), [("main", 2**15, 4), ("appendix", 2**23, 4), ("rederived", 2**25, 8)]
)
def test_bounds_are_their_formulas(version, constant, factor):
    bound = sgd_guarantee(**SMALL).bounds[version]
    descent, concentration = constant * 5.0**4 / (0.05**2 * 1000), factor * math.log(100) / 1000
    assert dict(bound.terms) == pytest.approx({"descent": descent, "concentration": concentration}, rel=1e-12)
    assert bound.value == pytest.approx(descent + concentration, rel=1e-12)
    assert bound.confidence == pytest.approx(0.8)


def test_versions_of_gradient_descent_are_their_formulas_and_unproved():
    bounds = gd_guarantee(**SMALL).bounds
    late = 4 * math.log(100) / 1000
    assert list(bounds) == GD
    assert [bound.value for bound in bounds.values()] == pytest.approx(
        [
            2**17 * 200 ** (1 / 3) * 625 / (0.05 ** (1 / 3) * 1000 * math.sqrt(1000)) + late,
            2**23 * 625 / (0.0025 * 1000) + late,
            2**11 / (0.05 * math.sqrt(1000)) + 3 * math.sqrt(math.log(200) / 2000),
        ],
        rel=1e-12,
    )
    assert [status(bound.conditions)["proof"] for bound in bounds.values()] == [None] * 3


@pytest.mark.parametrize("guarantee", [sgd_guarantee, gd_guarantee])
@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "larger", "falls"),
    [
        ("gamma", 0.06, True),
        ("eps_N", 6.0, False),
        ("steps", 2000, True),
        ("samples", 2000, True),
        ("delta", 0.02, True),
    ],
)
def test_bounds_are_monotone(guarantee, version, name, larger, falls):
    before = list(guarantee(**SMALL).bounds.values())[version].value
    after = list(guarantee(**{**SMALL, name: larger}).bounds.values())[version].value
    assert after <= before if falls else after >= before


@pytest.mark.parametrize("guarantee", [sgd_guarantee, gd_guarantee])
@pytest.mark.parametrize("gamma", [0.0, -0.1, -1e300])
def test_without_a_margin_there_is_no_bound_and_no_nan(guarantee, gamma):
    report = guarantee(**{**SMALL, "gamma": gamma})
    assert [bound.value for bound in report.bounds.values()] == [math.inf] * 3
    assert [status(bound.conditions)["margin"] for bound in report.bounds.values()] == [False] * 3
    assert not report.guarantee.valid
    assert report.guarantee.learning_rate == 0.0
    assert report.guarantee.radius == math.inf


@pytest.mark.parametrize("guarantee", [sgd_guarantee, gd_guarantee])
@pytest.mark.parametrize("gamma", [1e-300, 0.1, 1e300])
@pytest.mark.parametrize("eps_N", [math.inf, 1e200, 1e80])
@pytest.mark.parametrize("dim", [1, 10**9])
def test_extreme_numbers_give_infinity_and_no_nan(guarantee, gamma, eps_N, dim):
    report = guarantee(**{**SMALL, "gamma": gamma, "eps_N": eps_N, "dim": dim, "width": 10**30})
    assert not any(math.isnan(bound.value) for bound in report.bounds.values())
    assert status(report.guarantee.conditions)["inverse_normalization"] is math.isfinite(eps_N)
    assert status(report.guarantee.conditions)["dimension"] is (dim >= 2)


def test_infinite_eps_n_gives_no_bound():
    report = sgd_guarantee(**{**SMALL, "eps_N": math.inf})
    assert [bound.value for bound in report.bounds.values()] == [math.inf] * 3
    assert not any(bound.valid for bound in report.bounds.values())


def test_conditions_of_a_setting_in_which_all_hold():
    report = sgd_guarantee(**INSIDE)
    found = status(report.bounds["rederived"].conditions)
    assert set(found.values()) == {True, None}
    decided = {name for name, holds in found.items() if holds}
    assert {"margin", "least_width", "largest_width", "window", "radius", "horizon", "delta"} <= decided
    assert report.bounds["rederived"].valid
    assert report.guarantee.valid
    # E306: the proof does not work with the printed step.
    assert violated(report.bounds["main"]) == ["step_outer"]


def test_conditions_of_a_setting_in_which_most_fail():
    failed = violated(sgd_guarantee(**SMALL).guarantee)
    assert failed == ["least_width", "largest_width", "window", "radius", "horizon"]


def test_confidence_is_empty_from_one_in_twenty_on():
    bound = sgd_guarantee(**{**INSIDE, "delta": 0.06}).bounds["rederived"]
    assert bound.confidence < 0
    assert status(bound.conditions)["delta"] is False


def test_measured_conditions_take_the_place_of_unknown_ones():
    of_run = only(INSIDE, "gamma", "eps_N", "width")
    step = step_sizes(**of_run).consistent
    measured = run_conditions(
        **of_run,
        reference_norm=1.0,
        displacement=0.5 / 32,
        largest_norm=1.0 + 1e-9,
        learning_rate=step,
        whole_set_statistics=True,
        no_shift=True,
        known_initialization=True,
        fresh_samples=False,
    )
    report = sgd_guarantee(**INSIDE).with_conditions(measured)
    assert None not in status(report.bounds["rederived"].conditions).values()
    assert violated(report.bounds["rederived"]) == ["samples"]
    assert status(report.bounds["main"].conditions)["printed_step"] is False
    assert not report.guarantee.valid
    assert len(report.guarantee.conditions) == len(sgd_guarantee(**INSIDE).guarantee.conditions)


@pytest.mark.parametrize(
    ("name", "value"),
    [("displacement", 0.02), ("largest_norm", 2.0), ("reference_norm", 1.1), ("whole_set_statistics", False)],
)
def test_each_measurement_can_violate_its_condition(name, value):
    before = status(run_conditions(gamma=0.5, eps_N=2.0, width=9))
    after = status(run_conditions(gamma=0.5, eps_N=2.0, width=9, **{name: value}))
    assert set(before.values()) == {None}
    changed = [key for key in before if after[key] is False]
    assert changed == [{"whole_set_statistics": "statistics"}.get(name, name)]


def test_guarantee_states_step_movement_and_probability():
    guarantee = sgd_guarantee(**INSIDE).guarantee
    bounds = movement_bounds(**only(INSIDE, "gamma", "eps_N", "width"))
    assert guarantee.max_distance == bounds.outer == pytest.approx(0.5 ** (1 / 3) * 1e3 / 54)
    assert bounds.inner == 0.25
    assert guarantee.learning_rate == step_sizes(**only(INSIDE, "gamma", "eps_N", "width")).consistent
    assert guarantee.probability == pytest.approx(0.8)
    assert guarantee.source.endswith("Theorem 2.1")


def test_steps_to_error_are_the_first_below_it():
    needed = steps_to_error(gamma=0.05, eps_N=5.0, delta=0.01)
    for_error = {name: sgd_guarantee(**{**SMALL, "steps": int(needed[name])}).bounds[name].value for name in SGD}
    one_before = {name: sgd_guarantee(**{**SMALL, "steps": int(needed[name]) - 1}).bounds[name].value for name in SGD}
    assert all(value < 0.5 for value in for_error.values())
    assert all(value >= 0.5 * (1 - 1e-12) for value in one_before.values())
    assert steps_to_error(gamma=0.0, eps_N=5.0, delta=0.01)["main"] == math.inf


def test_margin_of_the_best_reference_decides_the_bound():
    inputs, labels = unit_ball(torch.randn(10, 4)), torch.tensor([1.0, -1.0] * 5)
    a, c, V = draw_weights(300, 4, seed=1)
    best = maximal_layer_margins(inputs, labels, output_weights=a, directions=V)
    none = layer_margins(
        inputs, labels, output_weights=a, scales=c, directions=V, reference_output=-best.reference_output,
        reference_scale=torch.zeros(300),
    )  # fmt: skip
    numbers = {**SMALL, "eps_N": inverse_normalization(V, inputs), "dim": 4, "width": 300}
    assert none.gamma < 0 == none.clipped
    assert sgd_guarantee(**{**numbers, "gamma": none.gamma}).bounds["main"].value == math.inf
    assert math.isfinite(sgd_guarantee(**{**numbers, "gamma": best.gamma}).bounds["main"].value)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"gamma": math.nan}, "`gamma`"),
        ({"gamma": math.inf}, "`gamma`"),
        ({"gamma": "large"}, "`gamma`"),
        ({"eps_N": 0.0}, "`eps_N`"),
        ({"eps_N": math.nan}, "`eps_N`"),
        ({"width": 0}, "`width`"),
        ({"width": 2.5}, "`width`"),
        ({"dim": -1}, "`dim`"),
        ({"samples": 1}, "`samples` to be an integer of at least 2"),
        ({"steps": 0}, "`steps`"),
        ({"delta": 1.0}, "`delta`"),
        ({"delta": 0.0}, "`delta`"),
    ],
)
@pytest.mark.parametrize("guarantee", [sgd_guarantee, gd_guarantee])
def test_wrong_numbers_are_named(guarantee, changed, match):
    with pytest.raises(ValueError, match=match):
        guarantee(**{**SMALL, **changed})
