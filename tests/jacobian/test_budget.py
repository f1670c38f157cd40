"""Memory budgets as texts."""

import pytest
import torch

from lightning_bounds import JacobianOperator, jacobian_spectrum
from lightning_bounds.jacobian.budget import budget_bytes


@pytest.mark.parametrize(
    ("budget", "size"),
    [(1, 1), ("10", 10), ("3B", 3), ("2kB", 2000), ("2 KiB", 2048), ("0.5MB", 500_000), ("1GiB", 2**30), (2.0, 2)],
)
def test_budgets_are_read_in_decimal_and_binary_units(budget, size):
    assert budget_bytes(budget) == size


@pytest.mark.parametrize("budget", ["", "GB", "2TB", "-1", 0, None, "1e9", "0.1", True, float("nan")])
def test_what_is_no_budget_is_refused(budget):
    with pytest.raises(ValueError, match="Expected `memory_budget` in bytes or like '2GB'"):
        budget_bytes(budget)


@pytest.mark.parametrize(
    "ask",
    [
        lambda J, budget: J.gram(memory_budget=budget).shape,
        lambda J, budget: J.plan(memory_budget=budget).memory_budget,
        lambda J, budget: jacobian_spectrum(J, rank=2, memory_budget=budget).singular_values.shape,
    ],
    ids=["gram", "plan", "spectrum"],
)
def test_every_budget_of_the_engine_may_be_a_text(ask):
    J = JacobianOperator(torch.nn.Linear(3, 2), torch.randn(4, 3))
    assert ask(J, "10MB") == ask(J, 10**7)
    with pytest.raises(ValueError, match="Expected `memory_budget`"):
        ask(J, "ten")
