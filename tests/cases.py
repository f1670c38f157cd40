"""Small networks of every kind, with inputs: each case is built anew by the test that uses it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Case(NamedTuple):
    model: nn.Module
    inputs: Any
    output_fn: Callable[[Any], Tensor] | None = None


class Readout(nn.Module):
    """A few smooth functions of all activations of a sample, without parameters."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), -1)
        weights = torch.arange(1.0, x.shape[1] * self.outputs + 1, dtype=x.dtype).sin().reshape(-1, self.outputs)
        return torch.tanh(x / 2) @ weights + (x / 3).sin() @ weights.square()


class TiedEmbedding(nn.Module):
    """Token embedding whose weight is also the readout; one output per token and word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.readout = nn.Linear(4, 6, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.mix(self.embedding(tokens))))


class ItemBranch(nn.Module):
    """Reads a number out of its activations to decide what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        signs = [row.sum().item() > 0 for row in hidden]
        return torch.stack([self.second(torch.tanh(h) if sign else h) for h, sign in zip(hidden, signs, strict=True)])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0].sum(dim=1)


class InPlaceBuffer(nn.Module):
    """Counts its calls and keeps a running mean, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)
        return torch.tanh(self.linear(x))


class WithDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"features": x, "prediction": self.linear(x) * scale}


class SilentSecondDerivative(torch.autograd.Function):
    """A square whose backward pass is written without a graph, so that its own derivative is silently zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class OldFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return SilentSecondDerivative.apply(self.linear(x))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.outer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False))


class CalledTwice(nn.Module):
    """One layer used twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(3, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.linear(x)))


class BatchCoupled(nn.Module):
    """Centers by the mean of whatever batch it gets, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Residual(nn.Module):
    """A small residual network: strided and 1x1 convolutions, batch norm, in-place activations, nested blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4))
        self.shortcut = nn.Conv2d(2, 4, 1, stride=2, bias=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        update = self.body(hidden)
        update += self.shortcut(hidden)
        return self.head(torch.relu_(update))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, and a block with a learned scale: parameters without a layer of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        y = self.norm(x)
        return self.head((x + self.scale * self.attention(y, y, y)[0])[:, 0])


class BareParameters(nn.Module):
    """Parameters in products, sums and contractions that no layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))
        self.scale, self.core = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(4, 4, 2))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.matrix + self.shift) * self.scale
        return torch.einsum("ni,nj,ijk->nk", hidden, hidden, self.core) / self.temperature.exp()


class Hypernetwork(nn.Module):
    """Weights made by another layer: the same for all samples, and one for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.make = nn.Parameter(torch.randn(2)), nn.Linear(2, 12)
        self.each = nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(nn.functional.linear(x, self.make(self.code).reshape(4, 3)))
        return torch.einsum("ni,nio->no", hidden, self.each(x).reshape(-1, 4, 2))


class TiedAutoencoder(nn.Module):
    """Encodes with a matrix and decodes with its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.tanh(nn.functional.linear(x, self.weight)), self.weight.T, self.bias)


class PackedSequences(nn.Module):
    """Sequences of different lengths, given by a mapping, one behind another in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


class SharedParametrization(nn.Module):
    """Two layers whose weights are made by one parametrized matrix, computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.source.weight
        hidden = torch.tanh(nn.functional.linear(x, weight, self.source.bias))
        return self.head(torch.tanh(nn.functional.linear(hidden, weight)))


class Routed(nn.Module):
    """Two experts, each of which sees the samples of one sign."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        positive = x[:, 0] > 0
        outputs = x.new_zeros(len(x), 2)
        outputs[positive], outputs[~positive] = self.first(x[positive]), self.second(x[~positive])
        return torch.tanh(outputs)


class SortedSamples(nn.Module):
    """Brings the samples into another order before a layer, and back after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return self.second(torch.tanh(self.first(x[order]))[order.argsort()])


