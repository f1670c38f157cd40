"""The layered Gram matrix: within every budget, of other samples, in other precisions, checked, and deterministic."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import CASES, Routed, VisionTransformer
from references import jacobian_by_loop
from torch import nn

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian import gram as gram_module

NETWORKS = {
    "conv": CASES["conv"],
    "residual": CASES["residual"],
    "vision_transformer": CASES["vision_transformer"],
    "depthwise": CASES["depthwise"],
    "tied_embedding": CASES["tied_embedding"],
    "bare_parameters": CASES["bare_parameters"],
    "gru": CASES["gru"],
    "batch_coupled": CASES["batch_coupled"],
    "weight_norm": CASES["weight_norm"],
    "sorted_samples": CASES["sorted_samples"],
    "packed_sequences": CASES["packed_sequences"],
}


def close(actual, expected, tolerance=1e-10):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


def operator_of(case, inputs=None):
    return JacobianOperator(case.model, case.inputs if inputs is None else inputs, output_fn=case.output_fn)


def wide(n=30):
    """A network whose layers are taken in both ways: pairs of samples and rows."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(28, 40), nn.Tanh(), nn.Linear(40, 3)
    )
    return model, torch.randn(n, 16)


# Budgets and chunks


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 10.0, 1000.0])
def test_the_gram_matrix_is_the_same_within_every_budget(name, share):
    case = NETWORKS[name]()
    operator = operator_of(case)
    rows, size = operator.shape[0], operator.shape[0] ** 2 * 8
    expected = jacobian_by_loop(case.model, case.inputs, case.output_fn)
    close(operator.gram(memory_budget=int(size * (1 + share)) + 2 * rows * 8), expected @ expected.T)


@pytest.mark.parametrize("budget", [1.05, 1.5, 2, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_of_multiplying_are_the_same_within_every_budget(budget, dtype):
    model, inputs = wide()
    expected = jacobian_by_loop(model, inputs)
    gram = JacobianOperator(model, inputs).gram(dtype, int(budget * 90**2 * 8))
    assert gram.dtype == dtype
    close(gram.double(), expected @ expected.T, 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "batch_coupled"])
def test_rows_and_gram_matrix_do_not_depend_on_how_many_samples_go_together(monkeypatch, chunk, name):
    case = NETWORKS[name]()
    gram, rows = operator_of(case).gram(), operator_of(case).dense()
    monkeypatch.setattr("lightning_bounds.jacobian.pieces._CHUNK", chunk)
    operator = operator_of(case)
    close(operator.gram(), gram, 1e-12)
    close(operator.rows(0, operator.num_samples), rows, 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_samples_have_the_rows_of_the_dense_matrix(name):
    case = NETWORKS[name]()
    operator = operator_of(case)
    dense, outputs, n = operator.dense(), operator.num_outputs, operator.num_samples
    close(operator.rows(1, n), dense[outputs:])
    close(operator.rows(0, 1), dense[:outputs])
    assert operator.rows(1, 1).shape == (0, operator.shape[1])
    out = torch.full(dense.shape, torch.nan, dtype=torch.float32)
    close(operator.rows(0, n, out=out).double(), dense, 1e-6)
    assert torch.equal(torch.cat(operator.row_blocks(0, n), dim=1), operator.rows(0, n))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 99), (3, 2)])
def test_samples_that_are_not_there_are_refused(start, stop):
    operator = operator_of(CASES["mlp"]())
    with pytest.raises(ValueError, match=f"samples within 0 .. 7, but got {start} .. {stop}"):
        operator.rows(start, stop)


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_calls_give_equal_numbers_and_draw_none(name):
    case = NETWORKS[name]()
    before = torch.get_rng_state()
    first = operator_of(case).gram()
    torch.manual_seed(5)
    second = operator_of(case).gram()
    torch.set_rng_state(before)
    assert torch.equal(first, second)
    assert torch.equal(first, first.T)


# Parts of a network


SELECTIONS = [
    ["0"],
    ["0.weight"],
    ["0.bias"],
    ["*.weight"],
    ["*.bias"],
    ["0.weight", "4.bias"],
    ["4"],
]


