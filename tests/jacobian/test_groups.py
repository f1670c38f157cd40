"""Parameters in several places: tied, called twice, seen in parts, transposed, computed from others."""

import pytest
import torch
from references import jacobian_by_loop
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn.utils import parametrizations, parametrize

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.groups import matched


class Network(nn.Module):
    """A function of a matrix ``a`` (4, 3), a square matrix ``c`` (3, 3), a bias ``b`` (3,) and of the inputs (n, 3)."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 3), (3,), (3, 3)))
        self.function = function

    def forward(self, x):
        return self.function(x, self.a, self.b, self.c)


def agreed(model, inputs):
    """The operator, after its rows and its Gram matrix were found to be those of a loop over outputs."""
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, operator.num_samples), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    return operator


tanh, linear = torch.tanh, F.linear
# Functions, and for each used parameter how many groups it has and whether those are outer products.
USES = {
    "once": (lambda x, a, b, c: linear(tanh(linear(x, c, b)), a), {"a": [True], "b": [False], "c": [True]}),
    "twice": (lambda x, a, b, c: linear(tanh(linear(x, c)), c), {"c": [True]}),
    "three_times_with_bias": (
        lambda x, a, b, c: linear(tanh(linear(tanh(linear(x, c, b)), c, b)), c, b),
        {"b": [False], "c": [True]},
    ),
    "one_bias_of_two_layers": (
        lambda x, a, b, c: linear(linear(tanh(linear(x, c, b)), a), a.T, b),
        {"a": [False], "b": [False], "c": [True]},
    ),
    "with_and_without_bias": (lambda x, a, b, c: linear(tanh(linear(x, c, b)), c), {"b": [False], "c": [True]}),
    "transposed": (lambda x, a, b, c: linear(tanh(linear(x, a)), a.T), {"a": [False]}),
    "transposed_alone": (lambda x, a, b, c: linear(linear(x, c).tanh()[:, :1].expand(-1, 4), a.T), {"a": [True]}),
    "some_rows": (lambda x, a, b, c: linear(x, a[1:3]).tanh(), {"a": [True]}),
    "some_columns": (lambda x, a, b, c: linear(x[:, :2], a[:, 1:]).tanh(), {"a": [True]}),
    "every_other_row": (lambda x, a, b, c: linear(x, a[::2]).tanh(), {"a": [True]}),
    "two_halves": (lambda x, a, b, c: linear(x, a[:2]).tanh() * linear(x, a[2:]), {"a": [True, True]}),
    "overlapping": (lambda x, a, b, c: linear(x, a[:3]).tanh() * linear(x, a[1:]), {"a": [False]}),
    "a_half_and_all": (lambda x, a, b, c: linear(x, a[:2]).tanh().repeat(1, 2) * linear(x, a), {"a": [False]}),
    "half_twice": (lambda x, a, b, c: linear(x, a[:2]).tanh() * linear(x**2, a[:2]), {"a": [True]}),
    "repeated": (lambda x, a, b, c: linear(x, torch.stack([b] * 4)).tanh() + linear(x, a), {"b": [False]}),
    "as_convolution": (lambda x, a, b, c: F.conv1d(x[..., None], a[..., None]).flatten(1).tanh(), {"a": [True]}),
    "linear_and_convolution": (
        lambda x, a, b, c: F.conv1d(x[..., None], a[..., None]).flatten(1).tanh() * linear(x, a),
        {"a": [False]},
    ),
    "bias_in_halves": (
        lambda x, a, b, c: linear(x, c[:1], b[:1]).tanh() * linear(x, c[1:], b[1:]),
        {"b": [False, False], "c": [True, True]},
    ),
    "product_of_two": (lambda x, a, b, c: linear(x, a @ c).tanh(), {"a": [False], "c": [False]}),
    "made_once_used_twice": (
        lambda x, a, b, c: (lambda w: linear(tanh(linear(x, w)), w))(c.exp()),
        {"c": [False]},
    ),
    "bare_and_in_a_layer": (lambda x, a, b, c: linear(x, c, b).tanh() * b.sin(), {"c": [True]}),
    "as_its_own_input": (lambda x, a, b, c: x @ linear(c, c), {}),
    "read_only": (lambda x, a, b, c: linear(x, a).tanh() * b.detach().sum(), {"a": [True], "b": []}),
    "scale_and_matrix": (
        lambda x, a, b, c: linear(F.layer_norm(tanh(linear(x, c)), (3,), b), a, torch.stack([b.sum()] * 4)),
        {"a": [True], "b": [False], "c": [True]},
    ),
    "embedding_and_readout": (
        lambda x, a, b, c: linear(tanh(linear(F.embedding((x[:, :1].abs() * 9).long() % 4, a), c)).sum(1), a),
        {"a": [False], "c": [True]},
    ),
}


@pytest.mark.parametrize("name", USES)
def test_uses_of_a_parameter_add_up(name):
    function, groups = USES[name]
    operator = agreed(Network(function), torch.randn(5, 3))
    found = {key: [g.shape is not None for g in operator.layering.groups if g.name == key] for key in groups}
    assert found == groups
    assert set(operator.layering.plain) & set(groups) == set()


@pytest.mark.parametrize("name", USES)
def test_uses_of_a_parameter_add_up_for_a_single_sample(name):
    agreed(Network(USES[name][0]), torch.randn(1, 3))


@pytest.mark.parametrize("name", ["some_rows", "some_columns", "every_other_row", "read_only"])
def test_entries_that_nothing_uses_have_columns_of_zeros(name):
    operator, junk = JacobianOperator(Network(USES[name][0]), torch.randn(4, 3)), []
    for size in operator.sizes:
        junk.append(torch.full((4 * operator.num_outputs, size), torch.nan))
    blocks = operator.row_blocks(0, 4, out=junk)
    assert all(bool(block.isfinite().all()) for block in blocks)
    torch.testing.assert_close(torch.cat(blocks, dim=1), operator.dense())


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        ("once", {"a": None, "c": "b"}),
        ("three_times_with_bias", {"c": "b"}),
        ("one_bias_of_two_layers", {"a": None, "c": None}),
        ("with_and_without_bias", {"c": None}),
        ("scale_and_matrix", {"a": None, "c": None}),
    ],
)
def test_a_bias_belongs_to_a_weight_where_both_act_in_the_same_calls(name, linked):
    groups = JacobianOperator(Network(USES[name][0]), torch.randn(4, 3)).layering.groups
    found = {g.name: g.bias and g.bias.name for g in groups if g.name in linked}
    assert found == linked


def test_places_are_counted_over_all_uses():
    model = Network(lambda x, a, b, c: linear(tanh(linear(x[:, None].expand(-1, 5, -1), c)).sum(1), c))
    groups = JacobianOperator(model, torch.randn(4, 3)).layering.groups
    assert [(g.shape, g.places) for g in groups if g.name == "c"] == [((1, 3, 3), 6)]


def test_a_module_that_is_called_twice_has_the_cross_terms():
    """Two calls of ``y = w x`` give ``w² x``, whose square derivative ``4 w² x²`` is not the sum of the two squares."""
    layer = nn.Linear(1, 1, bias=False)
    operator = agreed(nn.Sequential(layer, layer), torch.tensor([[1.0], [2.0]]))
    w = float(layer.weight.detach())
    torch.testing.assert_close(operator.gram(), 4 * w**2 * torch.tensor([[1.0, 2.0], [2.0, 4.0]]))


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal_by_exponential": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
    "orthogonal_by_cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "orthogonal_by_householder": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="householder"),
    "old_weight_norm": nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS.values(), ids=PARAMETRIZATIONS)
@pytest.mark.parametrize(
    "layer", [nn.Linear, lambda i, o: nn.Conv1d(i, o, 1), lambda i, o: nn.ConvTranspose1d(i, o, 1)]
)
def test_parametrized_weights(parametrization, layer):
    layer = parametrization(layer(3, 3))
    inputs = torch.randn(4, 3) if isinstance(layer, nn.Linear) else torch.randn(4, 3, 2)
    agreed(nn.Sequential(layer, nn.Tanh(), nn.Flatten()), inputs)


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize(
    "layer", [nn.Linear, lambda i, o: nn.Conv1d(i, o, 1), lambda i, o: nn.ConvTranspose1d(i, o, 1)]
)
def test_normalized_weights_have_a_rule(parametrization, layer):
    layer = parametrization(layer(3, 3))
    inputs = torch.randn(4, 3) if isinstance(layer, nn.Linear) else torch.randn(4, 3, 2)
    assert agreed(nn.Sequential(layer, nn.Tanh(), nn.Flatten()), inputs).coverage()["plain"] == 0


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


class LowRank(nn.Module):
    """Adds a product of two matrices of its own to a frozen weight."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(1, 3)), nn.Parameter(torch.randn(3, 1))

    def forward(self, weight):
        return weight.detach() + self.up @ self.down


