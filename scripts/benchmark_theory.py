"""Measure what the theorems cost on this machine, each in a process of its own.

python scripts/benchmark_theory.py                      full size: about two minutes
python scripts/benchmark_theory.py --sizes small        to see that it runs

kernel: H_infinity of 10,000 samples, its extreme eigenvalues and the complexity measure, beside one Cholesky
factorization and one product X X^T of that size; wanted: at most 1.25 times both, in 1.3 Gram matrices of memory.
scan: the a-priori bound over 10,000 combinations on one core; wanted: 2 s. margins: exact margins of both layers of a
batch-normalized network, 1000 samples, width 4096; wanted: 60 s.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarking.rounds import in_child
from benchmarking.theory import SIZES, kernel_costs, margin_costs, scan_costs

from lightning_bounds.report import text_table

WORKS = {"kernel": kernel_costs, "scan": scan_costs, "margins": margin_costs}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table for each work, and write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmark_theory.json"))
    options = parser.parse_args(arguments)
    found = {}
    for name, costs in WORKS.items():
        found[name] = in_child(costs, SIZES[options.sizes], options.repeats)
        print(text_table(name, ["quantity", "value"], list(found[name].items())), flush=True)
    options.output.write_text(json.dumps(found, indent=1))
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
