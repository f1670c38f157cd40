"""Products of rows and of outer products added to a Gram matrix, against loops over its entries."""

import pytest
import torch

from lightning_bounds.jacobian.contraction import Pairs, add_pairs, add_rows, mirror
from lightning_bounds.jacobian.scratch import Scratch
from lightning_bounds.jacobian.separation import separated

BUDGETS = [1, 500, 3000, 2**28]


def pairs(n, places, bias, outputs=2, groups=2, o=3, i=4):
    left, right = torch.randn(outputs, groups, n * places, o), torch.randn(groups, n * places, i)
    return Pairs(left, right, places, bias)


def rows_of(pairs):
    """The rows that the outer products make, summed place by place, one row for each sample and output."""
    outputs, groups, total, o = pairs.left.shape
    rows = []
    for sample in range(total // pairs.places):
        for a in range(outputs):
            parts = []
            for g in range(groups):
                product, shift = torch.zeros(o, pairs.right.shape[2]), torch.zeros(o)
                for s in range(sample * pairs.places, (sample + 1) * pairs.places):
                    product += torch.outer(pairs.left[a, g, s], pairs.right[g, s])
                    shift += pairs.left[a, g, s]
                parts += [product.flatten(), shift] if pairs.bias else [product.flatten()]
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("work_bytes", BUDGETS)
@pytest.mark.parametrize(("height", "columns"), [(1, 1), (5, 3), (24, 7), (30, 150)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_multiplied_below_the_diagonal(work_bytes, height, columns, dtype):
    rows = torch.randn(height, columns, dtype=dtype)
    gram = torch.eye(height)
    add_rows(gram, rows, None, work_bytes, Scratch())
    close(gram.tril(), (torch.eye(height) + rows.double() @ rows.double().T).tril())
    close(mirror(gram), torch.eye(height) + rows.double() @ rows.double().T)


@pytest.mark.parametrize("work_bytes", BUDGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_other_samples_are_multiplied_everywhere(work_bytes, dtype):
    rows, other = torch.randn(5, 150, dtype=dtype), torch.randn(8, 150, dtype=dtype)
    gram = torch.ones(5, 8)
    add_rows(gram, rows, other, work_bytes, Scratch())
    close(gram, 1 + rows.double() @ other.double().T)


def test_rows_are_multiplied_in_the_precision_of_the_gram_matrix():
    """1 + 1e-5 squared is 1 + 2e-5 + 1e-10, whose last digits float32 does not have."""
    rows = torch.full((2, 1), 1 + 1e-5, dtype=torch.float32)
    gram = torch.zeros(2, 2)
    add_rows(gram, rows, None, 100, Scratch())
    close(gram[1, 0], rows[0, 0].double() ** 2, 1e-15)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("work_bytes", BUDGETS)
def test_outer_products_are_multiplied_as_the_rows_that_they_make(bias, places, outputs, groups, work_bytes):
    parts = pairs(5, places, bias, outputs, groups)
    gram = torch.ones(5 * outputs, 5 * outputs)
    add_pairs(gram, parts, None, work_bytes, Scratch())
    close(mirror(gram), 1 + rows_of(parts) @ rows_of(parts).T)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("places", "others"), [(1, 1), (3, 3), (1, 3), (2, 1)])
@pytest.mark.parametrize(("outputs", "other_outputs"), [(2, 2), (3, 1)])
@pytest.mark.parametrize("work_bytes", BUDGETS)
def test_outer_products_of_other_samples(bias, places, others, outputs, other_outputs, work_bytes):
    first, second = pairs(4, places, bias, outputs), pairs(3, others, bias, other_outputs)
    gram = torch.ones(4 * outputs, 3 * other_outputs)
    add_pairs(gram, first, second, work_bytes, Scratch())
    close(gram, 1 + rows_of(first) @ rows_of(second).T)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("work_bytes", BUDGETS)
def test_outer_products_are_multiplied_in_the_precision_of_the_gram_matrix(bias, work_bytes):
    parts = pairs(4, 2, bias)
    short = parts._replace(left=parts.left.float(), right=parts.right.float())
    exact = rows_of(short._replace(left=short.left.double(), right=short.right.double()))
    gram = torch.zeros(8, 8)
    add_pairs(gram, short, None, work_bytes, Scratch())
    close(mirror(gram), exact @ exact.T, 1e-13)


# Blocks that mirror each other


def before_the_last_layer(n, outputs, o, groups=1, places=1):
    """Gradients of a hidden layer: one number per sample and unit times one weight per output and unit."""
    return torch.randn(1, groups, n * places, o) * torch.randn(outputs, groups, 1, o)


@pytest.mark.parametrize("outputs", [2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("o", [1, 3, 20])
def test_mirrored_blocks_are_found_and_make_no_difference(outputs, groups, places, o):
    left = before_the_last_layer(5, outputs, o, groups, places)
    parts = Pairs(left, torch.randn(groups, 5 * places, 4), places, True)
    assert separated(parts.left) is not None
    gram = torch.zeros(5 * outputs, 5 * outputs)
    add_pairs(gram, parts, None, 2000, Scratch())
    close(mirror(gram), rows_of(parts) @ rows_of(parts).T)


@pytest.mark.parametrize("work_bytes", [1, 2**21, 2**28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mirrored_blocks_of_many_samples_and_units_are_added_in_parts(work_bytes, dtype):
    """More samples than are multiplied at once above the diagonal, more units than are added up at once."""
    n, outputs, o = 70, 2, 2100
    left, right = before_the_last_layer(n, outputs, o, 1, 1).to(dtype), torch.randn(1, n, 4, dtype=dtype)
    gram = torch.ones(n * outputs, n * outputs)
    add_pairs(gram, Pairs(left, right, 1, False), None, work_bytes, Scratch())
    rows = torch.einsum("anr,nf->narf", left[:, 0].double(), right[0].double()).reshape(n * outputs, -1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        gram.tril(), (1 + rows @ rows.T).tril(), rtol=0, atol=tolerance * float(rows.norm()) ** 2
    )


@pytest.mark.parametrize("unit", [0, 1, 7, 19])
@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_one_unit_of_another_kind_is_enough_for_blocks_that_are_not_mirrored(unit, size):
    left = before_the_last_layer(5, 3, 20)
    left[1, 0, :, unit] = size * torch.randn(5)
    assert separated(left) is None


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_outputs_and_units_without_gradients_do_not_hide_what_is_not_mirrored(empty):
    left = torch.randn(3, 1, 5, 4)
    left[empty], left[:, :, :, 1] = 0, 0
    assert separated(left) is None
    mirrored = before_the_last_layer(5, 3, 4)
    mirrored[empty], mirrored[:, :, :, 1] = 0, 0
    assert separated(mirrored) is not None


def test_a_group_of_another_kind_is_enough():
    left = before_the_last_layer(5, 2, 4, groups=2)
    left[:, 1] = torch.randn(2, 5, 4)
    assert separated(left) is None


@pytest.mark.parametrize("size", [1, 2, 1023, 1024, 1025, 2500])
def test_the_lower_triangle_is_copied_onto_the_upper_one(size):
    lower = torch.randn(size, size)
    expected = lower.tril() + lower.tril(-1).T
    assert torch.equal(mirror(lower.tril() + torch.full((size, size), 9.0).triu(1)), expected)
