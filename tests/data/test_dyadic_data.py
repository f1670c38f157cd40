from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.testing import assert_close

from lightning_bounds.data import dyadic
from lightning_bounds.theory.batch_norm_margin.dyadic import dyadic_linear_margin

CONF = Path(__file__).parents[2] / "conf" / "data" / "dyadic.yaml"


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_samples_are_signed_powers_of_two_on_the_axes(dim):
    data = dyadic.load(dim)
    expected = [[2.0**-j * (k == j) for k in range(1, dim + 1)] for j in range(1, dim + 1)]
    images = data.train_inputs.reshape(2 * dim, dim)
    assert images.dtype == torch.float32
    assert images[:dim].tolist() == expected
    assert torch.equal(images[dim:], -images[:dim])
    assert data.train_labels.tolist() == [1] * dim + [0] * dim


def test_mean_is_zero_and_covariance_diagonal():
    images = dyadic.load(5).train_inputs.reshape(10, 5).double()
    assert_close(images.mean(dim=0), torch.zeros(5))
    assert_close(torch.cov(images.T, correction=0), torch.diag(4.0 ** -torch.arange(1.0, 6.0)) / 5)
    assert float(images.norm(dim=1).max()) == 0.5


def test_training_and_test_part_are_the_whole_distribution():
    data = dyadic.load(3)
    assert torch.equal(data.train_inputs, data.test_inputs)
    assert torch.equal(data.train_labels, data.test_labels)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_the_best_linear_predictor_has_the_margin_of_the_closed_form(dim):
    data = dyadic.load(dim)
    weight = 2.0 ** torch.arange(1, dim + 1)
    signed = (2 * data.train_labels - 1).double() * (data.train_inputs.reshape(2 * dim, dim).double() @ weight)
    assert_close(signed / weight.norm(), torch.full((2 * dim,), dyadic_linear_margin(dim)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dim", [0, -1, 101, 2.0, True, "3"])
def test_impossible_dimensions_are_refused(dim):
    with pytest.raises(ValueError, match=r"Expected `dim` to be an integer in 1\.\.100, but got"):
        dyadic.load(dim)


def test_the_configuration_keeps_the_sizes_of_the_features():
    data = instantiate(OmegaConf.load(CONF), _convert_="all")
    data.setup()
    assert data.train_inputs.abs().amax(dim=1).unique().tolist() == [2.0**-4, 2.0**-3, 2.0**-2, 2.0**-1]
    assert len(data.train_dataloader()) == 1
    assert (data.in_features, data.num_classes) == (4, 2)
