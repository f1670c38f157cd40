"""Eigenvalues of a symmetric matrix at once, and as many of its eigenvectors as somebody asks for."""

import torch
from torch import Tensor

# Smaller matrices are decomposed whole, which takes milliseconds; so is a matrix of which more vectors than this share
# are wanted.
_SMALL, _SHARE = 512, 0.25


class Eigenpairs:
    """The largest eigenvalues of a symmetric matrix; eigenvectors are made when they are asked for.

    To make a matrix tridiagonal takes a third of the time of a whole decomposition. After it the eigenvalues cost next
    to nothing, and a few eigenvectors hardly more. On other devices than the processor all is made at once.

    Args:
        matrix: Shape ``(N, N)``, float32 or float64. It is not changed, and must not be before the last vectors are
            asked for.
        keep: How many of the largest.

    Raises:
        ArithmeticError: If the eigenvalues do not converge.

    Attributes:
        values: Descending, shape ``(keep,)``.
        shape: That of all vectors, ``(N, keep)``.

    References:
        LAPACK's sytrd, sterf, stemr and ormqr; Dhillon & Parlett, Multiple representations to compute orthogonal
        eigenvectors of symmetric tridiagonal matrices, Linear Algebra and its Applications 2004.

    Example:
        >>> pairs = Eigenpairs(torch.diag(torch.tensor([1.0, 4.0])), keep=2)
        >>> pairs.values, pairs.leading(1).abs().flatten()
        (tensor([4., 1.]), tensor([0., 1.]))
    """

    def __init__(self, matrix: Tensor, keep: int) -> None:
        self.shape = (matrix.shape[0], keep)
        self._matrix: Tensor | None = matrix.detach()
        self._tridiagonal: _Tridiagonal | None = None
        self._vectors = matrix.new_empty(matrix.shape[0], 0)
        if matrix.device.type == "cpu" and matrix.shape[0] > _SMALL:
            self._tridiagonal = _Tridiagonal(self._matrix)
            self.values = self._tridiagonal.values()[-keep:].flip(0)
        else:
            values, self._vectors = self._decomposed()
            self.values = values[-keep:].flip(0)

    def leading(self, count: int) -> Tensor:
        """Orthonormal eigenvectors of the ``count`` largest eigenvalues, shape ``(N, count)``."""
        if count > self._vectors.shape[1]:
            assert self._tridiagonal is not None
            found = self._tridiagonal.vectors(count) if count <= _SHARE * self.shape[0] else None
            self._vectors = self._decomposed()[1] if found is None else found
        return self._vectors[:, :count]

    def _decomposed(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues, ascending, and the vectors of those that are kept, descending; all else is let go."""
        assert self._matrix is not None
        self._tridiagonal = None
        values, vectors = torch.linalg.eigh(self._matrix)
        self._matrix = None
        return values, vectors[:, -self.shape[1] :].flip(1)


class _Tridiagonal:
    """``A = Q T Q^T`` with ``T`` tridiagonal, and ``Q`` made of reflections of all coordinates but the first."""

    def __init__(self, matrix: Tensor) -> None:
        from scipy.linalg import get_lapack_funcs

        # The transpose is the same matrix, laid out as LAPACK wants it.
        dense = matrix.clone(memory_format=torch.contiguous_format).numpy().T
        reduce, room, self._solve = get_lapack_funcs(("sytrd", "sytrd_lwork", "sterf"), (dense,))
        work, _ = room(len(dense), lower=1)
        self._reflectors, self._diagonal, self._beside, self._scales, _ = reduce(
            dense, lower=1, lwork=int(work), overwrite_a=1
        )

    def values(self) -> Tensor:
        """All eigenvalues, ascending."""
        values, failed = self._solve(self._diagonal, self._beside)
        if failed:
            raise ArithmeticError(
                f"Expected {len(self._diagonal)} eigenvalues, but {failed} of them did not converge; "
                "ask for the leading ones by method='lanczos'."
            )
        return torch.from_numpy(values)

    def vectors(self, count: int) -> Tensor | None:
        """Those of the largest eigenvalues, descending; None if they are not found."""
        from scipy.linalg import LinAlgError, eigh_tridiagonal

        size = len(self._diagonal)
        chosen = (size - count, size - 1)
        try:
            _, found = eigh_tridiagonal(
                self._diagonal, self._beside, select="i", select_range=chosen, lapack_driver="stemr"
            )
        except LinAlgError:
            return None
        reflectors = torch.from_numpy(self._reflectors)[1:, :-1]
        vectors = torch.from_numpy(found[:, ::-1].copy()).to(reflectors)
        vectors[1:] = torch.ormqr(reflectors, torch.from_numpy(self._scales), vectors[1:])
        # They are orthogonal to some 1e-11 so far.
        orthogonal, triangle = torch.linalg.qr(vectors)
        return orthogonal * torch.ones_like(triangle.diagonal()).copysign(triangle.diagonal())
