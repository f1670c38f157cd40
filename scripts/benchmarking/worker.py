"""The child's side: one method on one case in a process of its own. Knows no torch, so that any python can run it."""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class UnavailableError(Exception):
    """The method cannot be measured here; the message says why."""


def serve(
    connection: Connection, prepare: Callable[[], Callable[[], Any]], judge: Callable[[Any], dict[str, Any]]
) -> None:
    """Prepare, then run as often as the parent asks, and answer with what was measured.

    Commands are ``"judge"`` (run, and compare the result with the truth), ``"run"`` and ``"stop"``. Answers are pairs:
    ``("ready", {})``; ``("done", {"seconds": ..., "peak_bytes": ...})``; ``("skipped" or "failed", {"reason": ...})``.

    Args:
        connection: To the parent.
        prepare: Imports what the method needs, builds the network, and returns the function to be timed.
        judge: Errors of a result, by name.
    """
    try:
        run = prepare()
        # What is imported stays: looking for garbage in it takes longer than a small run.
        gc.freeze()
        _return_memory()
        baseline = resident_bytes()
        connection.send(("ready", {}))
        for command in iter(connection.recv, "stop"):
            reset_peak()
            begin = time.perf_counter()
            result = run()
            answer = {"seconds": time.perf_counter() - begin, "peak_bytes": max(0, peak_bytes() - baseline)}
            if command == "judge":
                answer |= judge(result)
            del result
            _return_memory()
            connection.send(("done", answer))
    except UnavailableError as error:
        connection.send(("skipped", {"reason": str(error)}))
    except Exception as error:  # whatever a tool raises on work that it cannot do is a row of the table
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else ''}"
        memory = isinstance(error, MemoryError) or "memory" in reason.lower()
        connection.send(("failed", {"reason": f"out of memory ({reason})" if memory else reason}))


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, by default of this one; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid or 'self'}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The largest resident memory of this process since :func:`reset_peak`, or since its start."""
    import resource

    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def available_bytes() -> int | None:
    """Memory that the machine can still give without swapping; None where it does not tell."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def reset_peak() -> None:
    """Let :func:`peak_bytes` start anew from what is held now."""
    # Where this is not allowed, the peak of the first run, which comes before any judging, stays the peak of all.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _return_memory() -> None:
    """Hand freed memory back: many workers wait while one runs."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
