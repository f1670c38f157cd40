"""What callbacks measure and when, and the small questions about it: what is a scalar, what an error means."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Moment(NamedTuple):
    """A moment of the training: which hook, after how many optimizer steps and epochs."""

    event: str  # "init", "step", "epoch" or "end"
    step: int
    epoch: float


class Table(NamedTuple):
    """A table to be logged."""

    columns: list[str]
    rows: list[list[str | float]]


def epochs_done(trainer: Any, over: bool = False) -> float:
    """Epochs done after a batch, in fractions; if their length is not known, whole ones alone.

    Args:
        trainer: The Trainer.
        over: Whether the epoch has ended.
    """
    batches = trainer.num_training_batches
    done = (trainer.fit_loop.batch_idx + 1) / batches if batches < float("inf") else float(over)
    return float(trainer.current_epoch + done)


def split_values(values: Mapping[str, float | Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars as floats, and vectors on the CPU.

    Example:
        >>> split_values({"a": 1, "b": torch.tensor(2.0), "c": torch.zeros(2)})
        ({'a': 1.0, 'b': 2.0}, {'c': tensor([0., 0.])})
    """
    vectors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.dim() > 0}
    scalars = {name: float(value) for name, value in values.items() if name not in vectors}
    return scalars, {name: value.detach().cpu() for name, value in vectors.items()}


def check_finite(values: Mapping[str, float | Tensor]) -> None:
    """Raise FloatingPointError if a value is NaN or infinite.

    Example:
        >>> check_finite({"a": 1.0, "b": float("nan")})
        Traceback (most recent call last):
        FloatingPointError: Expected finite values, but b are not.
    """
    bad = [name for name, value in values.items() if not bool(torch.as_tensor(value).isfinite().all())]
    if bad:
        raise FloatingPointError(f"Expected finite values, but {', '.join(bad)} are not.")


def status_of(error: Exception | None) -> int:
    """What ``bounds/status`` says: 0 measured, 1 not finite, 2 out of memory, 3 a failed check, 4 any other error.

    Example:
        >>> status_of(None), status_of(FloatingPointError()), status_of(MemoryError()), status_of(ArithmeticError())
        (0, 1, 2, 3)
    """
    if error is None:
        return 0
    if isinstance(error, FloatingPointError):
        return 1
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return 2
    return 3 if isinstance(error, ArithmeticError) else 4


def data_name(split: str) -> str:
    """What a split is called in figures."""
    return {"train": "training data", "val": "validation data"}[split]


def metric_name(name: str) -> str:
    """A parameter's name in the characters of metric names.

    Example:
        >>> metric_name("encoder.0.Conv-1.weight")
        'encoder_0_conv_1_weight'
    """
    return "".join(character if character.isalnum() and character.isascii() else "_" for character in name).lower()
