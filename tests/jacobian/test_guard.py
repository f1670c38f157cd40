"""Looking at a network puts back everything that a forward pass can change, also after an exception."""

import collections
import contextlib
import copy
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.guard import full_precision, observed, preserved_rng

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class DeliberateError(Exception):
    """Raised inside to see what is put back then."""


def look(module, inside=lambda module: None, fails=False, mode="eval"):
    """Do something while the module is observed, and fail if asked to."""
    with contextlib.suppress(DeliberateError), observed(module, mode):
        inside(module)
        if fails:
            raise DeliberateError


def streams():
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2:]


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.randn(3).sum())


@pytest.fixture(params=[False, True], ids=["leaves", "fails"])
def fails(request):
    return request.param


# Other attributes


class Attributes(nn.Module):
    """A module that counts, remembers and caches in attributes of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.calls, self.cache, self.seen, self.names = 0, {}, [], {"a"}
        self.recent = collections.deque([1, 2], maxlen=2)
        self.mean = torch.zeros(3)
        self.nothing = None

    def forward(self, x):
        self.calls += 1
        self.cache["bias"] = self.linear.bias * 2
        self.seen.append(x)
        self.names.add("b")
        self.recent.append(3)
        self.mean.mul_(0.5).add_(x.detach().mean(0))
        self.nothing, self.last = x, self.linear(x)
        return self.last


def test_caches_and_last_outputs_are_put_back_but_counters_count_on(fails):
    module = nn.Sequential(Attributes())
    inner = module[0]
    held = {name: id(value) for name, value in vars(inner).items() if name != "calls"}
    look(module, lambda m: m(torch.randn(4, 3)), fails)
    assert {name: id(value) for name, value in vars(inner).items() if name != "calls"} == held
    assert (inner.cache, inner.seen, inner.names, inner.nothing) == ({}, [], {"a"}, None)
    assert inner.recent == collections.deque([1, 2], maxlen=2)
    assert inner.calls == 1
    torch.testing.assert_close(inner.mean, torch.zeros(3), rtol=0, atol=0)


def test_what_an_attribute_held_before_is_held_after(fails):
    inner = Attributes()
    inner(torch.ones(1, 3))
    last, cache, mean = inner.last, dict(inner.cache), inner.mean.clone()
    look(inner, lambda m: m(torch.randn(4, 3)), fails)
    assert inner.last is last
    assert inner.calls == 2
    assert len(inner.seen) == 1
    assert inner.cache["bias"] is cache["bias"]
    torch.testing.assert_close(inner.mean, mean, rtol=0, atol=0)


def test_a_cache_of_evaluation_mode_does_not_outlive_the_look():
    """A module may clear such a cache in ``train()``, which nobody calls between a look and the next validation."""

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.cache = nn.Parameter(torch.randn(2, 3)), {}

        def forward(self, x):
            if self.training:
                return x @ (2 * self.weight).T
            if "weight" not in self.cache:
                self.cache["weight"] = 2 * self.weight
            return x @ self.cache["weight"].T

    module, x = Cached().train(), torch.randn(4, 3)
    for _ in range(2):
        gram = JacobianOperator(module, x).gram()
        torch.testing.assert_close(gram, 4 * torch.kron(x @ x.T, torch.eye(2)).double())
        module.weight.data.mul_(3)
        torch.testing.assert_close(module.eval()(x), x @ (2 * module.weight).T)
        module.cache.clear()
        module.train()


# Checkpoints


class Checkpointed(nn.Module):
    def __init__(self, reentrant, fails=False):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.reentrant, self.fails = reentrant, fails

    def forward(self, x):
        if self.fails:
            raise DeliberateError
        hidden = torch.tanh(self.first(x))
        return self.last(checkpoint(lambda h: torch.tanh(self.second(h)), hidden, use_reentrant=self.reentrant))


def kept_tensors(module, x):
    """How many tensors a pass keeps for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t.detach(), lambda t: t):
        module(x)
    return len(kept)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_networks_have_their_jacobian_by_rules_and_are_checkpointed_after(reentrant, fails):
    module, x = Checkpointed(reentrant).double(), torch.randn(5, 3, dtype=torch.float64)
    operator = JacobianOperator(module, x)
    plain = nn.Sequential(module.first, nn.Tanh(), module.second, nn.Tanh(), module.last)
    torch.testing.assert_close(operator.gram(), JacobianOperator(plain, x).gram(), rtol=1e-12, atol=1e-12)
    assert operator.layering.plain == []
    assert operator.dense().shape == (10, 46)
    module.fails = fails
    with contextlib.suppress(DeliberateError):
        JacobianOperator(module, x)
    module.fails = False
    assert kept_tensors(module, x) < kept_tensors(plain, x)


