"""The Jacobian of every kind of module agrees with a loop over its outputs, and leaves no trace."""

import copy
import random

import numpy as np
import pytest
import torch
from cases import CASES, BatchCoupled, CalledTwice, InPlaceBuffer, TiedEmbedding
from references import alignment_by_svd, jacobian_by_loop
from torch import nn

from lightning_bounds import JacobianOperator, jacobian_spectrum

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


@pytest.fixture
def operator(case):
    return JacobianOperator(case.model, case.inputs, output_fn=case.output_fn)


@pytest.fixture
def expected(case):
    return jacobian_by_loop(case.model, case.inputs, case.output_fn)


def test_dense_equals_a_loop_over_outputs(operator, expected):
    assert operator.shape == expected.shape
    close(operator.dense(), expected)


@pytest.mark.parametrize("columns", [(), (1,), (3,)])
def test_products_equal_those_of_the_loop(operator, expected, columns):
    v, u = torch.randn(expected.shape[1], *columns), torch.randn(expected.shape[0], *columns)
    close(operator @ v, expected @ v)
    close(operator.T @ u, expected.T @ u)


def test_gram_equals_that_of_the_loop(operator, expected):
    close(operator.gram(), expected @ expected.T)


def test_spectrum_and_alignment_equal_the_svd_of_the_loop(operator, expected):
    spectrum, vector = jacobian_spectrum(operator, method="gram"), torch.randn(expected.shape[0])
    values = torch.linalg.svdvals(expected)
    resolved = values > 1e-3 * values[0]
    close(spectrum.singular_values[: len(values)][resolved], values[resolved])
    gaps = values[:-1] - values[1:]
    rank = int(torch.where(resolved[:-1], gaps, torch.tensor(-1.0)).argmax()) + 1
    assert spectrum.frobenius_norm == pytest.approx(float(expected.norm()), rel=1e-12)
    alignment = spectrum.information_space(rank=rank).alignment(vector)
    assert [float(ratio) for ratio in alignment] == pytest.approx(alignment_by_svd(expected, vector, rank), rel=1e-10)


def test_looking_leaves_no_trace(case):
    case.model.train()
    first = next(iter(case.model.children()), None)
    if first is not None:
        first.eval()
    before = copy.deepcopy(dict(case.model.state_dict()))
    flags = [module.training for module in case.model.modules()]
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    inputs = copy.deepcopy(case.inputs)
    operator = JacobianOperator(case.model, case.inputs, output_fn=case.output_fn)
    operator.gram()
    assert [module.training for module in case.model.modules()] == flags
    after = case.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in case.model.parameters())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert (np.random.get_state()[1] == streams[2]).all()
    torch.testing.assert_close(case.inputs, inputs, rtol=0, atol=0)


def test_an_exception_inside_leaves_no_trace():
    class Fails(InPlaceBuffer):
        def forward(self, x):
            super().forward(x)
            torch.rand(1)
            if self.calls > 5:
                raise RuntimeError("deliberate")
            return self.linear(x)

    model, state = Fails(), torch.get_rng_state()
    model.train()
    with pytest.raises(RuntimeError, match="deliberate"):
        JacobianOperator(model, torch.randn(20, 3)).dense()
    assert model.training
    assert float(model.calls) == 0
    assert float(model.mean.abs().sum()) == 0
    torch.rand(1)
    torch.set_rng_state(state)


def test_frozen_parameters_have_no_column_and_are_counted():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    operator = JacobianOperator(model, torch.randn(5, 3))
    assert (operator.shape, operator.num_frozen) == ((10, 10), 16)
    close(operator.dense(), jacobian_by_loop(model, operator.inputs))


def test_tied_parameters_are_counted_once():
    operator = JacobianOperator(TiedEmbedding(), torch.randint(6, (2, 3)))
    assert operator.shape[1] == 6 * 4 + 4 * 4 + 4


def test_unused_parameters_are_named():
    operator = JacobianOperator(CalledTwice(), torch.randn(4, 3))
    assert operator.unused() == ["unused.weight", "unused.bias"]


