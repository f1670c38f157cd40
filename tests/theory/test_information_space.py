"""The split of output space: against singular value decompositions, by invariances, and at every edge."""

import pytest
import torch
from references import alignment_by_svd

from lightning_bounds.theory.information_space import InformationSpace, check_rule, information_space

# Wide, square and tall Jacobians: fewer, as many and more rows than parameters.
SHAPES = [(6, 20), (8, 8), (12, 5)]


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def space_of(jacobian, **rule) -> InformationSpace:
    """All singular values, those beyond the number of parameters being zero, and all left vectors."""
    left, values, _ = torch.linalg.svd(jacobian, full_matrices=True)
    padded = torch.cat([values, values.new_zeros(left.shape[0] - values.numel())])
    return information_space(padded, left, noise_floor=1e-12 * float(values[0]), **rule)


def of_values(*values, **arguments) -> InformationSpace:
    singular_values = torch.tensor(values)
    return information_space(singular_values, torch.eye(len(values)), **arguments)


def ratios(alignment):
    return [float(ratio) for ratio in alignment]


# Alignment and projection.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_alignment_equals_a_sum_over_singular_vectors(shape, rank):
    jacobian, vector = torch.randn(shape), torch.randn(shape[0])
    expected = alignment_by_svd(jacobian, vector, rank)
    assert ratios(space_of(jacobian, rank=rank).alignment(vector)) == pytest.approx(expected, rel=1e-10)


def test_alignment_with_a_diagonal_jacobian_is_read_off_its_entries():
    alignment = of_values(4.0, 2.0, 1.0, rank=2).alignment(torch.tensor([2.0, 1.0, 2.0]))
    assert ratios(alignment) == pytest.approx([5**0.5 / 3, 2 / 3, 0.5**0.5 / 3])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4])