@pytest.mark.parametrize("parametrization", [Symmetric, LowRank, nn.Softplus])
def test_parametrizations_of_ones_own(parametrization):
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", parametrization())
    assert agreed(nn.Sequential(layer, nn.Tanh()), torch.randn(4, 3)).coverage()["plain"] == 0


@pytest.mark.parametrize("cached", [False, True])
def test_a_parametrization_that_two_layers_share(cached):
    first, second, shared = nn.Linear(3, 3), nn.Linear(3, 3), LowRank()
    second.weight = first.weight
    for layer in (first, second):
        parametrize.register_parametrization(layer, "weight", shared)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            if not cached:
                return self.second(torch.tanh(self.first(x)))
            with parametrize.cached():
                return self.second(torch.tanh(self.first(x)))

    operator = agreed(Both(), torch.randn(4, 3))
    assert operator.coverage()["plain"] == 0


class Halves(nn.Module):
    """Two layers whose weights are the halves of one parameter, by ``split``, ``chunk``, ``unbind``, ``select``."""

    def __init__(self, halves):
        super().__init__()
        self.both, self.halves = nn.Parameter(torch.randn(2, 3, 3)), halves

    def forward(self, x):
        first, second = self.halves(self.both)
        return linear(torch.tanh(linear(x, first.reshape(3, 3))), second.reshape(3, 3))


