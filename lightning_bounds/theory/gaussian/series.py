"""Covariances of any activation, by their Hermite series with a bound on what it leaves out."""

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian.activations import Elementwise
from lightning_bounds.theory.gaussian.arc_cosine import exact_angles
from lightning_bounds.theory.gaussian.blocks import Rows, map_gram
from lightning_bounds.theory.gaussian.hermite import MAX_ORDER, HermiteExpansion, hermite_expansion
from lightning_bounds.theory.gaussian.quadrature import pair_expectation

# Remainder of the series, relative to the two diagonal entries, and change of the quadrature where that is too much.
_TOLERANCE = 1e-14
_PAIR_TOLERANCE = 1e-13
# Rows of a tile that are summed at once: they stay in the cache over all terms of the series.
_STRIP = 64
# Norms that agree so closely are one norm: the terms of the series are then numbers, not matrices.
_EQUAL_NORMS = 1e-13


@torch.no_grad()
def series_covariance(rows: Rows, function: Elementwise, times_products: bool = False) -> Tensor:
    """``E[f(Xw) f(Xw)^T] = Σ_r μ_r(f_i) μ_r(f_j) ρ_ij^r``, with ``f_i(g) = f(|x_i| g)`` and ``ρ`` the cosines.

    After ``R`` terms an entry errs by at most ``|ρ|^{R+1}`` times the root of what the two expansions leave out. Pairs
    for which that is too much after 512 terms, which are nearly parallel, are integrated in two dimensions. The
    diagonal is ``E f(|x| g)²``.

    Args:
        rows: Norms and directions of ``X``, shapes ``(n,)`` and ``(n, d)``.
        function: ``f``, entrywise, smooth except at 0.
        times_products: Whether to multiply with ``X X^T`` entrywise.

    Returns:
        Shape ``(n, n)``.

    Raises:
        ArithmeticError: If an expectation does not converge.

    References:
        Oymak & Soltanolkotabi 2019, Appendix H, for rows of norm 1; Mehler's formula for others.

    Example:
        >>> X = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
        >>> series_covariance(Rows(torch.ones(2, dtype=torch.float64), X), lambda z: z)
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]], dtype=torch.float64)
    """
    norms, directions = rows
    if float(norms.max() - norms.min()) <= _EQUAL_NORMS * float(norms.max()):
        norms = norms.mean().expand_as(norms)
    expansion = hermite_expansion(function, norms)

    def entries(cosines: Tensor, left: slice, right: slice) -> Tensor:
        diagonal = left == right
        if diagonal:
            cosines.fill_diagonal_(0.0)
        here = _columns(expansion, left), _columns(expansion, right)
        order, too_close = _enough_terms(cosines, *here)
        values = _series(cosines, *here, order)
        if too_close is not None:
            i, j = too_close
            angles = exact_angles(directions[left], directions[right], i, j)
            scales = (here[0].energies[i] * here[1].energies[j]).sqrt()
            values[i, j] = pair_expectation(function, norms[left][i], norms[right][j], angles, scales, _PAIR_TOLERANCE)
        if diagonal:
            values.diagonal().copy_(expansion.energies[left])
            cosines.fill_diagonal_(1.0)
        if times_products:
            values.mul_(cosines).mul_(rows.norms[left].unsqueeze(1)).mul_(rows.norms[right])
        return values

    return map_gram(directions, None, entries)


def _columns(expansion: HermiteExpansion, part: slice) -> HermiteExpansion:
    return HermiteExpansion(expansion.coefficients[:, part], expansion.energies[part], expansion.tails[:, part])


def _enough_terms(
    cosines: Tensor, left: HermiteExpansion, right: HermiteExpansion
) -> tuple[int, tuple[Tensor, Tensor] | None]:
    """The order from which on the remainder is small in the whole tile, or the last one and the pairs it leaves."""
    largest = min(float(cosines.abs().amax()), 1.0)
    relative = (_worst_tail(left) * _worst_tail(right)).sqrt()
    remainders = relative * largest ** torch.arange(1, MAX_ORDER + 2).to(relative)
    enough = (remainders <= _TOLERANCE).nonzero()
    if len(enough):
        return int(enough[0]), None
    tails = (left.tails[-1] / left.energies).sqrt().unsqueeze(1) * (right.tails[-1] / right.energies).sqrt()
    i, j = (tails * cosines.abs() ** (MAX_ORDER + 1) > _TOLERANCE).nonzero(as_tuple=True)
    return MAX_ORDER, (i, j)


def _worst_tail(expansion: HermiteExpansion) -> Tensor:
    return (expansion.tails / expansion.energies.clamp(min=1e-300)).amax(dim=1)


def _series(cosines: Tensor, left: HermiteExpansion, right: HermiteExpansion, order: int) -> Tensor:
    """The sum up to an order, by Horner's rule."""
    values = torch.empty_like(cosines)
    equal = left.coefficients.stride(1) == 0
    for start in range(0, len(cosines), _STRIP):
        part = slice(start, start + _STRIP)
        total = torch.zeros_like(cosines[part])
        for r in range(order, -1, -1):
            total.mul_(cosines[part])
            if equal:
                total.add_(float(left.coefficients[r, 0] * right.coefficients[r, 0]))
            else:
                total.addr_(left.coefficients[r, part], right.coefficients[r])
        values[part] = total
    return values
