"""Small networks of every kind, with inputs: each case is built anew by the test that uses it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Case(NamedTuple):
    model: nn.Module
    inputs: Any
    output_fn: Callable[[Any], Tensor] | None = None


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
    "max_pool": lambda: Case(nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.Flatten()), torch.randn(3, 1, 5)),
}
