"""BatchNormMargin on networks of all kinds with batch norm, and the layers that it finds in them."""

import math

import pytest
import torch
from cases import Residual
from small_training import Module, fit, loader, mlp, quiet_trainer, samples, series, statuses
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from training_trace import Trace, differences

from lightning_bounds import Probe, Schedule
from lightning_bounds.callbacks.batch_norm_margin import BatchNormMargin
from lightning_bounds.callbacks.batch_norm_margin.layers import NormalizedLayer, movement, observe_layers
from lightning_bounds.lightning import pl
from lightning_bounds.models.resnet import ResNet20
from lightning_bounds.models.supervised import Supervised
from lightning_bounds.report import MemoryLogger

TOPIC = "batch_norm_margin"


def shallow(outputs=2, **options):
    norm = nn.BatchNorm1d(5, **options)
    return nn.Sequential(nn.Linear(3, 5), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, outputs))


def deep():
    first = [nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 2))


def convolutional():
    first = [nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3, eps=0.01), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def images(count=7):
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(5))


NETWORKS = {
    "shallow": (shallow, lambda: samples(9)[0]),
    "deep": (deep, lambda: samples(9)[0]),
    "convolutional": (convolutional, images),
    "residual": (Residual, images),
    "resnet20": (lambda: ResNet20(16, 3, batch_norm=True, seed=0), images),
}
EACH = pytest.mark.parametrize("name", NETWORKS)


def made(name):
    torch.manual_seed(3)
    build, inputs = NETWORKS[name]
    return build(), inputs()


@EACH
def test_normalizers_are_those_that_torch_divides_by_in_training_mode(name):
    network, inputs = made(name)
    seen = {}
    norms = {key: part for key, part in network.named_modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)}
    for key, norm in norms.items():
        norm.register_forward_hook(lambda _, given, got, key=key: seen.update({key: (given[0].clone(), got.clone())}))
    for part in network.modules():
        part.training = isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    with torch.no_grad():
        network(inputs)
    expected = {key: spread(*pair, norms[key]) for key, pair in seen.items()}
    fresh, inputs = made(name)
    got = {layer.name: layer.normalization for layer in observe_layers(fresh, inputs).layers}
    assert list(got) == list(expected)
    assert_close(got, expected, rtol=1e-6, atol=1e-9)


def spread(given, got, norm):
    """``N`` from what a batch norm made of its input: ratio of two differences in each channel."""
    given, got = given.transpose(0, 1).flatten(1), got.transpose(0, 1).flatten(1)
    scale = 1.0 if norm.weight is None else norm.weight.detach()
    high, low = given.argmax(dim=1, keepdim=True), given.argmin(dim=1, keepdim=True)
    difference = [values.gather(1, high) - values.gather(1, low) for values in (given, got)]
    return (difference[0] / difference[1]).squeeze(1) * scale


FOUND = {
    "shallow": [("1", (5, 3), (2, 5))],
    "deep": [("1", (6, 3), (4, 6)), ("4", (4, 6), (2, 4))],
    "convolutional": [("1", (3, 4), (2, 3, 2, 2)), ("4", (2, 12), (3, 8))],
    "residual": [("stem.1", (2, 9), (4, 2, 3, 3)), ("body.1", (4, 18), (4, 2, 1, 1))],
}


@pytest.mark.parametrize("name", FOUND)
def test_directions_stand_in_front_and_the_readout_is_called_next(name):
    network, inputs = made(name)
    layers = observe_layers(network, inputs).layers
    got = [(layer.name, tuple(layer.directions.shape), tuple(layer.readout.shape)) for layer in layers]
    assert got == FOUND[name]
    named = dict(network.named_parameters())
    first = {"shallow": "0", "deep": "0", "convolutional": "0", "residual": "stem.0"}[name]
    assert torch.equal(layers[0].directions, named[f"{first}.weight"].flatten(1))


def test_without_a_linear_layer_directly_in_front_there_are_no_directions():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    (layer,) = observe_layers(network, samples()[0]).layers
    assert layer.directions is None
    assert layer.weights.keys() == {"normalization", "scales", "readout"}
    moved = movement(layer, layer.weights)
    assert (moved.displacement, moved.outputs, moved.directions) == (None, 0.0, None)


