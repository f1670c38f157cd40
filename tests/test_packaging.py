"""What is installed is whole: configs, type marker, pinned versions, metadata."""

import re
import subprocess
import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = ["pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(
        ["bash", "-c", f"mkdir -p {source} && cp -r lightning_bounds conf {' '.join(files)} {source}"],
        cwd=ROOT,
        check=True,
    )
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_every_config_the_type_marker_and_the_license(wheel):
    names = set(wheel.namelist())
    assert {f"lightning_bounds/conf/{name}" for name in CONFIGS} <= names
    assert "lightning_bounds/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("conf/", "tests/", "scripts/"))]


@pytest.mark.slow
def test_the_wheel_holds_every_source_file(wheel):
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_bounds").rglob("*.py")}
    assert sources <= set(wheel.namelist())


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_importable_from_this_installation(name):
    assert resources.files("lightning_bounds.conf").joinpath(name).is_file()


def test_every_requirement_is_pinned_and_installed_as_pinned():
    pins = dict(re.findall(r"^([A-Za-z0-9_.\-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    texts = metadata.requires("lightning-bounds") or []
    required = {re.split(r"[^A-Za-z0-9\-]", text)[0] for text in texts}
    # What the benchmark compares with is installed by hand.
    present = {re.split(r"[^A-Za-z0-9\-]", text)[0] for text in texts if "bench" not in text}
    assert {"torch", "pytorch-lightning", "wandb", "hydra-core"} <= present
    assert required <= set(pins)
    assert pins["torch"] == "2.13.0"
    installed = {name: metadata.version(name).split("+")[0] for name in present}
    assert installed == {name: pins[name] for name in present}


def test_optional_dependencies_are_optional():
    texts = metadata.requires("lightning-bounds") or []
    core = {re.split(r"[^A-Za-z0-9\-]", text)[0] for text in texts if "extra ==" not in text}
    assert core == {"pytorch-lightning", "torch", "torchmetrics", "numpy", "scipy", "hydra-core", "wandb"}
