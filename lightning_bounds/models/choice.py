"""What a name in a config stands for, and a helpful refusal of a name that stands for nothing."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


def chosen(argument: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """The entry of ``choices`` under ``name``.

    Args:
        argument: Name of the argument that takes the choice, for the message.
        name: What the caller asked for.
        choices: Everything that can be asked for.

    Returns:
        ``choices[name]``.

    Raises:
        ValueError: If there is no such choice; the message lists them all, and the nearest one.

    Example:
        >>> chosen("activation", "rleu", {"relu": 1, "tanh": 2})
        Traceback (most recent call last):
        ...
        ValueError: Expected `activation` to be one of 'relu', 'tanh', but got 'rleu'; did you mean 'relu'?
    """
    if isinstance(name, str) and name in choices:
        return choices[name]
    nearest = difflib.get_close_matches(str(name), choices, n=1)
    raise ValueError(
        f"Expected `{argument}` to be one of {', '.join(map(repr, choices))}, but got {name!r}; "
        + (f"did you mean {nearest[0]!r}?" if nearest else "choose one of them.")
    )
