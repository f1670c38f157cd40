"""The works: a network, samples and what is asked of them, in full size and in small."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_bounds.models import ResNet20, TwoLayerNetwork

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Args:
        work: ``"W1"`` to ``"W5"``, or ``"cost"`` for the sweeps over ``p`` and ``n``.
        network: ``"resnet"``, ``"mlp"`` or ``"transformer"``.
        num_samples: ``n``.
        num_outputs: ``K``.
        quantity: ``"gram"``, ``"triplets"`` (leading singular triplets) or ``"training"``.
        layers: Layers to differentiate by; all if not given.
        width: Hidden units of the MLP, model dimension of the transformer.
        depth: Layers of the transformer.
        length: Sequence length of the transformer.
        rank: How many triplets.
        memory_budget: Bytes; the method of ours that keeps within them is measured beside the others.
        epochs: Of the training, on ``num_samples`` images.
    """

    work: str
    network: str
    num_samples: int
    num_outputs: int
    quantity: str = "gram"
    layers: tuple[str, ...] | None = None
    width: int = 0
    depth: int = 0
    length: int = 0
    rank: int = 0
    memory_budget: int | None = None
    epochs: int = 0

    @property
    def name(self) -> str:
        """Which of all cases it is, such as ``"W2 hidden width=10000 K=1 n=1000"``."""
        width = f" width={self.width}" if self.width else ""
        return (
            f"{self.work} {self.layers[0] if self.layers else 'all'}{width} K={self.num_outputs} n={self.num_samples}"
        )


def cases(work: str, sizes: str) -> list[Case]:
    """The cases of a work in ``"full"`` or ``"small"`` sizes.

    Example:
        >>> [case.name for case in cases("W3", "full")]
        ['W3 all K=3 n=1024', 'W3 all K=3 n=4096']
    """
    full = sizes == "full"
    if work == "W1":
        budgets = {128: None, 512: 512 * MIB, 2048: None} if full else {6: 64 * MIB}
        return [Case(work, "resnet", n, 3, memory_budget=budget) for n, budget in budgets.items()]
    if work == "W2":
        width, n, K = (10_000, 1000, 10) if full else (64, 12, 3)
        hidden = [
            Case(work, "mlp", size, 1, layers=("hidden",), width=width) for size in ((n, 4 * n) if full else (n,))
        ]
        return [*hidden, Case(work, "mlp", n, K, width=width)]
    if work == "W3":
        # A fifth more than the second budget is 8 GiB.
        pairs = ((1024, None), (4096, 20 * GIB // 3)) if full else ((8, None),)
        rank = 50 if full else 4
        return [Case(work, "resnet", n, 3, "triplets", rank=rank, memory_budget=budget) for n, budget in pairs]
    if work == "W4":
        n, length, width, depth = (256, 64, 128, 4) if full else (4, 8, 16, 2)
        return [Case(work, "transformer", n, 10, width=width, depth=depth, length=length)]
    if work == "W5":
        return [Case(work, "conv", 60_000 if full else 64, 10, "training", epochs=20 if full else 1)]
    if work == "cost":
        sweep, widths = ((64, 128, 256, 512), (1250, 2500, 5000, 10_000)) if full else ((2, 4), (32, 64))
        by_n = [Case(work, "resnet", n, 3) for n in sweep]
        return [*by_n, *(Case(work, "mlp", sweep[-1], 3, width=width) for width in widths)]
    raise ValueError(f"Expected a work of W1 to W5 or cost, but got {work!r}.")


def network_of(case: Case) -> nn.Module:
    """The network of a case at initialization, float32, in evaluation mode."""
    if case.network == "resnet":
        network: nn.Module = ResNet20(3 * 32 * 32, case.num_outputs, seed=0)
    elif case.network == "mlp":
        network = TwoLayerNetwork(784, case.width, case.num_outputs, train_output=True, seed=0)
    else:
        network = Encoder(case.length, case.width, case.depth, case.num_outputs)
    return network.eval()


def inputs_of(case: Case) -> Tensor:
    """Gaussian images, Gaussian vectors of expected norm 1, or uniform tokens."""
    generator = torch.Generator().manual_seed(1)
    if case.network == "resnet":
        return torch.randn(case.num_samples, 3, 32, 32, generator=generator)
    if case.network == "mlp":
        return torch.randn(case.num_samples, 784, generator=generator) / 28
    return torch.randint(Encoder.vocabulary, (case.num_samples, case.length), generator=generator)


class Encoder(nn.Module):
    """A small transformer encoder: tokens, learned positions, torch's encoder layers, mean over the sequence.

    Args:
        length: Sequence length.
        width: Model dimension; four heads, feed-forward layers of four times the width.
        depth: Number of layers.
        num_outputs: ``K``.
    """

    vocabulary = 256

    def __init__(self, length: int, width: int, depth: int, num_outputs: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.tokens = nn.Embedding(self.vocabulary, width)
            self.positions = nn.Parameter(0.02 * torch.randn(length, width))
            layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
            self.output = nn.Linear(width, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs, shape ``(n, K)``, of tokens, shape ``(n, length)``."""
        return self.output(self.encoder(self.tokens(tokens) + self.positions).mean(dim=1))


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Attention as plain products, which every tool can differentiate and map over samples."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
