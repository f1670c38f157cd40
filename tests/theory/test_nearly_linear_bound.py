"""The a-priori bound of nearly-linear networks: its numbers, its conditions, and the search over settings."""

import math
import time as clock

import pytest
import torch

from lightning_bounds.theory.bound import Condition
from lightning_bounds.theory.nearly_linear import (
    apriori_bound,
    apriori_scan,
    corrected_derivative_norms,
    counting_term,
    derivative_norm_bound,
    deviation_bound,
    deviation_factor,
    weight_norm_bound,
)

SETTING = {"strength": 0.65, "rho": 3.7, "beta": 0.1, "epsilon": 1e-3, "depth": 2}
REST = {"dim": 49, "samples": 60000, "time": 2.0, "margin": 1e-3, "order": 2, "delta": 0.01}
ARGUMENTS = SETTING | REST
# rho, epsilon, beta, kappa, q, t, deviation, gap, deviation with the corrected system.
TABLE = [
    (1, 1e-3, 1e-3, 2, 1, 2, 0.000863, 0.135595, 0.000863),
    (1, 1e-3, 1e-3, 2, 10, 2, 0.008629, 0.143361, 0.008629),
    (1, 1e-3, 1e-3, 1, 1, 2, 0.431453, 0.526824, 0.431453),
    (1, 1e-2, 1e-3, 2, 1, 2, 0.087385, 0.222116, 0.087385),
    (1, 1e-3, 0.1, 2, 10, 2, 0.010916, 0.145647, 0.010916),
    (1, 1e-3, 0.5, 2, 10, 2, 322.87026, 323.00499, 322.87026),
    (3.7, 1e-3, 1e-3, 2, 1, 2, 0.001531, 0.136263, 0.001873),
    (3.7, 1e-3, 1e-3, 2, 10, 2, 0.015309, 0.150040, 0.018734),
    (3.7, 1e-3, 1e-3, 2, 100, 1, 0.020845, 0.155577, 0.035221),
    (3.7, 1e-3, 1e-3, 1, 1, 2, 0.508479, 0.603850, 0.800649),
    (3.7, 1e-2, 1e-3, 2, 1, 2, 0.166717, 0.301449, 0.197349),
    (3.7, 1e-3, 0.1, 2, 10, 2, 0.031078, 0.165810, 0.035325),
    (3.7, 1e-3, 0.5, 2, 10, 1, 84.57702, 84.71175, 65.97851),
]


def status(bound):
    return {item.name: item.status for item in bound.conditions}


@pytest.mark.parametrize(("rho", "epsilon", "beta", "order", "q", "time", "deviation", "gap", "corrected"), TABLE)
def test_reference_table(rho, epsilon, beta, order, q, time, deviation, gap, corrected):
    numbers = {"rho": rho, "epsilon": epsilon, "beta": beta, "order": order, "time": time, "margin": beta**2 / q}
    theorem, proved = (
        apriori_bound(**(ARGUMENTS | numbers), variant=variant) for variant in ("theorem", "corrected_tight")
    )
    assert theorem.terms["deviation"] == pytest.approx(deviation, rel=1e-7, abs=6e-7)
    assert proved.terms["deviation"] == pytest.approx(corrected, rel=1e-7, abs=6e-7)
    assert theorem.value == pytest.approx(gap, rel=1e-7, abs=6e-7)
    assert list(theorem.terms) == ["train_margin_risk", "counting", "deviation"]


@pytest.mark.parametrize(
    ("order", "bits", "dim", "strict", "value", "tolerance"),
    [
        (1, 32, 49, False, 0.095370329, 1e-8),
        (2, 32, 49, False, 0.134731669, 1e-8),
        (2, 16, 196, False, 0.190438623, 1e-8),
        (2, 16, 784, False, 0.380726079, 1e-8),
        (2, 32, 49, True, 0.495, 1e-3),
    ],
)
def test_reference_values_of_the_counting_term(order, bits, dim, strict, value, tolerance):
    found = counting_term(order=order, dim=dim, samples=60000, delta=0.01, precision_bits=bits, strict=strict)
    assert found == pytest.approx(value, rel=tolerance)


