import csv
import importlib
import math
import warnings

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from readers import tensorboard_events

from lightning_bounds.lightning import pl
from lightning_bounds.report import (
    JSONLLogger,
    MemoryLogger,
    histogram,
    log_figures,
    log_record,
    log_table,
    read_jsonl,
)

VALUES = torch.linspace(-1, 3, 100)
PACKAGES = ["pytorch_lightning", "lightning.pytorch"]


class UnknownLogger(pl.loggers.logger.Logger):
    """A logger of somebody else's, which takes numbers only."""

    name = version = "unknown"

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, {name: metrics[name] + 0.0 for name in metrics}))

    def log_hyperparams(self, params):
        pass


class BrokenLogger(UnknownLogger):
    def log_metrics(self, metrics, step=None):
        raise ConnectionError("the server is gone")


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.subplots().plot([0, 1])
    return figure


@pytest.fixture(params=PACKAGES)
def csv_logger(request, tmp_path):
    return importlib.import_module(f"{request.param}.loggers").CSVLogger(tmp_path, name="", version="")


@pytest.fixture(params=PACKAGES)
def tensorboard_logger(request, tmp_path):
    loggers = importlib.import_module(f"{request.param}.loggers")
    return loggers.TensorBoardLogger(tmp_path, name="", version="")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_memory_gets_one_record_per_event():
    logger = MemoryLogger()
    log_record([logger], {"a/b": 0.5, "a/c": torch.tensor(2.0)}, {"a/v": VALUES}, step=3)
    assert logger.records == [{"step": 3, "a/b": 0.5, "a/c": 2.0}]
    assert logger.histograms["a/v"][0][0] == 3
    torch.testing.assert_close(logger.histograms["a/v"][0][1], histogram(VALUES))


def test_jsonl_gets_one_row_per_event(tmp_path):
    log_record([JSONLLogger(tmp_path)], {"a/b": 0.5}, {"a/v": VALUES}, step=3)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert (row["step"], row["a/b"]) == (3, 0.5)
    assert row["a/v"]["counts"] == histogram(VALUES).counts.tolist()
    assert row["a/v"]["edges"] == histogram(VALUES).edges.tolist()


def test_csv_gets_the_scalars_of_one_event_in_one_row(csv_logger, tmp_path):
    log_record([csv_logger], {"a/b": 1 / 3, "a/c": math.inf}, {"a/v": VALUES}, step=3)
    log_record([csv_logger], {"a/late": 7.0}, {}, step=4)
    csv_logger.save()
    assert read_csv(tmp_path / "metrics.csv") == [
        {"a/b": str(1 / 3), "a/c": "inf", "a/late": "", "step": "3"},
        {"a/b": "", "a/c": "", "a/late": "7.0", "step": "4"},
    ]


def test_tensorboard_gets_scalars_and_histograms(tensorboard_logger, tmp_path):
    log_record([tensorboard_logger], {"a/b": 0.25, "a/c": math.nan}, {"a/v": VALUES}, step=3)
    tensorboard_logger.finalize("success")
    events = tensorboard_events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("a/b")] == [(3, 0.25)]
    assert math.isnan(events.Scalars("a/c")[0].value)
    (event,) = events.Histograms("a/v")
    counts, edges, _ = histogram(VALUES)
    shown = event.histogram_value
    assert event.step == 3
    assert (shown.min, shown.max, shown.num) == (edges[0], edges[-1], 100)
    assert shown.bucket_limit == edges[1:].tolist()
    assert shown.bucket == counts.tolist()
    assert shown.sum == pytest.approx(float(VALUES.sum()), abs=0.05 * 100)


def test_tensorboard_keeps_the_prefix_of_the_logger(tmp_path, figure):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="", prefix="run")
    log_record([logger], {"a/b": 1.0}, {"a/v": VALUES}, step=0)
    log_table([logger], "a/t", ["x"], [[1]], step=0)
    log_figures([logger], {"a/f": figure}, step=0)
    logger.finalize("success")
    tags = tensorboard_events(tmp_path).Tags()
    assert tags["scalars"] == ["run-a/b"]
    assert tags["histograms"] == ["run-a/v"]
    assert tags["images"] == ["run-a/f"]
    assert tags["tensors"] == ["run-a/t/text_summary"]


