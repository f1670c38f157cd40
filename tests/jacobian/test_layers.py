"""Every layer's rule against a loop over the outputs, on random shapes and options; each of them must be a rule."""

import pytest
import torch
from cases import Readout
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import jacobian_by_loop
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.factors import Layout
from lightning_bounds.jacobian.layers import LAYERS

SMALL = st.integers(1, 3)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def examples(count):
    phases = (Phase.generate, Phase.shrink)
    return settings(deadline=None, max_examples=count, derandomize=True, database=None, phases=phases)


def random_values(module):
    """Parameters and statistics that no formula treats specially."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return module


def assert_rule(layer, inputs, data, covered=True):
    """Rows and Gram matrix of a layer, alone or after another one, as from a loop over outputs."""
    first = nn.PReLU() if inputs.is_floating_point() and data.draw(st.booleans(), "after a layer") else nn.Identity()
    last = nn.ReLU(inplace=True) if data.draw(st.booleans(), "overwritten") else nn.Identity()
    model = nn.Sequential(first, layer, last, Readout(data.draw(st.integers(1, 4), "outputs")))
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, len(inputs)), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    assert (operator.coverage()["plain"] == 0) == covered, operator.layering.reason


def samples(data, *shape):
    """Between one and five random samples; drawn numbers alone decide on them."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    return torch.randn(data.draw(st.integers(1, 5), "samples"), *shape, generator=generator)


def several(data, dims, strategy, name):
    """One number for each dimension, or one for all."""
    if data.draw(st.booleans(), f"one {name} for all"):
        return (data.draw(strategy, name),) * dims
    return data.draw(st.tuples(*(strategy,) * dims), name)


@examples(60)
@given(st.data(), st.lists(SMALL, max_size=2), SMALL, SMALL, st.booleans())
def test_linear(data, places, fan_in, fan_out, bias):
    assert_rule(nn.Linear(fan_in, fan_out, bias=bias), samples(data, *places, fan_in), data)


@pytest.mark.parametrize("dims", [1, 2, 3])
@examples(60)
@given(st.data(), SMALL, SMALL, SMALL, st.booleans())
def test_convolution(dims, data, groups, width_in, width_out, bias):
    kernel, dilation = several(data, dims, SMALL, "kernel"), several(data, dims, st.integers(1, 2), "dilation")
    size = [d * (k - 1) + 1 + data.draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True)]
    padding = data.draw(st.sampled_from(["same", "valid", "numbers"]), "padding")
    stride = (1,) * dims if padding == "same" else several(data, dims, SMALL, "stride")
    if padding == "numbers":
        padding = tuple(data.draw(st.integers(0, min(2, length - 1))) for length in size)
    layer = CONVOLUTIONS[dims - 1](
        groups * width_in,
        groups * width_out,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        padding_mode=data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]), "padding mode"),
    )
    assert_rule(layer, samples(data, groups * width_in, *size), data)


