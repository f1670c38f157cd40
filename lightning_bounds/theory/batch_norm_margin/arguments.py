"""What the functions of this topic accept, checked once and brought to float64."""

import math
from typing import SupportsFloat

from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_probability


def as_inputs(inputs: Tensor) -> Tensor:
    """Training inputs ``(n, d)``, rows are samples, in float64.

    Raises:
        ValueError: If there are fewer than two samples, or an entry is not finite.

    Example:
        >>> import torch
        >>> as_inputs(torch.ones(1, 3))
        Traceback (most recent call last):
        ValueError: Expected `inputs` of shape (n, d) with n >= 2, but got (1, 3) of ...; flatten images first.
    """
    if inputs.dim() != 2 or inputs.shape[0] < 2 or inputs.shape[1] == 0 or inputs.is_complex():
        raise ValueError(
            f"Expected `inputs` of shape (n, d) with n >= 2, but got {tuple(inputs.shape)} of {inputs.dtype}; "
            "flatten images first."
        )
    return _finite("inputs", inputs)


def as_directions(directions: Tensor, d: int, name: str = "directions") -> Tensor:
    """``V``, one row for each hidden unit, shape ``(m, d)``, in float64.

    Raises:
        ValueError: If the rows do not have ``d`` entries, there is none, or one is not finite.
    """
    if directions.dim() != 2 or directions.shape[0] == 0 or directions.shape[1] != d or directions.is_complex():
        raise ValueError(
            f"Expected `{name}` of shape (m, {d}), one row for each hidden unit, but got {tuple(directions.shape)}."
        )
    return _finite(name, directions)


def as_units(name: str, weights: Tensor, m: int) -> Tensor:
    """One number for each hidden unit, ``(m,)``, ``(1, m)`` or ``(m, 1)``, in float64 of shape ``(m,)``.

    Raises:
        ValueError: If there are not ``m`` numbers, or one is not finite.
    """
    if weights.numel() != m or weights.is_complex():
        raise ValueError(f"Expected `{name}` with {m} numbers, one a hidden unit, but got {tuple(weights.shape)}.")
    return _finite(name, weights).reshape(m)


def check_setting(gamma: float, eps_N: float, delta: float | None = None, **counts: float) -> None:
    """Raise ValueError unless the numbers of a theorem are in range; a margin may have any sign, ``eps_N`` be infinite.

    Example:
        >>> check_setting(gamma=0.1, eps_N=0.0)
        Traceback (most recent call last):
        ValueError: Expected `eps_N` to be positive, infinity allowed, but got 0.0.
    """
    if not isinstance(gamma, SupportsFloat) or not math.isfinite(gamma):
        raise ValueError(f"Expected a finite margin `gamma`, but got {gamma!r}.")
    if not isinstance(eps_N, SupportsFloat) or not float(eps_N) > 0:
        raise ValueError(f"Expected `eps_N` to be positive, infinity allowed, but got {eps_N!r}.")
    if delta is not None:
        check_probability("delta", delta)
    for name, count in counts.items():
        # Statistics of a batch need two samples.
        least = 2 if name == "samples" else 1
        check_not_negative(name, count)
        if isinstance(count, bool) or not float(count).is_integer() or count < least:
            raise ValueError(f"Expected `{name}` to be an integer of at least {least}, but got {count!r}.")


def _finite(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().double()
    if not bool(tensor.isfinite().all()):
        bad = (~tensor.isfinite().reshape(tensor.shape[0], -1).all(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"Expected finite `{name}`, but got NaN or infinity in rows {bad[:10]}; remove or fix them.")
    return tensor
