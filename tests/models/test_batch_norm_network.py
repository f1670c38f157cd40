import copy
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import JacobianOperator
from lightning_bounds.data import ImageDataModule, digits
from lightning_bounds.lightning import pl
from lightning_bounds.models.batch_norm_network import BatchNormNetwork, TrainingSetStatistics
from lightning_bounds.models.supervised import Supervised
from lightning_bounds.theory.batch_norm_margin import draw_weights

GRADIENTS = pytest.mark.parametrize("gradient", ["full", "mean", "none"])
EPS = pytest.mark.parametrize("eps", [0.0, 0.1])


def network(n=9, d=4, width=6, seed=0, **options):
    """A network with statistics and with weights that are not the initial ones, and its training inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, d, generator=generator) + 0.5
    built = BatchNormNetwork(d, width, seed=seed, **options)
    built.set_statistics(inputs)
    with torch.no_grad():
        built.scales.copy_(torch.randn(width, generator=generator))
    return built, inputs


def torch_twin(ours, train):
    """The same network of torch's own layers."""
    width, d = ours.directions.shape
    norm = nn.BatchNorm1d(width, eps=ours.eps)
    twin = nn.Sequential(nn.Linear(d, width, bias=False), norm, nn.ReLU(), nn.Linear(width, 1, bias=False))
    with torch.no_grad():
        twin[0].weight.copy_(ours.directions)
        twin[1].weight.copy_(ours.scales)
        twin[3].weight.copy_(ours.output_weights)
    return twin.train(train)


def output_by_loop(ours, inputs, x):
    """``f(x)`` from its definition, unit by unit."""
    centered = inputs - inputs.mean(dim=0)
    total = 0.0
    for a, c, v in zip(ours.output_weights[0].tolist(), ours.scales.tolist(), ours.directions.detach(), strict=True):
        variance = sum(float(v @ row) ** 2 for row in centered) / len(inputs)
        total += a * max(0.0, c * float(v @ (x - inputs.mean(dim=0))) / math.sqrt(variance + ours.eps))
    return total


