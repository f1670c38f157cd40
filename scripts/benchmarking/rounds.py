"""The parent's side: a process for each method of a case, run in turn, watched for time and memory."""

import json
import math
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarking.cases import GIB, Case
from benchmarking.children import NEURAL_TANGENTS, answer, method_names, serve_method
from benchmarking.worker import available_bytes, resident_bytes

# A fork of a server that has imported torch starts at once, with memory of its own and no threads yet.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "scipy.sparse.linalg", "lightning_bounds"])
# Threads of the last one to run spin for a while.
_PAUSE = 0.2
_LEFT_BYTES = GIB
_LONG = 30


@dataclass(frozen=True)
class Watch:
    """What a run may take.

    Args:
        seconds: Of one run. Less, but not less than a minute, where another method took less than a twentieth of it.
        patience: A method is repeated once, and further until its repetitions have taken that many seconds.
        repeats: How often, at most, after the first run.
        memory_bytes: Resident memory of its process.
    """

    seconds: float
    patience: float
    repeats: int
    memory_bytes: float


class Worker:
    """A child process that runs one method when asked."""

    def __init__(self, connection: Connection, process: Any = None) -> None:
        self.connection, self.process = connection, process
        self.row: dict[str, Any] = {}
        self.seconds: list[float] = []

    @property
    def alive(self) -> bool:
        """Whether it can be asked for another run."""
        return not self.row.get("status")

    def ask(self, command: str | None, watch: Watch) -> dict[str, Any]:
        """Send a command, unless the first answer is waited for, and wait for the answer within the limits."""
        try:
            if command is not None:
                self.connection.send(command)
            state, values = self._answer(watch)
        except (EOFError, OSError):
            state, values = "failed", {"reason": "its process died, for want of memory or by a crash"}
        if state not in ("ready", "done"):
            self.row |= {"status": state, **values}
            self.end()
        return values

    def _answer(self, watch: Watch) -> tuple[str, dict[str, Any]]:
        begin = time.perf_counter()
        while not self.connection.poll(0.05):
            if time.perf_counter() - begin > watch.seconds:
                return "timed out", {"reason": f"more than {watch.seconds:g} s"}
            resident, available = resident_bytes(self.process.pid), available_bytes()
            if resident > watch.memory_bytes or (available is not None and available < _LEFT_BYTES):
                return "failed", {"reason": f"out of memory: stopped at {resident / GIB:.1f} GiB"}
        return self.connection.recv()

    def stop(self) -> None:
        """Ask the process to end."""
        if self.alive:
            self.connection.send("stop")

    def end(self) -> None:
        """End the process, and wait until its memory is free."""
        if self.process is not None:
            if not self.alive:
                self.process.kill()
            wait = getattr(self.process, "join", None) or self.process.wait
            wait()


def measure(
    case: Case, folder: Path, watch: Watch, images: Path | None = None, neural_tangents: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the table for one case.

    All processes start; each method runs once, which is judged and gives the peak of memory; then all run in turn. The
    first run counts among the times if it took so long that what is done only once makes no difference.

    Returns:
        A mapping for each method: ``method``, ``status`` (``"ok"``, ``"failed"``, ``"timed out"``, ``"skipped"``),
        ``reason`` unless ok, and if ok ``seconds`` (median), ``all_seconds``, ``runs``, ``peak_bytes`` and the errors.
    """
    workers = {name: _start(case, folder, name, images, neural_tangents) for name in method_names(case)}
    for worker in workers.values():
        worker.ask(None, watch)
    fastest = math.inf
    for worker in workers.values():
        if worker.alive:
            time.sleep(_PAUSE)
            values = worker.ask("judge", replace(watch, seconds=min(watch.seconds, max(60, 20 * fastest))))
            if worker.alive:
                worker.row |= values
                fastest = min(fastest, values["seconds"])
                worker.seconds = [values["seconds"]] if values["seconds"] > _LONG else []
    for turn in range(watch.repeats):
        for worker in workers.values():
            if worker.alive and (turn == 0 or sum(worker.seconds) + worker.row["seconds"] <= watch.patience):
                time.sleep(_PAUSE)
                values = worker.ask("run", replace(watch, seconds=2 * watch.seconds))
                if worker.alive:
                    worker.seconds.append(values["seconds"])
    for worker in workers.values():
        worker.stop()
    rows = []
    for name, worker in workers.items():
        if worker.alive:
            worker.end()
            times = worker.seconds or [worker.row["seconds"]]
            worker.row |= {
                "status": "ok",
                "seconds": statistics.median(times),
                "all_seconds": times,
                "runs": len(times),
            }
        rows.append({"method": name, **worker.row})
    return rows


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that is called in a process of its own; its exception is raised here."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=answer, args=(theirs, function, *arguments))
    process.start()
    theirs.close()
    try:
        state, value = ours.recv()
    except EOFError:
        raise RuntimeError(f"Expected a result of {function.__name__}, but its process died.") from None
    process.join()
    if state == "failed":
        raise value
    return value


def _start(case: Case, folder: Path, method: str, images: Path | None, neural_tangents: str | None) -> Worker:
    if method in NEURAL_TANGENTS:
        return _start_neural_tangents(case, folder, method, neural_tangents)
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=serve_method, args=(theirs, case, folder, method, images), daemon=True)
    process.start()
    theirs.close()
    return Worker(ours, process)


def _start_neural_tangents(case: Case, folder: Path, method: str, python: str | None) -> Worker:
    ours, theirs = multiprocessing.Pipe()
    if python is None:
        theirs.send(("skipped", {"reason": "no --neural-tangents PYTHON was given"}))
        return Worker(ours)
    script = Path(__file__).with_name("neural_tangents_worker.py")
    process = subprocess.Popen(
        [python, str(script), str(theirs.fileno()), str(folder), json.dumps(asdict(case)), method],
        pass_fds=[theirs.fileno()],
        stderr=(folder / f"{method.replace(' ', '_')}.log").open("w"),
    )
    theirs.close()
    return Worker(ours, process)
