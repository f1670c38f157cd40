"""Arithmetic with numbers of at least 0, in which bounds become infinite and never NaN."""

import math


def over(numerator: float, denominator: float) -> float:
    """Quotient of numbers of at least 0, infinite for a denominator of 0.

    Example:
        >>> over(1.0, 0.0)
        inf
    """
    return numerator / denominator if denominator > 0 else math.inf


def times(factor: float, number: float) -> float:
    """Product in which nothing, even infinitely often, is nothing.

    Example:
        >>> times(0.0, math.inf)
        0.0
    """
    return 0.0 if factor == 0 or number == 0 else factor * number


def power(base: float, exponent: int) -> float:
    """Power of a number of at least 0, infinite instead of an overflow.

    Example:
        >>> power(1e200, 2)
        inf
    """
    try:
        return base**exponent
    except OverflowError:
        return math.inf
