"""Training on two processes: bit-identical, the same numbers on both, and no process waits for another in vain."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from training_trace import differences

pytestmark = pytest.mark.slow


def run(folder, kind):
    """Train in two processes, which write what is left behind; killed together if they hang."""
    job = Path(__file__).with_name("two_processes.py")
    process = subprocess.Popen(
        [sys.executable, str(job), str(folder), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output[-3000:]
    return [torch.load(folder / f"{kind}_{rank}.pt", weights_only=False) for rank in range(2)]


def test_training_is_bit_identical_and_both_processes_hold_the_same_numbers(tmp_path):
    expected, got = run(tmp_path, "without"), run(tmp_path, "with")
    assert [differences(a["trace"], b["trace"]) for a, b in zip(expected, got, strict=True)] == [[], []]
    assert [set(callback) for rank in got for callback in rank["statuses"]] == [{0.0}] * 8
    # Batch norm has other running statistics on each process, and so other outputs.
    assert len(differences(got[0]["running_means"], got[1]["running_means"])) == 12
    assert differences(got[0]["histories"], got[1]["histories"]) == []


def test_an_error_on_one_process_stops_none(tmp_path):
    # Two callbacks fail, one on each process; what the first process says goes for both.
    first, second = run(tmp_path, "failing")
    assert first["statuses"] == second["statuses"] == [[4.0, 4.0, 4.0], [0.0] * 13]
    assert differences(first["histories"], second["histories"]) == []
    assert first["trace"]["step"] == second["trace"]["step"] == 12


@pytest.mark.parametrize("kind", ["bounds", "batch_norm", "nearly_linear"])
def test_what_theory_says_is_the_same_on_both_processes(tmp_path, kind):
    first, second = run(tmp_path, kind)
    assert first["statuses"] == second["statuses"]
    assert {status for callback in first["statuses"] for status in callback} == {0.0}
    assert [len(callback) for callback in first["statuses"]] == [4] * len(first["statuses"])
    assert differences(first["histories"], second["histories"]) == []
    if kind == "batch_norm":
        return
    # Half of the samples on each of two processes make the step that both halves make one after the other.
    alone = two_processes.main(tmp_path, kind, devices=1)
    for callback, history in zip(alone, first["histories"], strict=True):
        for row, expected in zip(history, callback.history, strict=True):
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            assert numbers == pytest.approx({name: expected[name] for name in numbers}, rel=1e-9, abs=1e-12)