def test_squared_fractions_add_up_to_one(shape, rank):
    information, nuisance, _ = space_of(torch.randn(shape), rank=rank).alignment(torch.randn(shape[0]))
    assert float(information**2 + nuisance**2) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_pinv_is_the_length_of_the_shortest_step_that_moves_the_outputs_by_the_projection(shape):
    jacobian, vector = torch.randn(shape), torch.randn(shape[0])
    space = space_of(jacobian, rank=4)
    step = torch.linalg.pinv(space.basis @ space.basis.T @ jacobian) @ vector
    close(space.basis @ space.basis.T @ jacobian @ step, space.project(vector))
    assert float(space.alignment(vector).pinv) == pytest.approx(float(step.norm() / vector.norm()), rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_pinv_lies_between_information_over_the_largest_and_over_the_smallest_value_inside(shape):
    space = space_of(torch.randn(shape), rank=3)
    information, _, pinv = space.alignment(torch.randn(shape[0]))
    assert float(information / space.singular_values[0]) <= float(pinv) <= float(information) / space.cutoff


@pytest.mark.parametrize("columns", [(), (3,)])
def test_projection_is_orthogonal_and_keeps_the_space(columns):
    jacobian = torch.randn(6, 20)
    space, vector = space_of(jacobian, rank=2), torch.randn(6, *columns)
    projection = space.project(vector)
    assert projection.shape == vector.shape
    close(space.project(projection), projection)
    close(space.basis.T @ (vector - projection), torch.zeros(2, *columns))
    close(space.project(space.basis), space.basis)


def test_energies_are_squared_lengths_of_each_column():
    space, vectors = space_of(torch.randn(6, 20), rank=2), torch.randn(6, 3)
    information, nuisance = space.energies(vectors)
    close(information, torch.stack([space.project(v).square().sum() for v in vectors.T]))
    close(information + nuisance, vectors.square().sum(dim=0))
    close(nuisance, (torch.stack([space.alignment(v).nuisance for v in vectors.T]) * vectors.norm(dim=0)) ** 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iterations", [1, 10, 100])
def test_gradient_descent_on_a_linear_model_shrinks_the_residual_as_guaranteed(seed, iterations):
    # Oymak et al. 2019, equation (6.9): |r_t| <= (1 - η α²)^t |Π_I r_0| + |Π_N r_0|.
    torch.manual_seed(seed)
    jacobian, residual = torch.randn(10, 30), torch.randn(10)
    space, step = space_of(jacobian, rank=4), 1 / torch.linalg.svdvals(jacobian)[0] ** 2
    information, nuisance = (energy.sqrt() for energy in space.energies(residual.unsqueeze(1)))
    iteration = torch.linalg.matrix_power(torch.eye(10) - step * jacobian @ jacobian.T, iterations)
    bound = (1 - step * space.cutoff**2) ** iterations * information + nuisance
    assert float((iteration @ residual).norm()) <= float(bound)


# Invariances.


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_scaling_the_jacobian_scales_the_pinv_alone(factor):
    jacobian, vector = torch.randn(6, 20), torch.randn(6)
    information, nuisance, pinv = ratios(space_of(jacobian, rank=3).alignment(vector))
    expected = [information, nuisance, pinv / factor]
    assert ratios(space_of(factor * jacobian, rank=3).alignment(vector)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotating_the_outputs_changes_no_ratio(shape):
    jacobian, vector = torch.randn(shape), torch.randn(shape[0])
    rotation = torch.linalg.qr(torch.randn(shape[0], shape[0])).Q
    expected = ratios(space_of(jacobian, rank=3).alignment(vector))
    assert ratios(space_of(rotation @ jacobian, rank=3).alignment(rotation @ vector)) == pytest.approx(expected)


def test_permuting_the_samples_changes_no_ratio_and_permutes_the_basis():
    jacobian, vector, order = torch.randn(6, 20), torch.randn(6), torch.tensor([4, 5, 0, 1, 2, 3])
    space, permuted = space_of(jacobian, rank=3), space_of(jacobian[order], rank=3)
    assert ratios(permuted.alignment(vector[order])) == pytest.approx(ratios(space.alignment(vector)))
    close(permuted.project(vector[order]), space.project(vector)[order])


def test_class_major_vectors_are_another_quantity():
    # Two samples with two outputs; only the second output of the first sample can be learned.
    space = information_space(torch.ones(1), torch.eye(4)[:, [1]], rank=1)
    sample_major = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert float(space.alignment(sample_major).information) == 1.0
    assert float(space.alignment(sample_major.reshape(2, 2).T.flatten()).information) == 0.0


def test_a_sample_given_twice_at_half_the_weight_changes_no_ratio():
    jacobian, vector = torch.randn(6, 20), torch.randn(6)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]).sqrt()
    twice = [0, 1, 2, 3, 4, 5, 5]
    space = space_of(weights.unsqueeze(1) * jacobian[twice], rank=3)
    expected = ratios(space_of(jacobian, rank=3).alignment(vector))
    assert ratios(space.alignment(weights * vector[twice])) == pytest.approx(expected)


# Which singular values are inside.


@pytest.mark.parametrize(
    ("rule", "dimension", "cutoff"),
    [
        ({"rank": 1}, 1, 4.0),
        ({"rank": 4}, 4, 1.0),
        ({"cutoff": 2.0}, 3, 2.0),  # exactly at two equal values: both are inside
        ({"cutoff": 2.1}, 1, 2.1),
        ({"cutoff": 4.0}, 1, 4.0),
        ({"cutoff": 4.1}, 0, 4.1),
        ({"cutoff": 0.0}, 4, 0.0),
        ({"relative_cutoff": 1.0}, 1, 4.0),
        ({"relative_cutoff": 0.5}, 3, 2.0),
        ({"relative_cutoff": 0.51}, 1, 2.04),
        ({"energy": 16 / 25}, 1, 4.0),  # 16 of 16 + 4 + 4 + 1
        ({"energy": 0.65}, 3, 2.0),  # the second alone would do, but the third is tied with it
        ({"energy": 0.97}, 4, 1.0),
        ({"energy": 1.0}, 4, 1.0),
    ],
)
def test_each_rule_takes_the_values_that_its_definition_says(rule, dimension, cutoff):
    space = of_values(4.0, 2.0, 2.0, 1.0, **rule)
    assert (space.dimension, space.cutoff) == (dimension, pytest.approx(cutoff))
    close(space.singular_values, torch.tensor([4.0, 2.0, 2.0, 1.0])[:dimension])
    close(space.basis, torch.eye(4)[:, :dimension])


@pytest.mark.parametrize(
    ("rank", "interval", "tied"), [(1, (2.0, 4.0), False), (2, (2.0, 2.0), True), (3, (1.0, 2.0), False)]
)
def test_a_rank_is_taken_literally_and_a_tie_is_reported(rank, interval, tied):
    space = of_values(4.0, 2.0, 2.0, 1.0, rank=rank)
    assert (space.dimension, space.cutoff_interval, space.tied) == (rank, interval, tied)


@pytest.mark.parametrize("rule", [{"cutoff": 2.0}, {"relative_cutoff": 0.5}, {"energy": 0.7}])
@pytest.mark.parametrize(("noise_floor", "dimension"), [(1e-8, 3), (1e-10, 2)])
def test_values_closer_than_the_noise_floor_are_tied_and_stay_inside_together(rule, noise_floor, dimension):
    space = of_values(4.0, 2.0, 2.0 - 1e-9, 1.0, noise_floor=noise_floor, **rule)
    assert (space.dimension, space.tied) == (dimension, False)


@pytest.mark.parametrize(("noise_floor", "tied"), [(1e-8, True), (1e-10, False)])
def test_a_rank_between_values_closer_than_the_noise_floor_is_tied(noise_floor, tied):
    assert of_values(4.0, 2.0, 2.0 - 1e-9, 1.0, noise_floor=noise_floor, rank=2).tied is tied


@pytest.mark.parametrize("cutoff", [2.0, 1.5, 1.0 + 1e-12])
def test_every_cutoff_in_the_interval_gives_the_same_space(cutoff):
    space = of_values(4.0, 2.0, 1.0, rank=2)
    assert space.cutoff_interval == (1.0, 2.0)
    close(of_values(4.0, 2.0, 1.0, cutoff=cutoff).basis, space.basis)


def test_the_lower_end_of_the_interval_gives_a_larger_space():
    assert of_values(4.0, 2.0, 1.0, cutoff=1.0).dimension == 3


def test_a_cutoff_above_all_values_gives_an_empty_space():
    space, vector = of_values(4.0, 2.0, cutoff=5.0), torch.tensor([3.0, 4.0])
    assert (space.dimension, space.cutoff_interval, space.tied) == (0, (4.0, float("inf")), False)
    assert ratios(space.alignment(vector)) == [0.0, 1.0, 0.0]
    close(space.project(vector), torch.zeros(2))


def test_the_whole_output_space_leaves_no_nuisance():
    information, nuisance, _ = space_of(torch.randn(6, 20), rank=6).alignment(torch.randn(6))
    assert float(information) == pytest.approx(1, rel=1e-12)
    assert float(nuisance) < 1e-12


@pytest.mark.parametrize("shape", [(12, 5), (6, 20)])
def test_cutoff_zero_drops_the_zeros_of_a_rank_deficient_jacobian_from_the_pseudo_inverse(shape):
    jacobian, vector = torch.randn(shape[0], 3) @ torch.randn(3, shape[1]), torch.randn(shape[0])
    space = space_of(jacobian, cutoff=0.0)
    expected = torch.linalg.pinv(jacobian, rtol=1e-10) @ vector
    assert space.dimension == shape[0]
    assert float(space.alignment(vector).pinv) == pytest.approx(float(expected.norm() / vector.norm()), rel=1e-9)


def test_zeros_of_a_decomposition_are_left_out_of_the_pseudo_inverse_without_a_noise_floor():
    space = of_values(3.0, 3e-12 * (1 - 1e-9), 1e-17, cutoff=0.0)
    assert float(space.alignment(torch.tensor([0.0, 1.0, 1.0])).pinv) == 0.0


@pytest.mark.parametrize("value", [1e-3, 1e-3 * (1 - 1e-9)])
def test_values_at_or_below_the_noise_floor_are_left_out_of_the_pseudo_inverse(value):
    space = of_values(1.0, value, cutoff=0.0, noise_floor=1e-3)
    assert float(space.alignment(torch.tensor([0.0, 1.0])).pinv) == 0.0


@pytest.mark.parametrize(
    ("rule", "dimension"), [({"rank": 1}, 1), ({"cutoff": 0.0}, 3), ({"relative_cutoff": 0.1}, 3), ({"energy": 1.0}, 3)]
)
def test_a_jacobian_of_zeros_gives_finite_ratios(rule, dimension):
    space = of_values(0.0, 0.0, 0.0, **rule)
    information, nuisance, pinv = ratios(space.alignment(torch.ones(3)))
    assert space.dimension == dimension
    assert information**2 + nuisance**2 == pytest.approx(1)
    assert pinv == 0.0


def test_a_single_sample_with_a_single_output_is_all_information():
    space = space_of(torch.randn(1, 7), relative_cutoff=1.0)
    assert ratios(space.alignment(torch.tensor([-2.0])))[:2] == [1.0, 0.0]


def test_duplicated_samples_with_different_labels_have_their_difference_in_the_nuisance_space():
    jacobian = torch.randn(3, 20)[[0, 1, 2, 2]]
    space = space_of(jacobian, relative_cutoff=1e-6)
    assert space.dimension == 3
    assert ratios(space.alignment(torch.tensor([0.0, 0.0, 1.0, -1.0]))) == pytest.approx([0, 1, 0], abs=1e-12)


def test_the_space_holds_copies_of_its_vectors_alone():
    left = torch.eye(50)
    space = information_space(torch.ones(50), left, rank=2)
    assert space.basis.untyped_storage().nbytes() == 50 * 2 * 8
    left.zero_()
    assert float(space.basis.norm()) == pytest.approx(2**0.5)


# Where only the leading singular values are known.


def leading(**rule) -> InformationSpace:
    return information_space(torch.tensor([3.0, 2.0]), torch.eye(5)[:, :2], **rule)


@pytest.mark.parametrize(("energy", "norm", "dimension"), [(9 / 16, 4.0, 1), (13 / 16, 4.0, 2), (0.13, 10.0, 2)])
def test_energy_counts_what_is_not_known(energy, norm, dimension):
    assert leading(energy=energy, frobenius_norm=norm).dimension == dimension


def test_energy_beyond_the_known_values_is_refused_with_what_they_hold():
    with pytest.raises(ValueError, match=r"`energy` of at most 0\.8125, what the 2 known .* got 0\.9; ask for more"):
        leading(energy=0.9, frobenius_norm=4.0)


@pytest.mark.parametrize("rule", [{"cutoff": 1.5}, {"relative_cutoff": 0.5}, {"cutoff": 0.0}])
def test_a_cutoff_that_unknown_values_may_reach_is_refused(rule):
    with pytest.raises(ValueError, match=r"cut-off above 1\.73205, .* but got .*; only 2 are known, ask for more"):
        leading(**rule, frobenius_norm=4.0)


@pytest.mark.parametrize("rule", [{"cutoff": 1.8}, {"relative_cutoff": 0.6}, {"cutoff": 2.0}])
def test_a_cutoff_that_no_unknown_value_can_reach_is_allowed(rule):
    space = leading(**rule, frobenius_norm=4.0)
    assert (space.dimension, space.cutoff_interval) == (2, (pytest.approx(3**0.5), 2.0))


@pytest.mark.parametrize("norm", [None, 13**0.5, 13**0.5 * (1 + 1e-13)])
def test_nothing_is_missing_where_the_known_values_hold_all_of_the_jacobian(norm):
    space = leading(cutoff=0.0, frobenius_norm=norm)
    assert (space.dimension, space.cutoff_interval, space.tied) == (2, (0.0, 2.0), False)


@pytest.mark.parametrize(("norm", "lowest"), [(4.0, 3**0.5), (10.0, 2.0)])
def test_the_interval_of_all_known_values_ends_at_what_the_next_can_be_at_most(norm, lowest):
    space = leading(rank=2, frobenius_norm=norm)
    assert (space.cutoff_interval[0], space.tied) == (pytest.approx(lowest), False)


# What is refused.


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ({}, ValueError, "exactly one of rank, cutoff, relative_cutoff and energy, but got"),
        ({"rank": 1, "energy": 0.5}, ValueError, "exactly one .*'rank': 1.*'energy': 0.5"),
        ({"rank": 0}, ValueError, "`rank` of at least 1, but got 0"),
        ({"rank": -1}, ValueError, "`rank` of at least 1, but got -1"),
        ({"rank": 5}, ValueError, "`rank` of at most 4, .* but got 5"),
        ({"rank": True}, TypeError, "`rank` to be an integer, but got True"),
        ({"rank": 2.0}, TypeError, "`rank` to be an integer, but got 2.0"),
        ({"cutoff": -1.0}, ValueError, "`cutoff` to be a singular value, 0 or more, but got -1.0"),
        ({"cutoff": float("nan")}, ValueError, "`cutoff` .* but got nan"),
        ({"cutoff": float("inf")}, ValueError, "`cutoff` .* but got inf"),
        ({"relative_cutoff": 0.0}, ValueError, r"`relative_cutoff` in \(0, 1\], .* but got 0.0"),
        ({"relative_cutoff": 1.1}, ValueError, "`relative_cutoff` .* but got 1.1"),
        ({"relative_cutoff": float("nan")}, ValueError, "`relative_cutoff` .* but got nan"),
        ({"energy": 0.0}, ValueError, r"`energy` in \(0, 1\], .* but got 0.0"),
        ({"energy": 1.1}, ValueError, "`energy` .* but got 1.1"),
        ({"energy": float("nan")}, ValueError, "`energy` .* but got nan"),
    ],
)
def test_a_rule_out_of_its_range_is_refused(rule, error, message):
    with pytest.raises(error, match=message):
        of_values(4.0, 2.0, 2.0, 1.0, **rule)


