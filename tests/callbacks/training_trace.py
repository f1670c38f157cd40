"""Everything that a training leaves behind, and whether two trainings left bit for bit the same."""

import random

import numpy as np
import torch
from torch import Tensor

from lightning_bounds.lightning import pl


class Trace(pl.Callback):
    """Records all batches, and at the end of training the state of everything.

    It stands last among the callbacks, so that it sees what the others have left.
    """

    def __init__(self):
        self.batches, self.flags, self.gradients, self.metrics = [], [], [], []
        self.end = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append([copied(part) for part in batch])
        self.flags.append([part.training for part in pl_module.modules()])

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.gradients.append([copied(parameter.grad) for parameter in pl_module.parameters()])
        self.metrics.append({name: copied(v) for name, v in trainer.callback_metrics.items() if not ours(name)})

    def on_train_end(self, trainer, pl_module):
        self.end = {
            "step": trainer.global_step,
            "state": {name: copied(tensor) for name, tensor in pl_module.state_dict().items()},
            "buffers": {name: copied(tensor) for name, tensor in pl_module.named_buffers()},
            "flags": {name: part.training for name, part in pl_module.named_modules()},
            "trainable": [parameter.requires_grad for parameter in pl_module.parameters()],
            "optimizers": [copied(optimizer.state_dict()) for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "random": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            "settings": (
                *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
                *(torch.get_float32_matmul_precision(), torch.backends.mha.get_fastpath_enabled()),
                *(torch.is_autocast_enabled(), torch.backends.cudnn.allow_tf32),
            ),
        }

    def everything(self, trainer):
        records = [record for logger in trainer.loggers for record in getattr(logger, "records", [])]
        return {
            **self.end,
            **{"batches": self.batches, "flags": self.flags, "gradients": self.gradients, "metrics": self.metrics},
            "logged": [record for record in records if "bounds/opt_step" not in record],
            "last": {name: copied(value) for name, value in trainer.callback_metrics.items() if not ours(name)},
        }


def ours(name):
    topics = ("bounds", "jacobian_spectrum", "residual_projection", "margins", "trajectory", "train_mode")
    return name.split("/")[0] in topics


def copied(value):
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list | tuple) else value


def differences(first, second, where=""):
    """Where two values are not bit for bit the same; NaN equals itself."""
    if type(first) is not type(second):
        return [f"{where}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, dict):
        if set(first) != set(second):
            return [f"{where}: one has {sorted(map(str, set(first) ^ set(second)))}, the other has not"]
        return [line for name in first for line in differences(first[name], second[name], f"{where}/{name}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{where}: lengths {len(first)} and {len(second)}"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}/{i}")]
    if isinstance(first, np.ndarray):
        return differences(torch.from_numpy(first.astype(np.int64)), torch.from_numpy(second.astype(np.int64)), where)
    if isinstance(first, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape and bits_equal(first, second)
        return [] if same else [f"{where}: tensors differ"]
    return [] if first == second or (first != first and second != second) else [f"{where}: {first} and {second}"]


def bits_equal(first, second):
    return torch.equal(*(t.cpu().contiguous().reshape(-1).view(torch.uint8) for t in (first, second)))
