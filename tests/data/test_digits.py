import sys

import pytest
import torch

from lightning_bounds.data import digits


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return digits.load()


def test_digits_have_the_documented_sizes_and_types(data):
    assert data.train_inputs.shape == (1437, 1, 8, 8)
    assert data.test_inputs.shape == (360, 1, 8, 8)
    assert data.train_inputs.dtype == data.test_inputs.dtype == torch.float32
    assert data.num_classes == 10


def test_pixels_are_sixteenths_in_the_unit_interval(data):
    inputs = torch.cat([data.train_inputs, data.test_inputs])
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
    torch.testing.assert_close(inputs * 16, (inputs * 16).round(), rtol=0, atol=0)


def test_class_counts_are_those_that_scikit_learn_documents(data):
    counts = torch.cat([data.train_labels, data.test_labels]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_every_image_keeps_its_label(data):
    from sklearn.datasets import load_digits

    raw = load_digits()
    truth = {row.astype("float32").tobytes(): int(label) for row, label in zip(raw.data / 16, raw.target, strict=True)}
    found = [truth[row.numpy().tobytes()] for row in data.test_inputs.flatten(1)]
    assert found == data.test_labels.tolist()


def test_loading_is_deterministic_and_leaves_the_global_random_states(data, rng_untouched):
    with rng_untouched():
        again = digits.load()
    torch.testing.assert_close(again.test_inputs, data.test_inputs, rtol=0, atol=0)


def test_other_seeds_and_fractions_give_other_splits(data):
    assert not torch.equal(digits.load(seed=1).test_labels, data.test_labels)
    assert len(digits.load(test_fraction=0.5).test_labels) == 899


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-bounds\[experiments\]'"):
        digits.load()
