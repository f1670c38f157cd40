"""How much of the label noise a network has memorized, over a stream of batches and over all processes."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_bounds.theory.labels import class_indices
from lightning_bounds.theory.margin import output_margins


class FittedFlips(Metric):
    """Fraction of the flipped labels that the network predicts, among the samples whose label is not the original one.

    A flip is fitted if the flipped label has a positive margin: the network classifies the sample wrongly, in exactly
    the way that it was told to. Without any flip nothing can be fitted, and the fraction is 0.

    States, sums over the batches seen by this process: ``fitted`` and ``flipped``.

    Raises:
        ValueError: In ``update``, if outputs, labels and original labels do not match.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 4 (labels corrupted to a strictly different class).

    Example:
        >>> flips = FittedFlips()
        >>> outputs = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
        >>> flips.update(outputs, labels=torch.tensor([1, 1, 0]), original_labels=torch.tensor([0, 0, 0]))
        >>> flips.compute(), flips.fitted, flips.flipped
        (tensor(0.5000), tensor(1), tensor(2))
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    fitted: Tensor
    flipped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("fitted", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("flipped", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, labels: Tensor, original_labels: Tensor) -> None:
        """Count the flips of a batch, and those that are fitted.

        Args:
            outputs: Network outputs, shape ``(n, K)``, or ``(n,)`` for a single output.
            labels: Labels as given to the training, shape ``(n,)``, in any coding of :class:`Misclassification`.
            original_labels: Labels before the noise, in the same coding.
        """
        if labels.shape != original_labels.shape:
            raise ValueError(
                "Expected labels and original labels of the same shape, "
                f"but got {tuple(labels.shape)} and {tuple(original_labels.shape)}."
            )
        fitted = output_margins(outputs, labels) > 0
        num_outputs = outputs.shape[1] if outputs.dim() == 2 else 1
        flipped = class_indices(labels, num_outputs) != class_indices(original_labels, num_outputs)
        self.fitted = self.fitted + (fitted & flipped).sum()
        self.flipped = self.flipped + flipped.sum()

    def compute(self) -> Tensor:
        """The fraction over all batches and processes.

        Returns:
            Scalar in [0, 1].
        """
        return self.fitted / self.flipped.clamp(min=1)
