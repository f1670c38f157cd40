"""Memory budgets, written as people write them."""

import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def budget_bytes(budget: str | int) -> int:
    """A memory budget in bytes.

    Args:
        budget: Bytes, or a text such as ``"2GB"`` or ``"512MiB"``.

    Raises:
        ValueError: If it is neither, or not positive.

    Example:
        >>> budget_bytes("1.5GB"), budget_bytes("2 KiB"), budget_bytes(100)
        (1500000000, 2048, 100)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]*)\s*", str(budget).upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size < 1:
        raise ValueError(f"Expected `memory_budget` in bytes or like '2GB' or '512MiB', but got {budget!r}.")
    return size