def test_counting_term_is_its_formula_and_shares_delta():
    bits = 2 * 16 * 5 * math.log(2)
    found = counting_term(order=2, dim=5, samples=100, delta=0.1, precision_bits=16, scanned=7)
    assert found == pytest.approx(math.sqrt((bits + math.log(7 / 0.1)) / 200), rel=1e-12)
    strict = counting_term(order=1, dim=5, samples=100, delta=0.1, precision_bits=16, strict=True)
    assert strict == pytest.approx(math.sqrt((16 * 20 * math.log(2) + math.log(10)) / 200), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        (SETTING | {"epsilon": 0.1}, (2.06689346, 6.22278618)),
        ({"strength": 0.65, "rho": 2.0, "beta": 0.3, "epsilon": 0.1, "depth": 3}, (6.71728463, 34.1031373)),
    ],
)
def test_reference_values_of_the_deviation(numbers, values, order):
    found = deviation_bound(1.0, **numbers, dim=49, order=order)
    assert found == pytest.approx(values[order - 1], rel=5e-9)


def test_reference_value_of_the_deviation_of_four_layers():
    numbers = {"strength": 0.65, "rho": 1.0, "beta": 0.3, "epsilon": 0.05, "depth": 4}
    assert deviation_bound(5.0, **numbers, dim=49, order=2) == pytest.approx(86.134962, rel=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("order", [1, 2])
def test_deviation_is_the_product_of_its_factors(depth, order):
    numbers = {"strength": 0.6, "rho": 2.0, "beta": 0.4, "epsilon": 0.2, "depth": depth}
    u, v = weight_norm_bound(0.5, **numbers), derivative_norm_bound(0.5, **numbers)
    factor = deviation_factor(order=order, depth=depth, dim=9, rho=2.0)
    assert deviation_bound(0.5, **numbers, dim=9, order=order) == pytest.approx(
        factor * v * u ** (depth - 1), rel=1e-12
    )
    first, later, F = corrected_derivative_norms(0.5, **numbers)
    more, norm = depth - 1, 3.0
    if order == 1:
        expected = norm * (first + more * later) * u**more + first * u**more + more * later * F * u ** (depth - 2)
    else:
        expected = norm * (2 * first * u**more + more * later * (u**more + F * u ** (depth - 2)))
        expected = more * (expected + 2 * (first * u**more + more * later * F * u ** (depth - 2)))
    found = deviation_bound(0.5, **numbers, dim=9, order=order, variant="corrected_tight")
    assert found == pytest.approx(expected, rel=1e-12)


def test_deviation_factors_are_their_formulas_and_take_another_norm():
    assert deviation_factor(order=1, depth=4, dim=25, rho=2.0) == 4 * 5 + 1 + 3 * 2
    assert deviation_factor(order=2, depth=4, dim=25, rho=2.0) == 3 * ((5 + 6) * 5 + 2 * 7)
    assert deviation_factor(order=1, depth=4, dim=25, rho=2.0, input_norm=6.0) == 4 * 6 + 1 + 3 * 2


@pytest.mark.parametrize(
    ("name", "smaller", "larger"),
    [
        ("time", 1.0, 2.0), ("epsilon", 1e-3, 2e-3), ("beta", 0.1, 0.11), ("rho", 1.0, 3.7), ("dim", 48, 49),
        ("precision_bits", 16, 32), ("margin", 2e-3, 1e-3), ("samples", 60000, 50000), ("delta", 0.02, 0.01),
        ("train_margin_risk", 0.0, 0.1), ("scanned", 1, 100), ("input_norm", 7.0, 7.5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variant", ["theorem", "corrected_tight", "corrected_loose", "w_beta", "printed"])
def test_bound_is_monotone(name, smaller, larger, variant):
    low, high = (apriori_bound(**(ARGUMENTS | {name: value}), variant=variant) for value in (smaller, larger))
    assert low.value < high.value < math.inf


def test_variants_come_in_the_order_of_what_they_leave_out():
    values = {
        variant: apriori_bound(**ARGUMENTS, variant=variant).terms["deviation"]
        for variant in ("theorem", "w_beta", "corrected_tight", "corrected_loose", "printed")
    }
    assert values["theorem"] < values["w_beta"]
    assert values["printed"] < values["w_beta"]
    assert values["corrected_tight"] < values["corrected_loose"]
    assert len(set(values.values())) == 5


def test_missing_root_changes_the_deviation_by_the_stated_share():
    numbers = ARGUMENTS | {"beta": 1e-3, "margin": 1e-6, "epsilon": 1e-2}
    roots = [apriori_bound(**numbers, variant=variant).terms["deviation"] for variant in ("w_beta", "printed")]
    assert roots[0] / roots[1] - 1 == pytest.approx(0.07, abs=0.01)


@pytest.mark.parametrize("variant", ["theorem", "corrected_tight"])
@pytest.mark.parametrize("time", [4.0, 1e3, 1e6])
def test_past_the_blow_up_the_bound_is_infinite(variant, time):
    bound = apriori_bound(**(ARGUMENTS | {"depth": 3, "beta": 0.3, "time": time, "epsilon": 0.1}), variant=variant)
    assert bound.value == math.inf
    assert status(bound)["time"] == "violated"
    assert bound.vacuous
    assert not bound.valid


@pytest.mark.parametrize("time", [0.0, 1e6])
@pytest.mark.parametrize("depth", [2, 3])
def test_a_linear_network_does_not_deviate(time, depth):
    bound = apriori_bound(**(ARGUMENTS | {"epsilon": 0.0, "time": time, "depth": depth}))
    assert bound.terms["deviation"] == 0
    assert (status(bound)["projected_loss"], status(bound)["time"]) == ("holds", "holds")


def test_at_the_start_only_the_counting_is_left():
    bound = apriori_bound(**(ARGUMENTS | {"time": 0.0}))
    assert bound.value == pytest.approx(0.134731669, rel=1e-8)


@pytest.mark.parametrize(
    ("rho", "variant", "expected"),
    [(1.0, "theorem", "holds"), (3.7, "theorem", "unknown"), (3.7, "corrected_tight", "holds")],
)
def test_condition_on_the_first_layer(rho, variant, expected):
    assert status(apriori_bound(**(ARGUMENTS | {"rho": rho}), variant=variant))["rho"] == expected


@pytest.mark.parametrize(("known", "expected"), [(True, "holds"), (False, "violated"), (None, "unknown")])
def test_condition_on_the_whitening_map_reports_the_strict_count(known, expected):
    bound = apriori_bound(**ARGUMENTS, sigma_known=known)
    condition = next(item for item in bound.conditions if item.name == "sigma_known")
    assert condition.status == expected
    assert "0.494551" in condition.note
    assert bound.valid is (known is not False)


def test_conditions_of_the_paper_are_all_there_and_what_is_measured_replaces_them():
    measured = Condition("whitened", 0.1, "<=", 1e-6, False)
    bound = apriori_bound(**ARGUMENTS, conditions=[measured, Condition("own", "yes", "", "yes", True)])
    assert list(status(bound)) == [
        "time", "rho", "projected_loss", "a_priori_choice", "sigma_known", "architecture", "loss", "whitened",
        "full_rank", "initial_norms", "gradient_flow", "precision", "independent_samples", "own",
    ]  # fmt: skip
    assert status(bound)["whitened"] == "violated"
    assert [item.name for item in bound.conditions if item.holds is False] == ["whitened"]
    assert bound.confidence == 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 0.0}, "`margin`"), ({"time": -1.0}, "times"), ({"order": 3}, "`order`"),
        ({"delta": 1.0}, "`delta`"),
        ({"samples": 1}, "`samples`"), ({"dim": 0}, "`dim`"), ({"precision_bits": 0}, "`precision_bits`"),
        ({"train_margin_risk": 1.1}, "`train_margin_risk`"), ({"variant": "best"}, "`variant`"),
        ({"scanned": 0}, "`scanned`"), ({"input_norm": 0.0}, "`input_norm`"), ({"epsilon": 2.0}, "`epsilon`"),
        ({"rho": 0.5}, "`rho`"), ({"strength": 2.0}, "`strength`"), ({"beta": -1.0}, "`beta`"),
        ({"depth": 1}, "`depth`"),
        ({"margin": math.nan}, "`margin`"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        apriori_bound(**(ARGUMENTS | change))


GRID = {
    "times": [0.5, 1.0, 2.0],
    "betas": [1e-3, 0.1],
    "epsilons": [0.0, 1e-3, 1e-2],
    "depths": [2, 3],
    "divisors": [1.0, 10.0],
    "orders": [2, 1],
    "precision_bits": [16, 32],
}
DATA = {"strength": 0.65, "rho": 3.7, "dim": 49, "samples": 60000, "delta": 0.01}


@pytest.mark.parametrize("variant", ["theorem", "corrected_tight", "printed"])
def test_scan_is_the_bound_of_every_combination(variant):
    scan = apriori_scan(**DATA, **GRID, variant=variant, train_margin_risk=0.25)
    assert scan.num_scanned == 3 * 2 * 3 * 2 * 2 * 2 * 2 == len(scan.rows(1000))
    row = scan.rows(1000)[137]
    setting = {name: row[name] for name in ("time", "beta", "epsilon", "margin", "train_margin_risk")}
    counts = {name: int(row[name]) for name in ("depth", "order", "precision_bits")}
    bound = apriori_bound(**DATA, **setting, **counts, variant=variant, scanned=scan.num_scanned)
    assert row["value"] == pytest.approx(bound.value, rel=1e-12)
    assert (row["counting"], row["deviation"]) == pytest.approx(
        (bound.terms["counting"], bound.terms["deviation"]), rel=1e-10
    )
    assert row["margin"] == pytest.approx(row["beta"] ** row["depth"] / row["divisor"], rel=1e-12)


def test_scan_is_sorted_and_its_best_is_a_bound():
    scan = apriori_scan(**DATA, **GRID)
    values = [row["value"] for row in scan.rows(1000)]
    assert values == sorted(values)
    assert scan.best["value"] == float(scan.values.min())
    bound = scan.best_bound(sigma_known=False)
    assert bound.value == pytest.approx(scan.best["value"], rel=1e-12)
    assert status(bound)["sigma_known"] == "violated"
    assert str(scan.num_scanned) in next(item.actual for item in bound.conditions if item.name == "a_priori_choice")


def test_heat_map_is_the_smallest_bound_over_all_other_axes():
    scan = apriori_scan(**DATA, **GRID)
    picture = scan.heat_map("epsilon", "time")
    assert picture.shape == (3, 3)
    rows = [row["value"] for row in scan.rows(1000) if row["epsilon"] == 1e-2 and row["time"] == 2.0]
    assert float(picture[2, 2]) == min(rows)
    torch.testing.assert_close(scan.heat_map("time", "epsilon"), picture.T)
    with pytest.raises(ValueError, match="two different axes"):
        scan.heat_map("time", "time")


def test_scan_takes_margins_and_risks_of_its_own():
    risks = torch.tensor([0.3, 0.1]).reshape(2, 1, 1, 1, 1, 1, 1)
    grid = {"times": [1.0, 2.0], "betas": [1e-3], "epsilons": [1e-3], "orders": [2]}
    scan = apriori_scan(**DATA, **grid, margins=[1e-6, 1e-5], train_margin_risk=risks)
    assert list(scan.axes) == ["time", "beta", "epsilon", "depth", "margin", "order", "precision_bits"]
    assert scan.best["train_margin_risk"] == 0.1
    assert (scan.best["margin"], scan.best["time"]) == pytest.approx((1e-5, 2.0))


def test_scan_never_gives_nan():
    grid = {"times": [0.0, 1e6], "betas": [1e-200, 1.0, 1e200], "epsilons": [0.0, 1.0], "depths": [2, 3, 30]}
    scans = [apriori_scan(**DATA, **grid, variant=variant) for variant in ("theorem", "corrected_tight")]
    assert not any(bool(scan.values.isnan().any()) for scan in scans)


@pytest.mark.parametrize("variant", ["theorem", "corrected_tight"])
def test_scan_of_ten_thousand_different_trajectories_takes_seconds(variant):
    grid = {
        "times": torch.linspace(0.5, 3.0, 10), "betas": [10 ** (-k / 3) for k in range(10)],
        "epsilons": [10 ** (-1 - k / 3) for k in range(10)], "depths": list(range(2, 12)),
        "divisors": [1.0], "orders": [2],
    }  # fmt: skip
    begin = clock.perf_counter()
    scan = apriori_scan(**DATA, **grid, variant=variant)
    assert scan.num_scanned == 10_000
    # 0.1 and 1.1 s on one core that is not shared.
    assert clock.perf_counter() - begin < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": []}, "`times`"), ({"betas": []}, "`betas`"), ({"betas": [0.0]}, "`beta`"),
        ({"epsilons": [2.0]}, "`epsilon`"),
        ({"depths": [1]}, "`depth`"), ({"orders": [3]}, "`order`"), ({"divisors": [0.0]}, "`divisors`"),
        ({"margins": [-1.0]}, "`margins`"), ({"times": [-1.0]}, "times"), ({"precision_bits": []}, "`precision_bits`"),
        ({"train_margin_risk": 2.0}, "`train_margin_risk` in"), ({"train_margin_risk": torch.zeros(5)}, "broadcasts"),
        ({"variant": "best"}, "`variant`"), ({"delta": 0.0}, "`delta`"),
    ],
)  # fmt: skip
def test_scan_names_what_it_does_not_take(change, message):
    with pytest.raises(ValueError, match=message):
        apriori_scan(**(DATA | GRID | change))