@pytest.mark.parametrize(
    "rule", [{"rank": 10**9}, {"cutoff": 0.0}, {"relative_cutoff": 1.0}, {"energy": 1.0}, {"energy": 1e-9}]
)
def test_a_rule_in_its_range_passes_whatever_the_jacobian(rule):
    check_rule(**{"rank": None, "cutoff": None, "relative_cutoff": None, "energy": None, **rule})


@pytest.mark.parametrize(
    "values", [[1.0, float("nan")], [float("inf"), 1.0], [1.0, -0.1], [1.0, 2.0]], ids=["nan", "inf", "negative", "up"]
)
def test_what_no_singular_values_can_be_is_refused(values):
    with pytest.raises(ValueError, match="finite singular values, 0 or more, descending, but got"):
        of_values(*values, rank=1)


@pytest.mark.parametrize(("values", "vectors"), [((3,), (4, 2)), ((2, 2), (4, 2)), ((2,), (2,))])
def test_values_and_vectors_of_different_numbers_are_refused(values, vectors):
    with pytest.raises(ValueError, match=r"r singular values and left vectors \(n\*K, r\), but got"):
        information_space(torch.ones(values), torch.ones(vectors), rank=1)


@pytest.mark.parametrize("method", ["project", "alignment", "energies"])
@pytest.mark.parametrize("shape", [(3,), (5,), (), (1, 4)])
def test_vectors_of_another_length_are_refused(method, shape):
    with pytest.raises(ValueError, match=r"4 entries, one per sample and output \(sample-major\), but got shape"):
        getattr(of_values(4.0, 2.0, 2.0, 1.0, rank=2), method)(torch.ones(shape))


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.zeros(2), r"shape \(2,\) and norm 0"),
        (torch.tensor([1.0, float("nan")]), "norm nan"),
        (torch.tensor([1.0, float("inf")]), "norm inf"),
        (torch.ones(2, 3), r"shape \(2, 3\)"),
    ],
)
def test_vectors_without_a_direction_are_refused(vector, message):
    with pytest.raises(ValueError, match=f"one finite vector other than zero to align, but got .*{message}"):
        of_values(2.0, 1.0, rank=1).alignment(vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_vectors_of_another_type_are_taken_in_that_of_the_space(dtype):
    alignment = of_values(2.0, 1.0, rank=1).alignment(torch.tensor([3, 4]).to(dtype))
    assert alignment.information.dtype == torch.float64
    assert ratios(alignment) == pytest.approx([0.6, 0.8, 0.3])


def test_no_graph_is_kept():
    vector = torch.ones(2, requires_grad=True)
    assert not of_values(2.0, 1.0, rank=1).project(vector).requires_grad
