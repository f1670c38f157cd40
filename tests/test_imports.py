"""The house: who may import whom, and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_bounds

ROOT = Path(lightning_bounds.__file__).parent
# A part may import only parts that stand before it.
ORDER = [
    "theory", "jacobian", "probe", "snapshot", "schedule", "lightning", "metrics", "report", "callbacks",
    "models", "data",
]  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
STANDARD = {
    "collections", "contextlib", "copy", "dataclasses", "difflib", "fnmatch", "functools", "itertools", "math",
    "operator", "random", "re", "time", "types", "typing", "warnings", "weakref",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.add(str(node.module))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_import_only_what_stands_above_them(path):
    inside = {name.split(".")[1] for name in imported(path) if name.startswith("lightning_bounds.")}
    assert part(path) in ORDER
    assert {name for name in inside if ORDER.index(name) > ORDER.index(part(path))} == set()


@pytest.mark.parametrize(
    ("place", "allowed"),
    [("theory", {"torch", "scipy"}), ("jacobian", {"torch", "numpy", "scipy", "tqdm"})],
    ids=["theory", "jacobian"],
)
def test_the_mathematics_knows_tensors_alone(place, allowed):
    names = {name.split(".")[0] for path in FILES if part(path) == place for name in imported(path)}
    assert names <= allowed | STANDARD | {"lightning_bounds"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_imports_none_of_its_optional_parts():
    code = (
        "import sys, pytorch_lightning; before = set(sys.modules); import lightning_bounds;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert ast.literal_eval(run(code)) == ["lightning_bounds"]


def test_importing_the_package_takes_less_than_300_ms():
    code = (
        "import time, pytorch_lightning; begin = time.perf_counter(); import lightning_bounds;"
        "print(time.perf_counter() - begin)"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize("name", lightning_bounds.__all__)
def test_public_names_are_documented(name):
    assert len(getattr(lightning_bounds, name).__doc__.strip().splitlines()) > 3
