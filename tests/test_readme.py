"""What the README tells people to type works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# This test is run by it.
ITSELF = "bash scripts/check.sh"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line and line != ITSELF]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, which runs may write into, with the environment of this one."""
    folder = tmp_path_factory.mktemp("readme") / "repository"
    skipped = shutil.ignore_patterns(".*", "outputs", "multirun", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, folder, ignore=skipped)
    if (ROOT / ".venv").is_dir():
        # Out of date, it would be made anew through the link, under the feet of this test.
        stamp = subprocess.run("cat pyproject.toml constraints.txt | cksum", cwd=ROOT, shell=True, capture_output=True)
        assert (ROOT / ".venv" / ".installed").read_bytes() == stamp.stdout, "run scripts/check.sh, which renews .venv"
        (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, checkout):
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "source" in command or "Run folder:" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_example_runs_and_prints(code, tmp_path):
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.strip().splitlines()) >= code.count("print(")


def test_every_config_that_is_named_exists():
    prose = re.sub(r"```python\n.*?```", "", README, flags=re.DOTALL)
    names = re.findall(r"\b(data|model|trainer|callbacks|logger|experiment)=([a-z_0-9]+)", prose)
    assert len(names) >= 4
    assert [f"{group}/{name}" for group, name in names if not (ROOT / "conf" / group / f"{name}.yaml").exists()] == []