@pytest.mark.parametrize(
    ("layers", "size"), [(["0"], 12), (["0.weight"], 9), (["?.bias"], 5), (["*"], 20), (["0", "2.bias"], 14)]
)
def test_layer_patterns_select_columns(layers, size):
    model, inputs = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(4, 3)
    operator = JacobianOperator(model, inputs, layers=layers)
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    whole = JacobianOperator(model, inputs).dense().split(sizes, dim=1)
    assert operator.shape[1] == size
    close(operator.dense(), torch.cat([whole[names.index(name)] for name in operator.names], dim=1))


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"'frist' matches none; the nearest are \['first"):
        JacobianOperator(CASES["item_branch"]().model, torch.ones(1, 3), layers=["frist"])


def test_a_model_with_nothing_trainable_is_refused():
    with pytest.raises(ValueError, match="trainable parameter"):
        JacobianOperator(nn.Linear(2, 2).requires_grad_(False), torch.ones(1, 2))


def test_a_random_forward_pass_is_refused():
    with pytest.raises(ValueError, match="random function"):
        JacobianOperator(nn.Sequential(nn.Linear(3, 4), nn.Dropout()), torch.randn(4, 3), mode="train")


def test_train_mode_differentiates_through_the_batch_statistics():
    model, inputs = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.randn(6, 3)
    dense = JacobianOperator(model, inputs, mode="train").dense()
    same = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    same.load_state_dict(model.state_dict(), strict=False)
    close(dense, jacobian_by_loop(same, inputs))
    assert float((dense - JacobianOperator(model, inputs).dense()).norm() / dense.norm()) > 0.1


def test_samples_that_see_each_other_are_noticed():
    assert JacobianOperator(BatchCoupled(), torch.randn(5, 3)).coupled
    assert not JacobianOperator(nn.Linear(3, 2), torch.randn(5, 3)).coupled


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_products_do_not_depend_on_the_chunk_size(chunk_size):
    case = CASES["mlp"]()
    operator = JacobianOperator(case.model, case.inputs, chunk_size=chunk_size)
    v = torch.randn(operator.shape[1])
    close(operator.T @ (operator @ v), operator.dense().T @ (operator.dense() @ v))


@pytest.mark.parametrize("columns_at_a_time", [1, 5, 16, 1000])
def test_gram_does_not_depend_on_the_memory_budget(columns_at_a_time):
    case = CASES["conv"]()
    operator = JacobianOperator(case.model, case.inputs)
    rows = operator.shape[0]
    budget = rows * rows * 8 + 2 * rows * 8 * columns_at_a_time
    close(operator.gram(memory_budget=budget), operator.gram(), 1e-12)


def test_a_gram_beyond_the_budget_is_refused_with_numbers():
    with pytest.raises(MemoryError, match=r"within 100 bytes.*10 x 10.*800"):
        JacobianOperator(nn.Linear(3, 2), torch.randn(5, 3)).gram(memory_budget=100)


def test_gram_of_linear_model_is_input_gram_kron_identity():
    x = torch.randn(5, 3)
    close(JacobianOperator(nn.Linear(3, 2, bias=False), x).gram(), torch.kron(x @ x.T, torch.eye(2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_are_seen_in_float32(dtype):
    model, inputs = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype),
        torch.randn(5, 3),
    )
    twin = copy.deepcopy(model).float()
    before = copy.deepcopy(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    dense = JacobianOperator(model, inputs).dense()
    assert dense.dtype == torch.float32
    close(dense, jacobian_by_loop(twin, inputs.float()), 1e-6)
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context):
    case = CASES["conv_batch_norm"]()
    expected = jacobian_by_loop(case.model, case.inputs)
    with context():
        operator = JacobianOperator(case.model, case.inputs.clone())
        close(operator.dense(), expected)
        close(operator.gram(), expected @ expected.T)


def test_compiled_modules_keep_their_plain_names():
    model = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), backend="eager")
    operator = JacobianOperator(model, torch.randn(4, 3), layers=["0"])
    assert operator.names == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("model", "output_fn", "error"),
    [
        (nn.GRU(3, 2), None, "pass `output_fn`"),
        (nn.Linear(3, 2), lambda outputs: outputs.sum(), "one row of outputs"),
        (nn.Linear(3, 2), lambda outputs: outputs.long(), "floating-point"),
        (nn.Linear(3, 2), lambda outputs: outputs.to(torch.complex128), "floating-point"),
    ],
)
def test_outputs_without_a_jacobian_are_refused(model, output_fn, error):
    with pytest.raises((TypeError, ValueError), match=error):
        JacobianOperator(model.double(), torch.randn(5, 3), output_fn=output_fn)


