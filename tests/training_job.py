"""The main job as a user runs it: a process of its own, a run folder, and what it prints."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    folder: Path
    output: str
    errors: str
    seconds: float
    peak_bytes: int


def train(folder: Path, *overrides: str, check: bool = True) -> Run:
    """`python scripts/train.py ...` from another folder than the repository, into `folder`."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={folder}", *overrides]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    begin, output, errors = time.perf_counter(), folder.parent / "output.txt", folder.parent / "errors.txt"
    with output.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(command, cwd=folder.parent, stdout=out, stderr=err, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - begin
    assert not check or process.returncode == 0, errors.read_text()[-3000:]
    return Run(folder, output.read_text(), errors.read_text(), seconds, peak)


def peak_memory(pid: int) -> int:
    """Bytes that a running process has held at most; 0 where the system does not tell.

    Not ``ru_maxrss``, in which a process inherits the peak of the one that started it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def table_rows(output: str) -> dict[str, list[str]]:
    """Rows of the printed table by their first cell; two blanks or more stand between cells."""
    cells = (re.split(r"\s{2,}", line.strip()) for line in output.splitlines())
    return {row[0]: row[1:] for row in cells if row[0] in ("network", "initial", "final")}


def printed(number: float) -> Any:
    """A number as the table prints it, with three digits."""
    return pytest.approx(number, rel=5e-3)
