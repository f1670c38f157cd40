"""Distribution of the margins over a stream of batches and over all processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_bounds.theory.margin import QUANTILES, check_quantiles, margin_statistics, output_margins


class MarginDistribution(Metric):
    """Mean and quantiles of the output margins.

    The numbers are those of :func:`~lightning_bounds.theory.margin.margin_statistics`.

    State: ``margins``, the list of the batches' margins that this process has seen, in float64 (8 bytes a sample).

    Args:
        quantiles: Which quantiles, different numbers in [0, 1].

    Raises:
        ValueError: If quantiles are missing, repeated or out of range; in ``update``, if outputs and targets do not
            match; in ``compute``, if there was no sample or if margins are not finite.

    References:
        Bartlett, Foster, Telgarsky 2017, section 1 (the margin distribution).

    Example:
        >>> margins = MarginDistribution(quantiles=(0.0, 0.05, 0.5))
        >>> margins.update(torch.tensor([3.0, -1.0, 2.0]), torch.tensor([1, -1, -1]))
        >>> {name: round(float(value), 3) for name, value in margins.compute().items()}
        {'mean': 0.667, 'minimum': -2.0, 'quantile_05': -1.7, 'quantile_50': 1.0}
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    margins: list[Tensor]

    def __init__(self, quantiles: Sequence[float] = QUANTILES) -> None:
        super().__init__()
        check_quantiles(quantiles)
        self.quantiles = tuple(float(q) for q in quantiles)
        self.add_state("margins", [], dist_reduce_fx="cat")
        # A process without samples sends an empty tensor of this type, which must be the others' type.
        self.set_dtype(torch.float64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keep the margins of a batch.

        Args:
            outputs: Network outputs, shape ``(n, K)``, or ``(n,)`` for a single output.
            targets: Classes ``(n,)``, coded rows ``(n, K)``, or labels ±1 (or 0 and 1) for a single output.
        """
        self.margins.append(output_margins(outputs.double(), targets))

    def compute(self) -> dict[str, Tensor]:
        """The distribution over all batches and processes.

        Returns:
            Scalars: ``mean``, and in the order of ``quantiles`` the ``minimum`` for 0, the ``maximum`` for 1 and
            ``quantile_05`` for 0.05.
        """
        return margin_statistics(dim_zero_cat(self.margins) if len(self.margins) else torch.empty(0), self.quantiles)
