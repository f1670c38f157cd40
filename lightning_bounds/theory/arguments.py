"""What the theorems accept as numbers, checked once, in one sentence each."""

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


def _is_number(number: Any) -> bool:
    if isinstance(number, Tensor):
        return number.numel() == 1 and not number.is_complex()
    return isinstance(number, SupportsFloat) and not isinstance(number, bool)
