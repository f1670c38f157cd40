"""Looking at a network without leaving a trace: everything that a forward pass can change is put back afterwards."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
    twice; compiled submodules run eagerly, because tracing through them would change later training.

    On leaving, also after an exception: the training flag of each submodule on its own (a submodule that the user
    pinned to evaluation stays there), every buffer (its values, and the tensor that held them), the random streams,
    and the settings above. Parameters and their ``.grad`` are never written to.

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
    buffers = [
        (submodule, name, buffer, None if buffer is None else buffer.detach().clone())
        for submodule in module.modules()
        for name, buffer in submodule._buffers.items()
    ]
    with ExitStack() as stack:
        stack.enter_context(preserved_rng())
        stack.enter_context(_plain_arithmetic())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            for submodule, _ in flags:
                submodule.training = mode == "train"
            yield module
        finally:
            for submodule, training in flags:
                submodule.training = training
            _restore_buffers(buffers)


def _restore_buffers(buffers: list[tuple[nn.Module, str, torch.Tensor | None, torch.Tensor | None]]) -> None:
    with torch.no_grad():
        for submodule, name, buffer, saved in buffers:
            if getattr(submodule, name) is not buffer:
                setattr(submodule, name, buffer)
            if buffer is not None and saved is not None and not torch.equal(buffer, saved):
                buffer.copy_(saved)


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """Full float32 precision, twice differentiable attention, no autocast, no compiled code."""
    precision = torch.get_float32_matmul_precision()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        # cuDNN's convolutions have a TensorFloat32 switch of their own.
        cudnn_tf32 = torch.backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("highest")
            torch.backends.mha.set_fastpath_enabled(False)
            torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = cudnn_tf32
            torch.backends.mha.set_fastpath_enabled(fastpath)
            torch.set_float32_matmul_precision(precision)


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
