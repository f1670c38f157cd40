"""Guaranteed envelopes: their formulas, what they assume, and that real gradient descent keeps within them."""

import math

import pytest
import torch
from small_training import mlp, samples, statuses
from torch import nn
from torch.optim.lr_scheduler import StepLR
from training_job import train
from wide_training import column, descend, last, monitor, sphere, two_layer

from lightning_bounds import Probe, TrajectoryMonitor
from lightning_bounds.callbacks.two_layer import find_two_layer
from lightning_bounds.report import read_jsonl
from lightning_bounds.theory.guarantee import Guarantee


def relu_eigenvalue(inputs):
    """Smallest eigenvalue of the ReLU kernel, by arccos."""
    cosines = (inputs @ inputs.T).clamp(-1, 1)
    return float(torch.linalg.eigvalsh(cosines * (math.pi - cosines.acos()) / (2 * math.pi))[0])


@pytest.mark.parametrize(("reduction", "lr"), [("sum", 0.1), ("mean", 0.8)])
@pytest.mark.parametrize("step", [0, 10, 20])
def test_relu_envelopes_are_those_of_the_theorem(reduction, lr, step):
    (inputs, targets), callback = sphere(), monitor({"relu": {}})
    descend(two_layer(width=100), [callback], (inputs, targets), lr=lr, reduction=reduction)
    n, norm, eigenvalue = 8, float(torch.linalg.svdvals(inputs)[0]), relu_eigenvalue(inputs)
    step_fraction = 0.1 / (n / (3 * n * norm**2))
    start, now = (column(callback, "residual")[s] for s in (0, step))
    coefficient = math.sqrt(n) * math.sqrt(eigenvalue / (72 * n))
    rate = step_fraction * eigenvalue / (24 * norm**2)
    expected = {
        "residual_envelope": (1 - rate) ** step * start,
        "distance_envelope": (start - now) / coefficient,
        "path_envelope": start / coefficient,
    }
    got = {name: column(callback, f"relu/{name}")[step] for name in expected}
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_smooth_envelope_decays_with_the_rate_of_the_squared_residual():
    (inputs, targets), callback = sphere(), monitor({"smooth": {"smallest_eigenvalue": 0.05}})
    descend(two_layer("softplus", 100), [callback], (inputs, targets))
    norm = float(torch.linalg.svdvals(inputs)[0])
    rate = (0.1 * 2 * norm**2) * 0.05 / (32 * norm**2)
    envelope = column(callback, "smooth/residual_envelope")
    assert envelope[20] / envelope[0] == pytest.approx((1 - rate) ** 10, rel=1e-9)
    assert envelope[0] == column(callback, "residual")[0]


def within(callback, name):
    return set(column(callback, f"{name}/within").values())


@pytest.mark.parametrize("seed", range(5))
def test_descent_with_a_lipschitz_jacobian_keeps_within_its_guarantee(seed):
    callback = monitor({"smooth_descent": {}})
    data = torch.eye(4), torch.tensor([0, 1, 1, 0])
    descend(two_layer("softplus", 20_000, 4, seed=seed), [callback], data, lr=0.4, steps=60)
    assert last(callback, "smooth_descent/valid") == 1.0
    assert last(callback, "smooth_descent/vacuous") == 0.0
    assert within(callback, "smooth_descent") == {1.0}
    assert last(callback, "smooth_descent/residual_envelope") < 0.8 * column(callback, "residual")[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["smooth", "meta_theorem"])
def test_theorems_hold_where_the_widths_that_they_ask_for_are_reached(name, seed):
    settings = {"smooth": {}, "meta_theorem": {"relative_cutoff": 0.9, "Gamma": 1.0, "tolerance": 1.0}}
    callback = monitor({name: settings[name]}, every=4)
    data = torch.eye(2), torch.tensor([0, 1])
    descend(two_layer("softplus", 400_000, 2, seed=seed), [callback], data, lr=0.5, steps=40)
    assert last(callback, f"{name}/valid") == 1.0
    assert column(callback, f"{name}/vacuous")[8] == 0.0
    assert within(callback, name) == {1.0}
    # T is 8.4 steps; without T it holds for all.
    assert max(column(callback, f"{name}/within")) == (8 if name == "meta_theorem" else 40)


@pytest.mark.parametrize("seed", range(3))
def test_meta_theorem_holds_until_its_time_and_says_nothing_later(seed):
    settings = {"cutoff": 0.4, "Gamma": 1.0, "tolerance": 1.0}
    callback = monitor({"meta_theorem": settings}, every=2)
    data = torch.eye(4), torch.tensor([0, 1, 1, 0])
    descend(two_layer("softplus", 20_000, 4, seed=seed), [callback], data, lr=0.4, steps=40)
    # T = Γ / (η α²) = 15.6 steps.
    assert max(column(callback, "meta_theorem/residual_envelope")) == 14
    assert within(callback, "meta_theorem") == {1.0}
    assert column(callback, "meta_theorem/vacuous")[14] == 0.0
    assert last(callback, "meta_theorem/vacuous") == 1.0
    gap = column(callback, "meta_theorem/residual_envelope")[14] - column(callback, "linearized/residual")[14]
    start, norm = column(callback, "residual")[0], 1.0
    assert gap == pytest.approx(0.6 * 0.4 / norm * start, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["relu", "separated", "nonsmooth_descent"])
