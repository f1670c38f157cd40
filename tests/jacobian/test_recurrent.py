"""Recurrent layers written out step by step: torch's own outputs, and rules for every weight."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import jacobian_by_loop
from torch import nn

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.recurrent import RECURRENT
from lightning_bounds.jacobian.tape import recorded

LAYERS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
CELLS = {
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
    "rnn_tanh_cell": nn.RNNCell,
    "rnn_relu_cell": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}


class Network(nn.Module):
    """All that a recurrent layer returns, samples first."""

    def __init__(self, layer, initial=False):
        super().__init__()
        self.layer, self.initial = layer, initial

    def forward(self, x):
        arguments = []
        if self.initial:
            directions = 2 if self.layer.bidirectional else 1
            shape = (self.layer.num_layers * directions, len(x))
            first = x.new_ones(*shape, self.layer.proj_size or self.layer.hidden_size) / 2
            second = x.new_ones(*shape, self.layer.hidden_size) / 3
            arguments = [(first, second) if isinstance(self.layer, nn.LSTM) else first]
        outputs, last = self.layer(x if self.layer.batch_first else x.transpose(0, 1), *arguments)
        outputs = outputs if self.layer.batch_first else outputs.transpose(0, 1)
        finals = last if isinstance(last, tuple) else (last,)
        return torch.cat([outputs.flatten(1), *(final.transpose(0, 1).flatten(1) for final in finals)], dim=1)


class Unrolled(nn.Module):
    """A cell called once for every step."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return torch.cat(state, dim=1) if isinstance(state, tuple) else state


def assert_rules(model, inputs):
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, len(inputs)), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    assert operator.coverage()["plain"] == 0, operator.layering.reason


@pytest.mark.parametrize("name", LAYERS)
@settings(deadline=None, max_examples=8, derandomize=True, database=None, phases=(Phase.generate, Phase.shrink))
@given(st.data())
def test_layers(name, data):
    options = {key: data.draw(st.booleans(), key) for key in ("bias", "batch_first", "bidirectional")}
    hidden, size = data.draw(st.integers(2, 3), "hidden"), data.draw(st.integers(1, 3), "features")
    if name == "lstm" and data.draw(st.booleans(), "projected"):
        options["proj_size"] = hidden - 1
    torch.manual_seed(data.draw(st.integers(0, 9), "seed"))
    layer = LAYERS[name](size, hidden, num_layers=data.draw(st.integers(1, 2), "layers"), **options)
    inputs = torch.randn(data.draw(st.integers(1, 4), "samples"), data.draw(st.integers(1, 3), "steps"), size)
    assert_rules(Network(layer, data.draw(st.booleans(), "initial state")), inputs)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_cells(cell, bias, steps):
    assert_rules(Unrolled(cell(2, 3, bias=bias)), torch.randn(4, steps, 2))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_written_out_layers_return_what_torch_returns(name, batch_first, bidirectional):
    layer = LAYERS[name](3, 4, num_layers=2, batch_first=batch_first, bidirectional=bidirectional)
    x, states = torch.randn(5, 6, 3), torch.randn(4 if bidirectional else 2, 5 if batch_first else 6, 4)
    state = (states, states / 2) if name == "lstm" else states
    recording = []

    def forward():
        recording.append(layer(x, state))
        return recording[-1][0]

    assert recorded(forward, {id(p): n for n, p in layer.named_parameters()}).calls
    torch.testing.assert_close(recording[-1], layer(x, state), rtol=1e-12, atol=1e-12)


def test_dropout_between_layers_is_off_in_evaluation_mode():
    assert_rules(Network(nn.GRU(2, 3, num_layers=2, dropout=0.9, batch_first=True)), torch.randn(3, 2, 2))


def test_random_and_packed_calls_are_left_to_torch():
    x, state, weights = torch.randn(2, 3, 2), torch.zeros(1, 2, 2), [torch.randn(6, 2)] * 2 + [torch.randn(6)] * 2
    assert RECURRENT["gru"](x, state, weights, True, 1, 0.5, True, False, True) is None
    assert RECURRENT["gru"](x[0], torch.tensor([2, 1]), state, weights, True, 1, 0.0, False, False) is None
    assert RECURRENT["gru"](x, state, weights, True, 1, 0.5, False, False, True) is not None


def test_each_weight_of_a_layer_has_a_group_with_all_its_steps():
    operator = JacobianOperator(Network(nn.GRU(2, 3, batch_first=True)), torch.randn(4, 5, 2))
    groups = {group.name: group for group in operator.layering.groups}
    assert {name: group.places for name, group in groups.items() if group.shape} == {
        "layer.weight_ih_l0": 5,
        "layer.weight_hh_l0": 5,
    }
    assert groups["layer.weight_hh_l0"].bias is groups["layer.bias_hh_l0"]


def test_a_learned_initial_state_is_differentiated_with_the_rest():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.state = nn.GRU(2, 3, batch_first=True), nn.Parameter(torch.randn(1, 1, 3))

        def forward(self, x):
            return self.gru(x, self.state.expand(-1, len(x), -1).contiguous())[0][:, -1]

    model, inputs = Learned(), torch.randn(4, 3, 2)
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, 4), expected, rtol=1e-9, atol=1e-9)
    assert set(operator.layering.plain) <= {"state"}
