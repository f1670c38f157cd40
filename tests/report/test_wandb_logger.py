import importlib
import math
import sys
import warnings

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from readers import wandb_history, wandb_images, wandb_records, wandb_summary, wandb_tables

from lightning_bounds.lightning import pl
from lightning_bounds.report import MemoryLogger, histogram, log_figures, log_record, log_table

wandb = pytest.importorskip("wandb")

VALUES = torch.linspace(-1, 3, 100)
STEPS = [10, 20, 5, 20, 0]
ROWS = [["initial", 0.724, 1, "text", True], ["final", 0.987, 2.5, 3, 1]]


def offline_logger(package, folder, **options):
    loggers = importlib.import_module(f"{package}.loggers")
    return loggers.WandbLogger(save_dir=folder, project="test", offline=True, **options)


@pytest.fixture(scope="module", params=["pytorch_lightning", "lightning.pytorch"])
def run_folder(request, tmp_path_factory):
    """A finished offline run that everything was logged into, by the logger of each of the two packages."""
    folder = tmp_path_factory.mktemp("run")
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.subplots().plot([0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_MODE", "offline")
        loggers = [offline_logger(request.param, folder, prefix="run")]
        for i, step in enumerate(STEPS):
            log_record(loggers, {"a/b": i / 3, "a/c": math.inf}, {"a/v": VALUES + i}, step)
        log_record(loggers, {}, {"a/dirty": torch.tensor([1.0, torch.nan]).bfloat16(), "a/empty": torch.ones(0)}, 30)
        log_table(loggers, "a/mixed", ["name", "share", "number", "mixed", "truth"], ROWS, 31)
        log_table(loggers, "a/long", ["i"], [[i] for i in range(10_050)], 32)
        log_figures(loggers, {"a/f": figure, "a/g": figure}, 33)
        wandb.finish()
    return folder


def test_one_event_is_one_row_with_its_own_step_even_if_steps_go_back(run_folder):
    rows = wandb_history(run_folder)
    assert [row["trainer/global_step"] for row in rows] == [*STEPS, 30, 31, 32, 33]
    assert [row["_step"] for row in rows] == list(range(len(STEPS) + 4))
    assert [row["run-a/b"] for row in rows[: len(STEPS)]] == [i / 3 for i in range(len(STEPS))]
    assert [row["run-a/c"] for row in rows[: len(STEPS)]] == [math.inf] * len(STEPS)


def test_charts_are_drawn_over_the_step_of_the_trainer(run_folder):
    metrics = [record.metric for record in wandb_records(run_folder) if record.HasField("metric")]
    assert ("*", "trainer/global_step") in [(metric.glob_name, metric.step_metric) for metric in metrics]


def test_histograms_have_the_same_bins_and_counts(run_folder):
    for i, row in enumerate(wandb_history(run_folder)[: len(STEPS)]):
        counts, edges, _ = histogram(VALUES + i)
        assert row["run-a/v._type"] == "histogram"
        assert row["run-a/v.values"] == counts.tolist()
        assert row["run-a/v.bins"] == pytest.approx(edges.tolist(), rel=1e-15)


def test_l3_dirty_vectors_are_cleaned_cast_and_counted(run_folder):
    row = wandb_history(run_folder)[len(STEPS)]
    assert row["run-a/dirty_nonfinite"] == 1
    assert sum(row["run-a/dirty.values"]) == 1
    assert sum(row["run-a/empty.values"]) == 0
    assert "run-a/empty_nonfinite" not in row


def test_l3_tables_keep_numbers_and_turn_mixed_columns_into_text(run_folder):
    table = wandb_tables(run_folder)["run-a/mixed"]
    assert table["columns"] == ["name", "share", "number", "mixed", "truth"]
    assert table["data"] == [["initial", 0.724, 1, "text", "True"], ["final", 0.987, 2.5, "3", "1"]]


def test_l3_long_tables_are_cut_at_ten_thousand_rows(run_folder):
    assert wandb_tables(run_folder)["run-a/long"]["data"] == [[i] for i in range(10_000)]


def test_figures_are_png_images_of_one_row(run_folder):
    images = wandb_images(run_folder)
    assert sorted(images) == ["run-a/f", "run-a/g"]
    with Image.open(images["run-a/f"]) as image:
        assert (image.format, image.size) == ("PNG", (200, 100))


def test_the_summary_holds_the_last_values(run_folder):
    assert wandb_summary(run_folder)["run-a/b"] == pytest.approx((len(STEPS) - 1) / 3)


def test_l2_a_finished_run_is_reported_once_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger, memory = offline_logger("pytorch_lightning", tmp_path), MemoryLogger()
    log_record([logger, memory], {"a/b": 1.0}, {}, step=0)
    wandb.finish()
    with pytest.warns(UserWarning, match="WandbLogger could not log .* is finished"):
        log_record([logger, memory], {"a/b": 2.0}, {}, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_record([logger, memory], {"a/b": 3.0}, {}, step=2)
    assert [row["a/b"] for row in wandb_history(tmp_path)] == [1.0]
    assert [record["a/b"] for record in memory.records] == [1.0, 2.0, 3.0]


def test_l2_a_disabled_run_takes_everything_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = pl.loggers.WandbLogger(save_dir=tmp_path, mode="disabled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_record([logger], {"a/b": 1.0}, {"a/v": VALUES}, step=0)
        log_table([logger], "a/t", ["x"], [[1]], step=0)
        log_figures([logger], {"a/f": Figure()}, step=0)
    wandb.finish()
    assert not list(tmp_path.rglob("*.wandb"))


def test_l2_without_wandb_installed_the_others_go_on(monkeypatch):
    class WandbLogger(pl.loggers.logger.DummyLogger):
        pass

    monkeypatch.setitem(sys.modules, "wandb", None)
    memory = MemoryLogger()
    with pytest.warns(UserWarning, match=r"WandbLogger could not log \(ModuleNotFoundError: import of wandb"):
        log_record([WandbLogger(), memory], {"a/b": 1.0}, {"a/v": VALUES}, step=0)
    assert memory.records