@EACH
def test_a_look_leaves_no_trace(name):
    network, inputs = made(name)
    network.train()
    list(network.modules())[-1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags, state = [part.training for part in network.modules()], torch.get_rng_state()
    observe_layers(network, inputs)
    assert differences(before, dict(network.state_dict())) == []
    assert [part.training for part in network.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert not [part for part in network.modules() if part._forward_hooks or part._forward_pre_hooks]


def test_outputs_are_those_with_the_statistics_of_the_samples_and_without_dropout():
    network, inputs = made("shallow")
    got = observe_layers(network, inputs).outputs
    V, b, norm, readout = network[0].weight, network[0].bias, network[1], network[4]
    z = inputs @ V.T + b
    z = (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + norm.eps).sqrt()
    assert_close(got, readout(torch.relu(z * norm.weight + norm.bias)).detach())


def test_the_layer_of_a_compiled_network_has_its_plain_name():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    compiled = nn.Sequential(torch.compile(network, backend="eager"))
    (layer,) = observe_layers(compiled, samples()[0]).layers
    assert layer.name == "0.1"


def test_movement_is_that_of_the_definitions():
    torch.manual_seed(0)
    V, V_0, N, N_0 = torch.randn(4, 3), torch.randn(4, 3), torch.rand(4) + 1, torch.rand(4) + 1
    c, c_0, a, a_0 = torch.randn(4), torch.randn(4), torch.randn(2, 4), torch.randn(2, 4)
    got = movement(NormalizedLayer("norm", N, V, c, a), NormalizedLayer("norm", N_0, V_0, c_0, a_0).weights)
    rows = [float((V[j] / N[j] - V_0[j] / N_0[j]).square().sum()) for j in range(4)]
    assert got.displacement == pytest.approx(math.sqrt(sum(rows) / 4))
    assert got.outputs == pytest.approx(float(((a - a_0).square().sum() + (c - c_0).square().sum()).sqrt()))
    assert got.directions == pytest.approx(float((V - V_0).norm()))


def test_displacement_does_not_see_the_length_of_rows():
    layer = NormalizedLayer("norm", torch.rand(4) + 1, torch.randn(4, 3), torch.ones(4), None)
    longer = layer._replace(normalization=3 * layer.normalization, directions=3 * layer.directions)
    assert movement(longer, layer.weights).displacement == pytest.approx(0, abs=1e-12)
    assert movement(longer, layer.weights).directions == pytest.approx(2 * float(layer.directions.norm()))


def trained(network, callback=None, logger=False, **options):
    callback = callback or BatchNormMargin(on_error="raise", schedule=Schedule(every_n_steps=1))
    fit([callback], Module(network), logger=logger, **options)
    return callback


def conditions(logger):
    return {row[0]: row[1:] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}


def test_margins_are_output_margins_over_the_norms_of_readout_and_scales():
    torch.manual_seed(1)
    network = shallow()
    callback = trained(network)
    inputs, targets = samples()
    outputs = observe_layers(network, inputs).outputs
    norm = float((network[4].weight.norm() * network[1].weight.norm()).detach())
    right = outputs[torch.arange(12), targets]
    margins = (right - outputs[torch.arange(12), 1 - targets]) / norm
    assert callback.history[-1][f"{TOPIC}/margin"] == pytest.approx(float(margins.min()), rel=1e-9)
    assert callback.history[-1][f"{TOPIC}/margins"].tolist() == pytest.approx(margins.tolist(), rel=1e-9)


def test_one_scale_of_a_layer_does_not_change_its_margins():
    torch.manual_seed(1)
    first, second = shallow(), shallow()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second[1].weight *= 3
        second[1].bias *= 3
        first[4].bias.zero_()
        second[4].bias.zero_()
        second[4].weight *= 0.2
    margins = [series(trained(network), f"{TOPIC}/margins")[0] for network in (first, second)]
    assert_close(margins[0], margins[1])


def test_every_layer_of_a_deep_network_is_logged():
    torch.manual_seed(1)
    callback = trained(deep())
    names = {name.removeprefix(f"{TOPIC}/") for row in callback.history for name in row if name.startswith(TOPIC)}
    quantities = {
        *("normalization", "normalization_min", "normalization_max", "eps_n", "displacement", "output_movement"),
        "direction_movement",
    }
    layers = {f"layers/network_{number}/{name}" for number in (1, 4) for name in quantities}
    assert names == {"margin", "margins"} | layers
    moved = series(callback, f"{TOPIC}/layers/network_4/displacement")
    assert moved[0] == 0 < moved[6]


def test_conditions_name_what_a_usual_network_breaks():
    torch.manual_seed(1)
    logger = MemoryLogger()
    trained(shallow(), logger=logger)
    found = conditions(logger)
    broken = {name for name, row in found.items() if row[2] == "violated"}
    assert broken == {
        *("outputs", "batch norms with a shift", "layers with a bias", "statistics in training", "loss"),
        *("statistics in evaluation", "optimizer", "samples of a step", "passes over the data"),
        "largest centered norm",
    }
    assert found["statistics in training"][0] == "of minibatches of 4 among 12"
    assert found["statistics in evaluation"][0] == "running averages"
    assert found["optimizer"][0] == "gradient steps with momentum 0.9"
    assert found["layers with a bias"][0] == "2"


def test_the_papers_layers_out_of_torch_keep_what_they_can():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1, bias=False))
    network[1].register_parameter("bias", None)
    module = Supervised(network, loss="logistic")
    logger = MemoryLogger()
    inputs, targets = samples()
    train = DataLoader(TensorDataset(inputs / 10, targets), 12)
    fit([BatchNormMargin(on_error="raise")], module, train, val=False, logger=logger)
    assert {name for name, row in conditions(logger).items() if row[2] == "violated"} == {"statistics in evaluation"}


