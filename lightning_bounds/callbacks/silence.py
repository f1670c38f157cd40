"""A LightningModule whose forward pass reports nothing: no logging, no metric updates."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection


@contextmanager
def silenced(module: nn.Module) -> Iterator[nn.Module]:
    """The module with ``self.log`` switched off and its torchmetrics as they were on leaving.

    A ``forward`` that logs would otherwise add our probe to the user's numbers, or fail in a hook where Lightning
    forbids logging.

    Example:
        >>> from torchmetrics import MeanMetric
        >>> module = nn.ModuleList([MeanMetric()])
        >>> with silenced(module):
        ...     module[0].update(torch.tensor(3.0))
        >>> module[0].update_count
        0
    """
    parts = list(module.modules())
    restore = [_muted(part) for part in parts if hasattr(part, "log_dict") and hasattr(part, "log")]
    restore += [_kept(part) for part in parts if isinstance(part, (Metric, MetricCollection))]
    try:
        yield module
    finally:
        for put_back in restore:
            put_back()


def _muted(part: nn.Module) -> Callable[[], None]:
    """Switch logging off; the function that switches it on again."""
    # Instance attributes hide the methods of the class. There may have been some before.
    before: dict[str, Any] = {name: vars(part)[name] for name in ("log", "log_dict") if name in vars(part)}
    vars(part)["log"] = vars(part)["log_dict"] = _say_nothing

    def put_back() -> None:
        for name in ("log", "log_dict"):
            vars(part).pop(name, None)
        vars(part).update(before)

    return put_back


def _kept(metric: nn.Module) -> Callable[[], None]:
    """The function that makes a metric what it is now: the same tensors and lists, with the same content."""
    attributes = dict(vars(metric))
    groups = copy.deepcopy(attributes.get("_groups"))
    lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
    tensors = [(value, value.detach().clone()) for value in attributes.values() if isinstance(value, Tensor)]

    def put_back() -> None:
        vars(metric).clear()
        vars(metric).update(attributes)
        if groups is not None:
            vars(metric)["_groups"] = groups
        for value, items in lists:
            value[:] = items
        with torch.no_grad():
            for tensor, content in tensors:
                if not torch.equal(tensor, content) and not tensor.is_inference():
                    tensor.copy_(content)

    return put_back


def _say_nothing(*_: Any, **__: Any) -> None:
    return None