@pytest.mark.parametrize("vector", [torch.ones(3), torch.ones(2, 2, 2), torch.ones(())])
def test_vectors_of_the_wrong_shape_are_refused(vector):
    with pytest.raises(ValueError, match=r"shape \(8,\) or \(8, b\)"):
        _ = JacobianOperator(nn.Linear(3, 2), torch.randn(5, 3)) @ vector


def test_nan_weights_are_refused():
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(ArithmeticError, match="finite"):
        JacobianOperator(nn.Sequential(model, nn.Tanh()), torch.randn(5, 3)).gram()


def test_hooks_of_parameters_neither_see_nor_change_the_jacobian():
    case = CASES["mlp"]()
    expected, seen = jacobian_by_loop(case.model, case.inputs), []
    weight = case.model[0].weight
    handle = weight.register_hook(lambda gradient: seen.append(gradient) or 2 * gradient)
    operator = JacobianOperator(case.model, case.inputs)
    close(operator.dense(), expected)
    close(operator.gram(), expected @ expected.T)
    assert seen == []
    case.model(case.inputs).sum().backward()
    assert len(seen) == 1
    close(weight.grad, 2 * seen[0])
    handle.remove()
    case.model(case.inputs).sum().backward()
    assert len(seen) == 1


class Patches(nn.Module):
    """Batch norm whose gradient comes in the order of channels last, which torch 2.13 misreads for a batch of one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 2, stride=2), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(tokens) * torch.linspace(1, 2, tokens.shape[1])[:, None]).sum(1)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_sample_alone_in_its_batch_is_differentiated_as_among_others(samples):
    model, inputs = Patches().eval(), torch.randn(samples, 1, 4, 6)
    model.norm.running_var.uniform_(0.5, 2)
    parameters, step = list(model.parameters()), 1e-5
    directions = torch.randn(sum(p.numel() for p in parameters), 3)

    def outputs(size):
        changed = [p + size * d.view_as(p) for p, d in zip(parameters, parts, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        return torch.func.functional_call(model, dict(zip(names, changed, strict=True)), (inputs,)).flatten()

    expected = []
    for direction in directions.T:
        parts = direction.split([p.numel() for p in parameters])
        with torch.no_grad():
            expected.append((outputs(step) - outputs(-step)) / (2 * step))
    expected = torch.stack(expected, dim=1)
    operator = JacobianOperator(model, inputs, chunk_size=4)
    close(operator.dense() @ directions, expected, 1e-7)
    close(torch.cat([operator.rows(i, i + 1) for i in range(samples)]) @ directions, expected, 1e-7)
    close(operator @ directions, expected, 1e-7)
    close(operator.T @ torch.eye(2 * samples), operator.dense().T)
    close(operator.gram(), operator.dense() @ operator.dense().T)
    assert operator.layering.plain == []


def test_anomaly_detection_is_off_inside_and_on_again_after(recwarn):
    case = CASES["once_differentiable"]()
    expected = jacobian_by_loop(case.model, case.inputs)
    with torch.autograd.set_detect_anomaly(True):
        close(JacobianOperator(case.model, case.inputs).gram(), expected @ expected.T)
        assert torch.is_anomaly_enabled()
    assert not [warning for warning in recwarn if "Error detected" in str(warning.message)]
