import numpy as np
import pytest
import torch

from lightning_bounds.report import histogram


@pytest.mark.parametrize("bins", [1, 7, 512])
def test_counts_and_edges_are_those_of_numpy(bins):
    values = torch.randn(1000)
    counts, edges, nonfinite = histogram(values, bins=bins)
    expected_counts, _ = np.histogram(values.numpy(), bins=edges.numpy())
    assert counts.tolist() == expected_counts.tolist()
    np.testing.assert_allclose(edges, np.histogram_bin_edges(values.numpy(), bins=bins), rtol=0, atol=1e-12)
    assert nonfinite == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_any_real_type_is_counted_in_float64(dtype):
    counts, edges, _ = histogram(torch.tensor([0, 1, 1, 1]).to(dtype), bins=2)
    assert counts.tolist() == [1, 3]
    assert edges.dtype == torch.float64


def test_nonfinite_values_are_counted_apart():
    counts, edges, nonfinite = histogram(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 2.0]), bins=2)
    assert counts.tolist() == [1, 1]
    assert edges.tolist() == [1.0, 1.5, 2.0]
    assert nonfinite == 3


@pytest.mark.parametrize(
    "values",
    [
        [],
        [torch.nan],
        [0.0],
        [3.0, 3.0, 3.0],
        [1e300, 1e300],
        [1.0, 1.0 + 2**-52],
        [5e-324, 1e-323],
        [-1.7e308, 1.7e308],
        [1.797e308],
    ],
    ids=str,
)
def test_degenerate_values_get_ascending_finite_edges_and_lose_nothing(values):
    vector = torch.tensor(values, dtype=torch.float64)
    counts, edges, nonfinite = histogram(vector)
    assert edges.isfinite().all()
    assert (edges.diff() > 0).all()
    assert int(counts.sum()) + nonfinite == len(values)


def test_gradients_are_left_behind():
    counts, edges, _ = histogram(torch.randn(5, requires_grad=True))
    assert not edges.requires_grad
    assert not counts.requires_grad


@pytest.mark.parametrize(
    "values", [torch.zeros(2, 2), torch.tensor(1.0), torch.zeros(2, dtype=torch.complex64)], ids=str
)
def test_what_is_no_real_vector_is_refused(values):
    with pytest.raises(ValueError, match=r"Expected real numbers of shape \(n,\)"):
        histogram(values)


@pytest.mark.parametrize("bins", [0, -1, 513])
def test_bins_are_limited(bins):
    with pytest.raises(ValueError, match=f"Expected `bins` in 1..512.* but got {bins}"):
        histogram(torch.zeros(3), bins=bins)
