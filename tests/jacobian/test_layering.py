"""Which parameter goes which way, and that no way gives a wrong number."""

import pytest
import torch
from cases import CASES
from references import jacobian_by_loop
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian import layering, layers
from lightning_bounds.jacobian.factors import Layout
from lightning_bounds.jacobian.layers import LAYERS

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Network(nn.Module):
    """Two layers and a function that connects them in an unusual way."""

    def __init__(self, forward, first=None, second=None):
        super().__init__()
        self.first, self.second = first or nn.Linear(3, 4), second or nn.Linear(4, 2)
        self.function = forward

    def forward(self, x):
        return self.function(x, self.first, self.second)


def agreed(model, inputs, output_fn=None):
    """The operator, after its rows and its Gram matrix were found to be those of a loop over outputs."""
    expected = jacobian_by_loop(model, inputs, output_fn)
    operator = JacobianOperator(model, inputs, output_fn=output_fn)
    torch.testing.assert_close(operator.rows(0, operator.num_samples), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    return operator


# Names of what automatic differentiation takes in each case; None stands for all.
PLAIN = {
    "mlp": [],
    "conv": [],
    "conv_batch_norm": [],
    "group_and_layer_norm": [],
    "tied_embedding": [],
    "gru": [],
    "lstm": [],
    "attention": [],
    "transformer": [],
    "dropout": [],
    "in_place_buffer": [],
    "dict": [],
    "once_differentiable": [],
    "called_twice_and_unused": [],
    "weight_norm": [],
    "spectral_norm": [],
    "scalar_output": [],
    "max_pool": [],
    "residual": [],
    "tied_autoencoder": [],
    "bidirectional_lstm": [],
    "depthwise": [],
    "conv3d": [],
    "instance_norm": [],
    "sequence_first": [],
    "vision_transformer": [],
    "item_branch": None,
    "checkpointed": [],
    "scripted": None,
    "batch_coupled": None,
    "bilinear": [],
}


@pytest.mark.parametrize("name", PLAIN)
def test_parameters_go_the_way_that_is_known_for_them(name):
    case = CASES[name]()
    operator = agreed(case.model, case.inputs, case.output_fn)
    plain = operator.names if PLAIN[name] is None else PLAIN[name]
    assert operator.layering.plain == plain, operator.layering.reason
    sizes = dict(zip(operator.names, operator.sizes, strict=True))
    left = sum(sizes[key] for key in plain)
    assert operator.coverage() == {"layers": operator.shape[1] - left, "plain": left}


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_does_not_cover_is_named_once(name):
    case = CASES[name]()
    found = JacobianOperator(case.model, case.inputs, output_fn=case.output_fn).layering
    assert len(set(found.plain)) == len(found.plain)
    assert not {group.name for group in found.groups} & set(found.plain)
    assert all(sum(g.size for g in found.groups if g.name == group.name) >= group.size for group in found.groups)


# Where the samples are


def flattened(order):
    """A layer on a batch whose samples of three places each were flattened in some order, and brought back."""

    def forward(x, first, second):
        hidden = torch.tanh(first(order(x)))
        if order is time_major:
            hidden = hidden.reshape(3, len(x), -1).transpose(0, 1)
        return second(hidden.reshape(len(x), 3, -1)).flatten(1)

    return forward


def sample_major(x):
    return x.reshape(-1, 3)


def time_major(x):
    return x.transpose(0, 1).reshape(-1, 3)


def samples_second(x, first, second):
    return second(torch.tanh(first(x.transpose(0, 1)))).transpose(0, 1).flatten(1)


def samples_third(x, first, second):
    return second(torch.tanh(first(x.transpose(0, 1)[None])))[0].transpose(0, 1).flatten(1)


def doubled(x, first, second):
    return second(torch.tanh(first(torch.cat([x, 2 * x])))).reshape(2, len(x), -1).sum(0)


def doubled_one_by_one(x, first, second):
    return second(torch.tanh(first(x.repeat_interleave(2, 0)))).reshape(len(x), -1)


LAYOUTS = {
    "samples_first": (lambda x, a, b: b(torch.tanh(a(x))).flatten(1), Layout(0)),
    "samples_second": (samples_second, Layout(1)),
    "samples_third": (samples_third, Layout(2)),
    "sample_major": (flattened(sample_major), Layout(0, 3)),
    "time_major": (flattened(time_major), Layout(0, 3, interleaved=True)),
    "doubled": (doubled, Layout(0, 2, interleaved=True)),
    "doubled_one_by_one": (doubled_one_by_one, Layout(0, 2)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_samples_are_found_where_they_are(name, n):
    forward, layout = LAYOUTS[name]
    operator = agreed(Network(forward), torch.randn(n, 3, 3))
    assert operator.layering.plain == []
    assert operator.layering.layouts[0] == layout


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n", [1, 4])
def test_samples_that_are_alike_do_not_hide_where_they_are(name, n):
    agreed(Network(LAYOUTS[name][0]), torch.cat([torch.ones(3, 3, 3), torch.randn(n, 3, 3)]))


# Forward passes that treat samples or batches in a way that no rule knows


def by_sign(x, first, second):
    positive = x[:, 0] > 0
    hidden = first(x)
    return torch.where(positive[:, None], second(hidden), second(torch.sin(hidden)))


def routed(x, first, second):
    """The layer sees the samples of one sign only: as many as there are."""
    positive = x[:, 0] > 0
    hidden = torch.zeros(len(x), 4).index_put((positive,), first(x[positive]))
    return second(torch.tanh(hidden))


def sorted_samples(x, first, second):
    order = x[:, 0].argsort()
    return second(torch.tanh(first(x[order]))[order.argsort()])


def hooked(x, first, second):
    hidden = first(x)
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: 2 * gradient)
    return second(torch.tanh(hidden))


STRANGE = {
    "other_for_other_data": by_sign,
    "routed": routed,
    "sorted": sorted_samples,
    "reversed": lambda x, a, b: b(torch.tanh(a(x.flip(0))).flip(0)),
    "rolled": lambda x, a, b: b(torch.tanh(a(x.roll(1, 0))).roll(-1, 0)),
    "one_by_one": lambda x, a, b: torch.stack([b(torch.tanh(a(row))) for row in x]),
    "one_by_one_with_a_batch_of_one": lambda x, a, b: torch.cat([b(torch.tanh(a(row[None]))) for row in x]),
    "in_pairs": lambda x, a, b: torch.cat([b(torch.tanh(a(part))) for part in x.split(2)]),
    "squeezed": lambda x, a, b: b(torch.tanh(a(x[:, :, None].squeeze()))).reshape(len(x), -1),
    "padded": lambda x, a, b: b(torch.tanh(a(torch.cat([x, torch.zeros(1, 3)]))))[:-1],
    "vmap_over_samples": lambda x, a, b: torch.vmap(lambda row: b(torch.tanh(a(row))))(x),
    "functional_call": lambda x, a, b: torch.func.functional_call(
        b, {k: 2 * v for k, v in b.named_parameters()}, (torch.tanh(a(x)),)
    ),
    "without_gradients": lambda x, a, b: b(torch.tanh(a(x)).detach()),
    "checkpoint": lambda x, a, b: b(checkpoint(lambda y: torch.tanh(a(y)), x, use_reentrant=False)),
    "checkpoint_of_all": lambda x, a, b: checkpoint(lambda y: b(torch.tanh(a(y))), x, use_reentrant=False),
    "samples_in_the_length": lambda x, a, b: F.conv1d(b(torch.tanh(a(x))).T[None], b.weight[:, :2, None])[0].T,
    "square_batch": lambda x, a, b: b(torch.tanh(a(x))) + (x @ x.new_ones(3, len(x)))[:, :1],
    "hooked": hooked,
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_strange_passes_are_never_wrong(name, n):
    torch.manual_seed(n)
    agreed(Network(STRANGE[name]), torch.randn(n, 3))


@pytest.mark.parametrize("name", ["sorted", "routed", "other_for_other_data", "squeezed"])
@pytest.mark.parametrize("budget", [8 * 12**2 * 2, None])
def test_passes_that_are_strange_for_later_samples_alone_are_never_wrong(name, budget):
    """The first samples are sorted and of one sign, as if nothing were strange."""
    inputs = torch.randn(6, 3)
    inputs[:3, 0], inputs[3:, 0] = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-2.0, -1.0, -3.0])
    model = Network(STRANGE[name])
    expected = jacobian_by_loop(model, inputs)
    gram = JacobianOperator(model, inputs).gram(memory_budget=budget)
    torch.testing.assert_close(gram, expected @ expected.T, rtol=1e-9, atol=1e-9)
    rows = [JacobianOperator(model, inputs).rows(0, 6), JacobianOperator(model, inputs).rows(2, 6)]
    torch.testing.assert_close(rows[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rows[1], expected[4:], rtol=1e-9, atol=1e-9)


def test_a_chunk_of_one_sample_may_lose_a_dimension():
    model, inputs = Network(STRANGE["squeezed"]), torch.randn(4, 3)
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(1, 2), expected[2:4], rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == [], operator.layering.reason


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_network_that_treats_one_sample_in_its_own_way_keeps_its_rules(name):
    forward, _ = LAYOUTS[name]
    # What one sample gets is no other number, but one more call of a layer with parameters.
    model = Network(lambda x, a, b: forward(x, a, b) if len(x) > 1 else forward(x, a, b) + 0 * b(a(x)).sum())
    inputs = torch.randn(4, 3, 3)
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    for i in range(4):
        rows = operator.rows(i, i + 1)
        torch.testing.assert_close(rows, expected[i * len(rows) : (i + 1) * len(rows)], rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == [], operator.layering.reason


def test_a_class_token_is_expanded_for_one_sample_too():
    case = CASES["vision_transformer"]()
    expected = jacobian_by_loop(case.model, case.inputs)
    for n in (1, 3):
        operator = agreed(case.model, case.inputs[:n])
        torch.testing.assert_close(operator.rows(n - 1, n), expected[2 * n - 2 : 2 * n], rtol=1e-9, atol=1e-9)
        operator.plan()
        assert operator.layering.plain == [], operator.layering.reason


def test_layers_may_change_from_one_operator_to_the_next():
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(4, 3)
    agreed(model, inputs)
    model[1] = nn.Linear(4, 4)
    agreed(model, inputs)
    model[2].weight.requires_grad_(False)
    agreed(model, inputs)


# Wrong rules


def wrong_factor(*arguments):
    left, right = layers._linear_factors(*arguments)
    return layers.Factors(left, 1.001 * right)


def broken_factor(*_):
    raise RuntimeError("deliberate")


def wrong_shape(*arguments):
    left, right = layers._linear_factors(*arguments)
    return layers.Factors(left, right[..., :1])


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
@pytest.mark.parametrize("factors", [wrong_factor, broken_factor, wrong_shape])
def test_a_rule_that_does_not_agree_with_automatic_differentiation_is_not_used(monkeypatch, factors):
    monkeypatch.setitem(LAYERS, F.linear, LAYERS[F.linear]._replace(factors=factors))
    operator = agreed(CASES["mlp"]().model, torch.randn(6, 3))
    assert operator.layering.plain == ["0.weight", "2.weight"]
    assert {group.name for group in operator.layering.groups} == {"0.bias", "2.bias"}


def right_for_a_few(x, gradients, layout, options, scratch):
    left, right = layers._linear_factors(x, gradients, layout, options, scratch)
    return layers.Factors(left, right if len(right) <= 3 else 1.01 * right)


def test_a_rule_that_is_wrong_for_larger_batches_is_noticed_and_left(monkeypatch):
    monkeypatch.setitem(LAYERS, F.linear, LAYERS[F.linear]._replace(factors=right_for_a_few))
    model, inputs = CASES["mlp"]().model, torch.randn(6, 3)
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    assert operator.layering.plain == []
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == operator.names
    operator = JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, 6), expected, rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == operator.names


def test_a_rule_that_agrees_is_used_even_if_another_one_fails(monkeypatch):
    monkeypatch.setitem(LAYERS, F.batch_norm, LAYERS[F.batch_norm]._replace(rows=broken_factor))
    case = CASES["conv_batch_norm"]()
    assert agreed(case.model, case.inputs).layering.plain == ["1.weight", "1.bias"]


def test_running_out_of_memory_is_no_reason_for_another_rule(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("deliberate")

    monkeypatch.setattr(layering, "recorded", full)
    with pytest.raises(torch.OutOfMemoryError, match="deliberate"):
        _ = JacobianOperator(nn.Linear(3, 2), torch.randn(4, 3)).layering


def test_rules_do_not_depend_on_the_seed_and_draw_no_random_number():
    case = CASES["transformer"]()
    grams = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        grams.append(JacobianOperator(case.model, case.inputs).gram())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*grams)