class SequenceFirst(nn.Module):
    """Time in the first dimension, samples in the second; attention flattens both into one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.TransformerEncoderLayer(4, 2, 5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(0, 1)).mean(dim=0))


def mlp() -> Case:
    return Case(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(7, 3))


def conv() -> Case:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2))
    return Case(model, torch.randn(4, 2, 4, 4))


def conv_batch_norm() -> Case:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    for _ in range(3):
        model(torch.randn(5, 1, 4, 4))
    return Case(model, torch.randn(4, 1, 4, 4))


def norms() -> Case:
    model = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    return Case(model, torch.randn(5, 3))


def recurrent() -> Case:
    return Case(nn.GRU(3, 4, batch_first=True), torch.randn(3, 5, 3), lambda returned: returned[0][:, -1])


def lstm() -> Case:
    return Case(nn.LSTM(3, 4, batch_first=True), torch.randn(3, 5, 3), lambda returned: returned[0][:, -1])


def transformer() -> Case:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return Case(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)), torch.randn(3, 3, 4))


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "conv": conv,
    "conv_batch_norm": conv_batch_norm,
    "group_and_layer_norm": norms,
    "tied_embedding": lambda: Case(TiedEmbedding(), torch.randint(6, (4, 3))),
    "gru": recurrent,
    "lstm": lstm,
    "attention": lambda: Case(Attention(), torch.randn(4, 3, 4)),
    "transformer": transformer,
    "item_branch": lambda: Case(ItemBranch(), torch.randn(6, 3)),
    "dropout": lambda: Case(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)), torch.randn(4, 3)),
    "in_place_buffer": lambda: Case(InPlaceBuffer(), torch.randn(4, 3)),
    "dict": lambda: Case(
        WithDict(), {"x": torch.randn(4, 3), "scale": torch.tensor(2.0)}, lambda returned: returned["prediction"]
    ),
    "once_differentiable": lambda: Case(OldFunction(), torch.randn(4, 3)),
    "checkpointed": lambda: Case(Checkpointed(), torch.randn(4, 3)),
    "called_twice_and_unused": lambda: Case(CalledTwice(), torch.randn(4, 3)),
    "batch_coupled": lambda: Case(BatchCoupled(), torch.randn(5, 3)),
    "spectral_norm": lambda: Case(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), torch.randn(4, 3)),
    "weight_norm": lambda: Case(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), torch.randn(4, 3)),
    "scripted": lambda: Case(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Tanh())), torch.randn(4, 3)),
    "scalar_output": lambda: Case(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.randn(4, 3)),
    "residual": lambda: Case(Residual(), torch.randn(4, 1, 4, 4)),
    "vision_transformer": lambda: Case(VisionTransformer(), torch.randn(3, 1, 4, 4)),
    "bare_parameters": lambda: Case(BareParameters(), torch.randn(4, 3)),
    "hypernetwork": lambda: Case(Hypernetwork(), torch.randn(4, 3)),
    "tied_autoencoder": lambda: Case(TiedAutoencoder(), torch.randn(4, 3)),
    "packed_sequences": lambda: Case(
        PackedSequences(), {"x": torch.randn(4, 3, 2), "lengths": torch.tensor([2, 3, 1, 3])}
    ),
    "bidirectional_lstm": lambda: Case(
        nn.LSTM(2, 3, 2, bidirectional=True, proj_size=2, batch_first=True),
        torch.randn(4, 3, 2),
        lambda got: got[0].tanh(),
    ),
    "shared_parametrization": lambda: Case(SharedParametrization(), torch.randn(4, 3)),
    "bilinear": lambda: Case(nn.Bilinear(2, 3, 2), {"input1": torch.randn(4, 2), "input2": torch.randn(4, 3)}),
    "depthwise": lambda: Case(
        nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten()),
        torch.randn(3, 2, 3, 3),
    ),
    "conv3d": lambda: Case(
        nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.ConvTranspose3d(2, 1, 2), nn.Flatten()),
        torch.randn(3, 1, 2, 2, 3),
    ),
    "instance_norm": lambda: Case(
        nn.Sequential(nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, affine=True), nn.ReLU(inplace=True), nn.Flatten()),
        torch.randn(3, 2, 4),
    ),
    "routed": lambda: Case(Routed(), torch.randn(9, 3)),
    "sorted_samples": lambda: Case(SortedSamples(), torch.randn(7, 3)),
    "sequence_first": lambda: Case(SequenceFirst(), torch.randn(4, 3, 4)),
    "max_pool": lambda: Case(nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.Flatten()), torch.randn(3, 1, 5)),
}
