"""The Jacobian of any module as a linear operator: its rows, its products, its Gram matrix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_bounds.jacobian.chunk import Layering, UnevenError
from lightning_bounds.jacobian.differentiation import (
    jacobian_vector_products,
    selected_rows,
    vector_jacobian_products,
)
from lightning_bounds.jacobian.forward import (
    Inputs,
    OutputFn,
    checked_size,
    differs_alone,
    num_samples,
    output_matrix,
    prepared,
    select,
    tried_outputs,
)
from lightning_bounds.jacobian.gram import check_blocks, check_gram, layered_gram, write_blocks
from lightning_bounds.jacobian.guard import full_precision, observed, plain_arithmetic
from lightning_bounds.jacobian.layering import layering_of
from lightning_bounds.jacobian.parameters import common_type, selected_parameters
from lightning_bounds.jacobian.transposed import TransposedJacobian, vector_columns

if TYPE_CHECKING:
    from lightning_bounds.jacobian.plan import Calibration, Plan

Result = TypeVar("Result")


class JacobianOperator:
    """Jacobian ``J = ∂f(X) / ∂θ`` of a network's outputs by its trainable parameters, as a linear operator.

    Row ``i * K + c`` is output ``c`` of sample ``i``; the columns follow ``model.parameters()``. The network is looked
    at in evaluation mode and is never changed. Frozen parameters have no column, tied ones have one, unused ones have
    a column of zeros. If the outputs of one sample depend on other samples (batch statistics), each row is the
    derivative within the whole batch.

    Args:
        model: Any module.
        inputs: A tensor with samples first, a sequence (``model(*inputs)``) or a mapping (``model(**inputs)``).
        layers: Patterns of the parameters to differentiate by, see :func:`selected_parameters`; all if not given.
        output_fn: Picks the tensor of outputs out of what the module returns, see :func:`output_matrix`.
        mode: ``"eval"`` (running statistics, no dropout) or ``"train"`` (statistics of this batch).
        chunk_size: Samples per forward pass in ``J @ v`` and ``J.T @ u``.

    Raises:
        ValueError: If nothing is trainable, a pattern matches nothing, the outputs depend on no trainable parameter,
            or two equal forward passes differ.
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
        with self.evaluation() as parameters:
            self.names = list(parameters)
            self.sizes = [parameter.numel() for parameter in parameters.values()]
            self.num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
            self.dtype, self.device = common_type(list(parameters.values()))
            self.row_precision = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
            self.num_outputs, self.coupled = tried_outputs(self._outputs, self.num_samples, mode, self.row_precision)
        self.shape = (self.num_samples * self.num_outputs, sum(self.sizes))
        self._layering: Layering | None = None
        self.calibration: Calibration | None = None

    @property
    def T(self) -> "TransposedJacobian":  # noqa: N802 - the name that matrices have
        """The transpose, for ``J.T @ u``."""
        return TransposedJacobian(self)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``J v`` for ``v`` of shape ``(p,)`` or ``(p, b)``, by differentiating ``u -> J^T u`` once more.

        Where the module has an operation that cannot be differentiated twice, the rows of ``J`` are used instead.
        """
        columns = vector_columns(vector, self, "v")
        chunks: list[Tensor | None] = []
        with self.evaluation() as parameters:
            for outputs in self._output_chunks():
                chunks.append(jacobian_vector_products(outputs, list(parameters.values()), columns))
                if chunks[-1] is None:
                    break
        if chunks[-1] is None:
            chunks = [self.rows(i, i + 1) @ columns for i in range(self.num_samples)]
        product = torch.cat([chunk for chunk in chunks if chunk is not None])
        return product.squeeze(1) if vector.dim() == 1 else product

    def dense(self) -> Tensor:
        """``J`` itself, shape ``(n*K, p)``: every row by reverse differentiation, one sample at a time.

        Example:
            >>> JacobianOperator(nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0]])).dense()
            tensor([[1., 2.]])
        """
        return torch.cat(list(self.plain_rows(self.names, 0, self.num_samples).values()), dim=1)

    def rows(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Rows of samples ``start .. stop-1``, shape ``((stop - start) * K, p)``, layer by layer.

        Args:
            start: First sample.
            stop: One past the last sample.
            out: Where the rows are written, of that shape and any floating type; made anew if not given.
        """
        blocks = self.row_blocks(start, stop)
        if out is None:
            return torch.cat(blocks, dim=1)
        for part, block in zip(out.split(self.sizes, dim=1), blocks, strict=True):
            part.copy_(block)
        return out

    def row_blocks(self, start: int, stop: int, out: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The same rows as one matrix for each parameter of :attr:`names`.

        Args:
            start: First sample.
            stop: One past the last sample.
            out: Contiguous matrices of the network's precision to be written to; made anew if not given.
        """
        if not 0 <= start <= stop <= self.num_samples:
            raise ValueError(f"Expected samples within 0 .. {self.num_samples}, but got {start} .. {stop}.")
        count = (stop - start) * self.num_outputs

        def attempt() -> list[Tensor]:
            blocks = list(out or [torch.empty(count, s, dtype=self.dtype, device=self.device) for s in self.sizes])
            write_blocks(self, start, stop, blocks)
            if self.layering.groups:
                check_blocks(blocks, self, start, stop)
            return blocks

        return self._by_layers(attempt)

    def gram(
        self,
        dtype: torch.dtype = torch.float64,
        memory_budget: str | int | None = None,
        other: "JacobianOperator | None" = None,
    ) -> Tensor:
        """``J J^T``, the empirical neural tangent kernel, shape ``(n*K, n*K)``, added up in ``dtype``.

        Layer by layer, each in the way that takes fewer multiplications: from the gradients of each sample, or from
        what went into a layer and the gradients by what came out. Parameters that no rule covers are differentiated one
        sample at a time (:meth:`coverage`). For random ``u`` on some samples ``u^T (J J^T) u`` is compared with
        ``|J^T u|²`` by automatic differentiation of the whole network.

        Args:
            dtype: ``torch.float64``, or ``torch.float32`` with its higher noise floor.
            memory_budget: Bytes, or like ``"2GB"``, for the result and all that is held on the way to it; with less
                than fits at once the network is differentiated again for each part. No limit if not given.
            other: The same network on other samples, for the cross Gram matrix ``J J'^T``, shape ``(n*K, n'*K)``.

        Raises:
            MemoryError: If there is no room for the result and some columns of ``J``.
            FloatingPointError: If an entry is not finite.
            ArithmeticError: If the check fails.
            ValueError: If ``other`` is of another network or of other parameters.

        References:
            Oymak et al. 2019, equation (6.32).
        """
        if other is not None and (other.model is not self.model or other.names != self.names):
            raise ValueError("Expected `other` to look at the same parameters of the same model, but it does not.")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"Expected `dtype` torch.float32 or torch.float64, but got {dtype}.")

        def attempt() -> Tensor:
            gram = layered_gram(self, other, dtype, memory_budget)
            check_gram(gram, self, other)
            return gram

        return self._by_layers(attempt)

    @property
    def layering(self) -> Layering:
        """How each parameter is differentiated; found out once."""
        if self._layering is None:
            with self.evaluation() as parameters:
                self._layering = layering_of(self.outputs_of, parameters, self.num_samples, self.coupled)
        return self._layering

    def coverage(self) -> dict[str, int]:
        """Parameters by the way that their rows are made: ``"layers"`` by a rule, ``"plain"`` sample by sample.

        Example:
            >>> JacobianOperator(nn.Linear(2, 1), torch.ones(1, 2)).coverage()
            {'layers': 3, 'plain': 0}
        """
        sizes = dict(zip(self.names, self.sizes, strict=True))
        plain = sum(sizes[name] for name in self.layering.plain)
        return {"layers": self.shape[1] - plain, "plain": plain}

    def plan(self, rank: int | None = None, memory_budget: str | int | None = None) -> "Plan":
        """Print and return what each method of finding the spectrum will cost here; a slice of the work is timed once.

        Args:
            rank: How many leading singular values are wanted; all if not given.
            memory_budget: Bytes, or like ``"2GB"``.
        """
        from lightning_bounds.jacobian.plan import calibrate, plan

        predicted = plan(self, rank, memory_budget, calibration=calibrate(self))
        print(predicted)  # noqa: T201 - what it is for
        return predicted

    def outputs(self) -> Tensor:
        """``f(X)`` without a graph, shape ``(n, K)``."""
        with self.evaluation(), torch.no_grad():
            return torch.cat(list(self._output_chunks()))

    def unused(self) -> list[str]:
        """Names of the parameters that no output depends on at these samples; their columns are zero."""
        with self.evaluation() as parameters:
            left = dict(parameters)
            for outputs in self._output_chunks():
                if left and outputs.requires_grad:
                    gradients = torch.autograd.grad(outputs.sum(), list(left.values()), allow_unused=True)
                    left = {name: p for (name, p), g in zip(left.items(), gradients, strict=True) if g is None}
        return list(left)

    @contextmanager
    def evaluation(self) -> Iterator[dict[str, nn.Parameter]]:
        """The parameters of the quiet model; differentiation happens inside."""
        with observed(self.model, self.mode), full_precision(self.model):
            yield selected_parameters(self.model, self.layers)

    def outputs_of(self, indices: Tensor) -> Tensor:
        """Outputs of some samples with their graph, shape ``(len(indices), K)``; within :meth:`evaluation`."""
        twice = len(indices) == 1 and not self.coupled and self._differs_alone
        outputs = self._outputs(indices.repeat(2))[:1] if twice else self._outputs(indices)
        return checked_size(outputs, self.num_outputs)

    def plain_rows(self, names: Sequence[str], start: int, stop: int) -> dict[str, Tensor]:
        """Rows of samples ``start .. stop-1`` by some parameters, by automatic differentiation alone."""
        found: list[Tensor] = []
        with torch.inference_mode(False), self.evaluation() as parameters:
            kept = [parameters[name] for name in names]
            if self.coupled:
                wanted = torch.arange(start * self.num_outputs, stop * self.num_outputs)
                found.append(selected_rows(self.outputs_of(torch.arange(self.num_samples)), kept, wanted))
            else:
                wanted = torch.arange(self.num_outputs)
                for i in tqdm(range(start, stop), "Jacobian", leave=False, delay=2):
                    found.append(selected_rows(self.outputs_of(torch.tensor([i])), kept, wanted))
            rows = torch.cat(found)
            return dict(zip(names, rows.split([parameter.numel() for parameter in kept], dim=1), strict=True))

    def _by_layers(self, attempt: Callable[[], Result]) -> Result:
        """What is made by the rules; without them from now on if they do not hold for all samples."""
        with torch.inference_mode(False), plain_arithmetic():
            try:
                return attempt()
            except FloatingPointError:
                raise
            except (UnevenError, ArithmeticError) as error:
                if not self.layering.groups:
                    raise
                reason = str(error)
            self._layering = Layering([], list(self.names), [], [], reason=reason)
            return attempt()

    @cached_property
    def _differs_alone(self) -> bool:
        return differs_alone(self._outputs, selected_parameters(self.model, self.layers), self.row_precision)

    def _outputs(self, indices: Tensor) -> Tensor:
        return output_matrix(self.model, select(self.inputs, indices), self.output_fn)

    def _output_chunks(self) -> Iterator[Tensor]:
        size = self.num_samples if self.coupled else self.chunk_size
        return map(self.outputs_of, torch.arange(self.num_samples).split(size))

    def _transposed_product(self, columns: Tensor) -> Tensor:
        with self.evaluation() as parameters:
            kept, total, start = list(parameters.values()), columns.new_zeros(self.shape[1], columns.shape[1]), 0
            for outputs in self._output_chunks():
                part = columns[start : start + outputs.numel()].T.reshape(-1, *outputs.shape)
                total += vector_jacobian_products(outputs, kept, part).T
                start += outputs.numel()
        return total
