"""Misclassification error over a stream of batches and over all processes."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_bounds.theory.margin import output_margins


class Misclassification(Metric):
    """Misclassified fraction ``1/n #{i: margin of sample i <= 0}``.

    A sample counts as an error unless its class strictly wins: a largest output that two classes share, a single output
    of exactly 0, and outputs that are NaN are errors. Such ties are real: where few hidden units are active, output
    weights of one size and random sign give two classes exactly the same output.

    States, sums over the batches seen by this process: ``errors`` and ``samples``.

    Raises:
        ValueError: In ``update``, if outputs and targets do not match; in ``compute``, if there was no sample.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Eq. (3.1); Arora et al. 2019, section 5 (``y f <= 0`` for one output).

    Example:
        >>> error = Misclassification()
        >>> error.update(torch.tensor([[0.1, 0.9], [0.6, 0.4]]), torch.tensor([1, 1]))
        >>> error.update(torch.tensor([[0.5, 0.5], [0.6, 0.4]]), torch.tensor([0, 0]))
        >>> error.compute()
        tensor(0.5000)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    errors: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("errors", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the errors of a batch.

        Args:
            outputs: Network outputs, shape ``(n, K)``, or ``(n,)`` for a single output.
            targets: Classes ``(n,)``, coded rows ``(n, K)``, or labels ±1 (or 0 and 1) for a single output.
        """
        right = output_margins(outputs, targets) > 0
        self.errors = self.errors + (~right).sum()
        self.samples = self.samples + right.numel()

    def compute(self) -> Tensor:
        """The fraction over all batches and processes.

        Returns:
            Scalar in [0, 1].
        """
        if self.samples == 0:
            raise ValueError("Expected at least one sample, but got none; call `update` before `compute`.")
        return self.errors / self.samples
