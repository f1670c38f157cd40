"""The engine: from a model and its inputs to ``J``, ``J v``, ``J^T u``, ``J J^T`` and the spectrum; torch only."""

from lightning_bounds.jacobian.operator import JacobianOperator
from lightning_bounds.jacobian.spectrum import Spectrum, gram_spectrum, jacobian_spectrum

__all__ = ["JacobianOperator", "Spectrum", "gram_spectrum", "jacobian_spectrum"]
