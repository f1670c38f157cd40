"""Rademacher complexity of the networks near the initial directions."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative
from lightning_bounds.theory.batch_norm_margin.arguments import as_directions
from lightning_bounds.theory.batch_norm_margin.normalization import whole_set_statistics


class RademacherBounds(NamedTuple):
    """Bounds on the empirical Rademacher complexity of a class of networks.

    Attributes:
        printed: ``4 B ρ |X̄|_F / n``, which is wrong: it vanishes with ``ρ``, the complexity does not (erratum E310).
        rederived: ``2 B (max_j |v_0j| + ρ) |X̄|_F / n``.
        expected: ``2 B / n E[max_j |<v_0j, z>| + ρ |z|]``, smaller, estimated from drawn signs.
    """

    printed: float
    rederived: float
    expected: float


def weight_budget(output_norm: float, scale_norm: float, eps_N: float) -> float:
    """``B = 2 ε_N |a| |c|``, at least ``Σ_j |a_j c_j| / N_j`` for directions within ``1/(2 ε_N)`` of the initial ones.

    References:
        Theorem F.4, whose factor 2 is lost (erratum E308), by Lemma B.2: ``1/N'_j <= 2 ε_N``.

    Example:
        >>> weight_budget(10.0, 2.0, 1.0)
        40.0
    """
    for name, number in (("output_norm", output_norm), ("scale_norm", scale_norm), ("eps_N", eps_N)):
        check_not_negative(name, number)
    # E308: times rho_N = 2.
    return 2 * eps_N * output_norm * scale_norm


def rademacher_bounds(
    inputs: Tensor, directions: Tensor, *, budget: float, distance: float, draws: int = 1000, seed: int = 0
) -> RademacherBounds:
    """Bounds for the networks with ``Σ_j |a_j c_j / N_j| <= B`` and ``|V - V_0| <= ρ`` on a training set.

    With ``z = Σ_i ε_i x̄_i`` for random signs ``ε``, ``n Rad <= 2 B E[max_j |<v_0j, z>| + ρ |z|]``.

    Args:
        inputs: Shape ``(n, d)``; centered here.
        directions: ``V_0``, shape ``(m, d)``.
        budget: ``B``.
        distance: ``ρ``.
        draws: How many vectors of signs ``expected`` is estimated from.
        seed: Of a generator of its own.

    Raises:
        ValueError: If shapes do not match or a number is out of range.

    References:
        Lemma F.1 (erratum E310: replacing ``<v, ·>`` by ``<v - v_0j, ·>`` within a supremum over ``j`` is false).

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> bounds = rademacher_bounds(x, torch.tensor([[3.0]]), budget=1.0, distance=0.0)
        >>> bounds.printed, round(bounds.rederived, 4)
        (0.0, 4.2426)
    """
    check_not_negative("budget", budget)
    check_not_negative("distance", distance)
    check_count("draws", draws)
    deviations = whole_set_statistics(inputs).deviations
    directions = as_directions(directions, deviations.shape[1])
    n, frobenius = len(deviations), float(deviations.norm())
    largest = float(directions.norm(dim=1).max())
    signs = torch.randint(2, (draws, n), generator=Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    sums = signs.to(deviations.device) @ deviations
    reach = (sums @ directions.mT).abs().amax(dim=1) + distance * sums.norm(dim=1)
    # E310: v_0j stays.
    return RademacherBounds(
        4 * budget * distance * frobenius / n,
        2 * budget * (largest + distance) * frobenius / n,
        2 * budget * float(reach.mean()) / n,
    )
