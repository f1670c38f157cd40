"""The complexity of labels under the ReLU kernel, ``√(2 y^T H⁻¹ y / n)``, and how much of it is to be believed."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_inputs, as_labels, check_count
from lightning_bounds.theory.fine_grained.extremes import largest_eigenvalue
from lightning_bounds.theory.fine_grained.kernel import relu_gram
from lightning_bounds.theory.fine_grained.projections import eigenvectors

_EPSILON = torch.finfo(torch.float64).eps
# Up to this number of samples the eigenvalues are as cheap as anything.
_SMALL = 512
# Products for each eigenvalue: at n = 10,000 twenty of them take a tenth of the time of the factorization.
_LEAST_PRODUCTS, _PRODUCTS_TIMES_SAMPLES = 20, 200_000
_PRODUCTS_TO_SEE_SINGULARITY = 8
# The most of |y| that rounding may seem to put outside the range of a singular matrix.
_MOST_LEAKAGE = 1e-6

Status = Literal["regular", "singular, labels in range", "singular, labels outside range"]


@dataclass(frozen=True)
class KernelSummary:
    """What the theorems need to know of a Gram matrix ``H`` and labels ``y``.

    Attributes:
        num_samples: ``n``.
        inverse_form: ``y^T H⁻¹ y``; with the pseudo-inverse if ``H`` is singular and the labels lie in its range, and
            infinite if they do not.
        smallest_eigenvalue: ``λ_0``; 0 below the noise floor ``n ε λ_1``.
        largest_eigenvalue: ``λ_1``.
        relative_accuracy: ``ε`` times the condition number (of the range, if singular): what ``inverse_form`` may be
            off by, relative to itself.
        null_energy: ``|Π y|²`` on the eigenvectors below the noise floor; 0 if there are none.
        status: ``"regular"``, or whether the labels lie in the range of the singular matrix.
        label_norm: ``|y|``.
        largest_label: ``max |y_i|``.
        norm_deviation: ``max_i ||x_i| - 1|``, which the theorems want to be 0; None if only the Gram matrix is known.
        eigenvalue_accuracy: What the two eigenvalues may be off by, relative to themselves; mostly they are far closer.
            0 if the matrix was decomposed, where it is ``n relative_accuracy`` at most.
    """

    num_samples: int
    inverse_form: float
    smallest_eigenvalue: float
    largest_eigenvalue: float
    relative_accuracy: float
    null_energy: float
    status: Status
    label_norm: float
    largest_label: float
    norm_deviation: float | None = None
    eigenvalue_accuracy: float = 0.0

    @property
    def complexity(self) -> float:
        """``√(2 y^T H⁻¹ y / n)``, Eq. (10) of Arora et al. 2019."""
        return math.sqrt(2 * self.inverse_form / self.num_samples)

    @property
    def condition_number(self) -> float:
        """``λ_1 / λ_0``; infinite if the matrix is singular."""
        return self.largest_eigenvalue / self.smallest_eigenvalue if self.smallest_eigenvalue > 0 else math.inf


def complexity_measure(inputs: Tensor, labels: Tensor) -> float:
    """``√(2 y^T H_infinity⁻¹ y / n)``, the complexity of the labels that bounds the error on fresh data.

    Args:
        inputs: Shape ``(n, d)``; the theory is about rows of norm 1, others take the kernel of their lengths.
        labels: ``y``, shape ``(n,)``.

    Returns:
        The complexity, infinite if equal inputs have different labels: see :func:`kernel_summary` for its accuracy.

    Raises:
        ValueError: If a shape does not match, a number is not finite, or a row of the inputs is zero.

    References:
        Arora et al. 2019, Eq. (10).

    Example:
        >>> import torch
        >>> round(complexity_measure(torch.eye(4), torch.tensor([1.0, -1.0, 1.0, -1.0])), 6)
        2.0
        >>> complexity_measure(torch.ones(2, 3), torch.tensor([1.0, -1.0]))
        inf
    """
    # The eigenvalues only have to tell whether the matrix is singular, where the inverse has one that exceeds all.
    return kernel_summary(inputs, labels, most_products=_PRODUCTS_TO_SEE_SINGULARITY).complexity


def kernel_summary(inputs: Tensor, labels: Tensor, most_products: int | None = None) -> KernelSummary:
    """``H_infinity`` of the inputs, its extreme eigenvalues, and ``y^T H⁻¹ y``, for the price of one factorization.

    Of up to 512 samples the matrix is decomposed. Of more it is overwritten by its Cholesky factor, and the extreme
    eigenvalues come from products with the matrix and with its inverse; what they are off by is reported. A matrix that
    is singular within rounding is formed again and decomposed. Nothing is ever added to the diagonal.

    Args:
        inputs: Shape ``(n, d)``, no zero rows.
        labels: ``y``, shape ``(n,)``.
        most_products: How many products each of the two eigenvalues may cost; more make them more accurate where many
            eigenvalues crowd at an end. By default 20, or 200,000 / n, a small part of the time of the factorization.

    Raises:
        ValueError: If a shape does not match, a number is not finite or out of range, or a row of the inputs is zero.

    References:
        Arora et al. 2019, Eq. (3), (10), Definition 5.1.

    Example:
        >>> import torch
        >>> summary = kernel_summary(torch.eye(3), torch.tensor([1.0, -1.0, 1.0]))
        >>> round(summary.inverse_form, 6), summary.status, round(summary.condition_number, 6)
        (6.0, 'regular', 1.0)
    """
    inputs = as_inputs(inputs)
    wanted = as_labels(labels, len(inputs))
    if most_products is None:
        most_products = max(_LEAST_PRODUCTS, _PRODUCTS_TIMES_SAMPLES // len(inputs))
    check_count("most_products", most_products)
    summary = _by_factorization(inputs, wanted, most_products) if len(inputs) > _SMALL else None
    return gram_summary(relu_gram(inputs), wanted, _norm_deviation(inputs)) if summary is None else summary


def _by_factorization(inputs: Tensor, labels: Tensor, most_products: int) -> KernelSummary | None:
    """The summary in the memory of one Gram matrix; None if that is singular within rounding."""
    gram = relu_gram(inputs)
    labels = labels.to(gram)
    largest, largest_residual = largest_eigenvalue(lambda vector: gram @ vector, labels, most_products)
    info = torch.empty((), dtype=torch.int32, device=gram.device)
    # The transpose of the symmetric matrix is in the order of columns that the factorization works on in place.
    factor = torch.linalg.cholesky_ex(gram.mT, out=(gram.mT, info)).L
    if int(info) != 0:
        return None

    def inverse(vector: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(factor, vector.unsqueeze(1), upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(1)

    reciprocal, smallest_residual = largest_eigenvalue(inverse, labels, most_products)
    smallest = 1 / reciprocal
    if not smallest > len(gram) * _EPSILON * largest:
        return None
    half = torch.linalg.solve_triangular(factor, labels.unsqueeze(1), upper=False)
    return KernelSummary(
        num_samples=len(gram),
        inverse_form=float(half.square().sum()),
        smallest_eigenvalue=smallest,
        largest_eigenvalue=largest,
        relative_accuracy=_EPSILON * largest / smallest,
        null_energy=0.0,
        status="regular",
        label_norm=float(labels.norm()),
        largest_label=float(labels.abs().max()),
        norm_deviation=_norm_deviation(inputs),
        eigenvalue_accuracy=max(largest_residual, smallest_residual),
    )


def _norm_deviation(inputs: Tensor) -> float:
    return float((inputs.norm(dim=1) - 1).abs().max())


def gram_summary(gram: Tensor, labels: Tensor, norm_deviation: float | None = None) -> KernelSummary:
    """The same of a Gram matrix that is known already, such as ``H(0)``, by its eigenvalues and eigenvectors.

    Args:
        gram: ``H``, shape ``(n, n)``, positive semi-definite.
        labels: ``y``, shape ``(n,)``.
        norm_deviation: ``max_i ||x_i| - 1|``, if it is known.

    Raises:
        ValueError: If a shape does not match, a number is not finite, or the matrix is not positive semi-definite.

    Example:
        >>> import torch
        >>> gram_summary(torch.diag(torch.tensor([2.0, 0.0])), torch.tensor([4.0, 0.0])).status
        'singular, labels in range'
        >>> gram_summary(torch.diag(torch.tensor([2.0, 0.0])), torch.tensor([4.0, 1.0])).inverse_form
        inf
    """
    eigenvalues, vectors, floor = eigenvectors(gram)
    wanted = as_labels(labels, len(gram)).to(vectors)
    energies = (vectors.T @ wanted).square()
    resolved = eigenvalues > floor
    regular = bool(resolved.all())
    # Relative to the smallest eigenvalue of the range, the noise floor tells how far rounding turns the null space.
    noise = floor / float(eigenvalues[resolved][-1]) if bool(resolved.any()) else 0.0
    label_norm, null_energy = float(wanted.norm()), float(energies[~resolved].sum())
    status: Status = "regular" if regular else "singular, labels in range"
    inverse_form = float((energies[resolved] / eigenvalues[resolved]).sum())
    if not regular and math.sqrt(null_energy) > min(noise, _MOST_LEAKAGE) * label_norm:
        status, inverse_form = "singular, labels outside range", math.inf
    return KernelSummary(
        num_samples=len(gram),
        inverse_form=inverse_form,
        smallest_eigenvalue=float(eigenvalues[-1]) if regular else 0.0,
        largest_eigenvalue=float(eigenvalues[0]),
        relative_accuracy=noise / len(gram),
        null_energy=null_energy,
        status=status,
        label_norm=label_norm,
        largest_label=float(wanted.abs().max()),
        norm_deviation=norm_deviation,
    )