def test_a_wide_relu_network_keeps_within_its_guarantees(name, seed):
    callback = monitor({name: {}})
    descend(two_layer(width=4000, seed=seed), [callback], sphere(seed=seed), lr=0.1, steps=60)
    assert within(callback, name) == {1.0}
    # The explicit width of the theorems is beyond any network; that of the general one depends on the Jacobian.
    assert last(callback, f"{name}/valid") == float(name == "nonsmooth_descent")


def own(**numbers):
    return Guarantee("own", "here", **{"learning_rate": 0.1, "rate": 1e-6, "initial_residual": 1.0, **numbers})


BROKEN = {"residual": {"rate": 0.9}, "distance": {"distance_coefficient": 10.0}, "path": {"path_length": 1e-3}}


@pytest.mark.parametrize("what", BROKEN)
def test_an_envelope_that_is_broken_is_told(what):
    callback = monitor({"own": own(), "broken": own(**BROKEN[what])})
    descend(two_layer(width=100), [callback])
    assert last(callback, "own/within") == 1.0
    assert last(callback, "broken/within") == 0.0
    assert last(callback, f"broken/{what}_envelope") < last(callback, {"path": "path_length"}.get(what, what))


def conditions(callback, name):
    """Which conditions of a guarantee are violated."""
    rows = callback.tables()["trajectory/conditions"].rows
    return {row[1] for row in rows if row[0] == name and row[5] == "violated"}


SIZES = {"width, explicit"}
VIOLATED = {
    "nothing_else": ({}, {}, set()),
    "momentum": ({}, {"settings": {"momentum": 0.5}, "lr": 0.05}, {"optimizer"}),
    "weight_decay": ({}, {"settings": {"weight_decay": 0.1}}, {"optimizer"}),
    "minibatches": ({}, {"batch_size": 4}, {"steps per epoch"}),
    "long_steps": ({}, {"lr": 0.2}, {"step_fraction"}),
    "trained_output": ({"train_output": True}, {"lr": 1e-4}, {"trained layers"}),
    "large_output": ({"output_scale": 2.0}, {}, {"deviation of v"}),
    "activation": ({"activation": "tanh"}, {}, {"activation"}),
}


@pytest.mark.parametrize("what", VIOLATED)
def test_each_assumption_that_a_training_breaks_is_in_the_table(what):
    network, training, expected = VIOLATED[what]
    callback = monitor({"relu": {}})
    descend(two_layer(width=1000, **network), [callback], **training)
    assert conditions(callback, "relu") == expected | SIZES
    assert last(callback, "relu/valid") == 0.0


@pytest.mark.parametrize(("count", "expected"), [(8, set()), (7, {"samples of the probe"})])
def test_a_guarantee_needs_all_training_samples(count, expected):
    callback = monitor({"own": own()}, probe=Probe(num_samples=count))
    descend(two_layer(width=100), [callback])
    assert conditions(callback, "own") == expected
    assert last(callback, "own/valid") == float(not expected)


@pytest.mark.parametrize(("lr", "valid"), [(0.1, 1.0), (0.11, 0.0)])
def test_a_guarantee_of_ones_own_is_for_its_learning_rate(lr, valid):
    callback = monitor({"own": own()})
    descend(two_layer(width=100), [callback], lr=lr)
    assert last(callback, "own/valid") == valid


def test_a_guarantee_says_nothing_after_the_learning_rate_has_changed():
    callback = monitor({"own": own()}, every=5)
    descend(two_layer(width=100), [callback], scheduler=lambda optimizer: StepLR(optimizer, 10))
    assert list(column(callback, "own/residual_envelope")) == [0, 5, 10]
    assert column(callback, "own/valid") == {0: 1.0, 5: 1.0, 10: 1.0, 15: 0.0, 20: 0.0}
    assert column(callback, "own/vacuous")[20] == 1.0
    assert conditions(callback, "own") == {"learning rate"}


def test_stochastic_descent_takes_one_sample_a_step():
    callback = monitor({"sgd": {}}, every=40)
    descend(two_layer("softplus", 1000), [callback], lr=1e-5, steps=20, batch_size=1)
    assert "steps per epoch" not in conditions(callback, "sgd")
    assert "step_fraction" not in conditions(callback, "sgd")
    envelope = column(callback, "sgd/residual_envelope")
    assert envelope[160] < envelope[40] < envelope[0]
    assert last(callback, "sgd/distance_envelope") == pytest.approx(3 * math.sqrt(8))


@pytest.mark.parametrize("name", ["relu", "nonsmooth_descent"])
def test_infinite_envelopes_are_left_out_and_told(name):
    inputs, _ = sphere()
    data = torch.cat([inputs[:4], inputs[:4]]), torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])
    callback = monitor({name: {}})
    descend(two_layer(width=100), [callback], data)
    assert set(statuses(callback)) == {0.0}
    assert last(callback, f"{name}/vacuous") == 1.0
    assert last(callback, f"{name}/residual_envelope") == pytest.approx(column(callback, "residual")[0])
    assert not column(callback, f"{name}/distance_envelope") | column(callback, f"{name}/path_envelope")


