"""One LightningModule that trains any network, and logs on both sets the numbers that the theory is compared with."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lightning_bounds.lightning import pl
from lightning_bounds.metrics.fitted_flips import FittedFlips
from lightning_bounds.metrics.misclassification import Misclassification
from lightning_bounds.models.choice import chosen
from lightning_bounds.models.loss import cross_entropy, least_squares, logistic


class Supervised(pl.LightningModule):
    """Trains a network on labeled samples.

    A batch is ``(inputs, labels)``, or ``(inputs, labels, original_labels)`` if label noise may have flipped labels.
    Validation has one loader, the test set, or two: the test set and then the training set.

    Logs at every training step:

    * ``train/batch_loss``: the loss of the batch, in the ``reduction`` that is trained on.

    Logs at the end of every validation, over all samples of a loader:

    * ``test/loss``: the loss per sample, whatever the ``reduction``;
    * ``test/error``: the misclassified fraction, against the labels as given;
    * ``test/clean_error``: the same against the original labels, if the batches have them;
    * ``train/loss``, ``train/error``, ``train/clean_error``: the same of the training set, if it is validated;
    * ``train/fitted_flips``: the fraction of the flipped training labels that the network predicts, if the batches
      have original labels; 0 if no label is flipped.

    ``reduction="sum"`` is the sum over all samples between two steps of the optimizer, as in the papers: Lightning's
    division by the number of accumulated batches and the average of the gradients over the processes are undone.
    ``"mean"`` is torch's usual mean, over the batch, the accumulated batches and the processes.

    Args:
        network: The network. Only its parameters with ``requires_grad`` are trained.
        loss: ``"least_squares"``, ``"cross_entropy"`` (two and more outputs), ``"logistic"`` (one output), or any
            function of outputs and targets that returns a scalar.
        reduction: ``"mean"`` or ``"sum"`` over the samples. For a loss of your own: which of the two it is already.
        optimizer: Function of the parameters that returns their optimizer, in Hydra a ``_partial_``; by default
            stochastic gradient descent with learning rate 0.1.
        scheduler: Function of the optimizer that returns its learning rate scheduler, which steps once per epoch.
        classification: Whether labels are classes. ``False`` for real targets, which have losses but no errors.

    Raises:
        ValueError: If ``loss`` or ``reduction`` is unknown; before training, if the network has no trainable parameter;
            later, if a batch is no such tuple or validation has more than two loaders.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, section 4 (training and test errors, with and without corruption).

    Example:
        >>> import torch
        >>> module = Supervised(nn.Linear(2, 3, bias=False), optimizer=partial(SGD, lr=0.5, momentum=0.9))
        >>> module.summed_loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
        tensor(2.)
    """

    def __init__(
        self,
        network: nn.Module,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "least_squares",
        reduction: str = "mean",
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        classification: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.reduction = chosen("reduction", reduction, {"mean": "mean", "sum": "sum"})
        self.loss = loss if callable(loss) else partial(_named_loss(loss), reduction=reduction)
        self.optimizer = partial(SGD, lr=0.1) if optimizer is None else optimizer
        self.scheduler = scheduler
        self.classification = classification
        self.metrics = nn.ModuleDict(
            {
                "test/error": Misclassification(),
                "test/clean_error": Misclassification(),
                "train/error": Misclassification(),
                "train/clean_error": Misclassification(),
                "train/fitted_flips": FittedFlips(),
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the network.

        Args:
            inputs: Whatever the network takes, ``n`` samples.

        Returns:
            Outputs, shape ``(n, K)`` or ``(n,)``.
        """
        return self.network(inputs)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss summed over the samples, whatever the ``reduction`` of the training.

        Its gradient with respect to the outputs takes the place of the residual ``f - y`` for losses that are not
        least squares, and equals it for least squares.

        Args:
            outputs: Outputs of the network, shape ``(n, K)`` or ``(n,)``.
            targets: Targets of the same ``n`` samples.

        Returns:
            Scalar.
        """
        loss = self.loss(outputs, targets)
        return loss if self.reduction == "sum" else loss * len(outputs)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """The optimizer of the trainable parameters, and its scheduler if there is one.

        Returns:
            The optimizer and the scheduler, each in a list, which is how Lightning takes a step per epoch for granted.

        Raises:
            ValueError: If no parameter of the network is trainable.
        """
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                f"Expected a network with trainable parameters, but got {type(self.network).__name__} "
                "without any parameter that requires a gradient; unfreeze a layer with `requires_grad_(True)`."
            )
        optimizer = self.optimizer(parameters)
        return [optimizer], [] if self.scheduler is None else [self.scheduler(optimizer)]

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss of a batch.

        Args:
            batch: ``(inputs, labels)`` or ``(inputs, labels, original_labels)``.
            batch_idx: Unused.

        Returns:
            Scalar, whose gradient Lightning accumulates, averages over the processes and passes to the optimizer.
        """
        samples = _samples(batch)
        loss = self.loss(self(samples.inputs), samples.labels)
        self.log("train/batch_loss", loss.detach(), batch_size=len(samples.labels))
        if self.reduction == "sum":
            # Lightning divides by the one and averages over the other: a sum stays a sum.
            return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Adds a batch to the loss and the errors of its set.

        Args:
            batch: ``(inputs, labels)`` or ``(inputs, labels, original_labels)``.
            batch_idx: Unused.
            dataloader_idx: 0 for the test set, 1 for the training set.
        """
        if dataloader_idx > 1:
            raise ValueError(
                "Expected one validation loader, the test set, or two, the test set and the training set, "
                f"but got a batch of loader {dataloader_idx}; pass at most two."
            )
        split = ("test", "train")[dataloader_idx]
        inputs, labels, original_labels = _samples(batch)
        outputs = self(inputs)
        loss = self.summed_loss(outputs, labels) / len(labels)
        self.log(f"{split}/loss", loss, batch_size=len(labels), sync_dist=True, add_dataloader_idx=False)
        if not self.classification:
            return
        self._log_metric(f"{split}/error", outputs, labels)
        if original_labels is not None:
            self._log_metric(f"{split}/clean_error", outputs, original_labels)
            if split == "train":
                self._log_metric(f"{split}/fitted_flips", outputs, labels, original_labels)

    def _log_metric(self, name: str, *arguments: Tensor) -> None:
        # Lightning computes a logged metric at the end of the epoch, over all processes, and resets it then and after
        # the sanity check.
        metric = cast(Metric, self.metrics[name])
        metric.update(*arguments)
        self.log(name, metric, batch_size=len(arguments[0]), add_dataloader_idx=False)


class _Samples(NamedTuple):
    inputs: Tensor
    labels: Tensor
    original_labels: Tensor | None = None


def _samples(batch: Sequence[Tensor]) -> _Samples:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        size = f" of length {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            "Expected a batch `(inputs, labels)` or `(inputs, labels, original_labels)`, "
            f"but got a {type(batch).__name__}{size}; change what the dataset returns."
        )
    return _Samples(*batch)


def _named_loss(name: str) -> Callable[..., Tensor]:
    return chosen("loss", name, {"least_squares": least_squares, "cross_entropy": cross_entropy, "logistic": logistic})
