"""The leading singular values alone, during training, each search starting from the last one."""

import pytest
import torch
from small_training import SMALL, Module, fit, mlp, series

from lightning_bounds import JacobianSpectrum, Probe, Schedule

EVERY_STEP = Schedule(every_n_steps=1)
METHODS = pytest.mark.parametrize("method", ["auto", "gram", "lanczos", "randomized"])


def wide():
    return Module(mlp(features=3, width=40, outputs=2))


@METHODS
def test_leading_values_are_those_of_the_whole_spectrum_at_every_step(method):
    leading = JacobianSpectrum(SMALL, rank=3, method=method, tolerance=1e-6, schedule=EVERY_STEP, name="leading")
    whole = JacobianSpectrum(SMALL, schedule=EVERY_STEP)
    fit([leading, whole], wide(), val=False)
    key = "train/singular_values"
    expected = {step: values[:3] for step, values in series(whole, f"jacobian_spectrum/{key}").items()}
    found = series(leading, f"leading/{key}")
    assert found.keys() == expected.keys() == set(range(7))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@METHODS
def test_what_the_other_values_hold_is_known(method):
    leading = JacobianSpectrum(SMALL, rank=3, method=method, tolerance=1e-6, schedule=EVERY_STEP, name="leading")
    whole = JacobianSpectrum(SMALL, schedule=EVERY_STEP)
    fit([leading, whole], wide(), val=False)
    shares = series(leading, "leading/train/nuisance_share")
    values = series(whole, "jacobian_spectrum/train/singular_values")
    expected = {step: float(v[3:].square().sum() / v.square().sum()) for step, v in values.items()}
    assert shares == pytest.approx(expected, rel=1e-4)
    assert max(series(leading, "leading/train/relative_error").values()) <= 1e-6
    norms = series(leading, "leading/train/frobenius_norm")
    assert norms == pytest.approx(series(whole, "jacobian_spectrum/train/frobenius_norm"), rel=1e-9)


@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_a_search_that_starts_from_the_last_one_finds_the_same_in_training(method):
    options = {"rank": 2, "method": method, "tolerance": 1e-8}
    warm = JacobianSpectrum(SMALL, schedule=EVERY_STEP, **options)
    cold = JacobianSpectrum(SMALL, schedule=Schedule(at_init=False), **options)
    fit([warm], wide(), val=False)
    fit([cold], wide(), val=False)
    key = "jacobian_spectrum/train/singular_values"
    torch.testing.assert_close(series(warm, key)[6], series(cold, key)[6], rtol=1e-8, atol=0)


def test_what_is_logged_is_what_the_page_says():
    callback = JacobianSpectrum(SMALL, rank=2)
    fit([callback], wide(), val=False)
    prefix = "jacobian_spectrum/train/"
    logged = {name.removeprefix(prefix) for name in callback.history[0] if name.startswith(prefix)}
    known = {"sigma_max", "frobenius_norm", "stable_rank", "resolved_rank", "noise_floor", "singular_values"}
    assert logged == known | {"nuisance_share", "relative_error"}


def test_nothing_large_is_left_after_training():
    callback = JacobianSpectrum(SMALL, rank=2, method="randomized")
    fit([callback], wide(), val=False)
    assert callback._last == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rank": 0}, "`rank` of at least 1"),
        ({"method": "lanczos"}, "the last two with a `rank`"),
        ({"rank": 2, "method": "density"}, "Expected `method` among"),
        ({"rank": 2, "tolerance": 0.0}, "`tolerance` in"),
    ],
)
def test_arguments_out_of_range_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        JacobianSpectrum(**options)


def test_a_rank_beyond_the_probe_stops_the_training_before_its_first_step():
    with pytest.raises(ValueError, match=r"`rank` in 1\.\.4"):
        fit([JacobianSpectrum(Probe(num_samples=2), rank=5)], wide(), val=False)