def test_unknown_loggers_get_the_scalars_in_one_call(figure):
    logger = UnknownLogger()
    log_record([logger], {"a/b": 0.5, "a/c": 2.0}, {"a/v": VALUES}, step=3)
    log_record([logger], {}, {"a/v": VALUES}, step=4)
    log_table([logger], "a/t", ["x"], [[1]], step=4)
    log_figures([logger], {"a/f": figure}, step=4)
    assert logger.calls == [(3, {"a/b": 0.5, "a/c": 2.0})]


@pytest.mark.parametrize("steps", [[0, 1, 2], [10, 20, 5, 20, 0], [99, 99, 99]], ids=str)
def test_rows_about_earlier_steps_keep_their_steps(csv_logger, tensorboard_logger, tmp_path, steps):
    memory, jsonl = MemoryLogger(), JSONLLogger(tmp_path)
    for i, step in enumerate(steps):
        log_record([csv_logger, tensorboard_logger, memory, jsonl], {"a/b": float(i)}, {"a/v": VALUES}, step)
    csv_logger.save()
    tensorboard_logger.finalize("success")
    expected = [(step, float(i)) for i, step in enumerate(steps)]
    events = tensorboard_events(tmp_path)
    assert [(record["step"], record["a/b"]) for record in memory.records] == expected
    assert [(row["step"], row["a/b"]) for row in read_jsonl(jsonl.path)] == expected
    assert [(int(row["step"]), float(row["a/b"])) for row in read_csv(tmp_path / "metrics.csv")] == expected
    assert [(event.step, event.value) for event in events.Scalars("a/b")] == expected
    assert [event.step for event in events.Histograms("a/v")] == steps


def test_l3_what_no_histogram_can_show_is_counted_beside_it(tensorboard_logger, tmp_path):
    memory = MemoryLogger()
    vectors = {"a/v": torch.tensor([1.0, torch.nan, torch.inf]), "a/w": VALUES.bfloat16(), "a/empty": torch.tensor([])}
    log_record([tensorboard_logger, memory], {}, vectors, step=0)
    tensorboard_logger.finalize("success")
    events = tensorboard_events(tmp_path)
    assert events.Tags()["scalars"] == ["a/v_nonfinite"]
    assert events.Scalars("a/v_nonfinite")[0].value == 2
    assert sorted(events.Tags()["histograms"]) == ["a/empty", "a/v", "a/w"]
    assert memory.histograms["a/v"][0][1].nonfinite == 2


