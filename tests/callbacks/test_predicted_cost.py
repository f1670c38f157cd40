"""What a look will cost is said before the first step, and may be limited."""

import logging
import re

import pytest
from small_training import fit

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection

SAID = re.compile(
    r"(\w+): a look at 6 train samples, a Jacobian of 12 x 26, will take about (\S+) s and (\S+) MB \((\w+)\)"
)


@pytest.mark.parametrize(
    ("callback", "method"),
    [
        (JacobianSpectrum(probe=Probe(num_samples=6)), "gram"),
        (JacobianSpectrum(probe=Probe(num_samples=6), rank=2), None),
        (ResidualProjection(rank=2, splits=["train"], probe=Probe(num_samples=6)), "gram"),
    ],
    ids=["spectrum", "leading", "projection"],
)
def test_the_cost_of_a_look_is_said_once_before_training(callback, method, caplog):
    with caplog.at_level(logging.INFO):
        fit([callback], val=False)
    said = [SAID.search(record.getMessage()) for record in caplog.records]
    (found,) = [match for match in said if match]
    assert found[1] == type(callback).__name__
    assert 0 < float(found[2]) < 10
    assert 0 < float(found[3]) < 10
    assert method in (None, found[4])


@pytest.mark.parametrize("kind", [JacobianSpectrum, ResidualProjection])
def test_a_look_that_takes_too_long_is_an_error_before_the_first_step(kind):
    with pytest.raises(
        ValueError, match=r"Expected a look of at most 1e-09 s, but one at 6 train samples, a Jacobian of"
    ):
        fit([kind(rank=2, probe=Probe(num_samples=6), max_seconds=1e-9)])


def test_what_is_quick_enough_is_measured():
    callback = JacobianSpectrum(probe=Probe(num_samples=6), max_seconds=1000)
    fit([callback])
    assert callback.history


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_must_be_positive(seconds):
    with pytest.raises(ValueError, match="Expected `max_seconds` above 0"):
        MarginMonitor(max_seconds=seconds)
