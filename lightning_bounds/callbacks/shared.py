"""What the callbacks of one Trainer share: the probe's samples for the run, and the snapshots of the current step."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import IterableDataset

from lightning_bounds.jacobian.forward import Inputs, OutputFn, num_samples
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe
from lightning_bounds.snapshot import Snapshot


class SharedSnapshots:
    """Samples held for the run and snapshots held for one step, each made by the first callback that asks.

    A snapshot is given again only while every parameter and buffer is untouched, so that weights swapped between two
    hooks of a step (averaging) are seen anew.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[Probe, BatchFn], tuple[Inputs, Tensor]] = {}
        self._snapshots: dict[tuple[Probe, BatchFn, OutputFn | None], Snapshot] = {}
        self._state: tuple[Any, ...] = ()

    def snapshot(
        self, trainer: pl.Trainer, module: nn.Module, probe: Probe, batch_fn: BatchFn, output_fn: OutputFn | None
    ) -> Snapshot:
        """The network through this probe, now."""
        state = (trainer.global_step, *(_version(tensor) for tensor in (*module.parameters(), *module.buffers())))
        if state != self._state:
            self._snapshots.clear()
            self._state = state
        key = (probe, batch_fn, output_fn)
        if key not in self._snapshots:
            inputs, targets = self.samples(trainer, probe, batch_fn)
            self._snapshots[key] = Snapshot(module, inputs, targets, trainer.global_step, probe, output_fn)
        return self._snapshots[key]

    def samples(self, trainer: pl.Trainer, probe: Probe, batch_fn: BatchFn) -> tuple[Inputs, Tensor]:
        """Inputs and targets of the probe, drawn once.

        Raises:
            ValueError: If the Trainer has no data loader for the split, or its data set is empty.
            TypeError: If the loader or its batches have an unknown structure.
        """
        key = (probe, batch_fn)
        if key not in self._samples:
            loader = _loader(trainer, probe.split)
            inputs, targets = batch_fn(probe.batch(loader.dataset, loader.collate_fn))
            found = num_samples(inputs)
            if found < probe.num_samples and not isinstance(loader.dataset, IterableDataset):
                _say(f"The {probe.split} probe asks for {probe.num_samples} samples; all {found} there are are used.")
            self._samples[key] = inputs, targets
        return self._samples[key]

    def release(self) -> None:
        """Forget the snapshots; the samples stay."""
        self._snapshots.clear()


def _loader(trainer: pl.Trainer, split: str) -> Any:
    loaders = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
    # With several validation loaders the first is the validation data.
    if split == "val" and isinstance(loaders, (list, tuple)) and loaders:
        loaders = loaders[0]
    if loaders is None or (isinstance(loaders, (list, tuple)) and not loaders):
        raise ValueError(
            f"Expected a {split} data loader to take the probe from, but the Trainer has none; "
            f"give it one, or leave {split!r} out of `splits`."
        )
    if not hasattr(loaders, "dataset") or not hasattr(loaders, "collate_fn"):
        raise TypeError(
            f"Expected one {split} DataLoader with a data set, but got {type(loaders).__name__}; "
            "the probe indexes the data set itself, so that the loader's order is never disturbed."
        )
    return loaders


def _version(tensor: Tensor) -> tuple[int, int]:
    return (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)


def _say(message: str) -> None:
    say: Callable[[str], None] = pl.utilities.rank_zero_info
    say(message)