@EPS
@GRADIENTS
def test_outputs_are_those_of_the_definition_also_on_other_samples(eps, gradient):
    ours, inputs = network(eps=eps, gradient=gradient)
    others = torch.randn(5, 4)
    expected = [[output_by_loop(ours, inputs, x)] for x in others]
    assert_close(ours(others).detach(), torch.tensor(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_on_the_whole_set_it_is_batch_norm_of_torch_in_training_mode_with_its_gradients(eps):
    ours, inputs = network(eps=eps)
    twin = torch_twin(ours, train=True)
    assert_close(ours(inputs), twin(inputs), rtol=1e-10, atol=1e-12)
    weights = torch.randn(len(inputs), 1)
    got = torch.autograd.grad((ours(inputs) * weights).sum(), list(ours.parameters()))
    parameters = [twin[3].weight, twin[1].weight, twin[0].weight]
    expected = torch.autograd.grad((twin(inputs) * weights).sum(), parameters)
    assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_with_both_detached_the_gradients_are_those_of_torch_in_evaluation_mode():
    ours, inputs = network(eps=0.1, gradient="none")
    twin = torch_twin(ours, train=False)
    with torch.no_grad():
        projected = inputs @ ours.directions.T
        twin[1].running_mean.copy_(projected.mean(dim=0))
        twin[1].running_var.copy_(projected.var(dim=0, correction=0))
    others = torch.randn(5, 4)
    assert_close(ours(others), twin(others), rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(ours(others).sum(), ours.directions)
    assert_close(got, torch.autograd.grad(twin(others).sum(), twin[0].weight), rtol=1e-8, atol=1e-10)


@EPS
@GRADIENTS
def test_gradient_by_the_directions_is_the_formula_of_its_variant(eps, gradient):
    ours, inputs = network(eps=eps, gradient=gradient)
    x = torch.randn(1, 4)
    centered = inputs - inputs.mean(dim=0)
    sigma = centered.T @ centered / len(inputs)
    rows = []
    for a, c, v in zip(ours.output_weights[0], ours.scales, ours.directions, strict=True):
        squared = v @ sigma @ v + eps
        at = x[0] - inputs.mean(dim=0)
        active = (c * (v @ at) > 0).double()
        direction = x[0] if gradient == "none" else at
        if gradient == "full":
            direction = direction - (sigma @ v) * (v @ at) / squared
        rows.append(a * c * active / squared.sqrt() * direction)
    got = torch.autograd.grad(ours(x).sum(), ours.directions)[0]
    assert_close(got, torch.stack(rows).detach(), rtol=1e-9, atol=1e-11)


@EPS
def test_euler_identities_of_the_three_layers(eps):
    ours, _ = network(eps=eps)
    x = torch.randn(1, 4)
    output = ours(x).sum()
    a, c, v = (ours.output_weights, ours.scales, ours.directions)
    by_a, by_c, by_v = torch.autograd.grad(output, [a, c, v])
    assert_close((a * by_a).sum(), output)
    assert_close((c * by_c).sum(), output)
    terms = (a[0] * torch.relu(c * ours.preactivations(x)[0])) * eps / ours.normalization().square()
    assert_close((v * by_v).sum(dim=1), terms, atol=1e-12, rtol=1e-9)


def test_without_eps_outputs_do_not_change_with_the_scale_of_rows_and_inputs():
    ours, inputs = network()
    others = torch.randn(5, 4)
    before = ours(others)
    with torch.no_grad():
        ours.directions *= torch.linspace(0.5, 3, 6).unsqueeze(1)
    assert_close(ours(others), before)
    ours.set_statistics(100 * inputs)
    assert_close(ours(100 * others), before)


def test_evaluation_mode_and_batches_change_nothing():
    ours, _ = network()
    others = torch.randn(5, 4)
    together = ours(others)
    assert torch.equal(ours.eval()(others), together)
    assert_close(torch.cat([ours(row.unsqueeze(0)) for row in others]), together)


def test_normalization_is_the_standard_deviation_over_the_training_set():
    ours, inputs = network(eps=0.3)
    spread = (inputs @ ours.directions.T).var(dim=0, correction=0)
    assert_close(ours.normalization(), (spread + 0.3).sqrt())


@pytest.mark.parametrize("n", [3, 4, 50], ids=["fewer_than_features", "as_many", "more"])
def test_deviations_have_the_covariance_of_the_training_set(n):
    ours, inputs = network(n=n)
    assert_close(ours.statistics.covariance, torch.cov(inputs.T, correction=0), atol=1e-12, rtol=1e-10)
    assert int(ours.num_samples) == n


@GRADIENTS
def test_units_that_no_centered_input_reaches_are_zero_and_so_is_their_gradient(gradient):
    ours, inputs = network(gradient=gradient)
    inputs = torch.cat([inputs[:, :3], torch.full((len(inputs), 1), 0.7)], dim=1)
    ours.set_statistics(inputs)
    with torch.no_grad():
        ours.directions[2] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    others = torch.randn(5, 4)
    assert ours.normalization()[2] == 0
    assert torch.equal(ours.preactivations(others)[:, 2], torch.zeros(5))
    gradients = torch.autograd.grad(ours(others).sum(), list(ours.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert torch.equal(gradients[2][2], torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_leaves_of_an_orthogonal_direction_is_zero(dtype):
    torch.set_default_dtype(dtype)
    ours = BatchNormNetwork(6, 2, seed=0)
    inputs = torch.randn(3, 6)
    ours.set_statistics(inputs)
    null = torch.linalg.svd(inputs - inputs.mean(dim=0))[2][-1]
    with torch.no_grad():
        ours.directions[0] = null
    assert ours.normalization()[0] == 0
    assert ours.normalization()[1] > 0.1


def test_initial_weights_have_the_moments_of_the_paper():
    ours = BatchNormNetwork(50, 4000, out_features=2, seed=3)
    assert float(ours.output_weights.detach().var()) * 4000 == pytest.approx(1, abs=0.1)
    assert float(ours.directions.detach().var()) * 50 == pytest.approx(1, abs=0.02)
    assert abs(float(ours.directions.detach().mean())) < 1e-3
    assert torch.equal(ours.scales.detach(), torch.ones(4000))


def test_a_seed_gives_the_same_weights_in_every_precision_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    precise = BatchNormNetwork(4, 5, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_default_dtype(torch.float32)
    single = BatchNormNetwork(4, 5, seed=7)
    assert torch.equal(single.directions, precise.directions.float())
    assert not torch.equal(BatchNormNetwork(4, 5, seed=8).directions, single.directions)


def test_the_seed_draws_the_weights_that_the_theory_draws():
    ours, drawn = BatchNormNetwork(4, 5, seed=7), draw_weights(5, 4, seed=7)
    got = (ours.output_weights[0].detach(), ours.scales.detach(), ours.directions.detach())
    assert_close(got, tuple(drawn), rtol=0, atol=0)


def test_a_state_dict_carries_the_statistics():
    ours, inputs = network()
    other = BatchNormNetwork(4, 6, seed=9)
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torch.equal(other(inputs), ours(inputs))


@GRADIENTS
def test_the_jacobian_is_that_of_autograd(gradient):
    ours, _ = network(gradient=gradient, out_features=2)
    others = torch.randn(3, 4)
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(output, list(ours.parameters()), retain_graph=True)])
        for output in ours(others).flatten()
    ]
    operator = JacobianOperator(ours, others)
    assert_close(operator.dense(), torch.stack(rows))
    assert_close(operator.gram(), torch.stack(rows) @ torch.stack(rows).T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "`in_features` to be an integer of at least 1, but got 0"),
        ({"width": 1.5}, "`width` to be an integer of at least 1, but got 1.5"),
        ({"out_features": True}, "`out_features` to be an integer of at least 1, but got True"),
        ({"seed": -1}, "`seed` to be an integer of at least 0, but got -1"),
        ({"eps": -0.1}, "`eps` to be finite, 0 or more, but got -0.1"),
        ({"eps": math.inf}, "`eps` to be finite, 0 or more, but got inf"),
        ({"eps": True}, "`eps` to be finite, 0 or more, but got True"),
        ({"gradient": "ful"}, "`gradient` to be one of 'full', 'mean', 'none', but got 'ful'; did you mean 'full'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchNormNetwork(**{"in_features": 3, "width": 4, **arguments})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(1, 4), r"two or more inputs of 4 features, but got shape \(1, 4\)"),
        (torch.ones(5, 3), r"two or more inputs of 4 features, but got shape \(5, 3\)"),
        (torch.ones(4), r"two or more inputs of 4 features, but got shape \(4,\)"),
        (torch.tensor([[0.0] * 4, [math.nan] * 4]), r"finite inputs, but samples \[1\] are NaN or infinite"),
    ],
    ids=["one_sample", "other_size", "vector", "nan"],
)
def test_statistics_of_other_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        BatchNormNetwork(4, 2, seed=0).set_statistics(inputs)


def test_without_statistics_there_is_no_output():
    with pytest.raises(RuntimeError, match=r"but none are set; call `set_statistics\(train_inputs\)`"):
        BatchNormNetwork(4, 2, seed=0)(torch.ones(2, 4))


def quiet_trainer():
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(max_epochs=1, enable_checkpointing=False, callbacks=[TrainingSetStatistics()], **options)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|number of training batches).*")
def test_the_callback_sets_the_statistics_of_the_data_modules_training_set():
    torch.set_default_dtype(torch.float32)
    data = ImageDataModule(digits.load, classes=[3, 5], train_samples=30, batch_size=30)
    module = Supervised(BatchNormNetwork(64, 8, seed=0), loss="logistic")
    trainer = quiet_trainer()
    trainer.validate(module, datamodule=data, verbose=False)
    assert_close(module.network.mean, data.train_inputs.mean(dim=0))
    trainer.fit(module, datamodule=data)
    assert int(module.network.num_samples) == 30
    assert trainer.callback_metrics["train/error"] <= 1


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize(
    ("built", "message"),
    [
        (nn.Linear(3, 1), "a BatchNormNetwork inside Supervised, but there is none"),
        (BatchNormNetwork(3, 2, seed=0), "a data module with `train_inputs`, but the Trainer has none"),
    ],
    ids=["no_network", "no_data_module"],
)
def test_the_callback_says_what_it_misses(built, message):
    batches = DataLoader(TensorDataset(torch.randn(4, 3), torch.tensor([0, 1, 0, 1])), batch_size=2)
    with pytest.raises(ValueError, match=message):
        quiet_trainer().fit(Supervised(built, loss="logistic"), batches)


def test_config_builds_the_network_once_the_data_gives_its_size():
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "batch_norm.yaml")
    assert OmegaConf.missing_keys(config) == {"in_features"}
    assert isinstance(instantiate(config, in_features=64), BatchNormNetwork)