@pytest.mark.parametrize("loggers", [[], [pl.loggers.logger.DummyLogger()]], ids=["none", "dummy"])
def test_l1_no_loggers_and_dummy_loggers_swallow_everything(loggers, figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_record(loggers, {"a/b": 1.0}, {"a/v": VALUES}, step=0)
        log_table(loggers, "a/t", ["x"], [[1]], step=0)
        log_figures(loggers, {"a/f": figure}, step=0)


def test_l2_a_logger_that_raises_is_reported_once_and_the_others_go_on():
    first, broken, last = MemoryLogger(), BrokenLogger(), MemoryLogger()
    with pytest.warns(UserWarning, match=r"BrokenLogger could not log \(ConnectionError: the server is gone\)"):
        log_record([first, broken, last], {"a/b": 1.0}, {}, step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_record([first, broken, last], {"a/b": 2.0}, {}, step=1)
    assert [record["step"] for record in first.records] == [0, 1]
    assert last.records == first.records


def test_each_broken_logger_is_reported():
    with pytest.warns(UserWarning, match="BrokenLogger") as caught:
        log_record([BrokenLogger(), BrokenLogger()], {"a/b": 1.0}, {}, step=0)
    assert len(caught) == 2


def test_r4_an_unwritable_folder_does_not_break_training(tmp_path, figure):
    (tmp_path / "file").write_text("")
    jsonl, memory = JSONLLogger(tmp_path / "file"), MemoryLogger()
    with pytest.warns(UserWarning, match="JSONLLogger could not log"):
        log_table([jsonl, memory], "a/t", ["x"], [[1]], step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_figures([jsonl, memory], {"a/f": figure}, step=0)
    assert memory.tables
    assert memory.figures


def test_interrupts_are_never_swallowed():
    class Interrupted(UnknownLogger):
        def log_metrics(self, metrics, step=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log_record([Interrupted()], {"a/b": 1.0}, {}, step=0)


def test_only_rank_zero_writes(monkeypatch, tmp_path, figure):
    monkeypatch.setattr(pl.utilities.rank_zero.rank_zero_only, "rank", 1)
    memory, jsonl = MemoryLogger(), JSONLLogger(tmp_path)
    log_record([memory, jsonl], {"a/b": 1.0}, {}, step=0)
    log_table([memory, jsonl], "a/t", ["x"], [[1]], step=0)
    log_figures([memory, jsonl], {"a/f": figure}, step=0)
    assert (memory.records, memory.tables, memory.figures) == ([], {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["A/b", "a b", "a.b", "a/", "/a", "", "a//b", "a-b"])
def test_names_are_checked(name, figure):
    with pytest.raises(ValueError, match=r"characters \[a-z0-9_/\]"):
        log_record([], {name: 1.0}, {}, step=0)
    with pytest.raises(ValueError, match=r"characters \[a-z0-9_/\]"):
        log_table([], name, ["x"], [[1]], step=0)
    with pytest.raises(ValueError, match=r"characters \[a-z0-9_/\]"):
        log_figures([], {name: figure}, step=0)


def test_tables_are_files_in_each_distinct_local_folder(csv_logger, tmp_path):
    columns, rows = ["jacobian", "share"], [["initial, first", 1 / 3], ["final", math.nan]]
    loggers = [csv_logger, JSONLLogger(tmp_path), JSONLLogger(tmp_path / "other")]
    log_table(loggers, "space/alignment", columns, [["replaced", 0.0]], step=0)
    log_table(loggers, "space/alignment", columns, rows, step=1)
    files = sorted(tmp_path.rglob("*.csv"))
    assert files == [tmp_path / "other/tables/space_alignment.csv", tmp_path / "tables/space_alignment.csv"]
    expected = [{"jacobian": "initial, first", "share": str(1 / 3)}, {"jacobian": "final", "share": "nan"}]
    assert [read_csv(file) for file in files] == [expected, expected]


def test_tables_are_markdown_in_tensorboard(tensorboard_logger, tmp_path):
    log_table([tensorboard_logger], "a/t", ["x|y", "z"], [["u", 0.5], ["v", 2]], step=4)
    tensorboard_logger.finalize("success")
    (event,) = tensorboard_events(tmp_path).Tensors("a/t/text_summary")
    assert event.step == 4
    text = event.tensor_proto.string_val[0].decode()
    assert text == "| x\\|y | z |\n| --- | --- |\n| u | 0.5 |\n| v | 2 |"


def test_tables_need_one_cell_per_column():
    with pytest.raises(ValueError, match=r"Expected 2 cells in each row of table 'a/t'.* but got 1 in row 1"):
        log_table([], "a/t", ["x", "y"], [[1, 2], [3]], step=0)


def test_figures_are_png_files_in_each_distinct_local_folder(csv_logger, tmp_path, figure):
    loggers = [csv_logger, JSONLLogger(tmp_path), JSONLLogger(tmp_path / "other")]
    log_figures(loggers, {"a/f": figure, "a/g": figure}, step=0)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == ["figures/a_f.png", "figures/a_g.png", "other/figures/a_f.png", "other/figures/a_g.png"]
    with Image.open(tmp_path / "figures/a_f.png") as image:
        assert image.size == (200, 100)


def test_figures_are_images_in_tensorboard(tensorboard_logger, tmp_path, figure):
    log_figures([tensorboard_logger], {"a/f": figure}, step=6)
    tensorboard_logger.finalize("success")
    (event,) = tensorboard_events(tmp_path).Images("a/f")
    assert (event.step, event.width, event.height) == (6, 200, 100)


def test_remote_folders_get_no_local_files(tmp_path, monkeypatch, figure):
    monkeypatch.chdir(tmp_path)
    log_figures([pl.loggers.CSVLogger("memory://runs", name="", version="")], {"a/f": figure}, step=0)
    assert not list(tmp_path.iterdir())
