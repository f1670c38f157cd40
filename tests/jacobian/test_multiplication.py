"""Products of matrices: every layout in memory, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bounds.jacobian.multiplication import _gains, add_product, matmul

SINGLE = torch.float32
LAYOUTS = {
    "rows": lambda m, n: torch.randn(m, n, dtype=SINGLE),
    "columns": lambda m, n: torch.randn(n, m, dtype=SINGLE).T,
    "some rows": lambda m, n: torch.randn(m + 7, n, dtype=SINGLE)[3 : m + 3],
    "some columns": lambda m, n: torch.randn(m, n + 9, dtype=SINGLE)[:, 4 : n + 4],
    "every other column": lambda m, n: torch.randn(m, 2 * n, dtype=SINGLE)[:, ::2],
    "some lines of columns": lambda m, n: torch.randn(n, m + 5, dtype=SINGLE).T[5:],
}
# A sum of k products in float32 loses less than 8 epsilons of the lengths that are multiplied.
ROUNDING = 8 * torch.finfo(torch.float32).eps


def assert_product(found, left, right, start=0.0):
    expected = start + left.double() @ right.double()
    lengths = torch.outer(left.double().norm(dim=1), right.double().norm(dim=0))
    size = lengths + (start.abs() if isinstance(start, torch.Tensor) else start)
    assert bool(((found.double() - expected).abs() <= ROUNDING * size).all())


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_a_large_product_is_that_of_float64_whatever_the_layout(first, second):
    left, right = LAYOUTS[first](190, 260), LAYOUTS[second](260, 130)
    assert _gains(left, right) == torch.backends.mkldnn.is_available()
    assert_product(matmul(left, right), left, right)
    for total in (
        torch.randn(190, 130, dtype=SINGLE),
        torch.randn(130, 190, dtype=SINGLE).T,
        torch.randn(190, 200, dtype=SINGLE)[:, 20:150],
    ):
        start = total.double().clone()
        add_product(total, left, right)
        assert_product(total, left, right, start)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.sampled_from([SINGLE, torch.float64]))
def test_products_of_every_size(m, k, n, dtype):
    left, right, total = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.randn(m, n, dtype=dtype)
    start = total.double().clone()
    assert matmul(left, right).dtype == dtype
    assert_product(matmul(left, right), left, right)
    add_product(total, left, right)
    assert_product(total, left, right, start)


def test_a_long_product_is_added_in_parts():
    left, right, total = (
        torch.randn(3000, 20, dtype=SINGLE),
        torch.randn(20, 1000, dtype=SINGLE),
        torch.randn(3000, 1000, dtype=SINGLE),
    )
    start = total.double().clone()
    add_product(total, left, right)
    assert_product(total, left, right, start)


def test_the_same_product_has_the_same_bits():
    left, right = torch.randn(300, 500, dtype=SINGLE), torch.randn(500, 200, dtype=SINGLE)
    assert torch.equal(matmul(left, right), matmul(left, right))


def test_what_needs_a_graph_keeps_it():
    left, right = torch.randn(200, 200, requires_grad=True, dtype=SINGLE), torch.randn(200, 200, dtype=SINGLE)
    matmul(left, right).sum().backward()
    torch.testing.assert_close(left.grad, right.sum(1).expand(200, 200))


def test_exact_products_are_exact():
    left, right = torch.randint(-8, 9, (256, 300)).float(), torch.randint(-8, 9, (300, 128)).float()
    assert torch.equal(matmul(left, right).double(), left.double() @ right.double())


def test_onednn_can_be_switched_off():
    left, right = torch.randn(200, 200, dtype=SINGLE), torch.randn(200, 200, dtype=SINGLE)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not _gains(left, right)
        assert_product(matmul(left, right), left, right)
