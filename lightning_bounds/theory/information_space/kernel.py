"""The multiclass neural tangent kernel ``Σ(X)`` and its spectrum, from the ``n x n`` kernel of one output."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_bounds.theory.gaussian import neural_covariance
from lightning_bounds.theory.labels import label_matrix

# Relative remainder at which `neural_covariance` cuts its series.
_PRECISION = 1e-11


@dataclass(frozen=True, eq=False)
class KernelSpectrum:
    """Spectrum of ``J = Σ(X)^{1/2}`` with ``Σ(X) = Σ~(X) ⊗ I_K`` in sample-major order.

    Every singular value is there ``K`` times, so that a space of rank ``r`` is determined only where ``K`` divides
    ``r``. The vectors ``u_j ⊗ e_c`` are never formed unless :attr:`left_vectors` asks for them.

    Attributes:
        roots: Roots of the eigenvalues of ``Σ~(X)``, shape ``(n,)``, descending.
        vectors: The eigenvectors, shape ``(n, n)``.
        num_outputs: ``K``.
        noise_floor: Singular values below it are not resolved.

    References:
        Oymak et al. 2019, Definition 3.1 and Theorem 3.2.

    Example:
        >>> spectrum = kernel_spectrum(torch.diag(torch.tensor([1.0, 4.0])), num_outputs=2)
        >>> spectrum.singular_values.tolist()
        [2.0, 2.0, 1.0, 1.0]
    """

    roots: Tensor
    vectors: Tensor
    num_outputs: int
    noise_floor: float

    @property
    def singular_values(self) -> Tensor:
        """All ``n*K`` singular values, descending."""
        return self.roots.repeat_interleave(self.num_outputs)

    @cached_property
    def left_vectors(self) -> Tensor:
        """All left singular vectors, shape ``(n*K, n*K)``, sample-major rows; only for small problems."""
        return torch.kron(self.vectors, torch.eye(self.num_outputs).to(self.vectors))

    def coefficients(self, vector: Tensor) -> Tensor:
        """``U^T v``, in the order of :attr:`singular_values`, for a sample-major ``v`` of shape ``(n*K,)``.

        Raises:
            ValueError: If the vector has another length.
        """
        size = self.roots.numel() * self.num_outputs
        if vector.shape != (size,):
            raise ValueError(f"Expected a sample-major vector ({size},), but got shape {tuple(vector.shape)}.")
        return (self.vectors.T @ vector.detach().to(self.vectors).reshape(-1, self.num_outputs)).flatten()


def kernel_spectrum(kernel: Tensor, num_outputs: int, *, entry_precision: float = 0.0) -> KernelSpectrum:
    """Spectrum of ``(Σ~(X) ⊗ I_K)^{1/2}`` from the ``n x n`` kernel of one output.

    Args:
        kernel: ``Σ~(X)``, symmetric and positive semi-definite, shape ``(n, n)``.
        num_outputs: ``K``.
        entry_precision: How far an entry may be off, relative to the largest; an eigenvalue is then off by up to ``n``
            times that.

    Raises:
        ValueError: If the kernel is not square, finite, symmetric and positive semi-definite, or ``num_outputs`` < 1.

    References:
        Oymak et al. 2019, Definition 3.1. Rounding puts eigenvalues off by up to ``ε (6 + 0.4 √n) λ_1``, as measured
        for Gram matrices in :func:`~lightning_bounds.jacobian.spectrum.gram_spectrum`; a singular value at the floor is
        off by a tenth at most.
    """
    _check_outputs(num_outputs)
    kernel = _checked_kernel(kernel)
    eigenvalues, vectors = torch.linalg.eigh(kernel)
    largest = float(eigenvalues[-1])
    if float(eigenvalues[0]) < -1e-7 * max(largest, 0.0):
        raise ValueError(
            f"Expected a positive semi-definite kernel, but its eigenvalues go from {eigenvalues[0]:.3g} "
            f"to {largest:.3g}; compute it in float64."
        )
    rounding = torch.finfo(torch.float64).eps * (30 + 2 * len(kernel) ** 0.5) * max(largest, 0.0)
    floor = (rounding + 5 * entry_precision * len(kernel) * float(kernel.abs().max())) ** 0.5
    return KernelSpectrum(eigenvalues.clamp_min(0).sqrt().flip(0), vectors.flip(1).contiguous(), num_outputs, floor)


def neural_spectrum(inputs: Tensor, activation: str | Callable[[Tensor], Tensor], num_outputs: int) -> KernelSpectrum:
    """Spectrum of ``Σ(X)^{1/2}`` with ``Σ~(X) = E[φ'(Xw) φ'(Xw)^T] ∘ X X^T`` over ``w ~ N(0, I)``.

    Args:
        inputs: ``X``, shape ``(n, d)``.
        activation: ``φ``, a name or a function.
        num_outputs: ``K``.

    Raises:
        ValueError: If an input is zero or not finite, the activation is unknown, or ``num_outputs`` < 1.

    References:
        Oymak et al. 2019, Definition 3.1.

    Example:
        >>> neural_spectrum(torch.eye(2), "identity", num_outputs=2).singular_values.tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    kernel = neural_covariance(inputs, activation)
    return kernel_spectrum(kernel, num_outputs, entry_precision=_PRECISION)


