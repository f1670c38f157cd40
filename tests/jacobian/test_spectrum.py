"""Singular values and vectors against decompositions of J itself, and what the noise floor promises."""

import copy
import math

import numpy as np
import pytest
import torch
from cases import CASES
from references import jacobian_by_loop
from torch import nn

from lightning_bounds import JacobianOperator, Spectrum, jacobian_spectrum
from lightning_bounds.jacobian.spectrum import gram_spectrum

F32, F64 = torch.float32, torch.float64
# The precisions of the network and of its Gram matrix.
PRECISIONS = pytest.mark.parametrize(("rows", "gram"), [(F64, F64), (F32, F64), (F32, F32)], ids=["64", "32in64", "32"])


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def linear(jacobian) -> JacobianOperator:
    """The network whose Jacobian is this matrix: a linear one without bias on its rows."""
    return JacobianOperator(nn.Linear(jacobian.shape[1], 1, bias=False).to(jacobian.dtype), jacobian)


def with_values(values, columns):
    """A matrix with these singular values, in random directions."""
    left, right = torch.randn(len(values), len(values)), torch.randn(columns, len(values))
    return torch.linalg.qr(left).Q * values @ torch.linalg.qr(right).Q.T


def floor_of(size, row_precision, gram_precision):
    """The documented floor, as a fraction of the largest singular value."""
    return 10 * row_precision + math.sqrt(gram_precision * (30 + 2 * math.sqrt(size)))


# Values and vectors.


@pytest.mark.parametrize("shape", [(5, 12), (8, 8), (12, 5), (1, 7), (1, 1)])
def test_values_and_vectors_are_those_of_a_singular_value_decomposition(shape):
    jacobian = torch.randn(shape)
    spectrum = jacobian_spectrum(linear(jacobian))
    left, values, _ = torch.linalg.svd(jacobian, full_matrices=False)
    close(spectrum.singular_values[: len(values)], values)
    close((spectrum.left_vectors[:, : len(values)].T @ left).abs(), torch.eye(len(values)))
    close(spectrum.left_vectors.T @ spectrum.left_vectors, torch.eye(shape[0]))
    assert spectrum.frobenius_norm == pytest.approx(float(jacobian.norm()), rel=1e-12)


def test_a_jacobian_with_fewer_columns_than_rows_has_unresolved_values_in_the_place_of_zeros():
    spectrum = jacobian_spectrum(linear(torch.randn(12, 5)))
    assert len(spectrum.singular_values) == 12
    assert float(spectrum.singular_values[5:].max()) < spectrum.noise_floor
    assert spectrum.resolved_rank == 5


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_rank_keeps_the_leading_part_and_the_norm_of_all(rank):
    jacobian = linear(torch.randn(8, 20))
    whole, leading = jacobian_spectrum(jacobian), jacobian_spectrum(jacobian, rank=rank)
    assert torch.equal(leading.singular_values, whole.singular_values[:rank])
    assert torch.equal(leading.left_vectors, whole.left_vectors[:, :rank])
    assert (leading.frobenius_norm, leading.noise_floor) == (whole.frobenius_norm, whole.noise_floor)


def test_a_rank_frees_the_vectors_that_it_drops():
    spectrum = gram_spectrum(torch.eye(50), rank=2)
    assert spectrum.left_vectors.untyped_storage().nbytes() == 50 * 2 * 8


@pytest.mark.parametrize("method", ["gram", "auto"])
def test_the_method_is_written_down(method):
    spectrum = jacobian_spectrum(linear(torch.randn(3, 4)), method=method)
    assert (spectrum.method, "3 x 4" in spectrum.reason) == ("gram", method == "auto")


def test_eigenvalues_that_rounding_made_negative_are_zeros():
    spectrum = gram_spectrum(torch.diag(torch.tensor([1.0, -1e-17])))
    assert spectrum.singular_values.tolist() == [1.0, 0.0]


def test_information_space_counts_all_of_the_norm_and_ties_within_the_floor():
    values = torch.tensor([1.0, 0.1 + 1e-9, 0.1, 0.01])
    spectrum = gram_spectrum(torch.diag(values**2), rank=3)
    space = spectrum.information_space(cutoff=0.1 + 5e-10)
    assert (space.dimension, space.noise_floor) == (3, spectrum.noise_floor)
    with pytest.raises(ValueError, match=r"`energy` of at most 0\.9999"):
        spectrum.information_space(energy=0.99999)


