"""What the functions of this topic check of their arguments."""

from torch import Tensor

# Singular values up to this share of the largest count as zero, and the pseudo-inverse drops them.
RANK_TOLERANCE = 1e-12


def checked_coefficients(singular_values: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and coefficients of a vector along them, in float64.

    Raises:
        ValueError: If they are not two vectors of one positive length, or not finite, or a singular value is negative.
    """
    if singular_values.dim() != 1 or singular_values.shape != coefficients.shape or singular_values.numel() == 0:
        raise ValueError(
            f"Expected singular values (N,) and coefficients (N,), one per left singular vector, "
            f"but got {tuple(singular_values.shape)} and {tuple(coefficients.shape)}."
        )
    values, coefficients = singular_values.detach().double(), coefficients.detach().double()
    # NaN fails the first comparison, infinity the others.
    if not bool(((values >= 0) & values.isfinite() & coefficients.isfinite()).all()):
        raise ValueError(
            f"Expected finite coefficients and finite singular values, 0 or more, but the singular values lie in "
            f"[{float(values.min())}, {float(values.max())}], and {int((~coefficients.isfinite()).sum())} coefficients "
            "are NaN or infinite."
        )
    return values, coefficients


def rank_deficient(singular_values: Tensor) -> bool:
    """Whether a singular value counts as zero.

    Example:
        >>> import torch
        >>> rank_deficient(torch.tensor([1.0, 1e-13]))
        True
    """
    return float(singular_values.min()) <= RANK_TOLERANCE * float(singular_values.max())
