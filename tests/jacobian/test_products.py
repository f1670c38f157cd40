"""Products from rows that are held, shortened or made anew, against the matrix itself."""

import pytest
import torch
from cases import CASES
from references import jacobian_by_loop
from torch import nn

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.products import HeldRows, RecomputedRows, row_blocks

SOURCES = {
    "held": HeldRows,
    "float32": lambda jacobian: HeldRows(jacobian, torch.float32),
    "float16": lambda jacobian: HeldRows(jacobian, torch.float16, block_bytes=2_000),
    "anew": RecomputedRows,
    "anew one by one": lambda jacobian: RecomputedRows(jacobian, block_bytes=1),
}
TOLERANCES = {"held": 1e-12, "float32": 1e-6, "float16": 1e-3, "anew": 1e-12, "anew one by one": 1e-12}


def linear(jacobian) -> JacobianOperator:
    """The network whose Jacobian is this matrix: a linear one without bias on its rows."""
    return JacobianOperator(nn.Linear(jacobian.shape[1], 1, bias=False).to(jacobian.dtype), jacobian)


def close(actual, expected, tolerance):
    assert float((actual.double() - expected).norm() / expected.norm()) <= tolerance


@pytest.mark.parametrize(
    "name", ["mlp", "conv", "group_and_layer_norm", "batch_coupled", "tied_embedding", "called_twice_and_unused"]
)
@pytest.mark.parametrize("source", SOURCES)
def test_products_are_those_of_the_matrix(name, source):
    case = CASES[name]()
    dense = jacobian_by_loop(case.model, case.inputs, case.output_fn)
    rows = SOURCES[source](JacobianOperator(case.model, case.inputs, output_fn=case.output_fn))
    u, v = torch.randn(dense.shape[0], 3), torch.randn(dense.shape[1], 3)
    image, product = rows.right(v)
    close(rows.left(u), dense @ (dense.T @ u), TOLERANCES[source])
    close(rows.transposed(u), dense.T @ u, TOLERANCES[source])
    close(image, dense @ v, TOLERANCES[source])
    close(product, dense.T @ (dense @ v), TOLERANCES[source])
    assert rows.frobenius_norm == pytest.approx(float(dense.norm()), rel=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 100, 700, 10**9])
def test_products_do_not_depend_on_how_many_rows_are_made_at_a_time(block_bytes):
    case = CASES["conv"]()
    jacobian = JacobianOperator(case.model, case.inputs)
    u = torch.randn(jacobian.shape[0], 2)
    close(RecomputedRows(jacobian, block_bytes).left(u), RecomputedRows(jacobian).left(u), 1e-14)


def test_blocks_are_the_rows_in_order():
    case = CASES["mlp"]()
    jacobian = JacobianOperator(case.model, case.inputs)
    blocks = [(start, torch.cat(parts, dim=1)) for start, parts in row_blocks(jacobian, 2 * 2 * 32 * 8)]
    assert [start for start, _ in blocks] == [0, 4, 8, 12]
    close(torch.cat([block for _, block in blocks]), jacobian.dense(), 1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e20])
def test_half_precision_keeps_rows_of_every_scale(scale):
    matrix = scale * torch.logspace(-10, 10, 9)[:, None] * torch.randn(9, 40)
    rows = HeldRows(linear(matrix), torch.float16)
    held = torch.cat([m.double() for m in rows.matrices], dim=1) * rows.scales[0].double()[:, None]
    assert float(((held - matrix).norm(dim=1) / matrix.norm(dim=1)).max()) < 2**-11


def test_half_precision_keeps_a_row_of_zeros():
    rows = HeldRows(linear(torch.zeros(3, 4)), torch.float16)
    assert float(rows.left(torch.eye(3)).abs().max()) == 0.0


def test_storage_errors_estimate_what_shortening_does_to_right_vectors():
    matrix = torch.randn(300, 500)
    jacobian = linear(matrix)
    right = torch.linalg.qr(torch.randn(500, 6)).Q
    rows = HeldRows(jacobian, torch.float16)
    exact = (matrix - rows.matrices[0].double() * rows.scales[0].double()[:, None]) @ right
    estimate = rows.storage_errors(right, torch.Generator().manual_seed(0))
    ratio = estimate / exact.norm(dim=0)
    assert 0.5 < float(ratio.min()) < float(ratio.max()) < 2
    assert float(HeldRows(jacobian).storage_errors(right, torch.Generator()).max()) == 0.0


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_sketch_has_the_gram_matrix_as_its_mean(dtype):
    matrix = torch.randn(6, 400)
    rows = HeldRows(linear(matrix), dtype)
    grams = torch.stack([(s := rows.sketch(torch.Generator().manual_seed(k), 64)) @ s.T for k in range(400)])
    error = grams.double().mean(dim=0) - matrix @ matrix.T
    deviation = grams.double().std(dim=0) / 20
    # Signs square to one, so that what is left of a diagonal entry are products of other columns.
    assert float((error.abs() / deviation).max()) < 4.5
    assert float(deviation.max()) < 0.05 * float((matrix @ matrix.T).diagonal().max())


def test_a_sketch_that_would_not_be_smaller_is_not_made():
    assert HeldRows(linear(torch.randn(3, 40))).sketch(torch.Generator(), 11) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("source", SOURCES)
def test_rows_that_are_not_finite_are_refused(source, value):
    matrix = torch.randn(4, 5)
    jacobian = linear(matrix)
    jacobian.inputs[2, 3] = value
    with pytest.raises(FloatingPointError, match="rows hold NaN or infinity"):
        _ = SOURCES[source](jacobian).frobenius_norm
