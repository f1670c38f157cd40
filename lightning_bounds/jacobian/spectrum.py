"""The singular values and left singular vectors of a Jacobian, by the method that costs least."""

import dataclasses

import torch

from lightning_bounds.jacobian.decomposition import Spectrum, gram_spectrum
from lightning_bounds.jacobian.density import spectral_density
from lightning_bounds.jacobian.guard import plain_arithmetic
from lightning_bounds.jacobian.lanczos import lanczos_spectrum
from lightning_bounds.jacobian.operator import JacobianOperator
from lightning_bounds.jacobian.plan import Cost, plan
from lightning_bounds.jacobian.products import ROW_BYTES, HeldRows, RecomputedRows
from lightning_bounds.jacobian.randomized import randomized_spectrum

__all__ = ["Spectrum", "gram_spectrum", "jacobian_spectrum"]
_METHODS = ("gram", "lanczos", "randomized", "density", "auto")


def jacobian_spectrum(
    jacobian: JacobianOperator,
    rank: int | None = None,
    method: str = "auto",
    dtype: torch.dtype = torch.float64,
    memory_budget: str | int | None = None,
    *,
    tolerance: float = 1e-3,
    seed: int = 0,
    start: Spectrum | None = None,
) -> Spectrum:
    """Spectrum of a Jacobian, all of it or the leading part.

    * ``"gram"``: the square roots of the eigenvalues of ``J J^T``, exact, see :func:`gram_spectrum`.
    * ``"lanczos"``: the leading part from products with ``J J^T``, see :func:`lanczos_spectrum`. Rows are held in
      memory, in float16 where only that fits the budget; made anew for each product where nothing does.
    * ``"randomized"``: the leading part from products with ``J^T J``, see :func:`randomized_spectrum`. Where rows are
      made anew it needs half as many passes as ``"lanczos"`` for a product, and more memory.
    * ``"density"``: estimates of all singular values, without vectors, see :func:`spectral_density`; their error bars
      are one standard error.
    * ``"auto"``: by :func:`plan`, which writes why into ``reason``.

    Args:
        jacobian: The Jacobian.
        rank: How many leading singular values to find; all ``n*K`` if not given.
        method: See above.
        dtype: In which a Gram matrix is added up.
        memory_budget: Bytes, or like ``"2GB"``, without what the network itself takes for a few samples.
        tolerance: Relative error bar of each singular value at which ``"lanczos"`` and ``"randomized"`` stop.
        seed: Of their random vectors; the global generator is not used.
        start: A spectrum of the same network at an earlier step, from whose vectors an iteration starts.

    Raises:
        ValueError: If the method is unknown, the rank or tolerance out of range, or ``start`` is of another shape.
        MemoryError: If the method needs more than the budget.
        ArithmeticError: If the Jacobian fails its check, or an iteration does not converge; FloatingPointError if the
            Jacobian is not finite.

    Example:
        >>> J = JacobianOperator(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> jacobian_spectrum(J).singular_values
        tensor([3., 2.], dtype=torch.float64)
        >>> jacobian_spectrum(J, rank=1, method="lanczos").singular_values
        tensor([3.], dtype=torch.float64)
    """
    _check(jacobian, rank, method, tolerance, start)
    costs = plan(jacobian, rank, memory_budget, dtype)
    memory_budget = costs.memory_budget
    chosen, reason = (costs.method, costs.reason) if method == "auto" else (method, "asked for")
    if chosen == "gram":
        found = gram_spectrum(jacobian.gram(dtype, memory_budget), rank, row_precision=jacobian.row_precision)
        return dataclasses.replace(found, reason=reason)
    cost = costs.costs[chosen]
    if not cost.fits:
        raise MemoryError(
            f"Expected a budget of at least {cost.bytes:,} bytes for method {chosen!r} on a Jacobian of "
            f"{jacobian.shape[0]} x {jacobian.shape[1]}, but got {memory_budget:,}; raise `memory_budget`, look at "
            "fewer samples or layers, or ask for a smaller rank."
        )
    with torch.inference_mode(False), torch.no_grad(), plain_arithmetic():
        rows = _rows(jacobian, cost, memory_budget)
        if chosen == "density":
            found = _estimated(rows, rank, seed)
        elif chosen == "lanczos":
            known = None if start is None else start.subspace if start.method == "lanczos" else start.left_vectors
            found = lanczos_spectrum(rows, rank or 1, tolerance, seed, known)
        else:
            known = None if start is None else start.subspace
            if start is not None and start.method != "randomized":
                known = rows.transposed(start.left_vectors)
            found = randomized_spectrum(rows, rank or 1, tolerance, seed, known)
    return dataclasses.replace(found, reason=reason)


def _check(jacobian: JacobianOperator, rank: int | None, method: str, tolerance: float, start: Spectrum | None) -> None:
    rows, columns = jacobian.shape
    if method not in _METHODS:
        raise ValueError(f"Expected `method` among {_METHODS}, but got {method!r}.")
    if rank is not None and not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"Expected `rank` in 1..{min(rows, columns)} for a Jacobian of {rows} rows (samples times outputs) and "
            f"{columns} columns (parameters), but got {rank}."
        )
    if rank is None and method in ("lanczos", "randomized"):
        raise ValueError(f"Expected a `rank` for method {method!r}, but got None; method='gram' finds all.")
    if not 0 < tolerance < 1:
        raise ValueError(f"Expected `tolerance` in (0, 1), a fraction of each singular value, but got {tolerance}.")
    if start is not None:
        expected = columns if start.method == "randomized" else rows
        vectors = start.vectors if start.subspace is None else start.subspace
        if vectors.shape[0] != expected or not vectors.shape[1]:
            raise ValueError(
                f"Expected `start` to hold vectors with {expected} entries, as a spectrum of this network on as many "
                f"samples has, but got shape {tuple(vectors.shape)} from method {start.method!r}."
            )


def _rows(jacobian: JacobianOperator, cost: Cost, memory_budget: int | None) -> HeldRows | RecomputedRows:
    if cost.storage is not None:
        return HeldRows(jacobian, cost.storage)
    if memory_budget is None:
        return RecomputedRows(jacobian, ROW_BYTES)
    # Beside its rows a sample takes what goes into the layers and comes out of them; the rest is for holes in memory.
    row_bytes = jacobian.num_outputs * jacobian.shape[1] * jacobian.dtype.itemsize
    share = row_bytes / (4 * row_bytes + 8 * jacobian.layering.sample_bytes)
    return RecomputedRows(jacobian, max(1, min(ROW_BYTES, int(share * (memory_budget - cost.bytes)))))


def _estimated(rows: HeldRows | RecomputedRows, rank: int | None, seed: int) -> Spectrum:
    density = spectral_density(rows, seed=seed)
    values, errors = density.quantiles()
    precision = 10 * rows.row_precision + (5 * rows.product_precision) ** 0.5
    return Spectrum(
        singular_values=values[:rank],
        vectors=values.new_empty(len(values), 0),
        frobenius_norm=rows.frobenius_norm,
        noise_floor=float(values[0]) * precision,
        method="density",
        errors=errors[:rank],
        density=density,
    )
