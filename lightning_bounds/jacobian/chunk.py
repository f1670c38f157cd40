"""Some samples, once forward and ``K`` times backward, and the rows of the Jacobian that come out of it.

Samples that do not see each other can be differentiated together: the gradient of ``Σ_i f_a(x_i)`` by what comes out
of a layer holds, sample by sample, what the layer's rule needs to make the gradients of each sample alone.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.differentiation import vector_jacobian_products
from lightning_bounds.jacobian.factors import Factors, Layout
from lightning_bounds.jacobian.groups import Group, Use
from lightning_bounds.jacobian.scratch import Scratch
from lightning_bounds.jacobian.tape import Call, Key, Recording, recorded, sources_of

# Outputs (n, K) of the samples with these indices.
Forward = Callable[[Tensor], Tensor]
Parameters = Mapping[str, nn.Parameter]
Signature = list[tuple[object, int, int, dict[str, tuple[bool, list[str | None]]]]]


class UnevenError(RuntimeError):
    """The forward pass treats samples differently, so that they cannot be differentiated together."""


@dataclass
class Layering:
    """How each parameter is differentiated.

    Attributes:
        groups: What the rules of the layers cover.
        plain: Names of the parameters that are left to automatic differentiation, one sample at a time.
        layouts: Where the samples are in each call.
        signature: The calls that every forward pass must make.
        copied: Calls whose inputs are overwritten later.
        shared: Keys of calls that see no samples.
        sample_bytes: What a forward and a backward pass keep for a sample.
        reason: Why no rule is used at all, if so.
    """

    groups: list[Group]
    plain: list[str]
    layouts: list[Layout]
    signature: Signature
    copied: frozenset[int] = frozenset()
    shared: frozenset[Key] = frozenset()
    sample_bytes: int = 0
    reason: str = ""


class Chunk:
    """Some samples, once forward and ``K`` times backward.

    Args:
        layering: How each parameter is differentiated.
        forward: The network.
        parameters: The parameters by name.
        indices: The samples.
        wanted: The groups that will be asked for; all if not given.
        scratch: Memory that is used again: the factors of a group are then valid until those of another are made.

    Raises:
        UnevenError: If the forward pass makes other calls than the layering knows.
    """

    def __init__(
        self,
        layering: Layering,
        forward: Forward,
        parameters: Parameters,
        indices: Tensor,
        wanted: Sequence[Group] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.layouts, self.parameters, self.scratch = layering.layouts, parameters, scratch
        known = {id(parameter): name for name, parameter in parameters.items()}
        alone = len(indices) == 1
        if alone:
            # A batch of one may take another way, as where a class token is expanded to as many as there are samples.
            indices = indices.repeat(2)
        recording = recorded(lambda: forward(indices), known, layering.copied, layering.shared)
        if signature(recording, known) != layering.signature:
            raise UnevenError("the forward pass of some samples makes other calls than that of others")
        used = sorted({use.call for group in layering.groups for use in group.uses})
        if not all(_has_samples(recording.calls[number], self.layouts[number], len(indices)) for number in used):
            raise UnevenError("a layer does not see every sample equally often")
        self.calls: Mapping[int, Call] = dict(enumerate(recording.calls))
        groups = layering.groups if wanted is None else wanted
        self.gradients = _gradients(recording, sorted({use.call for group in groups for use in group.uses}))
        self.num_samples, self.num_outputs = recording.outputs.shape
        if alone:
            self._keep_first(used)

    def factors(self, group: Group) -> Factors:
        """The outer products of a group that has a shape."""
        if len(group.uses) == 1:
            return self._factors(group.uses[0].call, self.scratch)
        parts = [self._factors(use.call, None) for use in group.uses]
        return Factors(torch.cat([part.left for part in parts], 3), torch.cat([part.right for part in parts], 2))

    def kept(self, group: Group) -> "Chunk":
        """What the rows of a group with a shape are made of, without the rest."""
        light = copy.copy(self)
        numbers = [use.call for use in group.uses]
        light.calls = {number: replace(self.calls[number], weights={}, edge=None) for number in numbers}
        light.gradients = {number: self.gradients[number] for number in numbers}
        return light

    def write_rows(self, group: Group, out: Tensor, first: int = 0) -> None:
        """Rows of a group into ``out``, contiguous.

        Args:
            group: The group.
            out: Shape ``(n, K, size)``, or, for outer products of one input, fewer columns that belong to whole
                outputs of the layer.
            first: Its first column.
        """
        if group.shape is not None:
            if out.shape[2] == group.size and len(group.uses) == 1 and self._written(out, group.uses[0].call):
                return
            left, right = self.factors(group)
            if out.shape[2] < group.size:
                start, count = first // group.shape[2], out.shape[2] // group.shape[2]
                left = left.unflatten(2, (self.num_outputs, -1))[:, :, :, start : start + count].flatten(2, 3)
            outer_products(Factors(left, right), out)
            return
        for number, use in enumerate(group.uses):
            rows = self._rows(use, group.name)
            if use.entries is not None and group.entries is None:
                if number == 0:
                    out.zero_()
                out.index_add_(2, use.entries.to(out.device), rows.to(out.dtype))
            elif number == 0:
                out.copy_(rows)
            else:
                out += rows

    def transposed_product(self, group: Group, vector: Tensor) -> Tensor:
        """``J^T u`` by the entries of a group, shape ``(size,)``, for ``u`` of shape ``(n, K)``."""
        if group.shape is None:
            rows = vector.new_empty(*vector.shape, group.size)
            self.write_rows(group, rows)
            return torch.einsum("nk,nkp->p", vector, rows)
        left, right = self.factors(group)
        weighted = torch.einsum("nk,ngkos->gons", vector, left.unflatten(2, (self.num_outputs, -1)))
        return torch.bmm(weighted.flatten(2), right.transpose(0, 1).flatten(1, 2)).flatten()

    def _keep_first(self, numbers: Sequence[int]) -> None:
        """Forget all samples but the first."""
        first = {number: self.layouts[number].first_sample for number in numbers}
        calls = {number: self.calls[number] for number in numbers}
        kept = {number: replace(call, inputs=first[number](call.inputs)) for number, call in calls.items()}
        self.calls = {**self.calls, **kept}
        self.gradients = {number: [first[number](g) for g in parts] for number, parts in self.gradients.items()}
        self.num_samples = 1

    def _factors(self, number: int, scratch: Scratch | None) -> Factors:
        call = self.calls[number]
        assert call.layer.factors is not None
        return call.layer.factors(call.inputs, self.gradients[number], self.layouts[number], call.options, scratch)

    def _written(self, out: Tensor, number: int) -> bool:
        call = self.calls[number]
        return call.layer.write(
            out, call.inputs, self.gradients[number], self.layouts[number], call.options, self.scratch
        )

    def _rows(self, use: Use, name: str) -> Tensor:
        """Rows by the weight of a call, or, where that is computed from parameters, by one of those."""
        call = self.calls[use.call]
        weight = call.weights[use.role]
        if use.role == "weight" and call.layer.factors is not None:
            shape = (self.num_samples, self.num_outputs, weight.numel())
            rows = torch.empty(shape, dtype=weight.dtype, device=weight.device)
            outer_products(self._factors(use.call, self.scratch), rows)
        else:
            layout, gradients = self.layouts[use.call], self.gradients[use.call]
            rows = call.layer.rows(use.role, call.inputs, gradients, layout, call.options, tuple(weight.shape))
        if not use.derived:
            return rows
        vectors = rows.reshape(-1, *weight.shape)
        return vector_jacobian_products(weight, [self.parameters[name]], vectors).reshape(*rows.shape[:2], -1)


def outer_products(factors: Factors, out: Tensor) -> None:
    """``Σ_s left_s right_s^T`` for each sample and output, into ``out`` of shape ``(n, K, groups * o * i)``."""
    n, groups, stacked, _ = factors.left.shape
    if n != out.shape[0]:
        raise UnevenError(f"Expected a layer to see {out.shape[0]} samples, but it sees {n}.")
    left, right = factors.left.flatten(0, 1), factors.right.flatten(0, 1)
    if groups == 1 and left.dtype == out.dtype:
        torch.bmm(left, right, out=out.view(n, stacked, -1))
    elif groups == 1:
        out.view(n, stacked, -1).copy_(torch.bmm(left, right))
    else:
        products = torch.bmm(left, right).unflatten(0, (n, groups)).unflatten(2, (out.shape[1], -1))
        out.copy_(products.transpose(1, 2).flatten(2))


def signature(recording: Recording, known: Mapping[int, str]) -> Signature:
    """What each call is: its layer, dimensions, which of its weights are parameters, and from which the others come."""
    return [
        (
            call.layer,
            call.inputs.dim(),
            len(call.shape),
            {role: (w.is_leaf, [known.get(id(p)) for p in sources_of(w)]) for role, w in call.weights.items()},
        )
        for call in recording.calls
    ]


def _has_samples(call: Call, layout: Layout, count: int) -> bool:
    places = count * layout.repeats
    return call.inputs.shape[layout.dim] == places == call.shape[layout.dim]


def _gradients(recording: Recording, numbers: Sequence[int]) -> dict[int, list[Tensor]]:
    """For each of these calls ``K`` gradients: of each output, summed over the samples, by what the call gave."""
    gradients: dict[int, list[Tensor]] = {number: [] for number in numbers}
    edges = [edge for number in numbers if (edge := recording.calls[number].edge) is not None]
    count = recording.outputs.shape[1]
    for k in range(count if edges else 0):
        unit = torch.zeros_like(recording.outputs)
        unit[:, k] = 1
        found = torch.autograd.grad(recording.outputs, edges, unit, retain_graph=k < count - 1, allow_unused=True)
        for number, gradient in zip(numbers, found, strict=True):
            if gradient is None:  # the outputs do not depend on this call
                gradient = recording.outputs.new_zeros(recording.calls[number].shape)
            gradients[number].append(gradient)
    return gradients
