"""Random inputs of norm 1 with the values of a named function: which functions do wide networks learn?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from lightning_bounds.data.regression import RegressionData
from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive
from lightning_bounds.theory.fine_grained import learnability
from lightning_bounds.theory.fine_grained.learnability import LearnabilityBound


class _Function(NamedTuple):
    """A function of ``z = β·x``, and the bound ``M_g`` of ``β``."""

    values: Callable[[Tensor], Tensor]
    complexity: Callable[[Tensor], LearnabilityBound]


_FUNCTIONS = {
    "linear": _Function(lambda z: z, learnability.linear),
    "quadratic": _Function(torch.square, lambda beta: learnability.quadratic(torch.outer(beta, beta))),
    "cosine": _Function(lambda z: z.cos() - 1, learnability.cosine),
    "arctangent": _Function(lambda z: z * (z / 2).atan(), learnability.arctangent),
    # An odd power: H_infinity does not hold it, so there is no bound, and the last function says so.
    "cubic": _Function(lambda z: z**3, lambda beta: learnability.power_sum([1.0], beta.unsqueeze(0), [3])),
}


def sphere_inputs(num_samples: int, num_features: int, *, seed: int = 0) -> Tensor:
    """Independent inputs, uniform on the unit sphere.

    Args:
        num_samples: ``n``.
        num_features: ``d``.
        seed: Seed of the draws; the global random state is not used. Fewer samples are the first ones of more.

    Returns:
        Shape ``(n, d)``, float64.

    Raises:
        ValueError: If a number is out of range.

    References:
        Oymak & Soltanolkotabi 2019, Corollaries 2.2 and 2.4.

    Example:
        >>> sphere_inputs(3, 5).norm(dim=1)
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    check_count("num_samples", num_samples)
    check_count("num_features", num_features)
    check_count("seed", seed, least=0)
    generator = Generator().manual_seed(seed)
    rows = [torch.randn(num_features, generator=generator, dtype=torch.float64) for _ in range(num_samples)]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def function_values(function: str, inputs: Tensor, direction: Tensor) -> Tensor:
    """Values of a function of ``z = β·x``.

    ``"linear"`` is ``z``, ``"quadratic"`` ``z²``, ``"cosine"`` ``cos(z) - 1``, ``"arctangent"`` ``z arctan(z/2)``:
    these four are learnable. ``"cubic"`` is ``z³``, which is not.

    Args:
        function: Its name.
        inputs: Shape ``(n, d)``.
        direction: ``β``, shape ``(d,)``.

    Returns:
        Shape ``(n,)``.

    Raises:
        ValueError: If the name is unknown, or the shapes do not match.

    References:
        Arora et al. 2019, section 6, Examples 6.1 to 6.4.

    Example:
        >>> function_values("quadratic", torch.eye(2), torch.tensor([3.0, 0.5]))
        tensor([9.0000, 0.2500])
    """
    chosen = _function(function)
    if inputs.dim() != 2 or direction.shape != inputs.shape[1:]:
        raise ValueError(
            f"Expected inputs (n, d) and a direction (d,), but got {tuple(inputs.shape)} and {tuple(direction.shape)}."
        )
    return chosen.values(inputs @ direction)


def function_complexity(function: str, direction: Tensor) -> LearnabilityBound:
    """``M_g``, the bound on ``y^T H_infinity⁻¹ y`` of the values of the function, for any number of inputs of norm 1.

    Raises:
        ValueError: If the name is unknown, the direction is out of range, or the function is not learnable.

    References:
        Arora et al. 2019, section 6, Examples 6.1 to 6.4 (erratum C1: squared).

    Example:
        >>> function_complexity("linear", torch.tensor([3.0, 4.0])).printed
        225.0
    """
    return _function(function).complexity(direction)


def load(
    function: str = "linear",
    num_features: int = 20,
    direction_norm: float = 1.0,
    noise: float = 0.0,
    train_samples: int = 500,
    test_samples: int = 1000,
    seed: int = 0,
) -> RegressionData:
    """Inputs that are uniform on the unit sphere, labeled by a function of one random direction.

    Args:
        function: Name, see :func:`function_values`.
        num_features: ``d``.
        direction_norm: ``|β|``; up to 1 all labels without noise lie in [-1, 1], as the theory wants.
        noise: Standard deviation of Gaussian noise on the labels.
        train_samples: ``n``.
        test_samples: Samples of the test part.
        seed: Seed of all draws. The four words of ``numpy.random.SeedSequence(seed).generate_state(4)`` are those of
            the training inputs, the test inputs, the direction and the noise.

    Returns:
        Samples in float32, with the labels before noise.

    Raises:
        ValueError: If the name is unknown, or a number is out of range.

    References:
        Arora et al. 2019, section 6.

    Example:
        >>> data = load("arctangent", num_features=10, train_samples=100)
        >>> data.train_inputs.shape, float(data.train_labels.abs().max()) <= 1
        (torch.Size([100, 10]), True)
    """
    check_count("seed", seed, least=0)
    check_positive("direction_norm", direction_norm)
    check_not_negative("noise", noise)
    words = [int(word) for word in np.random.SeedSequence(seed).generate_state(4)]
    train, test = (
        sphere_inputs(count, num_features, seed=word)
        for count, word in zip((train_samples, test_samples), words[:2], strict=True)
    )
    direction = direction_norm * sphere_inputs(1, num_features, seed=words[2])[0]
    clean_train, clean_test = (function_values(function, inputs, direction) for inputs in (train, test))
    generator = Generator().manual_seed(words[3])
    # The test part first: its labels do not depend on how many training samples there are.
    noisy_test, noisy_train = (
        clean + noise * torch.randn(len(clean), generator=generator, dtype=torch.float64)
        for clean in (clean_test, clean_train)
    )
    parts = (train, noisy_train, clean_train, test, noisy_test, clean_test)
    return RegressionData(*(part.float() for part in parts))


def _function(name: str) -> _Function:
    if name not in _FUNCTIONS:
        raise ValueError(f"Expected a function among {sorted(_FUNCTIONS)}, but got {name!r}.")
    return _FUNCTIONS[name]