# Summaries.


def of_values(*values) -> Spectrum:
    return gram_spectrum(torch.diag(torch.tensor(values) ** 2))


@pytest.mark.parametrize("scale", [1e-5, 1.0, 30.0])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_equal_values_have_their_number_as_stable_and_effective_rank(count, scale):
    spectrum = of_values(*[scale] * count)
    assert (spectrum.stable_rank, spectrum.effective_rank) == (pytest.approx(count), pytest.approx(count))
    assert spectrum.resolved_rank == count


def test_stable_and_effective_rank_equal_their_sums():
    values = [3.0, 2.0, 0.5]
    shares = [value / 5.5 for value in values]
    spectrum = of_values(*values)
    assert spectrum.stable_rank == pytest.approx(sum(value**2 for value in values) / 9)
    assert spectrum.effective_rank == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)))


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
def test_stable_rank_is_at_most_effective_rank_is_at_most_rank(shape):
    # Entropy of order two or more is at most that of order one, which zeros do not raise.
    spectrum = jacobian_spectrum(linear(torch.randn(shape)))
    assert 1 <= spectrum.stable_rank <= spectrum.effective_rank <= 5 * (1 + 1e-4)


def test_a_jacobian_of_zeros_has_rank_zero_in_every_sense():
    spectrum = jacobian_spectrum(linear(torch.zeros(3, 4)))
    assert (spectrum.stable_rank, spectrum.effective_rank, spectrum.resolved_rank) == (0.0, 0.0, 0)
    assert (spectrum.frobenius_norm, spectrum.noise_floor) == (0.0, 0.0)
    assert torch.equal(spectrum.singular_values, torch.zeros(3))


# Invariances.


@pytest.fixture
def jacobian():
    return torch.randn(6, 15)


@pytest.mark.parametrize("factor", [1e-4, -3.0, 1e4])
def test_scaling_scales_values_and_floor(jacobian, factor):
    spectrum, scaled = jacobian_spectrum(linear(jacobian)), jacobian_spectrum(linear(factor * jacobian))
    torch.testing.assert_close(scaled.singular_values, abs(factor) * spectrum.singular_values, rtol=1e-10, atol=0)
    assert scaled.noise_floor == pytest.approx(abs(factor) * spectrum.noise_floor)
    assert scaled.effective_rank == pytest.approx(spectrum.effective_rank)


def test_permuting_samples_permutes_the_vectors_alone(jacobian):
    order = torch.randperm(6)
    spectrum, permuted = jacobian_spectrum(linear(jacobian)), jacobian_spectrum(linear(jacobian[order]))
    close(permuted.singular_values, spectrum.singular_values)
    close((permuted.left_vectors.T @ spectrum.left_vectors[order]).abs(), torch.eye(6))


def test_rotating_the_outputs_of_a_network_changes_no_value():
    case = CASES["mlp"]()
    rotation = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2, bias=False)).requires_grad_(False)
    rotated = jacobian_spectrum(JacobianOperator(nn.Sequential(case.model, rotation), case.inputs))
    close(rotated.singular_values, jacobian_spectrum(JacobianOperator(case.model, case.inputs)).singular_values, 1e-8)


def test_a_sample_given_twice_adds_a_zero(jacobian):
    values = jacobian_spectrum(linear(jacobian[[0, 1, 2, 3, 4, 5, 5]])).singular_values
    expected = torch.linalg.svdvals(torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 2]).sqrt()) @ jacobian)
    close(values[:6], expected)
    assert float(values[6]) < 1e-7


def test_values_interlace_when_a_sample_is_added(jacobian):
    fewer = jacobian_spectrum(linear(jacobian[:5])).singular_values
    more = jacobian_spectrum(linear(jacobian)).singular_values
    assert bool((more[:5] >= fewer).all() & (fewer >= more[1:]).all())


# The noise floor.


@pytest.mark.parametrize("size", [1, 10, 300])
@PRECISIONS
def test_floor_is_the_documented_fraction_of_the_largest_value(size, rows, gram):
    spectrum = jacobian_spectrum(linear(3 * torch.eye(size, dtype=rows)), dtype=gram)
    expected = 3 * floor_of(size, torch.finfo(rows).eps, torch.finfo(gram).eps)
    assert spectrum.singular_values.dtype == gram
    assert spectrum.noise_floor == pytest.approx(expected)


