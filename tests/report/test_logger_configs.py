import csv
from pathlib import Path

import hydra
import pytest
from readers import wandb_history

from lightning_bounds.report import log_record, read_jsonl


@pytest.fixture
def compose(tmp_path):
    """Composes ``logger=<option>`` in an application of its own, whose run folder is ``tmp_path / "run"``."""
    config = {
        "hydra": {"searchpath": ["pkg://lightning_bounds.conf"]},
        "defaults": ["_self_", {"logger": "default"}],
        "paths": {"run": str(tmp_path / "run")},
    }
    (tmp_path / "app").mkdir()
    (tmp_path / "run").mkdir()
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    import omegaconf

    omegaconf.OmegaConf.save(config, tmp_path / "app" / "main.yaml")
    with hydra.initialize_config_dir(str(tmp_path / "app"), version_base="1.3"):
        yield lambda *overrides: hydra.compose("main", overrides=list(overrides)).logger


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("default", ["csv", "jsonl", "wandb"]),
        ("csv", ["csv"]),
        ("jsonl", ["jsonl"]),
        ("wandb", ["wandb"]),
        ("tensorboard", ["tensorboard"]),
        ("none", []),
    ],
)
def test_an_option_selects_just_its_loggers(compose, option, names):
    assert list(compose(f"logger={option}")) == names


def test_each_option_is_tested():
    folder = Path(__file__).parents[2] / "conf" / "logger"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(
        ["default", "csv", "jsonl", "wandb", "tensorboard", "none"]
    )


def test_one_logger_can_be_added_to_another(compose):
    assert list(compose("logger=[csv,tensorboard]")) == ["csv", "tensorboard"]


def test_everything_is_written_into_the_folder_of_the_run(compose, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = [hydra.utils.instantiate(config) for config in compose("logger=[default,tensorboard]").values()]
    log_record(loggers, {"a/b": 0.5}, {}, step=3)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a/b": "0.5", "step": "3"}]
    for logger in loggers:
        logger.finalize("success")
    wandb.finish()
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl") == [{"step": 3, "a/b": 0.5}]
    assert wandb_history(tmp_path / "run" / "wandb")[0]["a/b"] == 0.5
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.csv",
        "metrics.jsonl",
        "tensorboard",
        "wandb",
    ]
