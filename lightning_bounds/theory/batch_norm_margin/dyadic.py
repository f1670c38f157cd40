"""The dyadic data set, on which batch normalization is worth a factor of the root of the dimension."""

import math

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count
from lightning_bounds.theory.batch_norm_margin.arguments import as_directions

# Rows of V outside of this shell are not used: 1/2 <= |v| <= 4.
_SHELL = (0.5, 4.0)
# Step and reach, in the logarithm, of the trapezoidal rule, whose error falls like exp(-π²/step).
_STEP, _REACH = 0.1, 45.0


def dyadic_dataset(dim: int) -> tuple[Tensor, Tensor]:
    """``(2^-j e_j, +1)`` and ``(-2^-j e_j, -1)`` for ``j = 1, …, d``: features of very different sizes.

    Args:
        dim: ``d``.

    Returns:
        Inputs ``(2d, d)`` and labels ``(2d,)``, float64, all positive ones first. The mean is 0.

    References:
        Definition 1.1; the negative examples have the indices ``d+1`` to ``2d`` (erratum E303).

    Example:
        >>> dyadic_dataset(1)
        (tensor([[ 0.5000],
                [-0.5000]], dtype=torch.float64), tensor([ 1., -1.], dtype=torch.float64))
    """
    check_count("dim", dim)
    positive = torch.diag(2.0 ** -torch.arange(1, dim + 1, dtype=torch.float64))
    labels = torch.ones(dim, dtype=torch.float64)
    # E303: n = 2d, negative examples last.
    return torch.cat([positive, -positive]), torch.cat([labels, -labels])


def dyadic_linear_margin(dim: int) -> float:
    """``gamma_linear = 1/|(2, 4, …, 2^d)| = √(3 / (4^{d+1} - 4))``, the largest margin of a linear predictor.

    Args:
        dim: ``d``.

    References:
        Proposition 1.1; its further ``<= √(3/4^{d+1})`` is reversed (erratum E303).

    Example:
        >>> dyadic_linear_margin(1), round(dyadic_linear_margin(2), 10)
        (0.5, 0.2236067977)
    """
    check_count("dim", dim)
    # 3 / (4^{d+1} - 4) = 3/4 4^-d / (1 - 4^-d), which does not overflow.
    return math.sqrt(0.75 / -math.expm1(-dim * math.log(4.0))) * math.ldexp(1.0, -dim)


def dyadic_margin_claim(dim: int) -> float:
    """``√d / 40 gamma_linear``, what Proposition 1.1 claims of ``gamma`` for wide networks.

    Example:
        >>> dyadic_margin_claim(1)
        0.0125
    """
    return math.sqrt(dim) / 40 * dyadic_linear_margin(dim)


def dyadic_reference(directions: Tensor) -> Tensor:
    """``a_ref_j = sgn<u, v_j> 1[1/2 <= |v_j| <= 4] / √m`` with ``u = (2, 4, …, 2^d)``.

    With ``c_ref = 0``, ``ε = 0`` and the directions themselves it is the reference of Proposition 1.1. Its sampling
    noise is ``√(d/m)`` against a signal of ``√d 2^-d``: a positive margin needs a width far above ``4^d``.

    Args:
        directions: ``V``, shape ``(m, d)``.

    Returns:
        ``a_ref``, shape ``(m,)``, of norm at most 1.

    References:
        Proposition 1.1, which forgets the ``√m`` (erratum E303).

    Example:
        >>> dyadic_reference(torch.tensor([[1.0, 0.0], [0.0, -1.0], [9.0, 0.0], [0.0, 0.1]]))
        tensor([ 0.5000, -0.5000,  0.0000,  0.0000], dtype=torch.float64)
    """
    directions = as_directions(directions, directions.shape[-1])
    u = 2.0 ** torch.arange(1, directions.shape[1] + 1, dtype=torch.float64, device=directions.device)
    norms = directions.norm(dim=1)
    inside = (norms >= _SHELL[0]) & (norms <= _SHELL[1])
    # E303: divided by sqrt(m), so that the norm is at most 1.
    return (directions @ u).sign() * inside / math.sqrt(len(directions))


def dyadic_infinite_width_margins(dim: int) -> Tensor:
    """Margins of Proposition 1.1's network of infinite width on ``±e_j 2^-j``, by quadrature.

    For ``z ~ N(0, I)`` and ``q = Σ_k 4^-k z_k²``:
    ``g_j = ½ √d 2^-j E[|z_j| 1{|Σ_{k≠j} 2^k z_k| < 2^j |z_j|} / √q] P(½ <= |z|/√d <= 4)``;
    what is averaged does not depend on the norm. By ``1/√q = 2/√π ∫ exp(-s² q) ds`` the ``z_k`` become independent, of
    variances ``σ_k² = 1/(1 + 2 s² 4^-k)``, and ``E = (2/√π) √(2/π) ∫ Π_k σ_k 2^j σ_j² / √(Σ_k 4^k σ_k²) ds``.

    Args:
        dim: ``d``.

    Returns:
        ``g``, shape ``(d,)``, float64; ``gamma_a`` of wide networks tends to its minimum.

    References:
        Proposition 1.1, appendix G, with ``v → -v`` in the place of its rotation, which the seminorm of the data does
        not allow, and the missing ``√d`` (erratum E303).

    Example:
        >>> [round(margin, 6) for margin in dyadic_infinite_width_margins(2).tolist()]
        [0.160996, 0.247293]
    """
    from scipy.special import gammainc

    check_count("dim", dim)
    powers = torch.arange(1, dim + 1, dtype=torch.float64)
    logarithms = torch.arange(-_REACH, _REACH + dim * math.log(2.0), _STEP, dtype=torch.float64)
    s = logarithms.exp().unsqueeze(1)
    variances = 1 / (1 + 2 * s**2 * 4.0**-powers)
    shares = 4.0**powers * variances
    # |z_j| against the others: σ_j √(2/π) 2^j σ_j / √(Σ_k 4^k σ_k²).
    integrands = variances.prod(dim=1, keepdim=True).sqrt() * (2.0**powers) * variances / shares.sum(1, True).sqrt()
    expectations = 2 / math.sqrt(math.pi) * math.sqrt(2 / math.pi) * (integrands * s).sum(dim=0) * _STEP
    low, high = (float(gammainc(dim / 2, dim * edge**2 / 2)) for edge in _SHELL)
    # E303: the factor sqrt(d).
    return math.sqrt(dim) / 2 * 2.0**-powers * expectations * (high - low)
