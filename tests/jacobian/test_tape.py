"""Which calls are written down, with what, and what happens to the graph around them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from lightning_bounds.jacobian.layers import LAYERS
from lightning_bounds.jacobian.tape import recorded, sources_of


def tape(forward, *parameters):
    return recorded(forward, {id(parameter): str(i) for i, parameter in enumerate(parameters)})


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def test_a_call_holds_what_went_in_and_what_came_from_parameters():
    weight, bias, x = parameter(2, 3), torch.randn(2), torch.randn(4, 3)
    (call,) = tape(lambda: F.linear(x, weight, bias), weight).calls
    assert call.layer is LAYERS[F.linear]
    assert call.weights == {"weight": weight}
    assert (call.shape, call.options) == ((4, 2), {})
    assert torch.equal(call.inputs, x)
    assert not call.inputs.requires_grad


@pytest.mark.parametrize(
    "forward",
    [
        lambda x, w: F.linear(x, w.detach()),
        lambda x, w: F.linear(x, w.data),
        lambda x, w: F.linear(x, nn.Parameter(torch.ones(2, 3))),
        lambda x, w: F.relu(x),
        lambda x, w: F.linear(x, torch.ones(2, 3)),
    ],
)
def test_calls_without_one_of_the_parameters_are_not_written_down(forward):
    weight = parameter(2, 3)
    assert tape(lambda: forward(torch.randn(4, 3), weight), weight).calls == []


@pytest.mark.parametrize(
    "weight_of",
    [
        lambda w: w,
        lambda w: 2 * w,
        lambda w: w.T.contiguous().T,
        lambda w: torch.where(torch.ones(2, 3) > 0, w, 0.0),
        lambda w: F.normalize(w),
        lambda w: torch.cat([w[:1], w[1:]]),
        lambda w: torch.linalg.qr(w.T)[0].T,
    ],
)
def test_weights_made_of_parameters_and_constants_are_recognized(weight_of):
    weight, x = parameter(2, 3), torch.randn(4, 3)
    recording = tape(lambda: F.linear(x, weight_of(weight)), weight)
    (call,) = recording.calls
    assert [id(source) for source in sources_of(call.weights["weight"])] == [id(weight)]
    torch.testing.assert_close(recording.outputs, x @ weight_of(weight).T)


def test_weights_made_by_a_layer_are_none():
    code, make, x = parameter(2), parameter(6, 2), torch.randn(4, 3)
    calls = tape(lambda: F.linear(x, F.linear(code, make).reshape(2, 3)), code, make).calls
    assert [list(call.weights.values()) for call in calls] == [[make]]


def test_weights_made_of_a_parameter_that_is_not_asked_for_are_none():
    asked, other = parameter(2, 3), parameter(2, 3)
    calls = tape(lambda: F.linear(torch.ones(4, 3), asked * other), asked).calls
    assert LAYERS[F.linear] not in [call.layer for call in calls]


def test_the_outputs_are_those_of_the_function_and_no_gradient_reaches_a_written_parameter():
    first, second, x = parameter(3, 3), parameter(2, 3), torch.randn(4, 3)
    recording = tape(lambda: F.linear(torch.tanh(F.linear(x, first)), second), first, second)
    torch.testing.assert_close(recording.outputs, torch.tanh(x @ first.T) @ second.T)
    assert torch.autograd.grad(recording.outputs.sum(), [first, second], allow_unused=True) == (None, None)


def test_gradients_by_what_came_out_of_a_call_can_be_asked_for():
    first, second, x = parameter(3, 3), parameter(2, 3), torch.randn(4, 3)
    recording = tape(lambda: F.linear(torch.tanh(F.linear(x, first)), second), first, second)
    by_first, by_second = torch.autograd.grad(recording.outputs.sum(), [call.edge for call in recording.calls])
    torch.testing.assert_close(by_second, torch.ones(4, 2))
    torch.testing.assert_close(by_first, (1 - torch.tanh(x @ first.T) ** 2) * second.sum(0))


def test_what_no_layer_knows_keeps_its_graph():
    weight, x = parameter(2, 3), torch.randn(4, 3)
    recording = tape(lambda: torch.tensordot(x, weight.T, 1), weight)
    assert recording.calls == []
    torch.testing.assert_close(torch.autograd.grad(recording.outputs.sum(), weight)[0], x.sum(0).expand(2, 3))


OVERWRITES = {
    "activation": lambda y: torch.relu_(y),
    "sum": lambda y: y.add_(1),
    "slice": lambda y: y.index_fill_(0, torch.tensor([0]), 2.0),
    "view": lambda y: y.view(-1).mul_(3).view_as(y),
}


@pytest.mark.parametrize("overwrite", OVERWRITES.values(), ids=OVERWRITES)
@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm(3)])
@pytest.mark.parametrize("leaf", [True, False])
def test_outputs_may_be_overwritten(overwrite, layer, leaf):
    layer, x = layer.double(), torch.randn(2, 4, 3, requires_grad=not leaf)
    recording = recorded(lambda: overwrite(layer(x * 1 if not leaf else x)), {id(p): "" for p in layer.parameters()})
    with torch.enable_grad():
        middle = layer(x.detach()).detach().requires_grad_()
        expected = torch.autograd.grad(overwrite(middle.clone()).sum(), middle)[0]
    (call,) = recording.calls
    torch.testing.assert_close(torch.autograd.grad(recording.outputs.sum(), call.edge)[0], expected)


def test_inputs_that_are_overwritten_later_are_copied_in_a_second_pass():
    weight, passes = parameter(3, 3), []

    def forward():
        passes.append(None)
        x = torch.ones(4, 3)
        y = F.linear(x, weight)
        return y + x.mul_(5)

    recording = tape(forward, weight)
    assert (len(passes), recording.copied) == (2, {0})
    assert torch.equal(recording.calls[0].inputs, torch.ones(4, 3))


def test_only_the_inputs_that_are_overwritten_are_copied():
    weight, x = parameter(3, 3), torch.ones(4, 3)
    recording = tape(lambda: F.linear(torch.relu_(F.linear(x, weight).add_(1)), weight), weight)
    assert recording.copied == frozenset()
    assert recording.calls[0].inputs.data_ptr() == x.data_ptr()


def test_layers_inside_functions_of_layers_are_heard():
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    recording = recorded(lambda: attention(x, x, x)[0], {id(p): n for n, p in attention.named_parameters()})
    torch.testing.assert_close(recording.outputs, attention(x, x, x)[0])
    assert [list(call.weights) for call in recording.calls] == [["weight", "bias"]] * 2


@pytest.mark.parametrize("function", [F.max_pool1d, F.adaptive_max_pool1d])
def test_functions_of_parameters_that_choose_between_two_are_left_alone(function):
    weight, table = parameter(2, 3), parameter(1, 1, 6)
    recording = tape(lambda: F.linear(torch.ones(4, 3), weight) + function(table, 1).sum(), weight, table)
    assert recording.calls[0].weights == {"weight": weight}
    torch.testing.assert_close(recording.outputs, weight.sum(1).expand(4, 2) + function(table, 1).sum())


def test_the_layer_that_sees_a_parameter_as_inputs_and_as_weight_knows_both():
    weight = parameter(3, 3)
    recording = tape(lambda: F.linear(weight, weight), weight)
    torch.testing.assert_close(recording.outputs, weight @ weight.T)


def test_a_function_written_by_the_user_is_not_looked_into():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x)
            return F.linear(x, weight)

        @staticmethod
        def backward(ctx, gradient):
            return None, 7 * gradient.T @ ctx.saved_tensors[0]

    weight, x = parameter(2, 3), torch.randn(4, 3)
    recording = tape(lambda: Own.apply(x, weight), weight)
    torch.testing.assert_close(torch.autograd.grad(recording.outputs.sum(), weight)[0], 7 * x.sum(0).expand(2, 3))


def test_calls_without_gradients_are_harmless():
    weight, x = parameter(3, 3), torch.randn(4, 3)

    def forward():
        with torch.no_grad():
            hidden = F.linear(x, weight)
        return F.linear(hidden, weight)

    recording = tape(forward, weight)
    edges = [call.edge for call in recording.calls]
    found = torch.autograd.grad(recording.outputs.sum(), edges, allow_unused=True)
    assert found[0] is None
    torch.testing.assert_close(recording.outputs, x @ weight.T @ weight.T)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a, b: a, "a"),
        (lambda a, b: a * b, "ab"),
        (lambda a, b: (a + a).sum() * b.detach(), "a"),
        (lambda a, b: torch.ones(3), "constant"),
    ],
)
def test_sources_are_the_leaves_of_a_graph(make, expected):
    a, b = parameter(3), parameter(3)
    tensor = make(a, b)
    known = {id(a): "a", id(b): "b"}
    assert "".join(sorted(known.get(id(source), "constant") for source in sources_of(tensor))) == expected


def test_there_are_no_sources_where_a_stop_is_on_the_way():
    a = parameter(3)
    middle = 2 * a
    assert sources_of(middle.exp(), {middle.grad_fn}) == []
