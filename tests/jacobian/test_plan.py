"""What a spectrum will cost, which method is taken, and that budgets are kept."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_bounds import JacobianOperator, jacobian_spectrum
from lightning_bounds.jacobian.plan import Calibration, calibrate, plan


def sized(rows: int, columns: int) -> JacobianOperator:
    """A Jacobian of this shape that costs nothing as long as no row is made."""
    return JacobianOperator(nn.Embedding(columns, 1).float(), torch.arange(rows) % columns, output_fn=lambda y: y)


def linear(jacobian) -> JacobianOperator:
    return JacobianOperator(nn.Linear(jacobian.shape[1], 1, bias=False).to(jacobian.dtype), jacobian)


# The choice.


@pytest.mark.parametrize(
    ("shape", "rank", "budget", "expected"),
    [
        ((100, 270_000), 10, None, "gram"),
        ((200, 270_000), 50, None, "gram"),
        ((600, 270_000), 50, None, "lanczos"),
        ((3072, 270_000), 50, None, "lanczos"),
        ((3072, 270_000), 2000, None, "gram"),
        ((12288, 270_000), 50, 8 * 2**30, "lanczos"),
        ((12288, 270_000), None, 16 * 2**30, "gram"),
        ((12288, 270_000), None, 2**30, "density"),
        ((3072, 270_000), None, None, "gram"),
    ],
)
def test_auto_takes_what_costs_least(shape, rank, budget, expected):
    chosen = plan(sized(*shape), rank, budget)
    fitting = [c for name, c in chosen.costs.items() if c.fits and name != "density"]
    assert chosen.method == expected
    if rank is not None:
        assert chosen.costs[expected].operations == min(cost.operations for cost in fitting)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(None, torch.float32), (8 * 2**30, torch.float32), (3 * 2**30, torch.float16), (2**28, None)],
)
def test_rows_are_held_in_what_fits(budget, expected):
    assert plan(sized(3072, 270_000), 50, budget).costs["lanczos"].storage == expected


def test_rows_that_are_not_held_are_made_twice_for_each_product_of_the_left():
    costs = plan(sized(3072, 270_000), 50, 2**28).costs
    assert (costs["lanczos"].passes, plan(sized(3072, 270_000), 50).costs["lanczos"].passes) == (8, 1)


def test_the_choice_says_why_and_does_not_look_at_the_clock():
    slow, fast = Calibration(100.0, 1e6), Calibration(1e-9, 1e15)
    jacobian = sized(3072, 270_000)
    choices = {(p := plan(jacobian, 50, calibration=speed)).method + p.reason for speed in (slow, fast, None)}
    assert len(choices) == 1
    assert "3072 x 270000" in choices.pop()
    small = plan(jacobian, 50, 2**28)
    assert f"would not fit {2**28:,} bytes" in small.reason


def test_the_spectrum_carries_the_choice_and_its_reason():
    jacobian = linear(torch.randn(40, 60))
    spectrum = jacobian_spectrum(jacobian, rank=3)
    assert (spectrum.method, spectrum.reason) == (plan(jacobian, 3).method, plan(jacobian, 3).reason)


# The prediction.


@pytest.mark.parametrize("rate", [1e9, 1e11])
def test_seconds_follow_the_calibration(rate):
    speed = Calibration(row_seconds=0.5, rate=rate)
    cost = plan(sized(1000, 20_000), 20, calibration=speed).costs["gram"]
    assert cost.flops == 1000 * 1000 * 20_000
    assert cost.seconds == pytest.approx((4 * cost.flops + 20 * 1000**3) / rate + 1000 * 0.5)
    single = plan(sized(1000, 20_000), 20, dtype=torch.float32, calibration=speed).costs["gram"]
    assert single.flops == cost.flops
    assert single.seconds == pytest.approx((cost.flops + 20 * 1000**3) / rate + 1000 * 0.5)


def test_calibration_measures_this_machine_quickly():
    network = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 2))
    jacobian = JacobianOperator(network, torch.randn(50, 100))
    speed = calibrate(jacobian)
    assert 0 < speed.row_seconds < 1
    assert 1e7 < speed.rate < 1e16


def test_a_plan_prints_every_method_and_the_choice():
    made = plan(sized(3072, 270_000), 50, 2**28)
    words = [line.split()[0] for line in str(made).splitlines()]
    assert words == ["method", "gram", "lanczos", "randomized", "density", made.method + ":"]
    assert "exceeds the budget" in str(made)


# Budgets.


@pytest.mark.parametrize("method", ["lanczos", "randomized", "density"])
def test_a_budget_below_the_minimum_is_refused_with_the_minimum_which_is_enough(method):
    matrix = torch.randn(60, 400)
    needed = plan(linear(matrix), 3, 1).costs[method].bytes
    with pytest.raises(
        MemoryError, match=rf"at least {needed:,} bytes for method '{method}' .* but got {needed - 1:,}"
    ):
        jacobian_spectrum(linear(matrix), 3, method, memory_budget=needed - 1)
    spectrum = jacobian_spectrum(linear(matrix), 3, method, memory_budget=needed)
    assert spectrum.frobenius_norm == pytest.approx(float(matrix.norm()))


@pytest.mark.parametrize("budget", [10**7, 10**8, 4 * 10**8, None])
@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_the_result_does_not_depend_on_the_budget(method, budget):
    values = torch.logspace(0, -2, 100)
    left, right = torch.linalg.qr(torch.randn(100, 100)).Q, torch.linalg.qr(torch.randn(3000, 100)).Q
    spectrum = jacobian_spectrum(linear(left * values @ right.T), 5, method, memory_budget=budget, tolerance=1e-8)
    torch.testing.assert_close(spectrum.singular_values, values[:5], rtol=1e-7, atol=0)


TESTS = Path(__file__).parents[1]
# Each measurement in a process of its own; torch is loaded once.
PEAK = """
import os, sys, torch
from peak_memory import forget_peak, memory
from lightning_bounds import JacobianOperator, jacobian_spectrum
torch.set_num_threads(1)
rows, columns, method = 600, 60_000, sys.argv[1]
generator = torch.Generator().manual_seed(0)
scales = torch.logspace(0, -3, rows)[:, None]
J = JacobianOperator(torch.nn.Linear(columns, 1, bias=False), scales * torch.randn(rows, columns, generator=generator))
for megabytes in (100, 250, 400):
    if os.fork() == 0:
        jacobian_spectrum(JacobianOperator(torch.nn.Linear(40, 1), torch.randn(30, 40)), 2, method)
        before = forget_peak()
        jacobian_spectrum(J, 10, method, memory_budget=megabytes * 2**20)
        print(megabytes, memory("VmHWM") - before, flush=True)
        os._exit(0)
    os.wait()
"""


@cache
def peaks_of(method):
    printed = subprocess.run(
        [sys.executable, "-c", PEAK, method], capture_output=True, text=True, check=True, cwd=TESTS
    )
    return {int(budget): int(peak) for budget, peak in map(str.split, printed.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("megabytes", [100, 250, 400])
@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_the_peak_stays_within_a_fifth_of_the_budget(method, megabytes):
    assert 0.3 * megabytes * 2**20 < peaks_of(method)[megabytes] <= 1.2 * megabytes * 2**20
