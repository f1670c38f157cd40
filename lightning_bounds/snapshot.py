"""One network at one step, seen through one probe: every quantity computed once, when it is first asked for."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.forward import Inputs, OutputFn, map_tensors, num_samples
from lightning_bounds.jacobian.operator import JacobianOperator
from lightning_bounds.jacobian.spectrum import Spectrum, gram_spectrum
from lightning_bounds.probe import Probe
from lightning_bounds.theory.labels import label_matrix
from lightning_bounds.theory.margin import output_margins


class Snapshot:
    """A network and some samples, and what theory asks about them. Plain torch; works without Lightning.

    The network is the live one: read what you need before it is trained on.

    Args:
        model: Any module, in any mode; it is looked at in the probe's mode and never changed.
        inputs: The samples, see :class:`JacobianOperator`.
        targets: Classes ``(n,)``, or real targets with ``K`` numbers per sample.
        step: At which training step this is.
        probe: Mode, layers, precision and memory; its samples are not chosen here.
        output_fn: Picks the outputs out of what the module returns.

    Raises:
        ValueError: If inputs are not finite (the samples are named), or numbers of samples differ.

    Example:
        >>> snapshot = Snapshot(nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1]))
        >>> snapshot.residual.shape, snapshot.gram.shape
        (torch.Size([4]), torch.Size([4, 4]))
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        targets: Tensor,
        step: int = 0,
        probe: Probe | None = None,
        output_fn: OutputFn | None = None,
    ) -> None:
        self.model, self.inputs, self.targets, self.step = model, inputs, targets, step
        self.probe, self.output_fn = probe or Probe(), output_fn
        n = num_samples(inputs)
        if targets.dim() == 0 or targets.shape[0] != n:
            raise ValueError(f"Expected targets for each of {n} samples, but got shape {tuple(targets.shape)}.")
        map_tensors(inputs, lambda tensor: _check_finite(tensor, n))

    @cached_property
    def jacobian(self) -> JacobianOperator:
        """``J``, as an operator."""
        return JacobianOperator(self.model, self.inputs, self.probe.layers, self.output_fn, mode=self.probe.mode)

    @cached_property
    def outputs(self) -> Tensor:
        """``f(X)``, shape ``(n, K)``.

        Raises:
            FloatingPointError: If an output is not finite.
        """
        outputs = self.jacobian.outputs()
        bad = (~outputs.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise FloatingPointError(f"Expected finite outputs, but those of samples {bad[:10]} are NaN or infinite.")
        return outputs

    @cached_property
    def labels(self) -> Tensor:
        """Label vector ``y``, shape ``(n*K,)``, sample-major, float64; see :func:`label_matrix`."""
        return label_matrix(self.targets.to(self.outputs.device), self.outputs.shape[1], torch.float64).flatten()

    @cached_property
    def residual(self) -> Tensor:
        """Residual ``r = f - y``, shape ``(n*K,)``, sample-major, float64.

        References:
            Oymak et al. 2019, equation (1.3).
        """
        return self.outputs.double().flatten() - self.labels

    def loss_gradient(self, summed_loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Gradient of the summed loss by the outputs, shape ``(n*K,)``: what drives training in the place of ``f - y``.

        Args:
            summed_loss: From outputs ``(n, K)`` and the targets to the loss summed over the samples.
        """
        with torch.inference_mode(False), torch.enable_grad():
            outputs = self.outputs.double().clone().requires_grad_()
            # A clone, because targets made in inference mode, as in validation, cannot be kept for a backward pass.
            loss = summed_loss(outputs, self.targets.to(outputs.device).clone())
            return torch.autograd.grad(loss, outputs)[0].flatten()

    @cached_property
    def margins(self) -> Tensor:
        """Output margins, shape ``(n,)``, see :func:`output_margins`."""
        return output_margins(self.outputs, self.targets.to(self.outputs.device))

    @cached_property
    def gram(self) -> Tensor:
        """``J J^T``, shape ``(n*K, n*K)``, in the probe's precision."""
        return self.jacobian.gram(self.probe.torch_dtype, self.probe.memory_bytes)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Singular values and left vectors of ``J``."""
        return gram_spectrum(self.gram, row_precision=self.jacobian.row_precision)


def _check_finite(tensor: Tensor, n: int) -> Tensor:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        where = "NaN or infinite"
        if tensor.dim() and tensor.shape[0] == n:
            bad = (~tensor.reshape(n, -1).isfinite().all(dim=1)).nonzero().flatten().tolist()
            where = f"samples {bad[:10]}{' and more' if len(bad) > 10 else ''} of the probe are NaN or infinite"
        raise ValueError(f"Expected finite inputs, but {where}; remove or repair them.")
    return tensor