@pytest.mark.parametrize(
    "halves",
    [
        lambda w: w,
        lambda w: w.unbind(),
        lambda w: w.chunk(2),
        lambda w: (w.select(0, 1), w.select(0, 0)),
        lambda w: (w[0].T, w[1]),
        lambda w: w.reshape(6, 3).split(3),
        lambda w: w.movedim(0, 2).unbind(2),
        lambda w: (w[0], w[0]),
        lambda w: (w[0], w[0].T),
        lambda w: (w.sum(0), w[1]),
    ],
)
@pytest.mark.parametrize("order", [lambda w: w, lambda w: w.transpose(1, 2).contiguous().transpose(1, 2)])
def test_views_of_a_parameter(halves, order):
    model = Halves(halves)
    model.both = nn.Parameter(order(model.both.detach()))
    assert agreed(model, torch.randn(4, 3)).coverage()["plain"] == 0


@pytest.mark.parametrize("frozen", ["", "a", "b", "c", "ab", "bc"])
@pytest.mark.parametrize("name", ["once", "three_times_with_bias", "scale_and_matrix", "product_of_two"])
def test_frozen_parameters_are_constants(name, frozen):
    model = Network(USES[name][0])
    for key in frozen:
        getattr(model, key).requires_grad_(False)
    if name == "three_times_with_bias" and frozen == "bc":  # nothing would be left
        model.b.requires_grad_()
    agreed(model, torch.randn(4, 3))


# Groups of two passes over the same network


@pytest.mark.parametrize("name", USES)
def test_groups_of_other_samples_match(name):
    model = Network(USES[name][0])
    first, second = (JacobianOperator(model, torch.randn(n, 3)).layering.groups for n in (4, 2))
    pairs = matched(first, second)
    assert [group.name for group in pairs.values()] == [group.name for group in first]
    assert list(pairs) == first


@pytest.mark.parametrize("others", [["some_columns"], ["two_halves"], ["transposed"], ["overlapping"], ["twice"]])
def test_groups_of_other_columns_do_not_match(others):
    inputs = torch.randn(4, 3)
    first = JacobianOperator(Network(USES["some_rows"][0]), inputs).layering.groups
    second = JacobianOperator(Network(USES[others[0]][0]), inputs).layering.groups
    assert matched(first, second) is None
