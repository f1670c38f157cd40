"""Looking at a network without leaving a trace: everything that a forward pass can change is put back afterwards."""

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

# Attributes that every module has: its parts, its hooks, and what is restored in a way of its own.
_COMMON = frozenset(vars(nn.Module()))
# What may be refilled by ``clear`` and one of ``update`` and ``extend``; subclasses may do more than hold things.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)
# Entries of the largest plain tensor of which a copy is kept; larger ones are data that forward passes only read.
_COPIED = 2**20


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the random streams of python, numpy and torch (CPU and CUDA) on leaving, also after an exception.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with preserved_rng():
        ...     hidden = torch.rand(3)
        >>> bool((torch.rand(3) == hidden).all())
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    # Asking an unused CUDA for its state would start it, and it has no stream to preserve.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def observed(module: nn.Module, mode: str = "eval") -> Iterator[nn.Module]:
    """The module in evaluation mode, ready to be differentiated, and exactly as it was on leaving.

    Inside: every submodule is in ``mode``; gradients are recorded, also when the caller is in ``no_grad`` or inference
    mode; no autocast, no TensorFloat32; attention runs as plain matrix products, which alone can be differentiated
    twice; compiled submodules run eagerly, because tracing through them would change later training; nothing is
    forgotten to be computed again (``torch.utils.checkpoint``); hooks of parameters are silent.

    On leaving, also after an exception: the training flag of each submodule on its own (a submodule that the user
    pinned to evaluation stays there), every buffer (its values, and the tensor that held them; new ones are gone), all
    other attributes (:func:`kept_attributes`), the random streams, and the settings above. Parameters and their
    ``.grad`` are never written to.

    Args:
        module: Any module.
        mode: ``"eval"``, or ``"train"`` for batch statistics and active dropout.

    Raises:
        ValueError: If ``mode`` is neither.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with observed(network) as quiet:
        ...     quiet[1].training
        False
        >>> network[1].training
        True
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"Expected `mode` to be 'eval' or 'train', but got {mode!r}.")
    flags = [(submodule, submodule.training) for submodule in module.modules()]
    buffers = [_Buffers(submodule) for submodule in module.modules()]
    # Embeddings with a largest norm shorten their weights whenever they are looked up.
    shortened = [
        (submodule.weight, submodule.weight.detach().clone())
        for submodule in module.modules()
        if isinstance(submodule, (nn.Embedding, nn.EmbeddingBag)) and submodule.max_norm is not None
    ]
    with ExitStack() as stack:
        stack.enter_context(preserved_rng())
        stack.enter_context(plain_arithmetic())
        stack.enter_context(_without_hooks(module))
        stack.enter_context(_without_checkpoints())
        stack.enter_context(kept_attributes(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            for submodule, _ in flags:
                submodule.training = mode == "train"
            yield module
        finally:
            for submodule, training in flags:
                submodule.training = training
            for saved in buffers:
                saved.restore()
            for weight, values in shortened:
                weight.data.copy_(values)


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """No hook of a parameter runs: one that records gradients would record ours, one that scales them scale ours."""
    hooked = [(parameter, parameter._backward_hooks) for parameter in module.parameters() if parameter._backward_hooks]
    try:
        for parameter, _ in hooked:
            parameter._backward_hooks = None
        yield
    finally:
        for parameter, hooks in hooked:
            parameter._backward_hooks = hooks


@contextmanager
def _without_checkpoints() -> Iterator[None]:
    """``torch.utils.checkpoint`` computes once and keeps, as its older kind cannot be asked for single gradients."""

    class Kept:
        @staticmethod
        def apply(function: Any, _: bool, *args: Any) -> Any:
            return function(*args)

    def unchanged(*_: Any, **__: Any) -> Iterator[None]:
        yield

    # A stand-in where torch has what it stands for: the two ways in which ``checkpoint`` goes.
    changed = {"CheckpointFunction": Kept, "_checkpoint_without_reentrant_generator": unchanged}
    changed = {name: value for name, value in changed.items() if hasattr(checkpoint, name)}
    before = {name: getattr(checkpoint, name) for name in changed}
    try:
        vars(checkpoint).update(changed)
        yield
    finally:
        vars(checkpoint).update(before)


@contextmanager
def kept_attributes(module: nn.Module) -> Iterator[None]:
    """Attributes of a module and its submodules that are no parameters, buffers or submodules are restored on leaving.

    Caches in dictionaries and lists, last outputs, tensors of a usual size: what a pass without a graph has cached must
    not be met by the next pass, which would take it for a constant. Numbers stay: who counts passes, counts all.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> network.cache = {}
        >>> with kept_attributes(network):
        ...     network.cache["weight"] = 2 * network.weight
        >>> network.cache
        {}
    """
    attributes = [_Attributes(submodule) for submodule in module.modules()]
    try:
        yield
    finally:
        for saved in attributes:
            saved.restore()


class _Attributes:
    """What one submodule holds besides parameters, buffers and submodules, as it was."""

    def __init__(self, submodule: nn.Module) -> None:
        self.attributes = vars(submodule)
        self.held = {name: value for name, value in self.attributes.items() if name not in _COMMON}
        self.contents = [(value, copy.copy(value)) for value in self.held.values() if type(value) in _CONTAINERS]
        plain = [value for value in self.held.values() if type(value) is torch.Tensor and value.numel() <= _COPIED]
        # What has a graph is an output of some pass, which nobody overwrites.
        self.values = [(tensor, tensor.clone()) for tensor in plain if not tensor.requires_grad]

    def restore(self) -> None:
        numbers = {name: value for name, value in self.attributes.items() if isinstance(value, (int, float))}
        self.attributes.update({name: value for name, value in self.held.items() if name not in numbers})
        for name in self.attributes.keys() - self.held.keys() - numbers.keys() - _COMMON:
            del self.attributes[name]
        for container, content in self.contents:
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(content)
        _write_back(self.values)


class _Buffers:
    """The buffers of one submodule, without those of its children, as they were."""

    def __init__(self, submodule: nn.Module) -> None:
        self.submodule, self.tensors = submodule, dict(submodule._buffers.items())
        self.transient = set(submodule._non_persistent_buffers_set)
        self.values = [(tensor, tensor.detach().clone()) for tensor in self.tensors.values() if tensor is not None]

    def restore(self) -> None:
        held = dict(self.submodule._buffers.items())
        if {name: id(tensor) for name, tensor in held.items()} != {name: id(t) for name, t in self.tensors.items()}:
            if isinstance(self.submodule, torch.jit.ScriptModule):  # its set of buffers is fixed
                for name, tensor in self.tensors.items():
                    setattr(self.submodule, name, tensor)
            else:
                self.submodule._buffers.clear()
                self.submodule._buffers.update(self.tensors)
                self.submodule._non_persistent_buffers_set = self.transient
        _write_back(self.values)


def _write_back(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Give tensors the values that they had, where something has overwritten those."""
    with torch.no_grad():
        for tensor, values in pairs:
            if tensor.shape != values.shape:  # resized, as observers for quantization do
                tensor.resize_(values.shape)
            if not torch.equal(tensor, values):
                tensor.copy_(values)


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Full float32 precision, twice differentiable attention, no autocast, no compiled code."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        # Anomaly detection would report the attempts that differentiation falls back from.
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(_ieee_float32())
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _ieee_float32() -> Iterator[None]:
    """Float32 products in float32, not in TensorFloat32 or bfloat16, whichever of torch's switches asks for those."""
    with ExitStack() as undo:
        # First the older switch of cuDNN, which code inside may read; it raises where a newer one contradicts it.
        with suppress(RuntimeError):
            if torch.backends.cudnn.allow_tf32:
                undo.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
                torch.backends.cudnn.allow_tf32 = False
        if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        for level in _precision_levels():
            if level.fp32_precision != "ieee":
                undo.callback(setattr, level, "fp32_precision", level.fp32_precision)
                level.fp32_precision = "ieee"
        yield