# Random streams


def test_random_streams_are_restored(fails):
    before = streams()
    with contextlib.suppress(DeliberateError), preserved_rng():
        first = draw()
        if fails:
            raise DeliberateError
    assert streams() == before
    assert draw() == first


def test_random_streams_are_restored_after_reseeding():
    before = streams()
    with preserved_rng():
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        draw()
    assert streams() == before


def test_random_streams_are_not_moved_by_preserving_them():
    with preserved_rng():
        inside = draw()
    assert draw() == inside


def test_observation_restores_the_random_streams(fails):
    module, before = nn.Dropout(), streams()
    look(module, lambda m: (draw(), m(torch.ones(9))), fails, mode="train")
    assert streams() == before


# Modes


def mixed_modes():
    """Every submodule with a flag of its own: in training, but some pinned to evaluation."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.Dropout())
    module[1].eval()
    module[1][1].train()
    return module


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_inside_every_submodule_is_in_the_mode(mode):
    with observed(mixed_modes(), mode) as module:
        assert {submodule.training for submodule in module.modules()} == {mode == "train"}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("inside", [lambda m: None, nn.Module.train, nn.Module.eval], ids=["still", "train", "eval"])
def test_each_submodule_keeps_its_own_training_flag(mode, inside, fails):
    module = mixed_modes()
    flags = [submodule.training for submodule in module.modules()]
    look(module, inside, fails, mode)
    assert [submodule.training for submodule in module.modules()] == flags


def test_modules_that_override_train_are_not_asked():
    class Pinned(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("train() was called")

    with observed(Pinned(nn.Dropout())) as module:
        assert not module[0].training
    assert module[0].training


@pytest.mark.parametrize("mode", ["test", True, None])
def test_another_mode_is_refused(mode):
    with pytest.raises(ValueError, match="Expected `mode`") as caught, observed(nn.Identity(), mode):
        pass
    assert str(caught.value) == f"Expected `mode` to be 'eval' or 'train', but got {mode!r}."


# Buffers


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("empty", None)
        self.register_buffer("calls", torch.tensor(7), persistent=False)
        self.register_buffer("unknown", torch.tensor([float("nan"), 1.0]))
        self.child = nn.BatchNorm1d(3)


def replace(module):
    module.mean, module.child.running_mean = torch.zeros(3), torch.ones(3)


def write(module):
    module.mean.zero_(), module.calls.add_(1), module.unknown.fill_(3), module.child.running_var.mul_(2)


def fill_the_empty_one(module):
    module.empty = torch.ones(2)


def empty_a_full_one(module):
    module.mean = None


def delete(module):
    del module.mean
    del module.calls


def add(module):
    module.register_buffer("new", torch.ones(1))
    module.child.register_buffer("other", torch.ones(1), persistent=False)


def replace_and_write_the_old(module):
    old = module.mean
    module.mean = torch.zeros(3)
    old.fill_(9)


def swap_data(module):
    module.mean.data = torch.zeros(3)


def resize(module):
    module.mean.resize_(5)


CHANGES = [
    write,
    replace,
    fill_the_empty_one,
    empty_a_full_one,
    delete,
    add,
    replace_and_write_the_old,
    swap_data,
    resize,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_buffers_are_the_same_tensors_with_the_same_values(change, fails):
    module = Buffers()
    held, values, keys = dict(module.named_buffers()), copy.deepcopy(dict(module.named_buffers())), module.state_dict()
    names = [list(submodule._buffers) for submodule in module.modules()]
    look(module, change, fails)
    after = dict(module.named_buffers())
    assert {name: id(tensor) for name, tensor in after.items()} == {name: id(tensor) for name, tensor in held.items()}
    assert [list(submodule._buffers) for submodule in module.modules()] == names
    assert module.empty is None
    assert list(module.state_dict()) == list(keys)
    torch.testing.assert_close(after, values, rtol=0, atol=0, equal_nan=True)


def test_buffers_that_nothing_wrote_to_are_not_written_to():
    module = Buffers()
    del module.unknown
    versions = {name: buffer._version for name, buffer in module.named_buffers()}
    look(module)
    assert {name: buffer._version for name, buffer in module.named_buffers()} == versions


def test_a_graph_through_a_buffer_survives_observation():
    module = nn.BatchNorm1d(3).eval()
    outputs = module(torch.randn(4, 3))
    look(module, lambda m: m(torch.randn(4, 3)))
    outputs.sum().backward()
    assert module.weight.grad is not None


def test_batch_statistics_of_train_mode_are_undone(fails):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = copy.deepcopy(module.state_dict())
    look(module, lambda m: m(torch.randn(8, 2)), fails, mode="train")
    torch.testing.assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)


def test_buffers_of_a_scripted_module_are_restored(fails):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls = self.calls + 1
            return x * self.calls

    module = torch.jit.script(Counter())
    look(module, lambda m: m(torch.ones(1)), fails)
    assert module(torch.ones(1)) == 1


def test_buffers_are_restored_where_the_caller_is_in_inference_mode(fails):
    module = Buffers()
    before = module.mean.clone()
    with torch.inference_mode():
        look(module, write, fails)
    assert torch.equal(module.mean, before)


# Gradients


def test_gradients_are_recorded_inside_and_the_setting_is_restored(fails):
    with torch.no_grad():
        look(nn.Identity(), lambda _: torch.ones(1, requires_grad=True).mul(2).sum().backward(), fails)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_inference_mode_is_off_inside_and_restored(fails):
    inside = []
    with torch.inference_mode():
        look(nn.Identity(), lambda _: inside.append(torch.is_inference_mode_enabled()), fails)
        assert torch.is_inference_mode_enabled()
    assert inside == [False]
    assert not torch.is_inference_mode_enabled()


def test_parameters_and_their_gradients_are_not_touched(fails):
    module, inputs = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.randn(4, 2)
    module(inputs).square().sum().backward()
    held = [(id(p), id(p.grad), p._version, p.grad._version) for p in module.parameters()]
    values = [p.grad.clone() for p in module.parameters()]
    look(module, lambda m: torch.autograd.grad(m(inputs).sum(), list(m.parameters())), fails)
    assert [(id(p), id(p.grad), p._version, p.grad._version) for p in module.parameters()] == held
    torch.testing.assert_close([p.grad for p in module.parameters()], values, rtol=0, atol=0)


# Arithmetic


def test_autocast_is_off_inside_and_restored(fails):
    inside, module = [], nn.Linear(2, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        look(module, lambda m: inside.append(m(torch.ones(1, 2, dtype=torch.float32)).dtype), fails)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert module(torch.ones(1, 2, dtype=torch.float32)).dtype == torch.bfloat16
    assert inside == [torch.float32]
    assert not torch.is_autocast_enabled("cpu")


def sdpa_settings():
    cuda = torch.backends.cuda
    return cuda.math_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("outside", [None, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
def test_attention_is_plain_inside_and_restored(outside, fails):
    inside = []
    with sdpa_kernel(outside) if outside else contextlib.nullcontext():
        before = sdpa_settings()
        look(nn.Identity(), lambda _: inside.append(sdpa_settings()), fails)
        assert sdpa_settings() == before
    assert inside == [(True, False, False)]


def test_attention_can_be_differentiated_twice_inside():
    x = torch.randn(1, 1, 3, 4, requires_grad=True)
    with observed(nn.Identity()):
        (first,) = torch.autograd.grad(F.scaled_dot_product_attention(x, x, x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.norm() > 0


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_of_transformers_is_off_inside_and_restored(enabled, fails):
    inside, before = [], torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        look(nn.Identity(), lambda _: inside.append(torch.backends.mha.get_fastpath_enabled()), fails)
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert inside == [False]


LEVELS = {
    "all": lambda: torch.backends,
    "cudnn": lambda: torch.backends.cudnn,
    "cuda.matmul": lambda: torch.backends.cuda.matmul,
    "cudnn.conv": lambda: torch.backends.cudnn.conv,
    "cudnn.rnn": lambda: torch.backends.cudnn.rnn,
    "mkldnn.matmul": lambda: torch.backends.mkldnn.matmul,
    "mkldnn.conv": lambda: torch.backends.mkldnn.conv,
    "mkldnn.rnn": lambda: torch.backends.mkldnn.rnn,
}
needs_levels = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this torch has one switch of float32 precision only"
)


def precisions():
    return {name: level().fp32_precision for name, level in LEVELS.items()}


@pytest.fixture
def _own_precision():
    """The switches of precision as they were, for tests that turn them."""
    old = precisions() if hasattr(torch.backends, "fp32_precision") else {}
    yield
    for name, precision in old.items():
        if LEVELS[name]().fp32_precision != precision:
            LEVELS[name]().fp32_precision = precision


@needs_levels
@pytest.mark.usefixtures("_own_precision")
@pytest.mark.parametrize("level", LEVELS)
def test_float32_products_are_exact_inside_whichever_switch_was_turned(level, fails):
    LEVELS[level]().fp32_precision = "tf32"
    before, inside = precisions(), []
    look(nn.Identity(), lambda _: inside.append(precisions()), fails)
    assert set(inside[0].values()) == {"ieee"}
    assert precisions() == before


@needs_levels
@pytest.mark.usefixtures("_own_precision")
def test_switches_that_the_older_one_cannot_express_are_exact_inside_and_restored(fails):
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision = "ieee", "tf32"
    before, inside = precisions(), []
    look(nn.Identity(), lambda _: inside.append(precisions()), fails)
    assert set(inside[0].values()) == {"ieee"}
    assert precisions() == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_older_switch_of_matmul_precision_is_restored(precision, fails):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        look(nn.Identity(), fails=fails)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_code_inside_may_read_and_turn_the_switches_of_cudnn():
    with observed(nn.Identity()):
        assert not torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=False):
            assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.allow_tf32


# Compiled code


def counting_compiled(module):
    calls = []

    def backend(graph, _):
        def run(*inputs):
            calls.append("compiled")
            return graph(*inputs)

        return run

    return torch.compile(module, backend=backend), calls


def test_compiled_modules_run_eagerly_inside_and_compiled_after(fails):
    torch.compiler.reset()
    module, calls = counting_compiled(nn.Linear(2, 2))
    look(module, lambda m: m(torch.ones(1, 2)), fails)
    assert calls == []
    module(torch.ones(1, 2))
    assert calls == ["compiled"]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="inductor needs a C++ compiler, there is none"
)
def test_an_inductor_compiled_network_has_its_jacobian_and_trains_on_bit_for_bit():
    def trained(looked_at):
        torch.compiler.reset()
        torch.manual_seed(1)
        plain = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 2)).float()
        module, optimizer = torch.compile(plain), torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
        inputs, grams = torch.randn(16, 3, dtype=torch.float32), []
        for _ in range(6):
            if looked_at:
                grams.append(JacobianOperator(module, inputs[:5]).gram())
                eager = JacobianOperator(copy.deepcopy(plain), inputs[:5]).gram()
                torch.testing.assert_close(grams[-1], eager, rtol=1e-5, atol=1e-6)
            optimizer.zero_grad()
            module(inputs).sub(1).square().mean().backward()
            optimizer.step()
        return plain.state_dict()

    torch.testing.assert_close(dict(trained(True)), dict(trained(False)), rtol=0, atol=0)


# Half precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_leaves_full_precision_alone(dtype):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(dtype)
    held = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    with full_precision(module) as same:
        assert [id(tensor) for tensor in (*same.parameters(), *same.buffers())] == held


class Tied(nn.Module):
    """Half-precision weights shared by two layers, and buffers of both kinds."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, dtype=dtype), nn.Linear(3, 3, dtype=dtype)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)
        self.register_buffer("shift", torch.randn(3).to(dtype), persistent=False)
        self.register_buffer("scale", torch.randn(3).to(dtype))
        self.register_buffer("calls", torch.tensor(2))
        self.register_parameter("absent", None)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_inside_all_halves_are_float32_of_the_same_values_and_tied_ones_stay_tied(dtype):
    module = Tied(dtype)
    values = {name: tensor.float() for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    with full_precision(module) as precise:
        assert {p.dtype for p in precise.parameters()} | {precise.shift.dtype} == {torch.float32}
        assert precise.second.weight is precise.first.weight
        assert len(list(precise.parameters())) == 3
        assert [p.requires_grad for p in precise.parameters()] == [True, False, True]
        assert precise.calls.dtype == torch.int64
        inside = {name: tensor for name, tensor in precise.state_dict().items() if name != "calls"}
        torch.testing.assert_close(inside, values, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_come_back_as_the_same_tensors_with_their_gradients(dtype, fails):
    module = Tied(dtype)
    module.second(module.first(torch.ones(2, 3, dtype=dtype))).sum().backward()
    held = [(name, id(t), id(t.grad), t._version) for name, t in module.named_parameters(remove_duplicate=False)]
    buffers = [(name, id(tensor)) for name, tensor in module.named_buffers()]
    values, gradient = copy.deepcopy(module.state_dict()), module.first.weight.grad.clone()
    with contextlib.suppress(DeliberateError), full_precision(module) as precise:
        precise.second(precise.first(torch.ones(2, 3, dtype=torch.float32))).sum().backward()
        precise.shift.zero_()
        if fails:
            raise DeliberateError
    after = [(name, id(t), id(t.grad), t._version) for name, t in module.named_parameters(remove_duplicate=False)]
    assert after == held
    assert [(name, id(tensor)) for name, tensor in module.named_buffers()] == buffers
    assert list(module.state_dict()) == list(values)
    assert torch.equal(module.first.weight.grad, gradient)
    torch.testing.assert_close(dict(module.state_dict()), dict(values), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("dtype", HALVES)
def test_recurrent_layers_compute_with_the_float32_twins_and_get_their_own_weights_back(kind, dtype, fails):
    module, inputs = kind(3, 4, num_layers=2, batch_first=True).to(dtype), torch.randn(2, 5, 3, dtype=torch.float32)
    exact = copy.deepcopy(module).float()
    flat = [id(weight) for weight in module._flat_weights]
    with contextlib.suppress(DeliberateError), full_precision(module) as precise:
        torch.testing.assert_close(precise(inputs)[0], exact(inputs)[0], rtol=1e-6, atol=1e-6)
        assert [id(w) for w in precise._flat_weights] == [id(p) for p in precise.parameters()]
        if fails:
            raise DeliberateError
    assert [id(weight) for weight in module._flat_weights] == flat
    assert [id(parameter) for parameter in module.parameters()] == flat
    assert module(inputs.to(dtype))[0].dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_behind_a_parametrization_are_seen_in_float32(dtype):
    module = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)).to(dtype)
    held = [id(parameter) for parameter in module.parameters()]
    with full_precision(module) as precise:
        assert precise.weight.dtype == torch.float32
    assert module.weight.dtype == dtype
    assert [id(parameter) for parameter in module.parameters()] == held


def test_only_the_halves_of_a_mixed_network_are_replaced():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16())
    with full_precision(module) as precise:
        assert [p.dtype for p in precise.parameters()] == [torch.float64, torch.float64, torch.float32, torch.float32]


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_with_a_largest_norm_keeps_its_weights(kind):
    network = nn.Sequential(kind(6, 4, max_norm=0.5), nn.Flatten(), nn.LazyLinear(2))
    tokens = torch.randint(6, (5, 3))
    network(tokens)
    with torch.no_grad():
        network[0].weight.fill_(3.0)
    JacobianOperator(network, tokens).gram()
    assert torch.equal(network[0].weight, torch.full((6, 4), 3.0))
