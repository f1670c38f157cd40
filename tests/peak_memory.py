"""The peak memory of some work, for tests: what a process held at most beyond what it held before."""

from pathlib import Path


def memory(key: str) -> int:
    """Bytes: ``VmRSS`` that are held now, ``VmHWM`` at most since the start or the last :func:`forget_peak`.

    Not ``ru_maxrss``, in which a process inherits the peak of the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def forget_peak() -> int:
    """Start anew from what is held now, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")
