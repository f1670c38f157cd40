"""The bounds that can be computed during training, by name, and the settings that each of them takes.

A bound is one function from an ``ObservedTraining`` and keyword arguments, its settings, to a ``Bound``, and one entry
of a mapping here.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_bounds.callbacks.generalization_bound import fine_grained, information_space
from lightning_bounds.theory.bound import Bound, Condition, condition

# Of the samples and the initial weights: computed once.
BOUNDS_OF_DATA: dict[str, Callable[..., Bound]] = {
    "fine_grained": fine_grained.generalization_bound,
    "information_space_random_initialization": information_space.random_initialization,
    "information_space_simplified_random_initialization": information_space.simplified_random_initialization,
    "information_space_full_rank": information_space.full_rank,
    "information_space_arbitrary_initialization": information_space.arbitrary_initialization,
    "information_space_mixture": information_space.mixture,
}
# Of the network as it is now: computed at every measurement.
BOUNDS_OF_NETWORK: dict[str, Callable[..., Bound]] = {
    "fine_grained_certificate": fine_grained.certificate,
    "information_space_classification": information_space.classification,
    "information_space_loss": information_space.loss,
}
BOUNDS = {**BOUNDS_OF_DATA, **BOUNDS_OF_NETWORK}


def checked_settings(bounds: Mapping[str, Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Bounds and their settings, if each is known and none is missing.

    Raises:
        ValueError: If there is no bound, a name of a bound or of a setting is unknown, or a setting is missing.

    Example:
        >>> checked_settings({"fine_grained": {"delta": 0.05}})
        {'fine_grained': {'delta': 0.05}}
        >>> checked_settings({"fine_grained": {"dleta": 0.05}})
        Traceback (most recent call last):
        ValueError: Expected settings of the bound 'fine_grained' among ['delta', ...
    """
    if not isinstance(bounds, Mapping) or not bounds:
        raise ValueError(
            f"Expected `bounds` as a mapping like {{'fine_grained': {{'delta': 0.05}}}}, but got {bounds!r}."
        )
    return {name: _checked(name, given) for name, given in bounds.items()}


def _checked(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if name not in BOUNDS:
        raise ValueError(f"Expected bounds among {list(BOUNDS)}, but got {name!r}{_nearest(name, list(BOUNDS))}.")
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"Expected the settings of the bound {name!r} as a mapping, but got {given!r}.")
    settings = dict(given or {})
    keywords = [p for p in inspect.signature(BOUNDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [keyword.name for keyword in keywords]
    for key in settings:
        if key not in known:
            raise ValueError(
                f"Expected settings of the bound {name!r} among {known}, but got {key!r}{_nearest(str(key), known)}."
            )
    missing = [p.name for p in keywords if p.default is p.empty and p.name not in settings]
    if missing:
        raise ValueError(f"Expected the settings {missing} of the bound {name!r} too, but got {settings}; add them.")
    return settings


def _nearest(name: str, names: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def at_step(bound: Bound, step: int) -> Bound:
    """A bound of data after so many steps: whether they are enough is all of it that depends on them."""

    def counted(item: Condition) -> Condition:
        if item.name != "steps" or isinstance(item.actual, str) or isinstance(item.required, str):
            return item
        factor = bound.assumptions.get("steps")
        return condition("steps", step, item.relation, item.required, hidden=True, factor=factor, note=item.note)

    return replace(bound, conditions=[counted(item) for item in bound.conditions])