def test_floor_of_a_float32_network_added_up_in_float64_is_at_most_1e_5():
    assert floor_of(10_000, torch.finfo(F32).eps, torch.finfo(F64).eps) < 1e-5
    spectrum = jacobian_spectrum(linear(torch.randn(20, 30, dtype=F32)))
    assert spectrum.noise_floor < 1e-5 * float(spectrum.singular_values[0])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_floor_of_a_half_precision_network_is_that_of_the_float32_in_which_it_is_seen(name):
    model = nn.Linear(4, 1, bias=False).to(getattr(torch, name))
    spectrum = jacobian_spectrum(JacobianOperator(model, torch.eye(4)))
    assert spectrum.noise_floor == pytest.approx(floor_of(4, torch.finfo(F32).eps, torch.finfo(F64).eps))


@pytest.mark.parametrize("layers", [None, ["1"]])
def test_floor_of_a_network_of_two_precisions_is_that_of_the_coarser(layers):
    class Widen(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    model = nn.Sequential(nn.Linear(4, 4).float(), Widen(4, 1))
    spectrum = jacobian_spectrum(JacobianOperator(model, torch.eye(4), layers=layers))
    floor = floor_of(4, torch.finfo(F32).eps, torch.finfo(F64).eps)
    assert spectrum.noise_floor == pytest.approx(floor * float(spectrum.singular_values[0]))


def decades(size, floor):
    return torch.logspace(0, -10, size)


def one_and_decades(size, floor):
    return torch.cat([torch.ones(1), torch.logspace(-2, -11, size - 1)])


def half_through_the_floor(size, floor):
    return torch.cat([torch.ones(size - size // 2), floor * torch.linspace(3, 0.05, size // 2)])


def half_at_the_floor(size, floor):
    """The hardest that was found: equal small values spread out under every disturbance."""
    return torch.cat([torch.ones(size - size // 2), 1.001 * floor * torch.ones(size // 2)])


SPECTRA = [decades, one_and_decades, half_through_the_floor, half_at_the_floor]
SIZES = [(2, 10_000), (6, 1_000), (20, 300), (20, 30_000), (100, 3_000)]


@pytest.mark.parametrize(("size", "columns"), SIZES)
@pytest.mark.parametrize("values", SPECTRA)
@PRECISIONS
def test_values_above_the_floor_are_right_to_a_tenth_of_it(size, columns, values, rows, gram):
    values = values(size, floor_of(size, torch.finfo(rows).eps, torch.finfo(gram).eps))
    matrix = with_values(values, columns).to(rows)
    spectrum = jacobian_spectrum(linear(matrix), dtype=gram)
    # What rounding has made of the values on the way to the matrix is not an error of the spectrum.
    truth = values if rows == F64 else torch.linalg.svdvals(matrix.double())
    above = truth >= spectrum.noise_floor
    assert bool(above.any())
    error = (spectrum.singular_values.double() - truth).abs()[above]
    assert float(error.max()) <= 0.1 * spectrum.noise_floor


@pytest.mark.slow
@pytest.mark.parametrize("values", SPECTRA)
@PRECISIONS
def test_values_of_a_large_jacobian_above_the_floor_are_right_to_a_tenth_of_it(values, rows, gram):
    test_values_above_the_floor_are_right_to_a_tenth_of_it(700, 3_000, values, rows, gram)


@pytest.mark.parametrize(("rows", "gram"), [(F64, F64), (F32, F32)])
@pytest.mark.parametrize(("size", "columns"), [(20, 300), (100, 3_000), (200, 1_000)])
def test_values_a_tenth_of_the_floor_may_be_off_by_half_themselves_and_more(size, columns, rows, gram):
    floor = floor_of(size, torch.finfo(rows).eps, torch.finfo(gram).eps)
    matrix = with_values(half_at_the_floor(size, floor / 10), columns).to(rows)
    truth = torch.linalg.svdvals(matrix.double())
    error = (jacobian_spectrum(linear(matrix), dtype=gram).singular_values.double() - truth).abs() / truth
    assert float(error.max()) > 0.5


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("columns", [1_000, 300_000])
def test_long_rows_are_added_up_to_a_few_roundings(dtype, columns):
    rows = torch.randn(3, columns, dtype=dtype)
    wide = rows.numpy().astype(np.longdouble)
    exact = (wide[:, None] * wide).sum(axis=-1)
    error = abs(linear(rows).gram(dtype).numpy() - exact).max()
    assert error <= columns ** (1 / 6) * torch.finfo(dtype).eps * exact.max()


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.inner = nn.Sequential(conv[0], nn.BatchNorm2d(channels), nn.ReLU(), conv[1], nn.BatchNorm2d(channels))

    def forward(self, x):
        return torch.relu(x + self.inner(x))


def smooth(activation, depth):
    """Neighboring points of a line are almost duplicates: the singular values fall through every decade."""
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(40, 40), activation())]
    return nn.Sequential(nn.Linear(1, 40), activation(), *hidden, nn.Linear(40, 2)), torch.linspace(-1, 1, 40)[:, None]


def convolutional():
    first, second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(54, 3))
    images = torch.randn(10, 1, 8, 8)
    return model, torch.cat([images, images + 1e-6 * torch.randn_like(images)])


def residual_network():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *[Residual(8) for _ in range(4)], nn.Flatten(), nn.Linear(288, 3))
    images = torch.randn(8, 1, 8, 8)
    model.train()
    model(torch.randn(32, 1, 8, 8))
    return model.eval(), torch.cat([images, images + 1e-5 * torch.randn_like(images)])


NETWORKS = {
    "tanh": lambda: smooth(nn.Tanh, 2),
    "deep_tanh": lambda: smooth(nn.Tanh, 8),
    "gelu": lambda: smooth(nn.GELU, 3),
    "conv": convolutional,
    "residual": residual_network,
}


@pytest.mark.parametrize("name", NETWORKS)
@PRECISIONS
def test_values_of_a_network_above_the_floor_are_right_to_a_tenth_of_it(name, rows, gram):
    network, inputs = NETWORKS[name]()
    network, inputs = network.to(rows), inputs.to(rows)
    truth = torch.linalg.svdvals(jacobian_by_loop(copy.deepcopy(network).double(), inputs.double()))
    spectrum = jacobian_spectrum(JacobianOperator(network, inputs), dtype=gram)
    above = truth >= spectrum.noise_floor
    error = (spectrum.singular_values.double() - truth).abs()[above]
    assert float(error.max()) <= 0.1 * spectrum.noise_floor


@pytest.mark.parametrize("name", ["tanh", "deep_tanh", "gelu"])
def test_a_float32_network_resolves_decades_that_float32_contraction_cannot(name):
    network, inputs = NETWORKS[name]()
    jacobian = JacobianOperator(network.float(), inputs.float())
    in_double, in_single = jacobian_spectrum(jacobian), jacobian_spectrum(jacobian, dtype=F32)
    assert in_double.resolved_rank >= in_single.resolved_rank + 5


def test_a_float32_network_shows_what_is_zero_as_a_tenth_of_its_floor_or_less_but_not_as_nothing():
    # Outputs that add up to one leave one direction per sample in which nothing can change.
    network = nn.Sequential(nn.Linear(20, 100), nn.Tanh(), nn.Linear(100, 5), nn.Softmax(dim=1)).float()
    spectrum = jacobian_spectrum(JacobianOperator(network, torch.randn(40, 20)))
    zeros = spectrum.singular_values[-40:]
    assert spectrum.resolved_rank == 160
    assert 0.02 * spectrum.noise_floor < float(zeros.max()) < 0.1 * spectrum.noise_floor


# What is refused.


@pytest.mark.parametrize("method", ["gram", "lanczos", "randomized", "density", "auto"])
@pytest.mark.parametrize(("shape", "rank"), [((3, 4), 0), ((3, 4), -1), ((3, 4), 4), ((6, 2), 3)])
def test_a_rank_beyond_the_smaller_side_is_refused(method, shape, rank):
    rows, columns = shape
    sides = rf"{rows} rows \(samples times outputs\) and {columns} columns \(parameters\), but got {rank}"
    with pytest.raises(ValueError, match=rf"`rank` in 1\.\.{min(shape)} for a Jacobian of {sides}"):
        jacobian_spectrum(linear(torch.randn(shape)), rank=rank, method=method)


def test_a_rank_beyond_the_rows_of_a_gram_is_refused():
    with pytest.raises(ValueError, match=r"`rank` in 1\.\.3, the number of samples times outputs, but got 4"):
        gram_spectrum(torch.eye(3), rank=4)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"`method` among .* but got 'magic'"):
        jacobian_spectrum(linear(torch.randn(3, 4)), method="magic")


@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_an_iteration_without_a_rank_is_refused(method):
    with pytest.raises(ValueError, match="Expected a `rank`"):
        jacobian_spectrum(linear(torch.randn(3, 4)), method=method)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1.0, float("nan")])
