"""Which uses of which parameters belong together, so that the gradients of a group can be made at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.factors import Layout
from lightning_bounds.jacobian.tape import Call, sources_of


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a parameter: in which call, in which role, which entries of it (all if None).

    A ``derived`` weight is computed from the parameter by something else than choosing entries.
    """

    call: int
    role: str
    entries: Tensor | None = None
    derived: bool = False


@dataclass(eq=False)
class Group:
    """A parameter, or some entries of it, with all its uses, whose gradients add up.

    Attributes:
        name: The parameter.
        uses: In which calls.
        size: Number of entries.
        entries: Which ones; all if None.
        shape: Where all uses are outer products alike: ``(groups, o, i)``.
        places: How many outer products a sample has.
        inputs: How many numbers of a sample go into its calls.
        bias: The group that is the bias of the same calls.
    """

    name: str
    uses: list[Use]
    size: int
    entries: Tensor | None = None
    shape: tuple[int, int, int] | None = None
    places: int = 0
    inputs: int = 0
    bias: "Group | None" = None


def groups_of(
    name: str, parameter: nn.Parameter, calls: Sequence[Call], layouts: Sequence[Layout | None]
) -> list[Group] | None:
    """The groups of one parameter; none if it is not used, and None if some use of it is beyond the rules."""
    uses = [
        _use(number, role, weight, parameter)
        for number, call in enumerate(calls)
        for role, weight in call.weights.items()
        if weight is parameter or any(source is parameter for source in sources_of(weight))
    ]
    if any(layouts[use.call] is None for use in uses):
        return None
    if not uses:
        return []
    parts = _by_entries(uses)
    if parts is None:
        return [Group(name, uses, parameter.numel())]
    groups = []
    for entries, same in parts:
        group = Group(name, same, parameter.numel() if entries is None else entries.numel(), entries)
        shapes = {_shape(use, calls[use.call]) for use in same}
        if len(shapes) == 1:
            (group.shape,) = shapes
        if group.shape is not None:
            outputs = group.shape[0] * group.shape[1]
            group.places = sum(_count(calls[use.call]) // outputs for use in same)
            group.inputs = sum(calls[use.call].inputs.numel() // 3 for use in same)
        groups.append(group)
    return groups


def link_biases(groups: Sequence[Group]) -> None:
    """Let each group of outer products know the bias that is added in exactly the same calls."""
    biases: Mapping[tuple[int, ...], Group] = {
        tuple(use.call for use in group.uses): group
        for group in groups
        if all(use.role == "bias" and not use.derived for use in group.uses)
        and (group.entries is not None or all(use.entries is None for use in group.uses))
    }
    for group in groups:
        if group.shape is not None:
            bias = biases.get(tuple(use.call for use in group.uses))
            if bias is not None and bias.size == group.shape[0] * group.shape[1]:
                group.bias = bias


def matched(groups: Sequence[Group], others: Sequence[Group]) -> dict[Group, Group] | None:
    """For each group the one of the same columns in passes on other samples; None if those are grouped otherwise."""
    fits = len(groups) == len(others) and all(
        (a.name, a.size, a.shape, a.bias is None) == (b.name, b.size, b.shape, b.bias is None)
        and (a.entries is b.entries or (a.entries is not None and b.entries is not None and a.entries.equal(b.entries)))
        for a, b in zip(groups, others, strict=True)
    )
    return dict(zip(groups, others, strict=True)) if fits else None


def _use(number: int, role: str, weight: Tensor, parameter: nn.Parameter) -> Use:
    if weight is parameter:
        return Use(number, role)
    if weight._is_view() and weight._base is parameter and parameter.is_contiguous():
        places = torch.arange(parameter.numel(), device=parameter.device)
        offset = int(weight.storage_offset() - parameter.storage_offset())
        entries = places.as_strided(weight.shape, weight.stride(), offset).flatten()
        if entries.unique().numel() == entries.numel():
            return Use(number, role, entries)
    return Use(number, role, derived=True)


def _by_entries(uses: Sequence[Use]) -> list[tuple[Tensor | None, list[Use]]] | None:
    """Uses of the same entries together, if all others are of other entries; None if they overlap in part."""
    if any(use.derived for use in uses):
        return None
    if all(use.entries is None for use in uses):
        return [(None, list(uses))]
    parts: list[tuple[Tensor, list[Use]]] = []
    for use in uses:
        if use.entries is None:
            return None
        for entries, same in parts:
            if torch.equal(entries, use.entries):
                same.append(use)
                break
        else:
            parts.append((use.entries, [use]))
    together = torch.cat([entries for entries, _ in parts])
    return [*parts] if together.unique().numel() == together.numel() else None


def _shape(use: Use, call: Call) -> tuple[int, int, int] | None:
    if use.role != "weight" or call.layer.factors is None:
        return None
    weight = call.weights["weight"]
    groups, units = call.options.get("groups", 1), call.options.get("units", weight.shape[0])
    return groups, units // groups, weight.numel() // units


def _count(call: Call) -> int:
    """Numbers that the call gives for each of the three samples."""
    return torch.Size(call.shape).numel() // 3