@pytest.mark.parametrize("layers", SELECTIONS, ids=" ".join)
@pytest.mark.parametrize("frozen", [[], ["4.weight"], ["0.bias", "2.bias"]], ids=" ".join)
def test_some_parameters_have_the_products_of_their_columns(layers, frozen):
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(6, 3)
    whole = dict(model.named_parameters())
    for name in set(frozen) - set(layers):
        whole[name].requires_grad_(False)
    operator = JacobianOperator(model, inputs, layers=layers)
    outputs = model(inputs).flatten()
    kept = [whole[name] for name in operator.names]
    gradients = [torch.autograd.grad(output, kept, retain_graph=True) for output in outputs]
    rows = torch.stack([torch.cat([g.flatten() for g in row]) for row in gradients])
    close(operator.gram(), rows @ rows.T)
    close(operator.gram(memory_budget=12**2 * 8 + 2 * 12 * 8), rows @ rows.T)
    close(operator.rows(0, 6), rows)
    assert operator.coverage()["plain"] == 0


# Other samples


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("budget", [1.2, 4, None])
def test_cross_gram_matrices_are_products_of_both_jacobians(name, budget):
    torch.manual_seed(1)
    case = NETWORKS[name]()
    torch.manual_seed(2)
    other = NETWORKS[name]().inputs
    other = {key: part[:3] for key, part in other.items()} if isinstance(other, dict) else other[:3]
    first, second = operator_of(case), operator_of(case, other)
    expected = first.dense() @ second.dense().T
    limit = budget and int(budget * expected.numel() * 8) + 4 * sum(expected.shape) * 8
    close(first.gram(other=second, memory_budget=limit), expected)
    close(second.gram(other=first, memory_budget=limit), expected.T)


def test_the_cross_gram_matrix_of_samples_with_themselves_is_the_gram_matrix():
    operator = JacobianOperator(*wide())
    close(operator.gram(other=operator), operator.gram(), 1e-12)
    close(
        operator.gram(other=JacobianOperator(*(operator.model, operator.inputs[10:]))), operator.gram()[:, 30:], 1e-12
    )


class LastStep(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(4, 2)

    def forward(self, x):
        y = self.recurrent(x)
        return self.head((y[0] if isinstance(y, tuple) else y)[:, -1])


OF_ANY_SIZE = {
    "lstm": (lambda: LastStep(nn.LSTM(4, 4, batch_first=True)), (3, 4), (5, 4)),
    "transformer": (lambda: LastStep(nn.TransformerEncoderLayer(4, 2, 60, batch_first=True)), (1, 4), (2, 4)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv1d(4, 30, 2), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(30, 2)),
        (4, 2),
        (4, 5),
    ),
    "linear": (lambda: LastStep(nn.Linear(4, 4)), (2, 4), (3, 4)),
}


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_other_samples_may_have_another_size(name):
    build, small, large = OF_ANY_SIZE[name]
    model = build()
    first, second = (JacobianOperator(model, torch.randn(n, *shape)) for n, shape in ((9, small), (7, large)))
    expected = first.dense() @ second.dense().T
    close(first.gram(other=second), expected)
    close(second.gram(other=first), expected.T)
    assert first.coverage()["plain"] == second.coverage()["plain"] == 0


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_other_samples_may_have_other_outputs(outputs):
    model, inputs = wide()
    first = JacobianOperator(model, inputs)
    second = JacobianOperator(model, torch.randn(6, 16), output_fn=lambda y: y.repeat(1, 2)[:, :outputs])
    close(first.gram(other=second), first.dense() @ second.dense().T)


@pytest.mark.parametrize(("one", "two"), [("samples", "coupled"), ("coupled", "samples"), ("one", "coupled")])
def test_one_side_may_be_beyond_the_rules(one, two):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    sides = {
        "samples": JacobianOperator(model, torch.randn(5, 3)),
        "one": JacobianOperator(model, torch.randn(1, 3)),
        "coupled": JacobianOperator(model, torch.randn(4, 3), mode="train"),
    }
    close(sides[one].gram(other=sides[two]), sides[one].dense() @ sides[two].dense().T)
    assert sides["samples"].coverage()["plain"] == 0