def test_a_tolerance_that_is_no_fraction_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"`tolerance` in \(0, 1\)"):
        jacobian_spectrum(linear(torch.randn(3, 4)), rank=1, method="lanczos", tolerance=tolerance)


@pytest.mark.parametrize(("earlier", "method"), [("gram", "lanczos"), ("randomized", "randomized")])
def test_a_start_from_another_size_is_refused(earlier, method):
    start = jacobian_spectrum(linear(torch.randn(5, 7)), rank=2, method=earlier)
    with pytest.raises(ValueError, match=r"`start` to hold vectors with"):
        jacobian_spectrum(linear(torch.randn(4, 6)), rank=2, method=method, start=start)


# Error bars of the Gram matrix, and what is left beyond a rank.


@pytest.mark.parametrize("values", SPECTRA)
@PRECISIONS
def test_error_bars_of_a_gram_cover_the_error(values, rows, gram):
    values = values(100, floor_of(100, torch.finfo(rows).eps, torch.finfo(gram).eps))
    matrix = with_values(values, 1_000).to(rows)
    spectrum = jacobian_spectrum(linear(matrix), dtype=gram)
    truth = torch.linalg.svdvals(matrix.double())
    # What rounding has made of the rows is in the truth already.
    assert bool(((spectrum.singular_values.double() - truth).abs() <= spectrum.errors.double()).all())
    assert float(spectrum.errors[0]) < 1e-4


