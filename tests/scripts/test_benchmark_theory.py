"""`python scripts/benchmark_theory.py` runs, and reports the numbers that it names."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_theory.py"


def test_small_sizes_give_positive_costs_of_every_work(tmp_path):
    output = tmp_path / "costs.json"
    command = [sys.executable, str(SCRIPT), "--sizes", "small", "--repeats", "1", "--output", str(output)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    found = json.loads(output.read_text())
    assert {name: set(costs) for name, costs in found.items()} == {
        "kernel": {"n", "d", "seconds", "product_seconds", "cholesky_seconds", "ratio", "peak_grams"},
        "scan": {"combinations", "theorem_seconds", "corrected_tight_seconds"},
        "margins": {"n", "width", "d", "seconds"},
    }
    assert all(value > 0 for costs in found.values() for value in costs.values())
    kernel = found["kernel"]
    assert kernel["ratio"] == kernel["seconds"] / (kernel["product_seconds"] + kernel["cholesky_seconds"])
    assert "corrected_tight_seconds" in printed
