"""``J J^T`` layer by layer, within a memory budget."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_bounds.jacobian.budget import budget_bytes
from lightning_bounds.jacobian.chunk import Chunk, Layering
from lightning_bounds.jacobian.contraction import mirror
from lightning_bounds.jacobian.groups import matched
from lightning_bounds.jacobian.pieces import Cut, Piece, chunk_size, cut
from lightning_bounds.jacobian.scratch import Scratch
from lightning_bounds.jacobian.stores import Store, stores_of

# How often the blocks are halved when a device runs out of memory.
_HALVINGS = 3
# Samples on which a Gram matrix is checked, and rows.
_CHECKED, _CHECKED_ROWS = 16, 2
# Machine epsilons below it are those of float64.
_FINE = 1e-10


class Rows(Protocol):
    """Where the rows of a Jacobian come from: a :class:`JacobianOperator`, or some of its samples."""

    names: list[str]
    sizes: list[int]
    num_samples: int
    num_outputs: int
    dtype: torch.dtype
    device: torch.device
    coupled: bool

    @property
    def layering(self) -> Layering:
        """How each parameter is differentiated."""

    def evaluation(self) -> AbstractContextManager[dict[str, nn.Parameter]]:
        """The parameters of the quiet model."""

    def outputs_of(self, indices: Tensor) -> Tensor:
        """Outputs of some samples, with their graph."""

    def plain_rows(self, names: Sequence[str], start: int, stop: int) -> dict[str, Tensor]:
        """Rows of some samples by some parameters, by automatic differentiation alone."""


def layered_gram(rows: Rows, other: Rows | None, dtype: torch.dtype, memory_budget: str | int | None) -> Tensor:
    """``J J^T``, or ``J J'^T`` for the samples of another operator on the same network.

    Args:
        rows: ``J``.
        other: ``J'``; ``J`` itself if not given.
        dtype: In which products are added up.
        memory_budget: Bytes for the result and all that is held on the way to it; as many as are of use if not given.

    Raises:
        MemoryError: If there is no room beside the result.
    """
    height = rows.num_samples * rows.num_outputs
    width = height if other is None else other.num_samples * other.num_outputs
    taken = height * width * dtype.itemsize
    budget = float("inf") if memory_budget is None else budget_bytes(memory_budget)
    free = budget - taken
    samples = rows.num_samples + (other.num_samples if other is not None else 0)
    needed = 2 * samples * rows.num_outputs * rows.dtype.itemsize
    if free < needed:
        raise MemoryError(
            f"Expected a Gram matrix within {budget:,} bytes, but {height} x {width} entries take "
            f"{taken:,} and some of their columns {needed:,}; look at fewer samples or raise "
            "`memory_budget`."
        )
    for _ in range(_HALVINGS):
        try:
            return _contracted(rows, other, dtype, free, samples)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            free = min(free, float(torch.cuda.mem_get_info(rows.device)[0])) / 2
    return _contracted(rows, other, dtype, free, samples)


def _contracted(rows: Rows, other: Rows | None, dtype: torch.dtype, free: float, samples: int) -> Tensor:
    layering, partners = rows.layering, None if other is None else matched(rows.layering.groups, other.layering.groups)
    if other is not None and partners is None:
        layering = Layering([], list(rows.names), [], [])
    sizes = dict(zip(rows.names, rows.sizes, strict=True))
    plan = cut(layering, sizes, samples, rows.num_outputs, rows.dtype.itemsize, free)
    width = rows if other is None else other
    gram = torch.zeros(
        rows.num_samples * rows.num_outputs, width.num_samples * width.num_outputs, dtype=dtype, device=rows.device
    )
    scratch = Scratch()
    for pieces in plan.passes:
        stores = filled(rows, pieces, plan, scratch)
        others: list[Any] = [None] * len(stores)
        if other is not None:
            alike = [replace(piece, group=piece.group and (partners or {})[piece.group]) for piece in pieces]
            others = [*filled(other, alike, plan, scratch)]
        while stores:
            stores.pop().add_to(gram, others.pop(), plan.work_bytes, scratch)
    return gram if other is not None else mirror(gram)


def filled(rows: Rows, pieces: Sequence[Piece], plan: Cut, scratch: Scratch) -> list[Store]:
    """The columns of some pieces for all samples, ready to be multiplied."""
    like = torch.empty(0, dtype=rows.dtype, device=rows.device)
    stores = stores_of(pieces, rows.num_samples, rows.num_outputs, like)
    groups = [piece.group for piece in pieces if piece.group is not None]
    plain = sorted({piece.name for piece in pieces if piece.group is None}, key=rows.names.index)
    starts = range(0, rows.num_samples, plan.chunk)
    with rows.evaluation() as parameters:
        for start in tqdm(starts, "Jacobian", leave=False, delay=2):
            stop = min(start + plan.chunk, rows.num_samples)
            chunk = None
            if groups:
                chunk = Chunk(rows.layering, rows.outputs_of, parameters, torch.arange(start, stop), groups, scratch)
            taken = rows.plain_rows(plain, start, stop) if plain else {}
            for store in stores:
                store.write(chunk, taken, start, stop)
    return stores


def write_blocks(rows: Rows, start: int, stop: int, blocks: Sequence[Tensor]) -> None:
    """Rows of samples ``start .. stop-1`` into one contiguous matrix for each parameter."""
    layering, outputs = rows.layering, rows.num_outputs
    place = dict(zip(rows.names, blocks, strict=True))
    whole = {group.name for group in layering.groups if group.entries is None}
    for name in set(rows.names) - whole - set(layering.plain):
        place[name].zero_()  # unused, all of it or some entries
    scratch, chunk_samples = Scratch(), chunk_size(layering, outputs, blocks[0].element_size())
    with rows.evaluation() as parameters:
        for begin in range(start, stop, chunk_samples):
            end = min(begin + chunk_samples, stop)
            span = slice((begin - start) * outputs, (end - start) * outputs)
            if layering.groups:
                chunk = Chunk(layering, rows.outputs_of, parameters, torch.arange(begin, end), scratch=scratch)
                for group in layering.groups:
                    block = place[group.name][span].view(end - begin, outputs, -1)
                    if group.entries is None:
                        chunk.write_rows(group, block)
                    else:
                        part = block.new_empty(*block.shape[:2], group.size)
                        chunk.write_rows(group, part)
                        block[:, :, group.entries] = part
            if layering.plain:
                for name, part in rows.plain_rows(layering.plain, begin, end).items():
                    place[name][span] = part


def check_gram(gram: Tensor, rows: Rows, other: Rows | None) -> None:
    """Compare ``u^T (J J'^T) u'`` with ``(J^T u) · (J'^T u')`` by automatic differentiation, for random vectors.

    The vectors are supported on some of the samples, chosen at random over all of them.

    Raises:
        FloatingPointError: If an entry is not finite.
        ArithmeticError: If the two differ.
    """
    entries = gram.diagonal() if other is None else gram
    if not bool(entries.isfinite().all()):
        raise FloatingPointError("Expected a finite Jacobian, but its Gram matrix holds NaN or infinity.")
    where, u, gradient = _random_product(rows, 0, 0, rows.num_samples, _CHECKED)
    where_other, u_other, gradient_other = where, u, gradient
    if other is not None:
        where_other, u_other, gradient_other = _random_product(other, 1, 0, other.num_samples, _CHECKED)
    got = float(u.double() @ (gram[where[:, None], where_other[None, :]].double() @ u_other.double()))
    pairs = list(zip(gradient, gradient_other, strict=True))
    expected = sum(float(torch.dot(a.flatten(), b.flatten())) for a, b in pairs)
    scale = expected if other is None else _size(gradient) * _size(gradient_other)
    tolerance = _tolerance(gram.dtype, rows.dtype)
    if abs(got - expected) > tolerance * scale:
        raise ArithmeticError(
            f"Expected the Gram matrix to agree with J (J^T u) to {tolerance:g}, but they differ by "
            f"{abs(got - expected) / scale if scale else float('inf'):.3g}: "
            "the module's derivatives or its batching cannot be trusted here."
        )


def check_blocks(blocks: Sequence[Tensor], rows: Rows, start: int, stop: int) -> None:
    """Compare ``J^T u`` from rows of some samples with automatic differentiation, for a random ``u`` on a few of them.

    Raises:
        ArithmeticError: If the two differ.
    """
    if start == stop:
        return
    where, u, gradient = _random_product(rows, 0, start, stop, _CHECKED_ROWS)
    products = [block[where - start * rows.num_outputs].T @ u for block in blocks]
    difference = _size([a - b.flatten() for a, b in zip(products, gradient, strict=True)])
    if difference > _tolerance(rows.dtype) * _size(gradient):
        raise ArithmeticError(f"the rows of samples {start} .. {stop - 1} differ from automatic differentiation")


def _tolerance(*dtypes: torch.dtype) -> float:
    """How far two ways to the same number may differ, relatively, in the coarsest of some precisions."""
    return 1e-7 if max(torch.finfo(dtype).eps for dtype in dtypes) < _FINE else 1e-3


def _size(parts: Sequence[Tensor]) -> float:
    return sum(float(part.norm()) ** 2 for part in parts) ** 0.5


def _random_product(rows: Rows, seed: int, start: int, stop: int, count: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows of some samples among ``start .. stop-1``, a random vector on them, and ``J^T u`` by parameters."""
    generator = torch.Generator().manual_seed(seed)
    samples = start + torch.randperm(stop - start, generator=generator)[:count].sort().values
    u = torch.randn(len(samples), rows.num_outputs, generator=generator, dtype=torch.float64)
    u = u.to(rows.device, rows.dtype)
    where = (samples[:, None] * rows.num_outputs + torch.arange(rows.num_outputs)).flatten().to(rows.device)
    with rows.evaluation() as parameters:
        if rows.coupled:
            outputs = rows.outputs_of(torch.arange(rows.num_samples))
            vector = torch.zeros_like(outputs)
            vector[samples] = u.to(outputs)
        else:
            outputs, vector = rows.outputs_of(samples), u
        kept = list(parameters.values())
        found: Sequence[Tensor | None] = [None] * len(kept)
        if outputs.requires_grad:
            found = torch.autograd.grad(outputs, kept, vector.to(outputs), allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(kept, found, strict=True)]
    return where, u.flatten(), gradient