def test_other_samples_may_be_routed_otherwise():
    model, inputs = Routed(), torch.randn(6, 3)
    first, second = JacobianOperator(model, inputs.abs()), JacobianOperator(model, -inputs.abs()[:4])
    close(first.gram(other=second), first.dense() @ second.dense().T)


@pytest.mark.parametrize("layers", [["0"], ["2"]])
def test_another_network_or_other_parameters_are_refused(layers):
    model, inputs = CASES["mlp"]().model, torch.randn(4, 3)
    operator = JacobianOperator(model, inputs)
    with pytest.raises(ValueError, match="same parameters of the same model"):
        operator.gram(other=JacobianOperator(model, inputs, layers=layers))
    with pytest.raises(ValueError, match="same parameters of the same model"):
        operator.gram(other=JacobianOperator(CASES["mlp"]().model, inputs))


# Precision


@pytest.mark.parametrize("name", ["conv", "residual", "vision_transformer", "gru", "tied_embedding", "weight_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_in_float32(name, dtype):
    case = NETWORKS[name]()
    expected = jacobian_by_loop(case.model, case.inputs, case.output_fn)
    inputs = case.inputs.float() if case.inputs.is_floating_point() else case.inputs
    operator = JacobianOperator(case.model.float(), inputs, output_fn=case.output_fn)
    gram = operator.gram(dtype)
    assert gram.dtype == dtype
    close(gram.double(), expected @ expected.T, 1e-4)
    close(operator.rows(0, operator.num_samples).double(), expected, 1e-4)
    close(operator.gram(dtype, other=operator).double(), expected @ expected.T, 1e-4)


class Cast(nn.Module):
    def forward(self, x):
        return x.double()


def test_a_network_in_two_precisions():
    model = nn.Sequential(nn.Linear(3, 4).float(), nn.Tanh(), Cast(), nn.Linear(4, 2))
    operator = JacobianOperator(model, torch.randn(5, 3))
    assert operator.dtype == torch.float64
    expected = operator.dense()
    close(operator.rows(0, 5), expected, 1e-6)
    close(operator.gram(), expected @ expected.T, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex128])
def test_other_precisions_of_the_gram_matrix_are_refused(dtype):
    with pytest.raises(ValueError, match=f"torch.float32 or torch.float64, but got {dtype}"):
        operator_of(CASES["mlp"]()).gram(dtype)


def test_complex_parameters_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.phase = nn.Linear(3, 2), nn.Parameter(torch.randn(2, dtype=torch.complex128))

        def forward(self, x):
            return (self.linear(x) * self.phase).abs()

    model, inputs = Complex(), torch.randn(4, 3)
    with pytest.raises(TypeError, match=r"real parameters, but some are torch\.complex128"):
        JacobianOperator(model, inputs)
    operator = JacobianOperator(model, inputs, layers=["linear"])
    close(operator.gram(), operator.dense() @ operator.dense().T)


# Outputs that have no Jacobian


class Tokens(nn.Module):
    """One output for each token up to the last one that is not padding, of the batch or of the sample."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 1)

    def forward(self, tokens):
        return self.embedding(tokens[:, : int((tokens > 0).sum(1).max())])[..., 0]


@pytest.mark.parametrize("lengths", [[2, 3, 2], [2, 2, 2, 2, 4], [2] * 300 + [4]])
def test_outputs_of_different_sizes_are_refused_with_their_sizes(lengths):
    tokens = torch.tensor([[1] * length + [0] * (4 - length) for length in lengths])
    with pytest.raises(ValueError, match=r"outputs for every sample.*pass `output_fn`"):
        JacobianOperator(Tokens(), tokens).gram()


def test_samples_that_are_padded_to_the_longest_one_have_no_rows_of_their_own():
    with pytest.raises(ValueError, match="Expected 3 outputs for every sample, as for the first ones, but some have 2"):
        JacobianOperator(Tokens(), torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])).dense()


@pytest.mark.parametrize("forward", [lambda layer, x: x * 2, lambda layer, x: layer(x).detach()])
def test_outputs_that_depend_on_no_parameter_are_refused(forward):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return forward(self.layer, x)

    with pytest.raises(ValueError, match="depend on trainable parameters"):
        JacobianOperator(Constant(), torch.randn(4, 3))


def test_parameters_without_any_influence_have_a_gram_matrix_of_zeros():
    operator = JacobianOperator(CASES["called_twice_and_unused"]().model, torch.randn(4, 3), layers=["unused"])
    assert torch.equal(operator.gram(), torch.zeros(12, 12))
    assert torch.equal(operator.rows(0, 4), torch.zeros(12, 6))


@pytest.mark.parametrize("budget", [10, 14**2 * 8, 14**2 * 8 + 100])
def test_a_budget_without_room_is_refused_with_the_numbers(budget):
    with pytest.raises(MemoryError, match=rf"within {budget:,} bytes, but 14 x 14 entries take 1,568"):
        operator_of(CASES["mlp"]()).gram(memory_budget=budget)


# The check


def shifted(gram, *_):
    gram[0, 0] += 1e-3 * gram.abs().max()
    return gram


@pytest.mark.parametrize("other", [False, True])
def test_a_wrong_gram_matrix_is_not_returned(monkeypatch, other):
    right = gram_module.layered_gram
    monkeypatch.setattr("lightning_bounds.jacobian.operator.layered_gram", lambda *a: shifted(right(*a)))
    operator = operator_of(CASES["mlp"]())
    with pytest.raises(ArithmeticError, match="Expected the Gram matrix to agree"):
        operator.gram(other=operator if other else None)


def test_infinite_entries_are_reported_as_such():
    model, inputs = VisionTransformer(), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        model.head.weight[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        JacobianOperator(model, inputs).gram()


# Memory


TESTS = Path(__file__).parents[1]
# Each measurement in a process of its own; what takes longest, loading torch, is done once for all of a network.
PEAK = """
import os, sys, torch
from torch import nn
from lightning_bounds import JacobianOperator
from peak_memory import forget_peak, memory


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(64, 300) / 8), nn.Linear(300, 10)

    def forward(self, x):
        return self.head(torch.einsum("ni,io->no", x, self.weight).tanh())

