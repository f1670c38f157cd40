"""Pieces cover every column once, fit into what there is, and are made in the cheaper of two ways."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lightning_bounds.jacobian.chunk import Layering
from lightning_bounds.jacobian.groups import Group
from lightning_bounds.jacobian.pieces import _CHUNK, _ENTRYWISE, cut, multiplications, takes_pairs

SIZES = st.integers(1, 40)


def outer(groups, o, i, places, bias=None, name="outer"):
    return Group(name, [], groups * o * i, None, (groups, o, i), places, groups * i * places, bias)


def layering_of(groups, plain=(), sample_bytes=100):
    return Layering(list(groups), list(plain), [], [], sample_bytes=sample_bytes)


def multiplications_by_counting(groups, o, i, places, samples, outputs, pairs):
    """Both ways, with a counter in the place of each product."""
    count = 0.0
    rows = samples * outputs
    if not pairs:
        for _ in range(rows * groups * o * i):  # each entry of a row is a sum over places
            count += places
        return count + 0.5 * rows**2 * groups * o * i
    for _ in range(samples**2 * groups * places**2):  # inputs with inputs, once for all pairs of outputs
        count += 0.5 * i
    return count + 0.5 * rows**2 * groups * places**2 * (o + _ENTRYWISE)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 1, 5), (3, 2, 1)])
@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("outputs", [1, 2])
def test_multiplications_are_counted(pairs, shape, places, outputs):
    expected = multiplications_by_counting(*shape, places, 4, outputs, pairs)
    assert multiplications(outer(*shape, places), 4, outputs, pairs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "places", "outputs", "expected"),
    [
        ((1, 512, 512), 1, 10, True),  # a wide linear layer: a product of two small Gram matrices
        ((1, 2, 3), 1, 10, False),  # rows of six entries
        ((1, 16, 27), 1024, 10, False),  # a convolution over an image
        ((1, 64, 64), 4, 10, True),  # a few tokens
        ((1, 512, 1), 1, 10, False),  # one input: nothing to gain
    ],
)
def test_pairs_are_taken_where_they_are_cheaper(shape, places, outputs, expected):
    group = outer(*shape, places)
    assert takes_pairs(group, 300, outputs) is expected
    costs = [multiplications(group, 300, outputs, pairs) for pairs in (True, False)]
    assert (costs[0] < costs[1]) is expected


def test_what_is_no_outer_product_is_never_taken_in_pairs():
    assert not takes_pairs(Group("scale", [], 10), 300, 10)


@pytest.mark.parametrize("free", [2e3, 2e4, 1e6, float("inf")])
@settings(deadline=None, max_examples=40, derandomize=True, database=None, phases=(Phase.generate, Phase.shrink))
@given(
    st.lists(st.tuples(st.integers(1, 2), SIZES, SIZES, st.integers(1, 4), st.booleans()), max_size=4),
    st.lists(SIZES, max_size=3),
    st.lists(SIZES, max_size=2),
    st.integers(1, 30),
    st.integers(1, 4),
)
def test_every_column_is_in_exactly_one_piece_and_passes_fit(free, shapes, others, plain, samples, outputs):
    groups, sizes = [], {}
    for number, (g, o, i, places, with_bias) in enumerate(shapes):
        bias = Group(f"bias{number}", [], g * o) if with_bias else None
        groups += [outer(g, o, i, places, bias, f"weight{number}"), *([bias] if bias else [])]
    groups += [Group(f"other{number}", [], size) for number, size in enumerate(others)]
    sizes = {group.name: group.size for group in groups} | {f"plain{k}": size for k, size in enumerate(plain)}
    plan = cut(layering_of(groups, [f"plain{k}" for k in range(len(plain))]), sizes, samples, outputs, 8, free)
    columns = dict.fromkeys(sizes, 0)
    for piece in (piece for part in plan.passes for piece in part):
        assert piece.first == columns[piece.name] // (piece.group.size // piece.group.shape[1] if piece.pairs else 1)
        each = piece.group.size // piece.group.shape[1] if piece.pairs else 1
        columns[piece.name] += piece.count * each
        if piece.pairs and piece.group.bias:
            columns[piece.group.bias.name] += piece.count * piece.group.shape[0]
    assert columns == sizes
    smallest = max((least(group, samples, outputs) for group in groups), default=samples * outputs * 8)
    assert all(sum(held(p, samples, outputs) for p in part) <= max(free / 2, smallest) for part in plan.passes)
    assert plan.chunk >= 1
    assert plan.work_bytes <= free / 4


def held(piece, samples, outputs):
    if not piece.pairs and not piece.late:
        return 8 * samples * outputs * piece.count
    groups, o, i = piece.group.shape
    if piece.late:
        return 8 * samples * groups * piece.group.places * (i + outputs * o)
    return 8 * samples * groups * piece.group.places * (i + outputs * piece.count)


def least(group, samples, outputs):
    """Bytes of the smallest piece of a group: some columns, or one output of the layer."""
    if group.shape is None:
        return 8 * samples * outputs
    groups, _, i = group.shape
    if takes_pairs(group, samples, outputs):
        return 8 * samples * groups * group.places * (i + outputs)
    return 8 * samples * outputs * (i if groups == 1 else 1)


def test_a_bias_is_left_out_where_the_pairs_of_its_weight_bring_it():
    bias = Group("bias", [], 512)
    with_pairs, with_rows = outer(1, 512, 512, 1, bias, "weight"), outer(1, 2, 3, 1, Group("few", [], 2), "small")
    groups = [with_pairs, bias, with_rows, with_rows.bias]
    plan = cut(layering_of(groups), {g.name: g.size for g in groups}, 300, 10, 8, float("inf"))
    assert [(p.name, p.pairs) for part in plan.passes for p in part] == [
        ("weight", True),
        ("small", False),
        ("few", False),
    ]


@pytest.mark.parametrize(("free", "late"), [(1e4, False), (1e6, True), (float("inf"), True)])
def test_rows_are_made_late_where_what_they_are_made_of_takes_less_room(free, late):
    group = outer(1, 20, 30, 8)
    assert not takes_pairs(group, 10, 2)
    plan = cut(layering_of([group]), {"outer": 600}, 10, 2, 8, free)
    assert {piece.late for part in plan.passes for piece in part} == {late}
    assert held(plan.passes[0][0], 10, 2) < 8 * 10 * 2 * 600


@pytest.mark.parametrize("free", [1e5, 1e6, 1e7, float("inf")])
@pytest.mark.parametrize("plain", [1, 1000, 10**5])
def test_samples_are_differentiated_together_as_long_as_they_fit(free, plain):
    plan = cut(layering_of([], ["p"], 1000), {"p": plain}, 200, 4, 8, free)
    each = 1000 + 3 * 4 * plain * 8
    assert plan.chunk == 1 or plan.chunk * each <= plan.work_bytes
    assert plan.chunk == _CHUNK or (plan.chunk + 1) * each > plan.work_bytes


def test_without_parameters_in_use_there_is_nothing_to_do():
    assert cut(layering_of([]), {}, 10, 2, 8, 1e5).passes == []
