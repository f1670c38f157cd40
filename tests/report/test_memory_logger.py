import pickle

import torch

from lightning_bounds.lightning import pl
from lightning_bounds.report import Histogram, MemoryLogger, histogram


def test_it_is_a_lightning_logger():
    assert isinstance(MemoryLogger(), pl.loggers.logger.Logger)


def test_records_are_plain_floats_with_their_steps():
    logger = MemoryLogger()
    logger.log_metrics({"a/b": torch.tensor(0.5), "c": 2}, step=4)
    logger.log_metrics({"a/b": float("inf")}, step=1)
    assert logger.records == [{"step": 4, "a/b": 0.5, "c": 2.0}, {"step": 1, "a/b": float("inf")}]
    assert all(type(value) is float for record in logger.records for name, value in record.items() if name != "step")


def test_histograms_are_kept_beside_the_records():
    logger = MemoryLogger()
    logger.log_metrics({"a": 1.0, "h": histogram(torch.arange(4.0), bins=2)}, step=3)
    assert logger.records == [{"step": 3, "a": 1.0}]
    ((step, kept),) = logger.histograms["h"]
    assert step == 3
    assert isinstance(kept, Histogram)
    assert kept.counts.tolist() == [2, 2]


def test_it_survives_pickling():
    logger = MemoryLogger()
    logger.log_metrics({"a": 1.0}, step=3)
    assert pickle.loads(pickle.dumps(logger)).records == logger.records
