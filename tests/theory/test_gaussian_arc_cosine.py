"""Arc-cosine kernels: exact where rounding would spoil them, and equal to their definitions everywhere else."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_bounds.theory.gaussian import (
    blocks,
    relu_derivative_covariance,
    relu_neural_covariance,
    relu_output_covariance,
)

KERNELS = [relu_derivative_covariance, relu_neural_covariance, relu_output_covariance]


def at_angle(theta, norm=1.0):
    """Two rows at an angle, the second of another norm."""
    return torch.tensor([[1.0, 0.0], [norm * math.cos(theta), norm * math.sin(theta)]])


def random_inputs(n=40, d=6):
    return torch.randn(n, d) * torch.rand(n, 1).add(0.2)


@pytest.mark.parametrize("theta", [0.0, 1e-12, 1e-9, 1e-7, 1e-4, 0.04, 0.05, 1.0, 2.5, 3.1, 3.1415926])
@pytest.mark.parametrize("norm", [1.0, 3.7])
def test_entries_are_the_formula_at_every_angle(theta, norm):
    X = at_angle(theta, norm)
    derivative = (math.pi - theta) / (2 * math.pi)
    output = norm * (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / (2 * math.pi)
    assert float(relu_derivative_covariance(X)[0, 1]) == pytest.approx(derivative, rel=1e-13, abs=1e-15)
    assert float(relu_neural_covariance(X)[0, 1]) == pytest.approx(derivative * norm * math.cos(theta), rel=1e-13)
    assert float(relu_output_covariance(X)[0, 1]) == pytest.approx(output, rel=1e-13, abs=2e-16)


def test_kernels_are_means_over_gaussian_weights():
    X = random_inputs(5, 3)
    w = torch.randn(400_000, 3)
    active = (w @ X.T >= 0).double()
    outputs = (w @ X.T).relu()
    error = 5 / math.sqrt(len(w))
    torch.testing.assert_close(relu_derivative_covariance(X), active.T @ active / len(w), atol=error, rtol=0)
    torch.testing.assert_close(
        relu_neural_covariance(X), (active.T @ active / len(w)) * (X @ X.T), atol=10 * error, rtol=0
    )
    torch.testing.assert_close(relu_output_covariance(X), outputs.T @ outputs / len(w), atol=10 * error, rtol=0)


def test_duplicates_and_opposites_are_exact():
    x = torch.randn(1, 784)
    X = torch.cat([x, x, -x, 2 * x])
    expected = torch.tensor([[0.5, 0.5, 0, 0.5], [0.5, 0.5, 0, 0.5], [0, 0, 0.5, 0], [0.5, 0.5, 0, 0.5]])
    assert torch.equal(relu_derivative_covariance(X), expected)


def test_arccosine_of_a_rounded_product_would_be_wrong():
    X = at_angle(1e-8)
    naive = (math.pi - math.acos(min(float(X[0] @ X[1]), 1.0))) / (2 * math.pi)
    exact = 0.5 - 1e-8 / (2 * math.pi)
    assert abs(naive - exact) > 1e-9
    assert abs(float(relu_derivative_covariance(X)[0, 1]) - exact) < 1e-15


def test_duplicate_rows_keep_the_kernel_positive_semidefinite():
    x = torch.randn(20, 50)
    X = torch.cat([x, x + 1e-9 * torch.randn(20, 50), x])
    assert float(torch.linalg.eigvalsh(relu_neural_covariance(X))[0]) > -1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_is_symmetric_bit_for_bit(kernel):
    K = kernel(random_inputs())
    assert torch.equal(K, K.T)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_do_not_change_the_result(kernel, monkeypatch):
    X = random_inputs()
    X[30], X[35] = X[2], -X[3]
    whole = kernel(X)
    monkeypatch.setattr(blocks.tiles, "__defaults__", (7,))
    torch.testing.assert_close(kernel(X), whole, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_inputs_give_the_off_diagonal_block(kernel):
    X, Z = random_inputs(9), random_inputs(5)
    torch.testing.assert_close(kernel(X, Z), kernel(torch.cat([X, Z]))[:9, 9:], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rotation_changes_nothing(kernel):
    X = random_inputs()
    Q = torch.linalg.qr(torch.randn(6, 6)).Q
    torch.testing.assert_close(kernel(X @ Q), kernel(X), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("kernel", "degree"), [(KERNELS[0], 0), (KERNELS[1], 1), (KERNELS[2], 1)])
def test_norms_scale_rows_and_columns(kernel, degree):
    X, scales = random_inputs(), torch.rand(40) * 100 + 1e-3
    torch.testing.assert_close(
        kernel(scales.unsqueeze(1) * X), kernel(X) * torch.outer(scales, scales) ** degree, rtol=1e-12, atol=1e-14
    )


def test_trace_of_unit_rows_is_half_their_number():
    X = torch.nn.functional.normalize(torch.randn(30, 5))
    assert float(relu_neural_covariance(X).trace()) == pytest.approx(15.0, rel=1e-14)
    assert torch.equal(relu_derivative_covariance(X).diagonal(), torch.full((30,), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_precision_of_the_result_is_double_whatever_the_inputs(dtype):
    X = torch.tensor([[3, 4], [1, 0], [0, -2]], dtype=dtype)
    assert torch.equal(relu_output_covariance(X), relu_output_covariance(X.double()))


def test_tiny_and_huge_norms_do_not_matter_to_angles():
    X = random_inputs(4, 3)
    torch.testing.assert_close(relu_derivative_covariance(X * 1e-200), relu_derivative_covariance(X))
    torch.testing.assert_close(relu_derivative_covariance(X * 1e150), relu_derivative_covariance(X))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.tensor([[1.0, 2.0], [0.0, 0.0]]), r"without zero rows, but samples \[1\]"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), r"samples \[1\] are NaN"),
        (torch.tensor([[1e200, 2.0]], dtype=torch.float64), "rescale them"),
        (torch.ones(3), r"shape \(n, d\), .* \(3,\)"),
        (torch.ones(0, 3), r"\(0, 3\)"),
    ],
)
def test_inputs_without_a_kernel_are_refused(kernel, inputs, message):
    with pytest.raises(ValueError, match=message):
        kernel(inputs)


def test_other_inputs_have_as_many_features():
    with pytest.raises(ValueError, match="equally many features, but got 3 and 2"):
        relu_neural_covariance(torch.ones(1, 3), torch.ones(1, 2))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_beyond_the_result_is_small():
    # In a process of its own, whose peak is not that of other tests.
    code = (
        "import torch; from lightning_bounds.theory.gaussian import relu_neural_covariance as kernel;"
        "from peak_memory import forget_peak, memory;"
        "kernel(torch.randn(100, 9)); X = torch.randn(6000, 784, dtype=torch.float64);"
        "before = forget_peak(); K = kernel(X); print((memory('VmHWM') - before) / (8 * K.numel()))"
    )
    command, folder = [sys.executable, "-c", code], Path(__file__).parents[1]
    grams = float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout)
    # The normalized inputs and a few tiles are a quarter of the result at this size, and an eighth at 10,000.
    assert 0.9 < grams < 1.4
