"""The nearly-linear network of the a-priori bound: leaky ReLU layers without biases, all of one spectral norm."""

import math

import torch
from torch import Generator, Tensor, nn

from lightning_bounds.theory import nearly_linear
from lightning_bounds.theory.arguments import check_count
from lightning_bounds.theory.nearly_linear.arguments import check_fraction


class LeakyNetwork(nn.Module):
    """Network ``f(x) = W_L φ(W_{L-1} ... φ(W_1 x))`` without biases, ``φ(z) = z - ε min(0, z)``.

    ``ε = 0`` is the linear network, ``ε = 1`` that of ReLUs; for torch, ``φ`` is a leaky ReLU of slope ``1 - ε``. Every
    layer is drawn as ``torch.nn.Linear`` draws it, uniformly in ``±1/√fan_in``, and then divided so that its spectral
    norm is ``β``. Inputs of more than two dimensions, such as images ``(n, C, H, W)``, are flattened.

    Args:
        in_features: ``d``, the number of input features.
        width: Hidden units of each of the ``L - 1`` hidden layers.
        depth: ``L``, the number of layers with weights, 2 or more.
        epsilon: ``ε`` in [0, 1].
        beta: ``β``, the spectral norm of every layer.
        rank_one: Whether the first layer is replaced by its best approximation of rank one, so that ``ρ``, the quotient
            of its Frobenius and its spectral norm, is 1.
        out_features: Number of outputs; the theorem allows 1.
        seed: Non-negative seed of the initial weights, which then are the same in every precision and leave the global
            random state alone; by default that state draws them, as for every module of torch.

    Raises:
        ValueError: If a size, ``epsilon``, ``beta`` or the seed is out of range.

    References:
        A generalization bound for nearly-linear networks, sections 4 and 6.

    Example:
        >>> network = LeakyNetwork(in_features=4, width=8, beta=0.1, rank_one=True, seed=0)
        >>> [f"{torch.linalg.matrix_norm(layer.weight, 2).item():.4f}" for layer in network.linear_layers]
        ['0.1000', '0.1000']
        >>> network(torch.ones(3, 4)).shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        in_features: int,
        width: int = 64,
        depth: int = 2,
        epsilon: float = 1e-3,
        beta: float = 1e-3,
        rank_one: bool = False,
        out_features: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("in_features", in_features), ("width", width), ("out_features", out_features)):
            check_count(name, number)
        check_count("depth", depth, least=2)
        check_fraction("epsilon", epsilon)
        if seed is not None:
            check_count("seed", seed, least=0)
        generator = None if seed is None else Generator().manual_seed(seed)
        sizes = [in_features, *[width] * (depth - 1), out_features]
        weights = [_draw(*shape, generator) for shape in zip(sizes[1:], sizes[:-1], strict=True)]
        if rank_one:
            weights[0] = nearly_linear.rank_one(weights[0])
        first, *others = map(_linear, nearly_linear.rescaled(weights, beta))
        parts = [part for layer in others for part in (nn.LeakyReLU(1 - epsilon), layer)]
        self.layers = nn.Sequential(first, *parts)

    @property
    def linear_layers(self) -> list[nn.Linear]:
        """The layers with weights, from the input on."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the network.

        Args:
            inputs: Shape ``(n, d)``, or ``(n, ...)`` with ``d`` numbers per sample.

        Returns:
            Outputs, shape ``(n, out_features)``.
        """
        return self.layers(inputs.flatten(start_dim=1))


def _draw(rows: int, columns: int, generator: Generator | None) -> Tensor:
    # In float64 on the CPU, so that a seed means the same network in every precision and on every device.
    weight = torch.empty(rows, columns, dtype=torch.float64, device="cpu")
    return weight.uniform_(-1 / math.sqrt(columns), 1 / math.sqrt(columns), generator=generator)


def _linear(weight: Tensor) -> nn.Linear:
    # On the meta device torch draws no weights, so the global random state moves only by what is drawn above.
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.to(torch.get_default_dtype()))
    return layer