@pytest.mark.parametrize(
    ("network", "name", "actual"),
    [
        (deep, "depth", "3 linear layers, 2 of them normalized"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), "activation", "Tanh"),
        (lambda: shallow(track_running_stats=False), "statistics in evaluation", "running averages in 0 of 1"),
    ],
    ids=["depth", "activation", "no_running_averages"],
)
def test_other_breaches_are_named(network, name, actual):
    torch.manual_seed(1)
    logger = MemoryLogger()
    trained(network(), logger=logger)
    assert conditions(logger)[name][0] == actual
    assert conditions(logger)[name][2] == "violated"


def test_an_activation_that_is_called_as_a_function_is_not_known():
    torch.manual_seed(1)
    logger = MemoryLogger()
    trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), logger=logger)
    assert conditions(logger)["activation"][::2] == ["not known", "unknown"]


class NoReadout(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(self.linear(x))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (mlp, "a network with BatchNorm1d, BatchNorm2d or BatchNorm3d layers, .* but Module calls none"),
        (NoReadout, r"a linear or convolutional layer after a batch norm, .* after \['network.norm'\]"),
    ],
    ids=["no_batch_norm", "no_readout"],
)
def test_networks_without_what_it_looks_at_are_refused_before_the_first_step(network, message):
    trainer = quiet_trainer([BatchNormMargin()])
    with pytest.raises(ValueError, match=message):
        trainer.fit(Module(network()), loader())
    assert trainer.global_step == 0


def test_real_targets_are_refused_before_the_first_step():
    inputs, _ = samples()
    train = DataLoader(TensorDataset(inputs, torch.randn(12)), 4)
    trainer = quiet_trainer([BatchNormMargin()])
    with pytest.raises(ValueError, match="Expected"):
        trainer.fit(Module(shallow(outputs=2)), train)
    assert trainer.global_step == 0


def traced(name, callbacks):
    network, _ = made(name)
    torch.manual_seed(21)
    shape = (12, 3) if name in ("shallow", "deep") else (12, 1, 4, 4)
    outputs = 2 if name in ("shallow", "deep") else 3
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    train = DataLoader(TensorDataset(inputs, torch.arange(12) % outputs), 4, shuffle=True)
    trace = Trace()
    trainer = quiet_trainer([*callbacks, trace], max_epochs=2)
    trainer.fit(Module(network), train)
    everything = trace.everything(trainer)
    for part in [*everything["metrics"], everything["last"]]:
        for key in [key for key in part if key.startswith(TOPIC)]:
            del part[key]
    return everything


@EACH
def test_training_is_bit_identical(name):
    callback = BatchNormMargin(probe=Probe(num_samples=8), schedule=Schedule(every_n_steps=1))
    expected, got = traced(name, []), traced(name, [callback])
    assert set(statuses(callback)) == {0.0}
    assert differences(expected, got) == []


@pytest.mark.filterwarnings("ignore:.*(exists and is not empty|resuming from|callbacks used to create).*")
def test_a_checkpoint_of_another_network_starts_anew_with_an_error_before_the_first_step(tmp_path):
    torch.manual_seed(1)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "kept")
    quiet_trainer([BatchNormMargin(), keep], max_epochs=1, enable_checkpointing=True).fit(Module(shallow()), loader())
    content = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    (state,) = [state for state in content["callbacks"].values() if "perceptron_sum" in state]
    state["initial"] = {"network.7": state["initial"]["network.1"]}
    torch.save(content, tmp_path / "kept.ckpt")
    with pytest.raises(ValueError, match=r"the batch norms of the checkpoint's run, \['network.7'\]"):
        quiet_trainer([BatchNormMargin()]).fit(Module(shallow()), loader(), ckpt_path=tmp_path / "kept.ckpt")


@pytest.mark.filterwarnings("ignore:.*(exists and is not empty|resuming from|callbacks used to create).*")
@pytest.mark.parametrize("part", ["initial", "rows", "pending"])
def test_garbage_in_a_state_starts_anew_with_a_warning(tmp_path, part):
    torch.manual_seed(1)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "kept")
    quiet_trainer([BatchNormMargin(), keep], max_epochs=1, enable_checkpointing=True).fit(Module(shallow()), loader())
    content = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    (state,) = [state for state in content["callbacks"].values() if "perceptron_sum" in state]
    state[part] = {"garbage": "garbage"} if part != "pending" else 3
    torch.save(content, tmp_path / "kept.ckpt")
    callback = BatchNormMargin()
    with pytest.warns(UserWarning, match="BatchNormMargin starts anew"):
        quiet_trainer([callback]).fit(Module(shallow()), loader(), ckpt_path=tmp_path / "kept.ckpt")
    assert set(statuses(callback)) == {0.0}
