"""What the callbacks of one Trainer share: the probe's samples for the run, and the snapshots of the current step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from lightning_bounds.jacobian.forward import Inputs, OutputFn, num_samples
from lightning_bounds.jacobian.guard import preserved_rng
from lightning_bounds.lightning import pl
from lightning_bounds.probe import BatchFn, Probe
from lightning_bounds.snapshot import Snapshot


class SharedSnapshots:
    """Samples held for the run and snapshots held for one step, each made by the first callback that asks.

    A snapshot is given again only while every parameter and buffer has the same values, so that weights swapped between
    two hooks of a step (averaging) are seen anew. A copy, also by pickling, is empty.
    """

    def __init__(self) -> None:
        self._loaders: dict[str, Any] = {}
        self._samples: dict[tuple[Probe, BatchFn], tuple[Inputs, Tensor]] = {}
        self._snapshots: dict[tuple[Probe, BatchFn, OutputFn | None], Snapshot] = {}
        self._state: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def snapshot(
        self, trainer: pl.Trainer, module: nn.Module, probe: Probe, batch_fn: BatchFn, output_fn: OutputFn | None
    ) -> Snapshot:
        """The network through this probe, now."""
        state = (trainer.global_step, *_fingerprint(module))
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
            loader = self._checked_loader(trainer, probe.split)
            inputs, targets = batch_fn(probe.batch(loader.dataset, loader.collate_fn))
            found = num_samples(inputs)
            if found < probe.num_samples and not isinstance(loader.dataset, IterableDataset):
                _say(f"The {probe.split} probe asks for {probe.num_samples} samples; all {found} there are are used.")
            self._samples[key] = inputs, targets
        return self._samples[key]

    def loader(self, trainer: pl.Trainer, split: str) -> Any:
        """The loader or loaders of a split; None if there is none. Of several validation loaders the first."""
        if self._loaders.get(split) is None:
            loaders = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
            if split == "val" and loaders is None and trainer.enable_validation:
                # Lightning loads them when the first validation is due, which may be epochs from now.
                with preserved_rng():
                    loaders = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()
            if split == "val" and isinstance(loaders, (list, tuple)):
                loaders = loaders[0] if loaders else None
            self._loaders[split] = loaders
        return self._loaders[split]

    def release(self) -> None:
        """Forget the snapshots; the samples stay."""
        self._snapshots.clear()

    def _checked_loader(self, trainer: pl.Trainer, split: str) -> Any:
        loader = self.loader(trainer, split)
        if loader is None:
            raise ValueError(
                f"Expected a {split} data loader to take the probe from, but the Trainer has none; "
                f"give it one, or leave {split!r} out of `splits`."
            )
        if not hasattr(loader, "dataset") or not hasattr(loader, "collate_fn"):
            raise TypeError(
                f"Expected one {split} DataLoader with a data set, but got {type(loader).__name__}; "
                "the probe indexes the data set itself, so that the loader's order is never disturbed."
            )
        return loader


def _fingerprint(module: nn.Module) -> tuple[Any, ...]:
    """Changes when a parameter or buffer does.

    Version counters do not see what is written through ``.data``, as weight averaging does; sums do. Buffers have
    sums alone, because the guard that puts them back raises their counters.
    """
    parameters, buffers = list(module.parameters()), list(module.buffers())
    versions = [0 if tensor.is_inference() else tensor._version for tensor in parameters]
    sums = [_sum(tensor) for tensor in (*parameters, *buffers)]
    # Bytes, because NaN does not equal itself.
    values = torch.stack([total.to(sums[0].device) for total in sums]).cpu().numpy().tobytes() if sums else b""
    return (*(tensor.data_ptr() for tensor in (*parameters, *buffers)), *versions, values)


def _sum(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).sum(dtype=torch.float64)


def _say(message: str) -> None:
    say: Callable[[str], None] = pl.utilities.rank_zero_info
    say(message)
