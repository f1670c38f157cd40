"""`python scripts/search_bound.py` finds the smallest of all bounds, as the theory gives it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_bounds.theory import nearly_linear

SCRIPT = Path(__file__).parents[2] / "scripts" / "search_bound.py"


def test_search_prints_and_writes_the_smallest_bounds(tmp_path):
    axes = {"times": [1, 3], "betas": [0.01, 0.1], "epsilons": [0.001], "divisors": [1, 10], "orders": [2]}
    scan = [f"scan.{name}={values}" for name, values in {**axes, "precision_bits": [32]}.items()]
    command = [sys.executable, str(SCRIPT), f"hydra.run.dir={tmp_path}", "data=digits", "data.size=4", *scan]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    found = json.loads((tmp_path / "search_bound.json").read_text())
    best = found["rows"][0]
    assert found["num_scanned"] == 8
    assert best["value"] == min(row["value"] for row in found["rows"])
    names = ("time", "beta", "epsilon", "margin", "train_margin_risk")
    expected = nearly_linear.apriori_bound(
        **{**found["fixed"], **{name: best[name] for name in names}},
        depth=int(best["depth"]),
        order=int(best["order"]),
        scanned=8,
    )
    assert expected.value == pytest.approx(best["value"], rel=1e-9)
    assert "The smallest of 8 bounds" in printed
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"time_and_beta.png", "time_and_divisor.png"}
