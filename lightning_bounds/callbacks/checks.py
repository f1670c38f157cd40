"""What a callback refuses before training."""

import re
from collections import Counter
from collections.abc import Sequence

from torch import nn


def check_arguments(
    splits: Sequence[str] | None, on_error: str, name: str | None, max_seconds: float | None = None
) -> None:
    """Raise ValueError if an argument that all callbacks have is none of those that they know.

    Example:
        >>> check_arguments(splits="train", on_error="warn", name=None)
        Traceback (most recent call last):
        ValueError: Expected `splits` to be different names like ['train', 'val'], but got 'train'.
    """
    if on_error not in ("warn", "raise", "disable"):
        raise ValueError(f"Expected `on_error` to be 'warn', 'raise' or 'disable', but got {on_error!r}.")
    if splits is not None and (isinstance(splits, str) or not splits or len(set(splits)) != len(splits)):
        raise ValueError(f"Expected `splits` to be different names like ['train', 'val'], but got {splits!r}.")
    if name is not None and not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(f"Expected `name` of lower-case letters, digits and underscores, but got {name!r}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"Expected `max_seconds` above 0, but got {max_seconds!r}.")


def check_names(topics: Sequence[str]) -> None:
    """Raise ValueError if two callbacks of a Trainer log under one name.

    Example:
        >>> check_names(["margins", "trajectory", "margins"])
        Traceback (most recent call last):
        ValueError: Expected one callback that logs as 'margins', but got several, whose numbers would overwrite ...
    """
    topic, count = Counter(topics).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"Expected one callback that logs as {topic!r}, but got several, whose numbers would overwrite "
            "each other; pass `name` to tell them apart."
        )


def check_initialized(module: nn.Module) -> None:
    """Raise ValueError if a parameter has no shape yet: looking at the module would draw its first values.

    Example:
        >>> check_initialized(nn.LazyLinear(2))
        Traceback (most recent call last):
        ValueError: Expected parameters with values, but ['weight', 'bias'] are lazy; run one batch through ...
    """
    lazy = [name for name, p in module.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"Expected parameters with values, but {lazy[:10]} are lazy; run one batch through the module before `fit`."
        )
