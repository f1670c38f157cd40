"""The ReLU kernel: its definition as an expectation, its series, its precision, and its networks of finite width."""

import math

import pytest
import torch

from lightning_bounds.theory.fine_grained import finite_width_deviation, finite_width_gram, relu_gram


@pytest.fixture
def unit_rows():
    rows = torch.randn(9, 4)
    return rows / rows.norm(dim=1, keepdim=True)


def gram_by_loop(inputs, other):
    gram = torch.empty(len(inputs), len(other))
    for i, x in enumerate(inputs):
        for j, z in enumerate(other):
            cosine = float(x @ z) / (float(x.norm()) * float(z.norm()))
            gram[i, j] = float(x @ z) * (math.pi - math.acos(max(-1.0, min(1.0, cosine)))) / (2 * math.pi)
    return gram


def test_gram_is_the_formula_of_the_paper(unit_rows):
    torch.testing.assert_close(relu_gram(unit_rows), gram_by_loop(unit_rows, unit_rows), rtol=0, atol=1e-8)


def test_cross_gram_is_the_formula_of_the_paper_for_rows_of_any_length():
    inputs, other = 3 * torch.randn(7, 5), torch.randn(4, 5)
    torch.testing.assert_close(relu_gram(inputs, other), gram_by_loop(inputs, other), rtol=1e-12, atol=1e-12)


def test_gram_is_the_expectation_over_gaussian_weights(unit_rows):
    weights = torch.randn(400_000, 4)
    active = (unit_rows @ weights.T >= 0).double()
    expectation = active @ active.T / len(weights) * (unit_rows @ unit_rows.T)
    torch.testing.assert_close(relu_gram(unit_rows), expectation, rtol=0, atol=5 * 0.5 / 400_000**0.5)


def test_gram_of_unit_rows_is_a_series_of_the_inner_products_and_their_even_powers(unit_rows):
    products = (unit_rows @ unit_rows.T).fill_diagonal_(0.0)
    odd_over_even = [math.prod(range(2 * j - 3, 0, -2)) / math.prod(range(2 * j - 2, 0, -2)) for j in range(1, 80)]
    weights = [ratio / (2 * j - 1) / (2 * math.pi) for j, ratio in enumerate(odd_over_even, start=1)]
    series = products / 4 + sum(w * products ** (2 * j) for j, w in enumerate(weights, start=1))
    torch.testing.assert_close(relu_gram(unit_rows).fill_diagonal_(0.0), series, rtol=0, atol=1e-6)


def test_diagonal_of_unit_rows_is_one_half_and_the_trace_half_the_samples(unit_rows):
    gram = relu_gram(unit_rows)
    torch.testing.assert_close(gram.diagonal(), torch.full((9,), 0.5), rtol=1e-14, atol=0)
    assert float(gram.trace()) == pytest.approx(4.5, rel=1e-14)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 0.04, 1.0, 3.0, math.pi - 1e-6, math.pi - 1e-9])
def test_nearly_parallel_and_antiparallel_rows_keep_full_precision(angle):
    rows = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    expected = math.cos(angle) * (math.pi - angle) / (2 * math.pi)
    assert float(relu_gram(rows)[0, 1]) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_gram_scales_with_the_lengths_of_both_rows(unit_rows):
    lengths = torch.rand(9, 1) + 0.5
    torch.testing.assert_close(relu_gram(lengths * unit_rows), lengths * relu_gram(unit_rows) * lengths.T)


def test_gram_does_not_change_with_a_rotation_and_follows_a_permutation(unit_rows):
    rotation, order = torch.linalg.qr(torch.randn(4, 4)).Q, torch.randperm(9)
    rotated = relu_gram(unit_rows @ rotation)
    torch.testing.assert_close(rotated, relu_gram(unit_rows))
    torch.testing.assert_close(relu_gram(unit_rows[order]), relu_gram(unit_rows)[order][:, order])


def test_cross_gram_is_a_block_of_the_gram_of_all(unit_rows):
    torch.testing.assert_close(relu_gram(unit_rows[:5], unit_rows[5:]), relu_gram(unit_rows)[:5, 5:])


def test_single_precision_inputs_are_taken_in_float64(unit_rows):
    single = unit_rows.float()
    assert torch.equal(relu_gram(single), relu_gram(single.double()))
    assert relu_gram(single).dtype == torch.float64


def features(inputs, weight, signs):
    """Gradient of the output with respect to the first layer, by automatic differentiation."""
    weight = weight.clone().requires_grad_()
    rows = [
        torch.autograd.grad((signs * torch.relu(weight @ x)).sum() / len(weight) ** 0.5, weight)[0].flatten()
        for x in inputs
    ]
    return torch.stack(rows)


def test_finite_width_gram_is_that_of_the_jacobian(unit_rows):
    weight, signs = torch.randn(30, 4), torch.randn(30).sign()
    jacobian = features(unit_rows, weight, signs)
    torch.testing.assert_close(finite_width_gram(unit_rows, weight), jacobian @ jacobian.T)


def test_finite_width_cross_gram_is_that_of_the_jacobians(unit_rows):
    weight, signs = torch.randn(30, 4), torch.randn(30).sign()
    expected = features(unit_rows[:6], weight, signs) @ features(unit_rows[6:], weight, signs).T
    torch.testing.assert_close(finite_width_gram(unit_rows[:6], weight, unit_rows[6:]), expected)


def test_a_unit_at_exactly_zero_is_active():
    inputs, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert finite_width_gram(inputs, weight).item() == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_finite_width_gram_is_as_close_to_the_limit_as_the_lemma_says(unit_rows, seed):
    weight = torch.randn(2000, 4, generator=torch.Generator().manual_seed(seed))
    deviation = float((finite_width_gram(unit_rows, weight) - relu_gram(unit_rows)).norm())
    bound = finite_width_deviation(9, 2000, delta=0.01)
    assert bound / 50 < deviation <= bound


def test_deviation_has_the_logarithm_of_the_union_over_all_entries():
    assert finite_width_deviation(50, 800, delta=0.1) == pytest.approx(50 * math.sqrt(math.log(50_000) / 1600))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "zero"),
        (torch.tensor([[1.0, float("nan")]]), "finite"),
        (torch.tensor([[1.0, float("inf")]]), "finite"),
        (torch.ones(3), "shape"),
        (torch.ones(0, 2), "shape"),
        (torch.ones(2, 3, 3), "shape"),
    ],
)
def test_inputs_without_a_kernel_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        relu_gram(inputs)


def test_other_inputs_need_equally_many_features():
    with pytest.raises(ValueError, match="features"):
        relu_gram(torch.ones(2, 3), torch.ones(2, 4))


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(5, 3), torch.ones(0, 2), torch.full((2, 2), math.nan)])
def test_hidden_weights_must_fit_the_inputs(weight):
    with pytest.raises(ValueError, match="hidden_weight"):
        finite_width_gram(torch.ones(2, 2), weight)


@pytest.mark.parametrize("arguments", [(0, 10, 0.1), (10, 0, 0.1), (10, 1.5, 0.1), (10, 10, 0.0), (10, 10, 1.0)])
def test_deviation_refuses_numbers_out_of_range(arguments):
    num_samples, width, delta = arguments
    with pytest.raises(ValueError, match="Expected"):
        finite_width_deviation(num_samples, width, delta=delta)
