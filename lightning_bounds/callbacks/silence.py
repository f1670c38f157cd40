"""A LightningModule whose forward pass reports nothing: no logging, no metric updates."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torchmetrics import Metric


@contextmanager
def silenced(module: nn.Module) -> Iterator[nn.Module]:
    """The module with ``self.log`` switched off and its torchmetrics as they were on leaving.

    A ``forward`` that logs would otherwise add our probe to the user's numbers, or fail in a hook where Lightning
    forbids logging.

    Example:
        >>> import torch
        >>> from torchmetrics import MeanMetric
        >>> module = nn.ModuleList([MeanMetric()])
        >>> with silenced(module):
        ...     module[0].update(torch.tensor(3.0))
        >>> module[0].update_count
        0
    """
    loggers = [part for part in module.modules() if hasattr(part, "log_dict") and hasattr(part, "log")]
    metrics = [(part, _metric_state(part)) for part in module.modules() if isinstance(part, Metric)]
    try:
        for part in loggers:
            # Instance attributes hide the methods of the class and are taken away again.
            part.__dict__["log"] = part.__dict__["log_dict"] = _say_nothing
        yield module
    finally:
        for part in loggers:
            part.__dict__.pop("log", None)
            part.__dict__.pop("log_dict", None)
        for part, state in metrics:
            part.__dict__.update(state)


def _metric_state(metric: Metric) -> dict[str, Any]:
    own = {name: value for name, value in metric.__dict__.items() if name in (*metric._defaults, "_state")}
    counters = {name: value for name, value in metric.__dict__.items() if name in ("_update_count", "_computed")}
    return {**copy.deepcopy(own), **counters}


def _say_nothing(*_: Any, **__: Any) -> None:
    return None
