"""What each method of finding a spectrum will cost, before any of it is done, and which one to take."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from lightning_bounds.jacobian.budget import budget_bytes
from lightning_bounds.jacobian.lanczos import block_width
from lightning_bounds.jacobian.multiplication import matmul
from lightning_bounds.jacobian.operator import JacobianOperator
from lightning_bounds.jacobian.pieces import gram_multiplications, made_columns
from lightning_bounds.jacobian.products import ROW_BYTES, TILE_BYTES, sketch_columns

# Steps of an iteration to 1e-3 from nothing, as seen on residual networks; the first pass over rows comes on top.
_LANCZOS_STEPS, _RANDOMIZED_STEPS, _DENSITY_STEPS, _DENSITY_PROBES = 4, 8, 40, 8
# Operations of a float32 matrix product in whose time: an entry of a matrix is read from memory; an entry of a row is
# made (a guess: convolutions take 2e2 to 4e3, linear layers a few); one is done in float64; and N³ of them find the
# eigenvalues in float64.
_READING, _ROW, _DOUBLE, _EIGH = 200, 2000, 4, 20
# Bytes of rows that are held at most where no budget is given.
_UNLIMITED = 2**33


class Calibration(NamedTuple):
    """Speed of this machine for this network: seconds for the rows of a sample, operations per second of a product."""

    row_seconds: float
    rate: float


@dataclass(frozen=True)
class Cost:
    """Prediction for one method.

    Attributes:
        operations: All that takes time, in operations of a matrix product that take as long.
        flops: Multiplications and additions of its products, without the rows.
        passes: How often the rows are made.
        bytes: At the peak, without what the network itself takes for a few samples.
        seconds: With the speed that was measured.
        storage: In which type the rows are held, if they are.
        fits: Whether the bytes are within the budget.
    """

    operations: float
    flops: float
    passes: int
    bytes: int
    seconds: float
    storage: torch.dtype | None
    fits: bool


class _Work(NamedTuple):
    flops: float
    beside: float
    passes: int
    bytes: int
    storage: torch.dtype | None


@dataclass(frozen=True)
class Plan:
    """Costs by method, and the choice of ``method="auto"``, which depends on sizes and budget, never on the clock.

    Attributes:
        costs: By method: ``"gram"``, ``"lanczos"``, ``"randomized"``, ``"density"``.
        method: The choice.
        reason: Why.
        memory_budget: Bytes, if there is a limit.
    """

    costs: Mapping[str, Cost]
    method: str
    reason: str
    memory_budget: int | None

    def __str__(self) -> str:
        lines = [f"{'method':<11} {'GFLOP':>9} {'passes':>6} {'MiB':>9} {'seconds':>8}  rows held"]
        for name, cost in self.costs.items():
            held = "no" if cost.storage is None else str(cost.storage).removeprefix("torch.")
            numbers = f"{cost.flops / 1e9:>9.3g} {cost.passes:>6} {cost.bytes / 2**20:>9.1f} {cost.seconds:>8.2g}"
            lines.append(f"{name:<11} {numbers}  {held}{'' if cost.fits else ', exceeds the budget'}")
        return "\n".join([*lines, f"{self.method}: {self.reason}"])


def plan(
    jacobian: JacobianOperator,
    rank: int | None = None,
    memory_budget: str | int | None = None,
    dtype: torch.dtype = torch.float64,
    calibration: Calibration | None = None,
) -> Plan:
    """Predict operations, bytes and seconds of every method, and choose.

    Without a rank all singular values are wanted: the Gram matrix, or if it does not fit, the density. With one, the
    method that fits and takes the least time by its operations, at fixed ratios between reading, multiplying and
    making rows, so that the same question has the same answer on a busy machine.

    Args:
        jacobian: The Jacobian.
        rank: How many leading singular values are wanted; all if not given.
        memory_budget: Bytes, or like ``"2GB"``; no limit if not given.
        dtype: In which a Gram matrix would be added up.
        calibration: Speed, see :func:`calibrate`; without it the seconds are for 1e11 operations per second.

    Example:
        >>> J = JacobianOperator(torch.nn.Linear(50, 2), torch.randn(30, 50))
        >>> plan(J).method, plan(J, rank=5).costs["gram"].bytes
        ('gram', 115200)
    """
    memory_budget = None if memory_budget is None else budget_bytes(memory_budget)
    rows, columns = jacobian.shape
    wanted = block_width(rank or 1, min(rows, columns))
    sizes = dict(zip(jacobian.names, jacobian.sizes, strict=True))
    counts = jacobian.num_samples, jacobian.num_outputs
    products = 2 * gram_multiplications(jacobian.layering, sizes, *counts)
    slower = (_DOUBLE - 1) * products if dtype == torch.float64 else 0.0
    gram = _Work(products, _EIGH * rows**3 + slower, 1, 4 * rows * rows * dtype.itemsize, None)
    work = {
        "gram": gram,
        "lanczos": _iteration(jacobian, memory_budget, wanted, _LANCZOS_STEPS, left=True),
        "randomized": _iteration(jacobian, memory_budget, wanted, _RANDOMIZED_STEPS, left=False),
        "density": _iteration(jacobian, memory_budget, _DENSITY_PROBES, _DENSITY_STEPS, left=True),
    }
    rate = calibration.rate if calibration else 1e11
    costs = {}
    for name, item in work.items():
        made = made_columns(jacobian.layering, sizes, *counts) if name == "gram" else columns
        operations = item.flops + item.beside + item.passes * _ROW * rows * made
        seconds = operations / rate
        if calibration:
            row_seconds = item.passes * calibration.row_seconds * jacobian.num_samples * made / columns
            seconds = (item.flops + item.beside) / rate + row_seconds
        fits = memory_budget is None or item.bytes <= memory_budget
        costs[name] = Cost(operations, item.flops, item.passes, item.bytes, seconds, item.storage, fits)
    method, reason = _choice(costs, rank, jacobian.shape, memory_budget)
    return Plan(MappingProxyType(costs), method, reason, memory_budget)


def calibrate(jacobian: JacobianOperator) -> Calibration:
    """Time the rows of a few samples and one matrix product, once for an operator, a few tenths of a second.

    Raises:
        RuntimeError: Whatever the network raises.
    """
    if jacobian.calibration is None:
        jacobian.calibration = _timed(jacobian)
    return jacobian.calibration


def _timed(jacobian: JacobianOperator) -> Calibration:
    jacobian.rows(0, 1)  # pays for what is made once
    samples = min(4, jacobian.num_samples)
    while True:
        begin = time.perf_counter()
        jacobian.rows(0, samples)
        elapsed = time.perf_counter() - begin
        if elapsed > 0.03 or samples == min(16, jacobian.num_samples):
            break
        # More samples at a time cost less each.
        samples = min(16, jacobian.num_samples)
    row_seconds = elapsed / samples
    left = torch.ones(64, 4096, dtype=torch.float32, device=jacobian.device)
    right = torch.ones(4096, 1024, dtype=torch.float32, device=jacobian.device)
    float(matmul(left, right)[0, 0])
    begin = time.perf_counter()
    float(matmul(left, right)[0, 0])
    return Calibration(row_seconds, 2 * left.numel() * right.shape[1] / (time.perf_counter() - begin))


def _held_bytes(jacobian: JacobianOperator, storage: torch.dtype, wanted: int) -> int:
    rows, columns = jacobian.shape
    working = torch.promote_types(storage, torch.float32).itemsize
    widened = TILE_BYTES + (0 if storage == jacobian.dtype else ROW_BYTES)
    sketch = rows * sketch_columns(rows, columns) * working
    return rows * columns * storage.itemsize + widened + max(sketch, columns * wanted * working) + _basis(rows, wanted)


def _recomputed_bytes(jacobian: JacobianOperator, wanted: int, left: bool) -> int:
    rows, columns = jacobian.shape
    itemsize = jacobian.dtype.itemsize
    smallest_block = jacobian.num_outputs * columns * itemsize
    # On the right, bases and their images are as long as the parameters.
    beside = columns * itemsize * wanted + _basis(rows, wanted) if left else 13 * wanted * (rows + columns) * itemsize
    return smallest_block + beside


def _basis(rows: int, wanted: int) -> int:
    """Eight blocks and their images, and what is made of them, in float64."""
    return 24 * rows * wanted * 8


def _iteration(jacobian: JacobianOperator, memory_budget: int | None, wanted: int, steps: int, left: bool) -> _Work:
    entries = jacobian.shape[0] * jacobian.shape[1]
    flops, anew = 4.0 * entries * wanted * steps, _recomputed_bytes(jacobian, wanted, left)
    # Rows are held in their own type, in float32 or in float16, whichever fits first.
    for storage in dict.fromkeys([jacobian.dtype, torch.float32, torch.float16]):
        needed = _held_bytes(jacobian, storage, wanted) + (0 if left else anew)
        if needed <= (_UNLIMITED if memory_budget is None else memory_budget):
            return _Work(flops, entries * _READING * (steps + 3), 1, needed, storage)
    return _Work(flops, 0, steps * (2 if left else 1), anew, None)


def _choice(
    costs: Mapping[str, Cost], rank: int | None, shape: tuple[int, int], memory_budget: int | None
) -> tuple[str, str]:
    size = f"a Jacobian of {shape[0]} x {shape[1]}"
    fitting = [name for name, cost in costs.items() if cost.fits]
    if rank is None:
        if costs["gram"].fits or not costs["density"].fits:
            return "gram", f"the one exact way to all singular values of {size}"
        return "density", f"the Gram matrix of {size} needs {costs['gram'].bytes:,} bytes of {memory_budget:,}"
    candidates = [name for name in ("gram", "lanczos", "randomized") if name in fitting]
    if not candidates:
        return "gram", f"no method fits {memory_budget:,} bytes for {size}, and this one says what it needs"
    best = min(candidates, key=lambda name: costs[name].operations)
    others = [f"{costs[name].operations:.2g} for {name}" for name in candidates if name != best]
    left_out = [name for name in ("gram", "lanczos", "randomized") if name not in fitting]
    reason = f"{costs[best].operations:.2g} operations for rank {rank} of {size}"
    if others:
        reason += f", against {' and '.join(others)}"
    return best, reason + (f"; {' and '.join(left_out)} would not fit {memory_budget:,} bytes" if left_out else "")