torch.manual_seed(0)
torch.set_num_threads(1)
model, inputs = {
    "linear": lambda: (nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 10)), torch.randn(350, 256)),
    "two_outputs": lambda: (nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 2)), torch.randn(1800, 256)),
    "convolution": lambda: (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(2304, 10)),
        torch.randn(350, 3, 16, 16),
    ),
    "attention": lambda: (
        nn.Sequential(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Flatten(), nn.Linear(256, 10)),
        torch.randn(350, 8, 32),
    ),
    "parametrized": lambda: (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(64, 96)), nn.Tanh(), nn.Linear(96, 10)),
        torch.randn(350, 64),
    ),
    "bare": lambda: (Bare(), torch.randn(350, 64)),
}[sys.argv[1]]()
for dtype in ("float32", "float64"):
    for factor in (2, 3):
        if os.fork() == 0:
            JacobianOperator(model, inputs[:4]).gram()  # loads what is loaded once
            operator = JacobianOperator(model.to(getattr(torch, dtype)), inputs)
            budget = factor * operator.shape[0] ** 2 * 8
            torch.randn(500, 500, dtype=torch.float64).matmul(torch.randn(500, 500, dtype=torch.float64))
            before = forget_peak()
            gram = operator.gram(memory_budget=budget)
            print(dtype, factor, (memory("VmHWM") - before) / budget, flush=True)
            os._exit(0)
        os.wait()
"""


@cache
def peaks_of(network):
    command = [sys.executable, "-c", PEAK, network]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS).stdout
    return {(dtype, int(factor)): float(peak) for dtype, factor, peak in map(str.split, printed.splitlines())}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("budget", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", ["linear", "two_outputs", "convolution", "attention", "parametrized", "bare"])
def test_memory_stays_within_the_budget(network, budget, dtype):
    assert 0.3 < peaks_of(network)[dtype, budget] < 1.2