def multiclass_kernel(kernel: Tensor, num_outputs: int, *, class_major: bool = False) -> Tensor:
    """``Σ(X)`` itself: ``Σ~(X) ⊗ I_K``, or ``I_K ⊗ Σ~(X)`` in the paper's class-major order.

    ``E[J J^T] = k Var(V) Σ(X)`` for ``k`` hidden units with ``W_0 ~ N(0, 1)`` and centered, independent ``V``.

    Args:
        kernel: ``Σ~(X)``, shape ``(n, n)``.
        num_outputs: ``K``.
        class_major: Whether entry ``(i, c)`` is in row ``c*n + i`` instead of ``i*K + c``.

    Returns:
        Shape ``(n*K, n*K)``.

    Raises:
        ValueError: If the kernel is not square, finite and symmetric, or ``num_outputs`` < 1.

    References:
        Oymak et al. 2019, Definition 3.1 and Lemma 6.11 (erratum A1: the factor is ``k`` times the variance).

    Example:
        >>> multiclass_kernel(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 2)[0]
        tensor([2., 0., 1., 0.], dtype=torch.float64)
    """
    _check_outputs(num_outputs)
    kernel = _checked_kernel(kernel)
    identity = torch.eye(num_outputs).to(kernel)
    return torch.kron(identity, kernel) if class_major else torch.kron(kernel, identity)


def class_major(vector: Tensor, num_outputs: int) -> Tensor:
    """A sample-major vector, entry ``i*K + c``, in the order ``c*n + i`` of Eq. (5.2) of Oymak et al. 2019.

    Raises:
        ValueError: If the length is no multiple of ``num_outputs``.

    Example:
        >>> class_major(torch.tensor([1, 2, 3, 4, 5, 6]), num_outputs=2)
        tensor([1, 3, 5, 2, 4, 6])
    """
    return _checked_vector(vector, num_outputs).reshape(-1, num_outputs).T.flatten()


def sample_major(vector: Tensor, num_outputs: int) -> Tensor:
    """A class-major vector, entry ``c*n + i``, in the order ``i*K + c`` that everything here has.

    Raises:
        ValueError: If the length is no multiple of ``num_outputs``.

    Example:
        >>> sample_major(torch.tensor([1, 3, 5, 2, 4, 6]), num_outputs=2)
        tensor([1, 2, 3, 4, 5, 6])
    """
    return _checked_vector(vector, num_outputs).reshape(num_outputs, -1).T.flatten()


def label_rows(labels: Tensor, num_samples: int) -> Tensor:
    """Labels as a float64 matrix with one row per sample: of a matrix, or of a sample-major vector.

    Args:
        labels: Rows ``(n, K)``; a vector ``(n,)`` for one output, or ``(n*K,)``, sample-major.
        num_samples: ``n``.

    Returns:
        ``Y``, shape ``(n, K)``.

    Raises:
        ValueError: If the number of entries is no multiple of ``n``, one is not finite, or they are class indices.

    Example:
        >>> label_rows(torch.tensor([1, -1, -1]), num_samples=3).flatten()
        tensor([ 1., -1., -1.], dtype=torch.float64)
    """
    fits = labels.shape[0] == num_samples if labels.dim() == 2 else labels.dim() == 1
    if not fits or labels.numel() == 0 or labels.numel() % num_samples:
        raise ValueError(
            f"Expected labels ({num_samples}, K), or a sample-major vector ({num_samples} * K,), one row of K numbers "
            f"for each of {num_samples} inputs, but got shape {tuple(labels.shape)}."
        )
    if labels.shape == (num_samples,) and not labels.is_floating_point() and not set(labels.tolist()) <= {-1, 1}:
        raise ValueError(
            "Expected the numbers that the outputs are fitted to, but got class indices; "
            "code them with `label_matrix(labels, num_outputs)`."
        )
    rows = labels.detach().double()
    return label_matrix(rows.reshape(num_samples, -1), labels.numel() // num_samples)


def _checked_vector(vector: Tensor, num_outputs: int) -> Tensor:
    _check_outputs(num_outputs)
    if vector.dim() != 1 or vector.numel() == 0 or vector.numel() % num_outputs:
        raise ValueError(f"Expected a vector (n * {num_outputs},), but got shape {tuple(vector.shape)}.")
    return vector


def _check_outputs(num_outputs: int) -> None:
    if num_outputs < 1:
        raise ValueError(f"Expected `num_outputs` of at least 1, but got {num_outputs}.")


def _checked_kernel(kernel: Tensor) -> Tensor:
    kernel = kernel.detach().double()
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1] or not bool(kernel.isfinite().all()):
        raise ValueError(f"Expected a finite square kernel (n, n), but got shape {tuple(kernel.shape)}.")
    if kernel.numel() == 0 or float((kernel - kernel.T).abs().max()) > 1e-7 * float(kernel.abs().max()):
        raise ValueError(f"Expected a symmetric kernel of at least one sample, but got shape {tuple(kernel.shape)}.")
    return kernel