def test_several_outputs_have_the_guarantees_of_any_jacobian():
    network, data = two_layer("tanh", 500, initialization="information_space", out_features=2), sphere()
    callback = monitor({"smooth_descent": {}})
    descend(network, [callback], data)
    assert within(callback, "smooth_descent") == {1.0}
    with pytest.raises(ValueError, match="Expected one output for the guarantee 'smooth', but got 2"):
        descend(network, [monitor({"smooth": {}})], data)


def test_a_network_of_another_kind_needs_the_numbers_that_it_does_not_show():
    data = samples(6)
    with pytest.raises(ValueError, match=r"give \['norm_bound', 'lipschitz'\] as its settings"):
        descend(mlp(), [monitor({"smooth_descent": {}})], data)
    with pytest.raises(ValueError, match=r"give \['width', 'activation'\] as its settings"):
        descend(mlp(outputs=1), [monitor({"smooth": {}})], data)
    with pytest.raises(ValueError, match="give `spectral_bound` as its setting"):
        descend(mlp(), [monitor({"meta_theorem": {"cutoff": 0.1, "Gamma": 1.0, "tolerance": 0.5}})], data)
    callback = monitor({"smooth_descent": {"norm_bound": 50.0, "lipschitz": 3.0}})
    descend(mlp(), [callback], data, lr=1e-4)
    assert within(callback, "smooth_descent") == {1.0}


WRONG = {
    "no_mapping": (["relu"], "`guarantees` to map names to settings"),
    "unknown": ({"rely": {}}, "`guarantees` among .*'relu'.*but got 'rely'"),
    "setting": ({"relu": {"tolerence": 1.0}}, r"settings of 'relu' among .*'tolerance'.*\['tolerence'\]"),
    "measured": ({"relu": {"step_fraction": 0.5}}, r"\['step_fraction'\]; what is not among them is measured"),
    "number": ({"relu": 3}, "settings of 'relu' by name, or a Guarantee, but got 3"),
    "cutoffs": ({"meta_theorem": {"Gamma": 1.0, "tolerance": 1.0}}, "either `cutoff` or `relative_cutoff`"),
    "name": ({"Own name": own()}, "lower-case letters, digits and underscores"),
    "key": ({"kernel": own()}, "other than .*'kernel'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_guarantees_that_are_not_known_are_refused(what):
    guarantees, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        TrajectoryMonitor(guarantees=guarantees)


def test_settings_out_of_range_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match="`tolerance` to be positive"):
        descend(two_layer(width=10), [monitor({"relu": {"tolerance": -1.0}})])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)
        self.activation = torch.tanh


def chain(*extra, bias=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=bias), nn.Softplus(), nn.Linear(4, 2, bias=False), *extra)


FOUND = {
    "attributes": (Named(), "tanh"),
    "chain": (chain(), "softplus"),
    "inside": (nn.ModuleList([chain()]), "softplus"),
}
NOT_FOUND = {
    "bias": chain(bias=True),
    "more_layers": chain(nn.Linear(2, 2)),
    "beside_others": nn.ModuleList([chain(), nn.Linear(1, 1)]),
    "linear": nn.Linear(3, 1),
}


@pytest.mark.parametrize("where", FOUND)
def test_a_two_layer_network_is_found_with_its_width_and_activation(where):
    module, activation = FOUND[where]
    network = find_two_layer(module)
    assert (network.width, network.activation, network.trained) == (4, activation, "hidden and output")


@pytest.mark.parametrize("where", NOT_FOUND)
def test_other_networks_are_not_taken_for_one(where):
    assert find_two_layer(NOT_FOUND[where]) is None


def test_an_activation_without_a_name_is_the_function_itself():
    module = Named()
    module.activation = nn.functional.gelu
    assert find_two_layer(module).activation is nn.functional.gelu


@pytest.mark.slow
def test_the_experiment_of_the_paper_keeps_within_its_guarantees(tmp_path):
    options = ("trainer.max_epochs=200", "model.width=2000", "logger=jsonl", "trainer.check_val_every_n_epoch=100")
    run = train(tmp_path / "run", "experiment=overparameterization", *options)
    rows = [row for row in read_jsonl(run.folder / "metrics.jsonl") if "trajectory/residual" in row]
    assert [row["bounds/opt_step"] for row in rows] == [0, 50, 100, 150, 200]
    assert {row[f"trajectory/{name}/within"] for row in rows for name in ("relu", "nonsmooth_descent")} == {1.0}
    assert max(row[f"trajectory/{name}/deviation"] for row in rows for name in ("linearized", "fine_grained")) < 0.03
    assert rows[-1]["trajectory/residual"] < 0.5 * rows[0]["trajectory/residual"]
    assert (run.folder / "figures" / "trajectory_residual.png").exists()
