"""The transpose of a Jacobian."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from lightning_bounds.jacobian.operator import JacobianOperator


class TransposedJacobian(NamedTuple):
    """The transpose ``J^T`` of a :class:`JacobianOperator`: ``J.T @ u``, ``u`` of shape ``(n*K,)`` or ``(n*K, b)``."""

    jacobian: "JacobianOperator"

    @property
    def shape(self) -> tuple[int, int]:
        """``(p, n * K)``."""
        return self.jacobian.shape[1], self.jacobian.shape[0]

    @property
    def T(self) -> "JacobianOperator":  # noqa: N802 - the name that matrices have
        """The Jacobian itself."""
        return self.jacobian

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``J^T u`` by reverse differentiation."""
        product = self.jacobian._transposed_product(self.jacobian._columns(vector, self.jacobian.shape[0], "u"))
        return product.squeeze(1) if vector.dim() == 1 else product
