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
        product = self.jacobian._transposed_product(vector_columns(vector, self.jacobian, "u"))
        return product.squeeze(1) if vector.dim() == 1 else product


def vector_columns(vector: Tensor, jacobian: "JacobianOperator", name: str) -> Tensor:
    """A vector ``v`` or ``u``, or some of them side by side, as columns in the precision of the Jacobian.

    Raises:
        ValueError: If they have another length than the product with the Jacobian (``v``) or its transpose (``u``).
    """
    size = jacobian.shape[1 if name == "v" else 0]
    if vector.dim() not in (1, 2) or vector.shape[0] != size:
        raise ValueError(
            f"Expected {name} of shape ({size},) or ({size}, b) for a Jacobian of shape {jacobian.shape}, "
            f"but got {tuple(vector.shape)}."
        )
    return vector.detach().to(jacobian.device, jacobian.dtype).reshape(size, -1)