@pytest.mark.parametrize("rank", [1, 3])
def test_what_the_known_values_leave_is_the_energy_of_the_rest(rank):
    spectrum = jacobian_spectrum(linear(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))), rank=rank)
    rest = sum(value**2 for value in [4, 3, 2, 1][rank:])
    assert spectrum.nuisance_energy == pytest.approx(rest)
    assert spectrum.cutoff_interval == (pytest.approx(min([4, 3, 2, 1][rank - 1], rest**0.5)), pytest.approx(4))
    assert spectrum.information_space(cutoff=1.001 * spectrum.cutoff_interval[0]).dimension <= rank
    with pytest.raises(ValueError, match="Expected a cut-off above"):
        spectrum.information_space(cutoff=0.999 * spectrum.cutoff_interval[0])


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_nothing_is_left_where_all_values_are_known(shape):
    spectrum = jacobian_spectrum(linear(torch.randn(shape)), rank=4)
    assert (spectrum.nuisance_energy, spectrum.cutoff_interval[0]) == (0.0, 0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gram_that_is_not_finite_is_refused(value):
    gram = torch.eye(3)
    gram[1, 0] = value
    with pytest.raises(FloatingPointError, match="finite Gram matrix, but it holds NaN or infinity"):
        gram_spectrum(gram)


def test_the_memory_budget_is_kept():
    with pytest.raises(MemoryError, match="within 50 bytes, but 3 x 3 entries take 72"):
        jacobian_spectrum(linear(torch.randn(3, 4)), memory_budget=50)


@pytest.mark.parametrize("method", ["gram", "lanczos", "randomized"])
def test_mixed_precision_around_it_changes_nothing(method):
    network = torch.nn.Sequential(torch.nn.Linear(50, 80), torch.nn.ReLU(), torch.nn.Linear(80, 3)).float()
    jacobian = JacobianOperator(network, torch.randn(60, 50).float())
    plain = jacobian_spectrum(jacobian, rank=5, method=method, dtype=torch.float32)
    gram, rows = jacobian.gram(torch.float32), jacobian.rows(0, 60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = jacobian_spectrum(jacobian, rank=5, method=method, dtype=torch.float32)
        assert torch.equal(jacobian.gram(torch.float32), gram)
        assert torch.equal(jacobian.rows(0, 60), rows)
    assert torch.equal(mixed.singular_values, plain.singular_values)
    assert torch.equal(mixed.left_vectors, plain.left_vectors)
