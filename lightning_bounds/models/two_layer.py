"""The two-layer network of the papers, with the random initialization of each of them."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from lightning_bounds.models.choice import chosen


class TwoLayerNetwork(nn.Module):
    """Two-layer network ``f(x) = V φ(W x)`` without biases, started as the theorems assume.

    ``W``, ``hidden.weight``, has independent Gaussian entries of standard deviation ``input_scale`` in every
    initialization. ``V``, ``output.weight``, of shape ``(K, width)``, has entries of one size, times ``output_scale``:

    * ``"information_space"``: independent random signs over ``√(width K)``. The theorem's ``ν`` is ``output_scale``.
    * ``"overparameterization"``: one output; half of the entries are ``+1/√width``, half are ``-1/√width``, and one is
      0 if ``width`` is odd. The paper's ``‖y‖/√(width n)`` is ``output_scale = ‖y‖/√n``, which is 1 for labels ±1.
    * ``"fine_grained"``: independent random signs over ``√width``, so that ``f = 1/√width Σᵣ aᵣ φ(wᵣ·x)``; the paper
      has one output, and its ``κ`` is ``input_scale``.

    The papers train ``W`` only, so ``V`` is frozen unless ``train_output``. Inputs of more than two dimensions, such as
    images ``(n, C, H, W)``, are flattened.

    Args:
        in_features: ``d``, the number of input features (all pixels of all channels for images).
        width: Number of hidden units; the papers write ``k`` or ``m``.
        out_features: ``K``, the number of outputs.
        activation: ``φ``: ``"relu"``, ``"softplus"``, ``"tanh"``, ``"sigmoid"``, ``"erf"``, ``"sin"``, ``"quadratic"``
            (``z²/2``) or ``"identity"``; or any function of a tensor that acts entrywise.
        initialization: Which paper's, see above.
        train_output: Whether ``V`` is trained as well.
        output_scale: Factor of ``V``, positive.
        input_scale: Standard deviation of ``W``, positive; by default the paper's own: 1, or 0.01 for
            ``"fine_grained"`` (section 3 of that paper).
        seed: Non-negative seed of the initial weights, which then are the same in every precision and leave the global
            random state alone; by default that state draws them, as for every module of torch.

    Raises:
        ValueError: If a size, scale or seed is out of range, a name is unknown, or ``"overparameterization"`` is asked
            for several outputs or a single hidden unit.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Eq. (1.1) and Theorem 3.2 (information_space);
        Oymak, Soltanolkotabi 2019, Theorem 2.1 (overparameterization);
        Arora, Du, Hu, Li, Wang 2019, section 3 (fine_grained).

    Example:
        >>> network = TwoLayerNetwork(in_features=4, width=9, initialization="overparameterization", seed=0)
        >>> network.output.weight[0, [0, 3, 4, 7, 8]]
        tensor([ 0.3333,  0.3333, -0.3333, -0.3333,  0.0000])
        >>> network(torch.ones(2, 4)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int = 1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        initialization: str = "information_space",
        train_output: bool = False,
        output_scale: float = 1.0,
        input_scale: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _check_integer("in_features", in_features, least=1)
        _check_integer("width", width, least=1)
        _check_integer("out_features", out_features, least=1)
        output_weight, paper_input_scale = chosen(
            "initialization",
            initialization,
            {
                "information_space": (_information_space, 1.0),
                "overparameterization": (_overparameterization, 1.0),
                "fine_grained": (_fine_grained, 0.01),
            },
        )
        input_scale = paper_input_scale if input_scale is None else input_scale
        _check_positive("input_scale", input_scale)
        _check_positive("output_scale", output_scale)
        if seed is not None:
            _check_integer("seed", seed, least=0)

        generator = None if seed is None else Generator().manual_seed(seed)
        self.activation = _activation(activation)
        # In float64 on the CPU, so that a seed means the same network in every precision and on every device.
        W = torch.randn(width, in_features, generator=generator, dtype=torch.float64, device="cpu")
        V = output_weight(out_features, width, generator)
        self.hidden = _linear(input_scale * W)
        self.output = _linear(output_scale * V).requires_grad_(train_output)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``V φ(W x)``.

        Args:
            inputs: Shape ``(n, d)``, or ``(n, ...)`` with ``d`` numbers per sample.

        Returns:
            Outputs, shape ``(n, K)``.
        """
        return self.output(self.activation(self.hidden(inputs.flatten(start_dim=1))))


def quadratic(z: Tensor) -> Tensor:
    """Quadratic activation ``z²/2``, whose derivative is ``z``.

    Args:
        z: Any shape.

    Returns:
        The same shape.

    Example:
        >>> quadratic(torch.tensor([-2.0, 3.0]))
        tensor([2.0000, 4.5000])
    """
    return z.square() / 2


def identity(z: Tensor) -> Tensor:
    """Identity activation ``z``, which makes the network linear in ``x``.

    Args:
        z: Any shape.

    Returns:
        ``z`` itself.

    Example:
        >>> identity(torch.tensor([-2.0, 3.0]))
        tensor([-2.,  3.])
    """
    return z


def _activation(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if callable(activation):
        return activation
    choices: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        "softplus": nn.functional.softplus,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "erf": torch.erf,
        "sin": torch.sin,
        "quadratic": quadratic,
        "identity": identity,
    }
    return chosen("activation", activation, choices)


def _information_space(out_features: int, width: int, generator: Generator | None) -> Tensor:
    return _random_signs(out_features, width, generator) / math.sqrt(width * out_features)


def _overparameterization(out_features: int, width: int, _: Generator | None) -> Tensor:
    if out_features != 1 or width < 2:
        raise ValueError(
            "Expected one output and at least two hidden units for `initialization='overparameterization'`, "
            f"but got `out_features={out_features}` and `width={width}`; use 'information_space' for several outputs."
        )
    V = torch.zeros(1, width, dtype=torch.float64, device="cpu")
    V[:, : width // 2] = 1 / math.sqrt(width)
    V[:, width // 2 : 2 * (width // 2)] = -1 / math.sqrt(width)
    return V


def _fine_grained(out_features: int, width: int, generator: Generator | None) -> Tensor:
    return _random_signs(out_features, width, generator) / math.sqrt(width)


def _random_signs(out_features: int, width: int, generator: Generator | None) -> Tensor:
    return 2.0 * torch.randint(2, (out_features, width), generator=generator, dtype=torch.float64, device="cpu") - 1.0


def _linear(weight: Tensor) -> nn.Linear:
    # On the meta device torch draws no weights, so the global random state moves only by what the papers draw.
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.to(torch.get_default_dtype()))
    return layer


def _check_integer(argument: str, number: int, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"Expected `{argument}` to be an integer of at least {least}, but got {number!r}.")


def _check_positive(argument: str, number: float) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise ValueError(f"Expected `{argument}` to be a positive finite number, but got {number!r}.")
