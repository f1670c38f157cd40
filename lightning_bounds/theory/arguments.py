"""What the theorems accept as numbers, samples and labels, checked once, in one sentence each."""

import math
from typing import Any, SupportsFloat

from torch import Tensor


def check_positive(name: str, number: float, most: float = math.inf) -> None:
    """Raise ValueError unless a number is positive, finite, and at most ``most``.

    Example:
        >>> check_positive("Gamma", -1.0)
        Traceback (most recent call last):
        ValueError: Expected `Gamma` to be positive and finite, but got -1.0.
    """
    if not _is_number(number) or not 0 < number < math.inf or number > most:
        upper = "" if math.isinf(most) else f", at most {most:g}"
        raise ValueError(f"Expected `{name}` to be positive and finite{upper}, but got {number!r}.")


def check_not_negative(name: str, number: float) -> None:
    """Raise ValueError unless a number is finite, 0 or more.

    Example:
        >>> check_not_negative("cutoff", -1.0)
        Traceback (most recent call last):
        ValueError: Expected `cutoff` to be finite, 0 or more, but got -1.0.
    """
    if not _is_number(number) or not 0 <= number < math.inf:
        raise ValueError(f"Expected `{name}` to be finite, 0 or more, but got {number!r}.")


def check_count(name: str, number: int, least: int = 1) -> None:
    """Raise ValueError unless a number is an integer of at least ``least``.

    Example:
        >>> check_count("width", 0)
        Traceback (most recent call last):
        ValueError: Expected `width` to be an integer of at least 1, but got 0.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"Expected `{name}` to be an integer of at least {least}, but got {number!r}.")


def check_probability(name: str, number: float) -> None:
    """Raise ValueError unless a number, the probability that a theorem fails, lies strictly between 0 and 1.

    Example:
        >>> check_probability("delta", 1.0)
        Traceback (most recent call last):
        ValueError: Expected `delta` in (0, 1), the probability of failure, but got 1.0.
    """
    if not _is_number(number) or not 0 < number < 1:
        raise ValueError(f"Expected `{name}` in (0, 1), the probability of failure, but got {number!r}.")


def as_inputs(inputs: Tensor, name: str = "inputs") -> Tensor:
    """Samples in rows, shape ``(n, d)``, in float64 and without a graph.

    Raises:
        ValueError: If they are no real matrix with at least one row and column, or a number is not finite.

    Example:
        >>> import torch
        >>> as_inputs(torch.ones(3))
        Traceback (most recent call last):
        ValueError: Expected real `inputs` of shape (n, d), one sample per row, but got (3,) of ...
    """
    if inputs.dim() != 2 or 0 in inputs.shape or inputs.is_complex():
        raise ValueError(
            f"Expected real `{name}` of shape (n, d), one sample per row, but got {tuple(inputs.shape)} of "
            f"{inputs.dtype}; flatten images."
        )
    inputs = inputs.detach().double()
    bad = (~inputs.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"Expected finite `{name}`, but samples {bad[:10]} are NaN or infinite; remove or fix them.")
    return inputs


def as_labels(labels: Tensor, n: int | None = None, name: str = "labels") -> Tensor:
    """One real number per sample, ``(n,)`` or ``(n, 1)``, in float64 of shape ``(n,)`` and without a graph.

    Args:
        labels: Labels, or outputs of a network.
        n: How many samples there are; if not given, as many as there are numbers.
        name: What they are.

    Raises:
        ValueError: If there are not ``n`` numbers, at least one, or they are not finite.

    Example:
        >>> import torch
        >>> as_labels(torch.ones(3, 2))
        Traceback (most recent call last):
        ValueError: Expected `labels` with one real number for each of the 6 samples, but got shape (3, 2) of ...
    """
    n = labels.numel() if n is None else n
    if labels.dim() not in (1, 2) or labels.shape[0] != n or labels.numel() != n or n == 0 or labels.is_complex():
        raise ValueError(
            f"Expected `{name}` with one real number for each of the {n} samples, but got shape "
            f"{tuple(labels.shape)} of {labels.dtype}; this theory has a single output, so pass one column at a time."
        )
    labels = labels.detach().double().reshape(n)
    bad = (~labels.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"Expected finite `{name}`, but got NaN or infinity at {bad[:10]}; remove or fix them.")
    return labels


def _is_number(number: Any) -> bool:
    if isinstance(number, Tensor):
        return number.numel() == 1 and not number.is_complex()
    return isinstance(number, SupportsFloat) and not isinstance(number, bool)
