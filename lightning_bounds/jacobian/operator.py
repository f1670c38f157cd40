"""The Jacobian of any module by plain automatic differentiation: the reference path, right before fast."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_bounds.jacobian.differentiation import jacobian_vector_products, vector_jacobian_products
from lightning_bounds.jacobian.forward import Inputs, OutputFn, num_samples, output_matrix, prepared, take
from lightning_bounds.jacobian.guard import full_precision, observed
from lightning_bounds.jacobian.parameters import selected_parameters

# Bytes that a block of rows or columns may take when no budget is given.
_BLOCK_BYTES = 2**28
# Machine epsilons below it are those of float64.
_FINE = 1e-10


class JacobianOperator:
    """Jacobian ``J = ∂f(X) / ∂θ`` of a network's outputs by its trainable parameters, as a linear operator.

    Row ``i * K + c`` is output ``c`` of sample ``i``; the columns follow ``model.parameters()``. The network is looked
    at in evaluation mode and is never changed. Frozen parameters have no column, tied ones have one, unused ones have
    a column of zeros. If the outputs of one sample depend on other samples (batch statistics), each row is the
    derivative within the whole batch.

    Args:
        model: Any module.
        inputs: The samples: a tensor with samples first, a sequence (``model(*inputs)``) or a mapping
            (``model(**inputs)``).
        layers: Patterns of the parameters to differentiate by, see :func:`selected_parameters`; all if not given.
        output_fn: Picks the tensor of outputs out of what the module returns, see :func:`output_matrix`.
        mode: ``"eval"`` (running statistics, no dropout) or ``"train"`` (statistics of this batch).
        chunk_size: Samples per forward pass in ``J @ v`` and ``J.T @ u``.

    Raises:
        ValueError: If nothing is trainable, a pattern matches nothing, or two equal forward passes differ.
        TypeError: If the module's output is not a floating-point tensor.

    Attributes:
        shape: ``(n * K, p)``.
        num_outputs: ``K``.
        names: Names of the parameters that have columns.
        num_frozen: How many entries of the model's parameters were left out because they are frozen.
        coupled: Whether outputs depend on other samples of the batch.
        row_precision: The coarsest machine epsilon that rows are computed in, of all parameters of the model.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, equations (1.3) and (2.4).

    Example:
        >>> J = JacobianOperator(nn.Linear(3, 2, bias=False), torch.eye(3))
        >>> J.shape
        (6, 6)
        >>> torch.equal(J.gram(), torch.eye(6, dtype=torch.float64))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        layers: Sequence[str] | None = None,
        output_fn: OutputFn | None = None,
        *,
        mode: str = "eval",
        chunk_size: int = 64,
    ) -> None:
        if chunk_size < 1:
            raise ValueError(f"Expected `chunk_size` of at least 1 sample, but got {chunk_size}.")
        self.model, self.layers, self.output_fn, self.mode, self.chunk_size = model, layers, output_fn, mode, chunk_size
        self.inputs = prepared(model, inputs)
        self.num_samples = num_samples(self.inputs)
        with self._evaluation() as parameters:
            self.names = list(parameters)
            self.sizes = [parameter.numel() for parameter in parameters.values()]
            self.num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
            self.dtype, self.device = _common_type(list(parameters.values()))
            self.row_precision = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
            self.num_outputs, self.coupled = self._probe_forward()
        self.shape = (self.num_samples * self.num_outputs, sum(self.sizes))

    @property
    def T(self) -> "TransposedJacobian":  # noqa: N802 - the name that matrices have
        """The transpose, for ``J.T @ u``."""
        return TransposedJacobian(self)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``J v`` for ``v`` of shape ``(p,)`` or ``(p, b)``, by differentiating ``u -> J^T u`` once more.

        Where the module has an operation that cannot be differentiated twice, the rows of ``J`` are used instead.
        """
        columns = self._columns(vector, self.shape[1], "v")
        chunks: list[Tensor | None] = []
        with self._evaluation() as parameters:
            for outputs in self._output_chunks():
                chunks.append(jacobian_vector_products(outputs, list(parameters.values()), columns))
                if chunks[-1] is None:
                    break
        product = self.dense() @ columns if chunks[-1] is None else torch.cat([c for c in chunks if c is not None])
        return product.squeeze(1) if vector.dim() == 1 else product

    def dense(self) -> Tensor:
        """``J`` itself, shape ``(n*K, p)``: every row by reverse differentiation.

        Example:
            >>> JacobianOperator(nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0]])).dense()
            tensor([[1., 2.]])
        """
        return self._dense_columns(0, self.shape[1])

    def gram(self, dtype: torch.dtype = torch.float64, memory_budget: int | None = None) -> Tensor:
        """``J J^T``, the empirical neural tangent kernel, shape ``(n*K, n*K)``, added up in ``dtype``.

        One random product is checked against ``J (J^T u)``, which takes another way through the network.

        Args:
            dtype: ``torch.float64``, or ``torch.float32`` with its higher noise floor.
            memory_budget: Bytes for the result and the columns of ``J`` held at a time; with fewer columns at a time
                the rows are differentiated again for each block.

        Raises:
            MemoryError: If the result alone exceeds the budget.
            FloatingPointError: If an entry is not finite.
            ArithmeticError: If the check fails.

        References:
            Oymak et al. 2019, equation (6.32).
        """
        rows, itemsize = self.shape[0], torch.empty((), dtype=dtype).element_size()
        free = None if memory_budget is None else memory_budget - rows * rows * itemsize
        if free is not None and free <= 0:
            raise MemoryError(
                f"Expected a Gram matrix within {memory_budget:,} bytes, but {rows} x {rows} entries take "
                f"{rows * rows * itemsize:,}; look at fewer samples or raise `memory_budget`."
            )
        width = self.shape[1] if free is None else max(1, free // (2 * rows * torch.finfo(self.dtype).bits // 8))
        gram = torch.zeros(rows, rows, dtype=dtype, device=self.device)
        for start in range(0, self.shape[1], width):
            _add_products(gram, self._dense_columns(start, min(start + width, self.shape[1])))
        gram = gram.tril().add_(gram.tril(-1).T)
        self._check(gram)
        return gram

    def outputs(self) -> Tensor:
        """``f(X)`` without a graph, shape ``(n, K)``."""
        with self._evaluation(), torch.no_grad():
            return torch.cat(list(self._output_chunks()))

    def unused(self) -> list[str]:
        """Names of the parameters that no output depends on at these samples; their columns are zero."""
        with self._evaluation() as parameters:
            left = dict(parameters)
            for outputs in self._output_chunks():
                if left and outputs.requires_grad:
                    gradients = torch.autograd.grad(outputs.sum(), list(left.values()), allow_unused=True)
                    left = {name: p for (name, p), g in zip(left.items(), gradients, strict=True) if g is None}
        return list(left)

    @contextmanager
    def _evaluation(self) -> Iterator[dict[str, nn.Parameter]]:
        """The parameters of the quiet model; differentiation happens inside."""
        with observed(self.model, self.mode), full_precision(self.model):
            yield selected_parameters(self.model, self.layers)

    def _outputs(self, start: int, stop: int) -> Tensor:
        return output_matrix(self.model, take(self.inputs, start, stop), self.output_fn)

    def _output_chunks(self, size: int | None = None) -> Iterator[Tensor]:
        size = self.num_samples if self.coupled else (size or self.chunk_size)
        for start in range(0, self.num_samples, size):
            yield self._outputs(start, min(start + size, self.num_samples))

    def _probe_forward(self) -> tuple[int, bool]:
        """Number of outputs, and whether samples see each other; raises if the forward pass is random."""
        stop = self.num_samples if self.mode == "train" else min(3, self.num_samples)
        with torch.no_grad():
            together, again = self._outputs(0, stop), self._outputs(0, stop)
            if not self._close(together, again):
                raise ValueError(
                    f"Expected equal outputs from two forward passes on the same samples, but they differ by up to "
                    f"{float((together - again).abs().max()):.3g}: the Jacobian of a random function is undefined; "
                    "use mode='eval', or take the randomness out of the module."
                )
            coupled = self.mode == "train"
            if not coupled and stop > 1:
                try:
                    coupled = not self._close(together[:1], self._outputs(0, 1))
                except ValueError:  # batch statistics of a single sample
                    coupled = True
        return together.shape[1], coupled

    def _close(self, first: Tensor, second: Tensor) -> bool:
        """Equal up to what another order of summation changes; NaN equals NaN, to be reported where it is measured."""
        rtol = 1e-8 if self.row_precision < _FINE else 1e-3
        scale = float(first.nan_to_num().abs().max())
        return torch.allclose(first, second, rtol=rtol, atol=rtol * scale, equal_nan=True)

    def _columns(self, vector: Tensor, size: int, name: str) -> Tensor:
        if vector.dim() not in (1, 2) or vector.shape[0] != size:
            raise ValueError(
                f"Expected {name} of shape ({size},) or ({size}, b) for a Jacobian of shape {self.shape}, "
                f"but got {tuple(vector.shape)}."
            )
        return vector.detach().to(self.device, self.dtype).reshape(size, -1)

    def _transposed_product(self, columns: Tensor) -> Tensor:
        start = 0
        with self._evaluation() as parameters:
            total = columns.new_zeros(self.shape[1], columns.shape[1])
            for outputs in self._output_chunks():
                part = columns[start : start + outputs.numel()].T.reshape(-1, *outputs.shape)
                total += vector_jacobian_products(outputs, list(parameters.values()), part).T
                start += outputs.numel()
        return total

    def _dense_columns(self, start: int, stop: int) -> Tensor:
        """Columns ``start .. stop-1`` of ``J``, differentiated by the parameters that they belong to alone."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        touched = [k for k, end in enumerate(ends) if end > start and end - self.sizes[k] < stop]
        offset = ends[touched[0]] - self.sizes[touched[0]]
        row = 0
        with self._evaluation() as parameters:
            dense = torch.empty(self.shape[0], stop - start, dtype=self.dtype, device=self.device)
            kept = [parameter for k, parameter in enumerate(parameters.values()) if k in touched]
            width = sum(parameter.numel() for parameter in kept)
            step = max(1, _BLOCK_BYTES // (width * dense.element_size()))
            passes = 1 if self.coupled else self.num_samples
            for outputs in tqdm(self._output_chunks(size=1), "Jacobian", passes, leave=False, delay=2):
                for first in range(0, outputs.numel(), step):
                    count = min(step, outputs.numel() - first)
                    units = torch.zeros(count, outputs.numel(), dtype=outputs.dtype, device=outputs.device)
                    units[torch.arange(count), first + torch.arange(count)] = 1
                    block = vector_jacobian_products(outputs, kept, units.reshape(count, *outputs.shape))
                    dense[row : row + count] = block[:, start - offset : stop - offset]
                    row += count
        return dense

    def _check(self, gram: Tensor) -> None:
        """Compare one random product of the Gram matrix with ``J (J^T u)``."""
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(self.shape[0], generator=generator, dtype=torch.float64).to(gram.device)
        expected = (self @ (self.T @ u.to(self.dtype))).to(gram.dtype)
        got = gram @ u.to(gram.dtype)
        if not bool(got.isfinite().all()):
            raise FloatingPointError("Expected a finite Jacobian, but its Gram matrix holds NaN or infinity.")
        error = float((got - expected).norm() / expected.norm().clamp_min(torch.finfo(gram.dtype).tiny))
        tolerance = 1e-7 if max(self.row_precision, torch.finfo(gram.dtype).eps) < _FINE else 1e-3
        if error > tolerance:
            raise ArithmeticError(
                f"Expected the Gram matrix to agree with J (J^T u) to {tolerance:g}, but they differ by {error:.3g}: "
                "the module's second derivatives or its batching cannot be trusted here."
            )


class TransposedJacobian(NamedTuple):
    """The transpose ``J^T`` of a :class:`JacobianOperator`: ``J.T @ u``, ``u`` of shape ``(n*K,)`` or ``(n*K, b)``."""

    jacobian: JacobianOperator

    @property
    def shape(self) -> tuple[int, int]:
        """``(p, n * K)``."""
        return self.jacobian.shape[1], self.jacobian.shape[0]

    @property
    def T(self) -> JacobianOperator:  # noqa: N802 - the name that matrices have
        """The Jacobian itself."""
        return self.jacobian

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``J^T u`` by reverse differentiation."""
        product = self.jacobian._transposed_product(self.jacobian._columns(vector, self.jacobian.shape[0], "u"))
        return product.squeeze(1) if vector.dim() == 1 else product


def _add_products(gram: Tensor, block: Tensor, tiles: int = 8) -> None:
    """Add ``B B^T`` to the lower triangle of ``gram``, tile by tile, in the type of ``gram``.

    The columns are summed in parts, and the parts added up: one long sum of ``p`` products loses ``sqrt(p)`` machine
    epsilons, and where its roundings agree many more; this way about ``p^(1/6)`` are lost.
    """
    height = -(-gram.shape[0] // tiles)
    balanced = max(256, round(block.shape[1] ** (2 / 3)))
    width = max(1, min(balanced, _BLOCK_BYTES // (gram.element_size() * gram.shape[0])))
    for columns in block.split(width, dim=1):
        columns = columns.to(gram.dtype)
        for start in range(0, gram.shape[0], height):
            stop = min(start + height, gram.shape[0])
            gram[start:stop, :stop] += columns[start:stop] @ columns[:stop].T


def _common_type(parameters: list[nn.Parameter]) -> tuple[torch.dtype, torch.device]:
    dtype = parameters[0].dtype
    for parameter in parameters[1:]:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype, parameters[0].device
