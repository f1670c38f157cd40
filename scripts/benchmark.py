"""Measure what our methods cost beside what other tools take, in one run on this machine.

python scripts/benchmark.py                                  everything, in full size: hours
python scripts/benchmark.py --work W1 W2 --repeats 3 --output benchmark.json --plot cost.png
python scripts/benchmark.py --sizes small                    everything in less than a minute, to see that it runs

Works: W1 Gram matrix and eigenvalues of ResNet-20; W2 Gram matrix of a wide MLP; W3 leading singular triplets; W4 Gram
matrix of a transformer; W5 a training with and without callbacks; cost the growth with ``p`` and ``n``. Each method has
a process of its own. Time is the median of runs taken in turn; peak memory is that of the first run, above what the
process held before it (imports, network, samples). Errors are relative to float64; how that truth was found is printed.
Eigenvalues are timed apart, once, since every tool takes the same routine for them.

The peers are in the extra ``bench``: ``pip install -c constraints.txt -e '.[bench]'``. They ask for torchvision, which
none of them imports. To do without it, with ``-c constraints.txt`` in both commands:

pip install einops einconv linear_operator opt_einsum
pip install --no-deps nngeometry curvlinops-for-pytorch backpack-for-pytorch unfoldNd

neural-tangents 0.6.5 needs jax 0.4.25, and so a python of its own. What is not installed is a row that says so.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarking import report
from benchmarking.cases import GIB, Case, cases, network_of
from benchmarking.judge import truth_note
from benchmarking.limits import gram_limit, machine_limits
from benchmarking.rounds import Watch, in_child, measure
from benchmarking.truth import prepare_case
from benchmarking.worker import available_bytes

from lightning_bounds.jacobian.parameters import selected_parameters

WORKS = ("W1", "W2", "W3", "W4", "W5", "cost")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; print a table for each case, and write everything as JSON after each of them."""
    options = _parser().parse_args(arguments)
    watch = Watch(options.time_limit, options.patience, options.repeats, options.memory_limit * GIB)
    found: dict[str, Any] = {"machine": _machine(), "limits": in_child(machine_limits, options.sizes), "cases": []}
    rates = ", ".join(f"{name} {found['limits'][f'gemm_{name}'] / 1e9:.0f} GFLOP/s" for name in ("float32", "float64"))
    print(f"{found['machine']['cpu']}, {found['limits']['threads']} threads, matrix product {rates}\n", flush=True)
    for case in (case for work in options.work for case in cases(work, options.sizes)):
        begin = time.perf_counter()
        found["cases"].append(_measured(case, watch, options, found["limits"]["gemm_float32"]))
        print(f"{report.table(found['cases'][-1])}\n  measured in {time.perf_counter() - begin:.0f} s\n", flush=True)
        found["claims"] = report.claims(found["cases"])
        options.output.write_text(json.dumps(found, indent=1))
    print(report.claims_table(found["claims"]))
    print(f"Written to {options.output}")
    if options.plot:
        report.plot(found["cases"], options.plot)
        print(f"Drawn to {options.plot}")


def _measured(case: Case, watch: Watch, options: argparse.Namespace, gemm_rate: float) -> dict[str, Any]:
    """The case, its truth, its limit and its rows as plain data."""
    with tempfile.TemporaryDirectory(prefix="benchmark_") as name:
        folder = Path(name)
        entry: dict[str, Any] = {"name": case.name, **asdict(case)}
        if case.quantity != "training":
            entry["p"] = sum(
                parameter.numel() for parameter in selected_parameters(network_of(case), case.layers).values()
            )
            try:
                in_child(prepare_case, case, folder)
            except Exception as error:  # hours of other cases shall not be lost
                return {**entry, "truth": f"not found, nothing was measured: {error}", "rows": []}
        if case.quantity == "gram" and case.work != "cost":
            entry["limit"] = in_child(gram_limit, case, folder, gemm_rate)
        if (folder / "truth.json").exists():
            entry["truth"] = truth_note(folder)
        entry["rows"] = measure(case, folder, watch, options.fashion_mnist, options.neural_tangents)
        return entry


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--sizes", choices=("small", "full"), default="full")
    parser.add_argument("--repeats", type=int, default=5, help="runs after the first, at most")
    parser.add_argument("--time-limit", type=float, default=600, help="seconds of a run")
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds after which a method is not repeated again"
    )
    parser.add_argument("--memory-limit", type=float, default=_memory_limit(), help="GiB of a method's process")
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="a python that has jax and neural-tangents")
    parser.add_argument("--fashion-mnist", type=Path, default=_fashion_mnist(), help="folder with the four IDX files")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--plot", type=Path, help="where to draw the sweeps of the work `cost`")
    return parser


def _memory_limit() -> float:
    return 0.85 * (available_bytes() or 16 * GIB) / GIB


def _fashion_mnist() -> Path | None:
    """Where Debian's package has put the images, if it is installed."""
    try:
        result = subprocess.run(["dpkg", "-L", "dataset-fashion-mnist"], capture_output=True, text=True)
    except OSError:
        return None
    return next((Path(line).parent for line in result.stdout.split() if "train-images" in line), None)


def _machine() -> dict[str, Any]:
    packages = ("torch", "scipy", "numpy", "nngeometry", "curvlinops-for-pytorch")
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
