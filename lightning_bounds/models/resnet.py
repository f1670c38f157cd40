"""The residual network of 20 layers for small images, with and without batch norm."""

import math

import torch
from torch import Generator, Tensor, nn

# Channels of the three stages; each has three blocks of two convolutions.
_CHANNELS = (16, 32, 64)
_BLOCKS = 3


class ResNet20(nn.Module):
    """Residual network of 20 layers for small square images, gray or in color; 0.27 million parameters.

    A 3 x 3 convolution, three stages of three blocks with 16, 32 and 64 channels, the mean over the pixels and a linear
    layer. A block is ``φ(s(x) + F(x))`` with ``φ`` the ReLU and ``F(x) = conv(φ(conv(x)))``. The second and the third
    stage begin with stride 2; there the shortcut ``s`` takes every second pixel and fills the new channels with zeros
    (option A of the paper), so that shortcuts have no parameters.

    Convolutions are followed by batch norm if asked for, and have biases if not. Weights are Gaussian with variance
    ``2 / fan_in`` (``1 / fan_in`` in the linear layer), biases zero. Without batch norm the last convolution of each of
    the ``L = 9`` blocks has variance ``1 / (L fan_in)`` instead: ``E|F(x)|²`` is then ``E|x|² / L``, all blocks
    together raise ``E|x|²`` by at most ``(1 + 1/L)^L < e``, and outputs neither explode nor vanish.

    Args:
        in_features: ``d``, the number of entries of an image: ``H²`` if gray, ``3 H²`` in color.
        out_features: ``K``, the number of outputs.
        batch_norm: Whether each convolution is followed by batch norm, as in the paper.
        seed: Non-negative seed of the initial weights, which then are the same in every precision and leave the global
            random state alone; by default that state draws them, as for every module of torch.

    Raises:
        ValueError: If a size or the seed is out of range, or ``in_features`` is not that of a square image.

    References:
        He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016, section 4.2 (architecture);
        He et al., Delving deep into rectifiers, ICCV 2015, Eq. (10) (variance); De & Smith, Batch normalization biases
        residual blocks towards the identity function, NeurIPS 2020 (``1/√L`` in its place).

    Example:
        >>> network = ResNet20(in_features=3 * 32 * 32, out_features=3, seed=0)
        >>> sum(parameter.numel() for parameter in network.parameters())
        268579
        >>> network(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, in_features: int, out_features: int = 1, batch_norm: bool = False, seed: int | None = None
    ) -> None:
        super().__init__()
        for argument, number, least in (
            ("in_features", in_features, 1),
            ("out_features", out_features, 1),
            ("seed", 0 if seed is None else seed, 0),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"Expected `{argument}` to be an integer of at least {least}, but got {number!r}.")
        self.image_shape = _image_shape(in_features)
        generator = None if seed is None else Generator().manual_seed(seed)
        self.stem = _convolution(self.image_shape[0], _CHANNELS[0], 1, batch_norm, 2.0, generator)
        blocks: list[nn.Module] = []
        previous = _CHANNELS[0]
        for channels in _CHANNELS:
            for _ in range(_BLOCKS):
                blocks.append(_Block(previous, channels, batch_norm, generator))
                previous = channels
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(previous, out_features, device="meta")
        _fill(self.output, 1.0, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the network.

        Args:
            inputs: Images, shape ``(n, C, H, H)``, or flattened, ``(n, d)``.

        Returns:
            Outputs, shape ``(n, K)``.
        """
        features = self.blocks(torch.relu(self.stem(inputs.reshape(-1, *self.image_shape))))
        return self.output(features.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, batch_norm: bool, generator: Generator | None) -> None:
        super().__init__()
        # Where channels double, pixels are a quarter.
        self.stride, self.new_channels = channels // in_channels, channels - in_channels
        last = 2.0 if batch_norm else 1 / (_BLOCKS * len(_CHANNELS))
        self.first = _convolution(in_channels, channels, self.stride, batch_norm, 2.0, generator)
        self.last = _convolution(channels, channels, 1, batch_norm, last, generator)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.new_channels:
            shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu(shortcut + self.last(torch.relu(self.first(x))))


def _convolution(
    in_channels: int, channels: int, stride: int, batch_norm: bool, gain: float, generator: Generator | None
) -> nn.Module:
    # On the meta device torch draws no weights, so the global random state moves only by the draws below.
    layer = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=not batch_norm, device="meta")
    _fill(layer, gain, generator)
    return nn.Sequential(layer, nn.BatchNorm2d(channels)) if batch_norm else layer


def _fill(layer: nn.Conv2d | nn.Linear, gain: float, generator: Generator | None) -> None:
    """Gaussian weights of variance ``gain / fan_in``, zero biases."""
    # In float64 on the CPU, so that a seed means the same network in every precision and on every device.
    weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64, device="cpu")
    weight *= math.sqrt(gain / weight[0].numel())
    layer.weight = nn.Parameter(weight.to(torch.get_default_dtype()))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(layer.bias.shape))


def _image_shape(in_features: int) -> tuple[int, int, int]:
    # 3 is not a square: no number is both.
    for channels in (1, 3):
        side = math.isqrt(in_features // channels)
        if channels * side * side == in_features:
            return channels, side, side
    raise ValueError(
        f"Expected `in_features` to be H² or 3 H², those of a square gray or color image, but got {in_features}."
    )
