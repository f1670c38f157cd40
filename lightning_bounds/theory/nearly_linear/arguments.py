"""What the functions of this topic accept, checked once and brought to float64."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive


def check_fraction(name: str, number: float) -> None:
    """Raise ValueError unless a number lies in [0, 1].

    Example:
        >>> check_fraction("epsilon", 1.5)
        Traceback (most recent call last):
        ValueError: Expected `epsilon` in [0, 1], but got 1.5.
    """
    check_not_negative(name, number)
    if number > 1:
        raise ValueError(f"Expected `{name}` in [0, 1], but got {number!r}.")


def check_setting(*, strength: float, rho: float, beta: float, epsilon: float, depth: int) -> None:
    """Raise ValueError unless the numbers describe data and a network of the theorem.

    Example:
        >>> check_setting(strength=0.6, rho=0.5, beta=0.1, epsilon=0.0, depth=2)
        Traceback (most recent call last):
        ValueError: Expected `rho` = |W_1|_F / |W_1| to be at least 1, but got 0.5.
    """
    check_fraction("strength", strength)
    check_positive("rho", rho)
    if rho < 1:
        raise ValueError(f"Expected `rho` = |W_1|_F / |W_1| to be at least 1, but got {rho!r}.")
    check_positive("beta", beta)
    check_fraction("epsilon", epsilon)
    check_count("depth", depth, least=2)


def check_order(order: int) -> None:
    """Raise ValueError unless the order ``κ`` of the proxy is 1 or 2.

    Example:
        >>> check_order(3)
        Traceback (most recent call last):
        ValueError: Expected `order`, kappa, to be 1 or 2, but got 3.
    """
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"Expected `order`, kappa, to be 1 or 2, but got {order!r}.")


def as_times(time: float | Tensor) -> Tensor:
    """Training times of any shape, in float64.

    Raises:
        ValueError: If one is negative or not finite.

    Example:
        >>> as_times(-1.0)
        Traceback (most recent call last):
        ValueError: Expected training times that are finite, 0 or more, but got -1.0.
    """
    if isinstance(time, Tensor) and time.is_complex():
        raise ValueError(f"Expected real training times, but got {time.dtype}.")
    times = torch.as_tensor(time, dtype=torch.float64)
    bad = times[~((times >= 0) & times.isfinite())]
    if len(bad):
        raise ValueError(f"Expected training times that are finite, 0 or more, but got {bad[0].item()}.")
    return times


def as_given(values: Tensor, given: float | Tensor) -> float | Tensor:
    """A number for a number, a tensor for a tensor."""
    return values if isinstance(given, Tensor) else float(values)


def check_weights(weights: Sequence[Tensor], features: int | None = None) -> None:
    """Raise ValueError unless matrices ``(n_l, n_{l-1})`` make a network of two or more layers and one output.

    Example:
        >>> check_weights([torch.ones(3, 2), torch.ones(2, 3)])
        Traceback (most recent call last):
        ValueError: Expected weights (n_1, d), (n_2, n_1), ..., (1, n_{L-1}) of at least 2 layers, but got [(3, 2), ...
    """
    shapes = [tuple(weight.shape) for weight in weights]
    fits = len(shapes) >= 2 and all(len(shape) == 2 and shape[0] * shape[1] > 0 for shape in shapes)
    fits = fits and shapes[-1][0] == 1 and features in (None, shapes[0][1])
    if not fits or any(after[1] != before[0] for before, after in pairwise(shapes)):
        inputs = "" if features is None else f" for inputs of {features} features"
        raise ValueError(
            f"Expected weights (n_1, d), (n_2, n_1), ..., (1, n_{{L-1}}) of at least 2 layers{inputs}, "
            f"but got {shapes}."
        )
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise ValueError("Expected finite weights, but got NaN or infinite entries; the network has diverged.")
