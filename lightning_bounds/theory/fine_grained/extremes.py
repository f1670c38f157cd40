"""The largest eigenvalue of a symmetric matrix of which only products are known, by Lanczos' method."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# From here on the eigenvalue is off by about the square of this, or less if the next one is far.
_RELATIVE_RESIDUAL = 1e-6
# The small eigenproblem is not solved after every product.
_PRODUCTS_BETWEEN_CHECKS = 4


class LargestEigenvalue(NamedTuple):
    """The ``value``, and the ``residual`` ``|A v - θ v| / θ``: relative to the value, an eigenvalue is no further off.

    The error is mostly far smaller, about the square of the residual over the relative gap to the next eigenvalue.
    """

    value: float
    residual: float


def largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor, most_products: int) -> LargestEigenvalue:
    """The largest eigenvalue of a positive semi-definite matrix ``A``, given the map ``v -> A v``.

    Products are made until the residual is 1e-6, or there are ``most_products``. The value is never too large by more
    than rounding; it is infinite if a product is not finite.

    Args:
        product: ``v -> A v`` for vectors ``(n,)``.
        like: A vector of shape ``(n,)``, for size, type and device.
        most_products: How many products may be made.

    References:
        Lanczos 1950; Parlett, The symmetric eigenvalue problem, 1998, section 13.2.

    Example:
        >>> import torch
        >>> A = torch.diag(torch.arange(1.0, 51.0, dtype=torch.float64))
        >>> round(largest_eigenvalue(lambda v: A @ v, A[0], most_products=50).value, 6)
        50.0
    """
    most = min(len(like), most_products)
    # A start of our own: it has a part along every eigenvector, and the global random state stays untouched.
    start = torch.randn(len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    basis = torch.empty(most, len(like), dtype=like.dtype, device=like.device)
    basis[0] = start / start.norm()
    tridiagonal = torch.zeros(most, most, dtype=torch.float64)
    for k in range(most):
        following = product(basis[k])
        if not bool(following.isfinite().all()):
            return LargestEigenvalue(math.inf, math.inf)
        tridiagonal[k, k] = float(basis[k] @ following)
        known = basis[: k + 1]
        # Twice is enough: the vectors stay orthogonal to rounding.
        for _ in range(2):
            following = following - known.T @ (known @ following)
        length = float(following.norm())
        # Beyond an invariant subspace there are no further directions, only rounding.
        last = k + 1 == most or length <= 1e-14 * float(tridiagonal[: k + 1, : k + 1].diagonal().amax())
        if last or k % _PRODUCTS_BETWEEN_CHECKS == 0:
            ritz_values, ritz_vectors = torch.linalg.eigh(tridiagonal[: k + 1, : k + 1])
            value = float(ritz_values[-1])
            residual = length * abs(float(ritz_vectors[-1, -1])) / value if value > 0 else 0.0
            if last or residual <= _RELATIVE_RESIDUAL:
                break
        tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = length
        basis[k + 1] = following / length
    return LargestEigenvalue(value, residual)
