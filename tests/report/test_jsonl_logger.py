import json
import math
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from lightning_bounds.lightning import pl
from lightning_bounds.report import JSONLLogger, histogram, read_jsonl


def test_each_call_is_on_disk_at_once_as_one_line(tmp_path):
    logger = JSONLLogger(tmp_path / "made" / "on_first_write")
    assert not logger.path.parent.exists()
    for step in range(3):
        logger.log_metrics({"a/b": torch.tensor(step / 3)}, step=step)
        assert len(logger.path.read_text().splitlines()) == step + 1
    assert read_jsonl(logger.path) == [{"step": step, "a/b": step / 3} for step in range(3)]


def test_nothing_is_lost_on_a_kill(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from lightning_bounds.report import JSONLLogger\n"
        "JSONLLogger(sys.argv[1]).log_metrics({'a': 1.5}, step=7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode < 0
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 7, "a": 1.5}]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_nonfinite_numbers_are_valid_json_and_come_back(tmp_path, text):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"bad": float(text), "good": 1.0}, step=2)
    line = json.loads(logger.path.read_text(), parse_constant=pytest.fail)
    assert line == {"step": 2, "bad": None, "good": 1.0, "nonfinite": {"bad": text}}
    (row,) = read_jsonl(logger.path)
    assert str(row.pop("bad")) == text
    assert row == {"step": 2, "good": 1.0}


@pytest.mark.parametrize("number", [1 / 3, 1e-308, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123456789])
def test_numbers_come_back_to_the_last_bit(tmp_path, number):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"a": number}, step=0)
    (row,) = read_jsonl(logger.path)
    assert (row["a"], math.copysign(1, row["a"])) == (number, math.copysign(1, number))


def test_histograms_are_written_in_the_line(tmp_path):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "h": histogram(torch.tensor([0.0, 1.0, torch.nan]), bins=2)}, step=5)
    assert read_jsonl(logger.path) == [
        {"step": 5, "a": 1.0, "h": {"counts": [1, 1], "edges": [0.0, 0.5, 1.0], "nonfinite": 1}}
    ]


def test_a_resumed_run_appends(tmp_path):
    JSONLLogger(tmp_path).log_metrics({"a": 1.0}, step=0)
    JSONLLogger(tmp_path).log_metrics({"a": 2.0}, step=1)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1]


def test_a_line_that_a_kill_cut_in_two_is_left_out_and_then_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "a": 1.0}\n{"step": 1, "a"')
    assert read_jsonl(path) == [{"step": 0, "a": 1.0}]
    JSONLLogger(tmp_path).log_metrics({"a": 2.0}, step=1)
    assert read_jsonl(path) == [{"step": 0, "a": 1.0}, {"step": 1, "a": 2.0}]


def test_a_corrupt_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl"):
        read_jsonl(path)


def test_r4_an_unwritable_folder_warns_once_and_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    logger = JSONLLogger(tmp_path / "file" / "run")
    with pytest.warns(UserWarning, match=r"Cannot write .*metrics.jsonl .*training goes on"):
        logger.log_metrics({"a": 1.0}, step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_metrics({"a": 1.0}, step=1)


def test_the_file_can_have_another_name(tmp_path):
    JSONLLogger(tmp_path, name="other.jsonl").log_metrics({"a": 1.0}, step=0)
    assert read_jsonl(tmp_path / "other.jsonl") == [{"step": 0, "a": 1.0}]


def test_checkpoints_have_no_need_to_go_below_the_file(tmp_path):
    logger = JSONLLogger(tmp_path)
    assert (logger.save_dir, logger.name, logger.version) == (str(tmp_path), "", "")


def test_it_survives_pickling(tmp_path):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    pickle.loads(pickle.dumps(logger)).log_metrics({"a": 2.0}, step=1)
    assert len(read_jsonl(logger.path)) == 2


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(pl.utilities.rank_zero.rank_zero_only, "rank", 1)
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    assert not logger.path.exists()