def _precision_levels() -> list[Any]:
    """The switches of torch 2.9 and later from the top down: one that is not set follows those above it."""
    if not hasattr(torch.backends, "fp32_precision"):
        return []
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    return [backends, cudnn, cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]


@contextmanager
def full_precision(module: nn.Module) -> Iterator[nn.Module]:
    """The module with its half-precision parameters and buffers held in float32, and exactly as it was on leaving.

    A Jacobian in bfloat16 has three digits. A module of float32 or float64 passes through unchanged; otherwise
    float32 twins (tied ones stay tied) stand in the place of the originals, which are not written to.

    Example:
        >>> network = nn.Linear(2, 2).bfloat16()
        >>> with full_precision(network) as precise:
        ...     precise.weight.dtype
        torch.float32
        >>> network.weight.dtype
        torch.bfloat16
    """
    halves = [
        (submodule, name, tensor)
        for submodule in module.modules()
        for name, tensor in (*submodule._parameters.items(), *submodule._buffers.items())
        if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16)
    ]
    twins: dict[int, torch.Tensor] = {}
    for _, _, tensor in halves:
        twin = tensor.detach().float()
        is_parameter = isinstance(tensor, nn.Parameter)
        twins.setdefault(id(tensor), nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin)
    try:
        for submodule, name, tensor in halves:
            setattr(submodule, name, twins[id(tensor)])
        yield module
    finally:
        for submodule, name, tensor in halves:
            setattr(submodule, name, tensor)
