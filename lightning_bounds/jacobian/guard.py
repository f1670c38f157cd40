"""Looking at a network without leaving a trace: everything that a forward pass can change is put back afterwards."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


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
    twice; compiled submodules run eagerly, because tracing through them would change later training; hooks of
    parameters are silent.

    On leaving, also after an exception: the training flag of each submodule on its own (a submodule that the user
    pinned to evaluation stays there), every buffer (its values, and the tensor that held them; new ones are gone), the
    random streams, and the settings above. Parameters and their ``.grad`` are never written to.

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
        with torch.no_grad():
            for tensor, values in self.values:
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
