"""Which parameters a Jacobian is taken by: the trainable ones, all or those of some layers, each once."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn


def selected_parameters(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, in ``model.parameters()`` order; tied ones appear once, under their first name.

    Args:
        model: Any module.
        layers: Patterns with ``*``, ``?`` and ``[...]``. A pattern selects the parameters that it names and all
            parameters inside the modules that it names: ``"hidden"``, ``"encoder.*.weight"``. All if not given.

    Raises:
        ValueError: If a pattern matches nothing (with the nearest names), or nothing that it matches is trainable.

    Example:
        >>> list(selected_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), layers=["1"]))
        ['1.weight', '1.bias']
    """
    if isinstance(layers, str):
        raise ValueError(
            f"Expected `layers` to be a sequence of patterns, but got the string {layers!r}; write [{layers!r}]."
        )
    named = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    if layers is not None:
        # Tied parameters answer to each of their names.
        names = {plain_name(name): id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
        for pattern in layers:
            _check_pattern(pattern, list(names))
        chosen = {key for name, key in names.items() if any(_selects(pattern, name) for pattern in layers)}
        named = {name: parameter for name, parameter in named.items() if id(parameter) in chosen}
    trainable = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not trainable:
        where = "the model" if layers is None else f"layers {list(layers)}"
        raise ValueError(
            f"Expected a trainable parameter in {where}, but all {len(named)} are frozen or there are none; "
            "set `requires_grad` on what is to be looked at."
        )
    return trainable


def plain_name(name: str) -> str:
    """The name of a parameter or module without the wrapper that ``torch.compile`` puts around a module.

    Example:
        >>> plain_name("network._orig_mod.0"), plain_name("")
        ('network.0', '')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _selects(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))


def _check_pattern(pattern: str, names: list[str]) -> None:
    if any(_selects(pattern, name) for name in names):
        return
    prefixes = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    nearest = get_close_matches(pattern, sorted(prefixes), n=10, cutoff=0.0)
    raise ValueError(f"Expected `layers` to match parameters, but {pattern!r} matches none; the nearest are {nearest}.")


def common_type(parameters: list[nn.Parameter]) -> tuple[torch.dtype, torch.device]:
    """The type that all parameters can be held in, and where the first one is."""
    dtype = parameters[0].dtype
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    if dtype.is_complex:
        raise TypeError(
            f"Expected real parameters, but some are {dtype}; hold real and imaginary parts as parameters of their "
            "own, or look at the others by `layers`."
        )
    return dtype, parameters[0].device