@pytest.mark.parametrize("dims", [1, 2, 3])
@examples(60)
@given(st.data(), SMALL, SMALL, SMALL, st.booleans())
def test_transposed_convolution(dims, data, groups, width_in, width_out, bias):
    kernel, dilation = several(data, dims, SMALL, "kernel"), several(data, dims, st.integers(1, 2), "dilation")
    stride, size = several(data, dims, SMALL, "stride"), data.draw(st.tuples(*(SMALL,) * dims), "size")
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    reach = [(n - 1) * s + d * (k - 1) for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    padding = tuple(data.draw(st.integers(0, min(2, (r + e) // 2))) for r, e in zip(reach, extra, strict=True))
    layer = TRANSPOSED[dims - 1](
        groups * width_in,
        groups * width_out,
        kernel,
        stride=stride,
        padding=padding,
        output_padding=extra,
        groups=groups,
        bias=bias,
        dilation=dilation,
    )
    assert_rule(layer, samples(data, groups * width_in, *size), data)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_convolutions_in_either_order_of_memory(layer, memory_format):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), layer(4, 2, 2, groups=2), Readout(3)).to(memory_format=memory_format)
    inputs = torch.randn(4, 2, 3, 4).to(memory_format=memory_format)
    operator = JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, 4), jacobian_by_loop(model, inputs), rtol=1e-9, atol=1e-9)
    assert operator.coverage()["plain"] == 0


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
@examples(30)
@given(st.data(), SMALL)
def test_batch_norm_in_evaluation_mode(dims, data, channels):
    size = data.draw(st.tuples(*(SMALL,) * dims), "size")
    layer = random_values(BATCH_NORMS[max(dims, 1) - 1](channels))
    assert_rule(layer, samples(data, channels, *size), data)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("statistics", [False, True], ids=["own statistics", "running statistics"])
@examples(30)
@given(st.data(), SMALL)
def test_instance_norm(dims, statistics, data, channels):
    size = data.draw(st.tuples(*(st.integers(2, 3),) * dims), "size")
    layer = random_values(INSTANCE_NORMS[dims - 1](channels, affine=True, track_running_stats=statistics))
    assert_rule(layer, samples(data, channels, *size), data)


@examples(60)
@given(st.data(), SMALL, st.integers(2, 3), st.lists(SMALL, max_size=2))
def test_group_norm(data, groups, width, size):
    layer = random_values(nn.GroupNorm(groups, groups * width))
    assert_rule(layer, samples(data, groups * width, *size), data)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@examples(50)
@given(st.data(), st.lists(SMALL, max_size=1), st.integers(2, 3), st.lists(SMALL, max_size=2))
def test_layer_norm_and_rms_norm(norm, data, shape, last, places):
    shape = [*shape, last]
    options = {"bias": data.draw(st.booleans(), "bias")} if norm is nn.LayerNorm else {}
    assert_rule(random_values(norm(shape, **options)), samples(data, *places, *shape), data)


@examples(50)
@given(st.data(), SMALL, st.lists(SMALL, max_size=2), st.booleans())
def test_prelu(data, channels, size, each):
    assert_rule(random_values(nn.PReLU(channels if each else 1)), samples(data, channels, *size), data)


@examples(60)
@given(st.data(), SMALL, st.lists(SMALL, max_size=2), st.sampled_from([torch.int32, torch.int64]))
def test_embedding(data, words, places, dtype):
    padding = data.draw(st.one_of(st.none(), st.integers(-words, words - 1)), "padding index")
    tokens = (samples(data, *places).abs() * 7).to(dtype) % words
    layer = nn.Embedding(words, data.draw(SMALL, "width"), padding_idx=padding)
    assert_rule(random_values(layer), tokens, data)


class Attention(nn.Module):
    """Attention with every option, on one sequence or on three, with samples first or second."""

    def __init__(self, heads, width, batch_first, separate, **options):
        super().__init__()
        self.batch_first, self.separate = batch_first, separate
        widths = {"kdim": heads * width + 1, "vdim": 2} if separate == "widths" else {}
        self.attention = nn.MultiheadAttention(heads * width, heads, batch_first=batch_first, **widths, **options)
        self.widths = heads * width, widths.get("kdim", heads * width), widths.get("vdim", heads * width)

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        query, key, value = (x[..., :width] for width in self.widths)
        if self.separate == "inputs":
            key, value = torch.sin(key), torch.cos(value)
        y, weights = self.attention(query, key, key if self.separate == "keys" else value, need_weights=True)
        return (y if self.batch_first else y.transpose(0, 1)) * weights.sum((1, 2))[:, None, None]


@examples(60)
@given(st.data(), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans())
def test_projections_of_attention(data, heads, width, batch_first, bias, add_zero_attn):
    separate = data.draw(st.sampled_from(["", "inputs", "keys", "widths"]), "separate")
    layer = Attention(heads, width, batch_first, separate, bias=bias, add_zero_attn=add_zero_attn)
    inputs = samples(data, data.draw(SMALL, "length"), heads * width + 1)
    assert_rule(random_values(layer), inputs, data)


def test_biases_of_keys_and_values_go_by_rules():
    model, inputs = nn.Sequential(Attention(2, 2, True, "", add_bias_kv=True), Readout(2)), torch.randn(3, 4, 4)
    operator = JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, 3), jacobian_by_loop(model, inputs), rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == []


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        (lambda x, w: F.linear(x, w), (3,)),
        (lambda x, w: F.linear(x, w.reshape(1, 3)), (1, 3)),
        (lambda x, w: F.linear(weight=w, input=x, bias=w[:, 0]), (2, 3)),
        (lambda x, w: F.linear(x, torch.ones(2, 3), w), (1,)),
        (lambda x, w: F.conv1d(x.T, w), (2, 3, 1)),
        (lambda x, w: F.conv1d(x.T[None], w)[0].T, (2, 3, 1)),
        (lambda x, w: F.layer_norm(x[:, None], (1, 3), w).flatten(1), (1, 3)),
        (lambda x, w: F.prelu(x, w), (1,)),
        (lambda x, w: F.batch_norm(x, x[0].detach() * 0, x[0].detach() ** 0, bias=w), (3,)),
        (lambda x, w: F.embedding(x.abs().long() % 2, w, max_norm=100.0), (2, 2)),
        (lambda x, w: F.embedding_bag(x.abs().long() % 2, w, mode="sum"), (2, 2)),
        (lambda x, w: F.bilinear(x, x, w), (2, 3, 3)),
    ],
    ids=lambda part: None if callable(part) else "x".join(map(str, part)),
)
def test_functions_called_in_an_unusual_way_are_never_wrong(forward, shape):
    class Unusual(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shape))

        def forward(self, x):
            y = forward(x, self.weight)
            return torch.tanh(y.T if y.shape[0] != len(x) else y)

    model, inputs = Unusual(), torch.randn(4, 3)
    expected, operator = jacobian_by_loop(model, inputs), JacobianOperator(model, inputs)
    torch.testing.assert_close(operator.rows(0, 4), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)


# Layouts


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_layout_brings_each_place_of_each_sample_to_the_front(dim, interleaved):
    n, repeats, order = 3, 2, (lambda i, r: r * 3 + i) if interleaved else (lambda i, r: i * 2 + r)
    tensor = torch.randn(6, 6, 6)
    first = Layout(dim, repeats, interleaved).samples_first(tensor)
    expected = [[tensor.select(dim, order(i, r)) for r in range(repeats)] for i in range(n)]
    assert torch.equal(first, torch.stack([torch.stack(parts) for parts in expected]))
    assert first.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.rows.__qualname__)
def test_every_rule_knows_which_arguments_may_be_parameters(layer):
    assert layer.roles == ("weight", "bias")
    assert layer.factors is None or callable(layer.factors)
