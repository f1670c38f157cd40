"""Recurrent layers written out as linear ones, step by step, so that each use of a weight is seen."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Weights = Sequence[Tensor | None]
# From the two linear maps of a step, of its input and of its state, and the state to the next state.
Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _lstm_step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    entry, forget, candidate, exit_ = (from_input + from_state).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(entry) * torch.tanh(candidate)
    return torch.sigmoid(exit_) * torch.tanh(cell), cell


def _gru_step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    reset_x, update_x, candidate_x = from_input.chunk(3, dim=-1)
    reset_h, update_h, candidate_h = from_state.chunk(3, dim=-1)
    update = torch.sigmoid(update_x + update_h)
    candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
    return ((1 - update) * candidate + update * state[0],)


def _tanh_step(from_input: Tensor, from_state: Tensor, _: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.tanh(from_input + from_state),)


def _relu_step(from_input: Tensor, from_state: Tensor, _: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.relu(from_input + from_state),)


def _direction(
    step: Step, inputs: Tensor, state: tuple[Tensor, ...], weights: Weights, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction; ``inputs`` of shape ``(time, batch, features)``."""
    by_input, by_state, input_bias, state_bias, projection = weights
    assert by_input is not None
    assert by_state is not None
    from_inputs = functional.linear(inputs, by_input, input_bias)
    outputs: list[Tensor] = []
    times = range(inputs.shape[0])
    for time in reversed(times) if backwards else times:
        state = step(from_inputs[time], functional.linear(state[0], by_state, state_bias), state)
        if projection is not None:
            state = (functional.linear(state[0], projection), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def _layers(step: Step) -> Callable[..., Any]:
    def unrolled(
        inputs: Tensor,
        state: Any,
        weights: Any,
        has_biases: Any,
        num_layers: Any,
        dropout: Any,
        train: Any,
        bidirectional: Any,
        batch_first: Any = False,
    ) -> Any:
        if isinstance(weights, Tensor) or isinstance(has_biases, (list, tuple)) or (train and dropout):
            return None  # packed sequences, or random
        several = isinstance(state, (list, tuple))
        states = tuple(state) if several else (state,)
        directions = 2 if bidirectional else 1
        each = len(weights) // (num_layers * directions)
        sequence = inputs.transpose(0, 1) if batch_first else inputs
        last: list[tuple[Tensor, ...]] = []
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                own = _named(weights[place * each : (place + 1) * each], has_biases)
                output, final = _direction(step, sequence, tuple(s[place] for s in states), own, direction == 1)
                outputs.append(output)
                last.append(final)
            sequence = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
        finals = [torch.stack(parts) for parts in zip(*last, strict=True)]
        return (sequence.transpose(0, 1) if batch_first else sequence, *finals)

    return unrolled


def _named(weights: Sequence[Tensor], has_biases: bool) -> Weights:
    """Weights by input and state, biases by input and state, and the projection; None where there is none."""
    matrices, rest = list(weights[:2]), list(weights[2:])
    biases: list[Tensor | None] = [rest.pop(0), rest.pop(0)] if has_biases else [None, None]
    return [*matrices, *biases, rest[0] if rest else None]


def _cell(step: Step) -> Callable[..., Any]:
    def unrolled(
        inputs: Tensor,
        state: Any,
        input_weight: Tensor,
        state_weight: Tensor,
        input_bias: Tensor | None = None,
        state_bias: Tensor | None = None,
    ) -> Any:
        states = tuple(state) if isinstance(state, (list, tuple)) else (state,)
        from_input = functional.linear(inputs, input_weight, input_bias)
        new = step(from_input, functional.linear(states[0], state_weight, state_bias), states)
        return new if len(new) > 1 else new[0]

    return unrolled


# By the names of torch's functions; what gives None is left to those.
RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": _layers(_lstm_step),
    "gru": _layers(_gru_step),
    "rnn_tanh": _layers(_tanh_step),
    "rnn_relu": _layers(_relu_step),
    "lstm_cell": _cell(_lstm_step),
    "gru_cell": _cell(_gru_step),
    "rnn_tanh_cell": _cell(_tanh_step),
    "rnn_relu_cell": _cell(_relu_step),
}
