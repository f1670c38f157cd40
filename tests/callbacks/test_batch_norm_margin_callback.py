"""What BatchNormMargin logs of the paper's network, against the same quantities computed by hand."""

import functools
import math
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from small_training import SMALL, fit, loader, measured_steps, quiet_trainer, samples, series, statuses
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_trace import Trace, differences

from lightning_bounds import Schedule
from lightning_bounds.callbacks.batch_norm_margin import BatchNormMargin
from lightning_bounds.lightning import pl
from lightning_bounds.models.batch_norm_network import BatchNormNetwork
from lightning_bounds.models.supervised import Supervised
from lightning_bounds.report import MemoryLogger

TOPIC = "batch_norm_margin"
LAYER = f"{TOPIC}/layers/network"
WIDTH, SAMPLES, LR = 8, 12, 0.1
OFTEN = Schedule(every_n_epochs=1)


def module(loss="logistic", momentum=0.0, **options):
    inputs, _ = samples(SAMPLES)
    network = BatchNormNetwork(3, WIDTH, seed=4, **options)
    network.set_statistics(inputs)
    return Supervised(network, loss=loss, optimizer=functools.partial(torch.optim.SGD, lr=LR, momentum=momentum))


class Weights(pl.Callback):
    """Copies of the weights before training and after every step, and the samples of every batch."""

    def __init__(self):
        self.by_step, self.batches = {}, []

    def on_train_start(self, trainer, pl_module):
        self.keep(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.keep(trainer, pl_module)

    def keep(self, trainer, pl_module):
        self.by_step[trainer.global_step] = [p.detach().clone() for p in pl_module.network.parameters()]


class Run:
    """A training of two epochs, all of whose records are kept."""

    def __init__(self, batch_size, **options):
        self.weights, self.logger = Weights(), MemoryLogger()
        self.callback = BatchNormMargin(schedule=OFTEN, on_error="raise", **options)
        train = loader(SAMPLES, batch_size)
        self.trainer = fit([self.weights, self.callback], module(), train, val=False, logger=self.logger)

    def logged(self, step):
        (row,) = [row for row in self.callback.history if row["step"] == step]
        return row

    def table(self, name):
        return self.logger.tables[f"{TOPIC}/{name}"][-1][2]

    def status(self, name):
        (row,) = [row for row in self.table("conditions") if row[0] == name]
        return row[3]


@functools.cache
def run(kind):
    sizes = {"GD": SAMPLES, "SGD": 1, "minibatches": 4}
    return Run(sizes[kind], exact_margins=kind == "GD")


KINDS = pytest.mark.parametrize("kind", ["GD", "SGD", "minibatches"])
STEPS = {"GD": [0, 1, 2], "SGD": [0, 12, 24], "minibatches": [0, 3, 6]}
MOMENTS = pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind, steps in STEPS.items() for step in steps])


def by_hand(weights):
    """Normalizers, effective rows and pre-activations of the training set, unit by unit."""
    inputs, targets = samples(SAMPLES)
    _, _, V = weights
    centered = inputs - inputs.mean(dim=0)
    N = torch.tensor([math.sqrt(sum(float(v @ x) ** 2 for x in centered) / SAMPLES) for v in V])
    rows = torch.stack([v / n for v, n in zip(V, N, strict=True)])
    return N, rows, centered @ rows.T, 2.0 * targets - 1


@MOMENTS
def test_normalizers_displacement_and_movement_are_those_of_the_definitions(kind, step):
    weights = run(kind).weights.by_step
    (a, c, V), (a_0, c_0, V_0) = weights[step], weights[0]
    (N, rows, _, _), (_, first, _, _) = by_hand(weights[step]), by_hand(weights[0])
    moved = [float((row - start) @ (row - start)) for row, start in zip(rows, first, strict=True)]
    expected = {
        "normalization_min": float(N.min()),
        "normalization_max": float(N.max()),
        "eps_n": max(1 / n for n in N.tolist()),
        "displacement": math.sqrt(sum(moved) / WIDTH),
        "output_movement": math.hypot(float((a - a_0).norm()), float((c - c_0).norm())),
        "direction_movement": float((V - V_0).norm()),
    }
    logged = run(kind).logged(step)
    assert {name: logged[f"{LAYER}/{name}"] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert logged[f"{LAYER}/normalization"].tolist() == pytest.approx(N.tolist(), rel=1e-9)


@MOMENTS
def test_margins_are_those_of_the_outputs_over_the_norms(kind, step):
    a, c, _ = weights = run(kind).weights.by_step[step]
    _, _, z, y = by_hand(weights)
    margins = [
        float(sign * sum(a[0, j] * max(0.0, c[j] * row[j]) for j in range(WIDTH)) / (a.norm() * c.norm()))
        for row, sign in zip(z, y, strict=True)
    ]
    logged = run(kind).logged(step)
    assert sorted(logged[f"{TOPIC}/margins"].tolist()) == pytest.approx(sorted(margins), rel=1e-8)
    assert logged[f"{TOPIC}/margin"] == pytest.approx(min(margins), rel=1e-8)


@MOMENTS
def test_layer_margins_are_those_of_the_current_weights_as_a_reference(kind, step):
    a, c, _ = run(kind).weights.by_step[step]
    a_0 = run(kind).weights.by_step[0][0][0]
    _, _, z, y = by_hand(run(kind).weights.by_step[step])
    hidden = z.clamp_min(0)
    gamma_a = min(float(s * (row @ a[0])) for s, row in zip(y, hidden, strict=True)) / (a.norm() * WIDTH**0.5)
    gamma_c = min(float(s * (row @ (c * a_0))) for s, row in zip(y, hidden, strict=True)) / (c.norm() * WIDTH**0.5)
    logged = run(kind).logged(step)
    got = [logged[f"{TOPIC}/{name}"] for name in ("gamma_a", "gamma_c", "gamma")]
    assert got == pytest.approx([float(gamma_a), float(gamma_c), float(gamma_a + gamma_c)], rel=1e-8)


@MOMENTS
def test_perceptron_sum_is_the_sum_of_the_slopes_before_each_step(kind, step):
    found = run(kind).weights
    total = 0.0
    for number, (inputs, targets) in enumerate(found.batches[:step]):
        a, c, V = found.by_step[number]
        everything, _ = samples(SAMPLES)
        N = by_hand(found.by_step[number])[0]
        z = (inputs - everything.mean(dim=0)) @ (V / N.unsqueeze(1)).T
        p = (2 * targets - 1) * ((c * z).clamp_min(0) @ a[0])
        total += sum(1 / (1 + math.exp(value)) for value in p.tolist()) / len(p)
    assert run(kind).logged(step)[f"{TOPIC}/perceptron_sum"] == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_best_margins_are_never_below_those_of_any_weights_and_logged_once():
    best = {name: series(run("GD").callback, f"{TOPIC}/best/{name}") for name in ("gamma_a", "gamma_c", "gamma")}
    assert [list(found) for found in best.values()] == [[0], [0], [0]]
    (a_0, _, _) = weights = run("GD").weights.by_step[0]
    _, _, z, y = by_hand(weights)
    signed = y.unsqueeze(1) * z.clamp_min(0)
    tried = torch.randn(2000, WIDTH)
    tried = tried / tried.norm(dim=1, keepdim=True)
    for_a = float((tried @ signed.T).amin(dim=1).max()) / WIDTH**0.5
    for_c = float((tried @ (signed * a_0).T).amin(dim=1).max()) / WIDTH**0.5
    assert best["gamma_a"][0] >= max(for_a, 0)
    assert best["gamma_c"][0] >= max(for_c, 0)
    assert best["gamma"][0] == pytest.approx(best["gamma_a"][0] + best["gamma_c"][0])


def separable(count=SAMPLES):
    """Samples whose label is the sign of their first feature, far from zero."""
    inputs, _ = samples(count)
    targets = torch.arange(count) % 2
    inputs[:, 0] = (2.0 * targets - 1) * (1 + inputs[:, 0].abs())
    return inputs, targets


@functools.cache
def separable_run(batch_size, epochs=2):
    inputs, targets = separable()
    built = module()
    built.network.set_statistics(inputs)
    callback, logger, weights = BatchNormMargin(True, schedule=OFTEN, on_error="raise"), MemoryLogger(), Weights()
    train = DataLoader(TensorDataset(inputs, targets), batch_size)
    fit([weights, callback], built, train, val=False, logger=logger, max_epochs=epochs)
    return callback, weights, logger


@pytest.mark.parametrize(("batch_size", "step"), [(1, 12), (1, 24), (12, 2)])
def test_bounds_are_those_of_the_theorem_for_inputs_in_the_unit_ball(batch_size, step):
    callback, weights, _ = separable_run(batch_size)
    inputs, _ = separable()
    centered = inputs - inputs.mean(dim=0)
    V = weights.by_step[0][2]
    least = min(math.sqrt(sum(float(v @ x) ** 2 for x in centered) / SAMPLES) for v in V)
    e = max(1.0, float(centered.norm(dim=1).max()) / least)
    gamma = series(callback, f"{TOPIC}/best/gamma")[0]
    assert gamma > 0
    (row,) = [row for row in callback.history if row["step"] == step]
    for_version = {"main": (2**15, 4), "appendix": (2**23, 4), "rederived": (2**25, 8)}
    expected = {v: C * e**4 / (gamma**2 * step) + k * math.log(100) / step for v, (C, k) in for_version.items()}
    got = {version: row[f"{TOPIC}/generalization_bound/{version}"] for version in expected}
    assert got == pytest.approx(expected, rel=1e-6)
    parts = [row[f"{TOPIC}/generalization_bound/main/{term}"] for term in ("descent", "concentration")]
    assert sum(parts) == pytest.approx(got["main"])
    assert [row[f"{TOPIC}/generalization_bound/main/{name}"] for name in ("valid", "vacuous")] == [0.0, 1.0]


@pytest.mark.parametrize(("batch_size", "named"), [(12, True), (4, False), (1, False)])
def test_gradient_descent_has_the_bounds_of_its_own_theorem(batch_size, named):
    callback, _, _ = separable_run(batch_size)
    names = {name for row in callback.history for name in row if "/gd_" in name}
    versions = {name.split("/")[2] for name in names}
    assert versions == ({"gd_main", "gd_appendix", "gd_proof"} if named else set())


@pytest.mark.parametrize("step", [1, 2])
def test_perceptron_bound_and_potential_are_their_formulas(step):
    callback, weights, _ = separable_run(12)
    (row,) = [row for row in callback.history if row["step"] == step]
    best = callback.best
    (a, c, V), (a_0, c_0, V_0) = weights.by_step[step], weights.by_step[0]
    U, U_0 = torch.cat([a[0], c]), torch.cat([a_0[0], c_0])
    distance = float((U - U_0).norm())
    assert row[f"{TOPIC}/perceptron_bound"] == pytest.approx(4 * distance / (LR * best.gamma * WIDTH**0.5), rel=1e-9)
    inputs, _ = separable()
    size = float((inputs - inputs.mean(dim=0)).norm(dim=1).max())
    e = max(1.0, size * series(callback, f"{LAYER}/eps_n")[0])
    R = best.gamma ** (1 / 3) * WIDTH ** (1 / 6) / (27 * e)
    target = U_0 + R / 8 * torch.cat([best.reference_output, best.reference_scale])
    alpha = R**2 * (2 * e) ** 2
    phi = (U - target).square().sum() - (U_0 - target).square().sum() + alpha * (V - V_0).square().sum()
    assert row[f"{TOPIC}/potential"] == pytest.approx(float(phi), rel=1e-6)


LAYER_NAMES = {
    *("normalization", "normalization_min", "normalization_max", "eps_n", "displacement", "output_movement"),
    "direction_movement",
}
BEST = {"best/gamma_a", "best/gamma_c", "best/gamma", "best/gamma_upper"}
OF_PAPER = {"gamma_a", "gamma_c", "gamma", "perceptron_sum", "perceptron_bound", "potential"}
VERSIONS = {"main", "appendix", "rederived", "gd_main", "gd_appendix", "gd_proof"}


def test_the_page_names_what_is_logged():
    section = re.search(r"Logs, below ``.*?:\n(.*?)\n\n", BatchNormMargin.__doc__, flags=re.DOTALL)[1]
    quoted = set(re.findall(r"``([a-z][a-z0-9_/]*[a-z0-9])``", section))
    named = {"margin", "margins", "valid", "vacuous"} | LAYER_NAMES | OF_PAPER | BEST | VERSIONS
    assert quoted == named | {"exact_margins"}


def test_it_logs_exactly_what_its_page_names():
    callback, _, logger = separable_run(12)
    names = {name for row in callback.history for name in row} - {"step", "epoch"}
    bounds = {name for name in names if "generalization_bound" in name}
    terms = {"descent", "concentration", "complexity", "sampling", "valid", "vacuous"}
    assert {name.split("/")[2] for name in bounds} == VERSIONS
    assert {name.split("/")[3] for name in bounds if name.count("/") > 2} == terms
    base = {f"bounds/status/{TOPIC}", f"bounds/cost/{TOPIC}/seconds", f"bounds/cost/{TOPIC}/share"}
    upper = {f"{TOPIC}/best/gamma_upper"} if math.isfinite(callback.best.gamma_upper) else set()
    expected = {"margin", "margins"} | OF_PAPER | (BEST - {"best/gamma_upper"})
    expected = {f"{TOPIC}/{name}" for name in expected} | {f"{LAYER}/{name}" for name in LAYER_NAMES} | upper
    assert names - bounds - base == expected
    logged = {name for row in logger.records for name in row} | set(logger.histograms)
    assert names <= logged


EXPECTED = {
    "GD": {"statistics in training": "holds", "samples of a step": "holds"},
    "SGD": {"samples of a step": "holds", "passes over the data": "violated", "theorem: samples": "violated"},
    "minibatches": {"samples of a step": "violated", "passes over the data": "violated"},
}


@KINDS
def test_conditions_say_what_the_network_keeps_and_the_training_breaks(kind):
    kept = (
        *("depth", "outputs", "activation", "batch norms with a shift", "layers with a bias", "loss", "optimizer"),
        *("statistics in training", "statistics in evaluation", "gradient of the statistics"),
        *("samples that are looked at", "N(v_j) against the samples'", "features", "smallest N(v_j)"),
        *("theorem: statistics", "theorem: shift", "theorem: largest_norm"),
    )
    assert {name: run(kind).status(name) for name in kept} == dict.fromkeys(kept, "holds")
    assert {name: run(kind).status(name) for name in EXPECTED[kind]} == EXPECTED[kind]
    assert run(kind).status("initial weights") == "unknown"
    assert run(kind).status("theorem: window") == "violated"


@pytest.mark.parametrize(
    ("options", "name", "status"),
    [
        ({"loss": "least_squares"}, "loss", "violated"),
        ({"momentum": 0.9}, "optimizer", "violated"),
        ({"gradient": "mean"}, "gradient of the statistics", "violated"),
        ({"gradient": "none"}, "theorem: statistics", "violated"),
    ],
    ids=["loss", "momentum", "gradient", "theorem"],
)
def test_what_breaks_a_condition_is_told(options, name, status):
    logger = MemoryLogger()
    fit([BatchNormMargin(on_error="raise")], module(**options), loader(SAMPLES, 12), val=False, logger=logger)
    rows = {row[0]: row[3] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}
    assert rows[name] == status


def test_statistics_of_other_samples_are_told():
    built, logger = module(), MemoryLogger()
    built.network.set_statistics(3 * samples(SAMPLES)[0])
    fit([BatchNormMargin(on_error="raise")], built, loader(SAMPLES, 12), val=False, logger=logger)
    rows = {row[0]: row[1:] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}
    assert rows["N(v_j) against the samples'"][0] == f"{2:.6g}"
    assert rows["N(v_j) against the samples'"][2] == rows["theorem: statistics"][2] == "violated"


def test_a_probe_of_some_samples_is_told_and_leaves_the_statistics_undecided():
    logger = MemoryLogger()
    fit([BatchNormMargin(probe=SMALL, on_error="raise")], module(), loader(SAMPLES, 12), val=False, logger=logger)
    rows = {row[0]: row[1:] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}
    assert rows["samples that are looked at"][::2] == ["5 of 12", "violated"]
    assert rows["N(v_j) against the samples'"][2] == "unknown"


@KINDS
def test_tables_and_figures_are_those_of_the_last_measurement(kind):
    last = run(kind).logged(STEPS[kind][-1])
    (layer,) = run(kind).table("layers")
    names = ("normalization_min", "normalization_max", "displacement", "output_movement", "direction_movement")
    assert layer == ["network", *(last[f"{LAYER}/{name}"] for name in names)]
    bounds = {row[0]: row[1:4] for row in run(kind).table("bounds")}
    assert {"main", "appendix", "rederived"} <= set(bounds)
    assert {tuple(row[1:]) for row in bounds.values()} == {("False", "True")}
    assert set(run(kind).logger.figures) == {f"{TOPIC}/margins", f"{TOPIC}/movement"}


def test_with_several_outputs_only_what_needs_no_theorem_is_logged():
    callback = BatchNormMargin(exact_margins=True, on_error="raise")
    built = Supervised(BatchNormNetwork(3, WIDTH, out_features=2, seed=4), loss="cross_entropy")
    built.network.set_statistics(samples(SAMPLES)[0])
    fit([callback], built, loader(SAMPLES, 12), val=False)
    names = {name.removeprefix(f"{TOPIC}/") for row in callback.history for name in row if name.startswith(TOPIC)}
    assert names == {"margin", "margins"} | {f"layers/network/{name}" for name in LAYER_NAMES}


def inside(kind):
    """The paper's network as a part of another one."""
    built = module()
    network, inputs = built.network, samples(SAMPLES)[0]
    if kind == "before":
        front = nn.Linear(3, 3)
        network.set_statistics(front(inputs))
        built.network = nn.Sequential(front, network)
    else:
        built.network = nn.Sequential(network, nn.Tanh() if kind == "after" else nn.Linear(1, 1))
    return built


@pytest.mark.parametrize("kind", ["before", "after", "readout"])
def test_a_network_that_contains_the_papers_is_not_taken_for_it(kind):
    callback = BatchNormMargin(on_error="raise")
    fit([callback], inside(kind), loader(SAMPLES, 12), val=False)
    assert len(callback.history) == 3
    assert not [name for row in callback.history for name in row if "gamma" in name or "perceptron" in name]


def test_a_unit_without_variance_has_no_eps_n_and_no_finite_bound():
    built = module()
    inputs, targets = samples(SAMPLES)
    inputs[:, 2] = 1.5
    built.network.set_statistics(inputs)
    with torch.no_grad():
        built.network.directions[0] = torch.tensor([0.0, 0.0, 2.0])
    callback, logger = BatchNormMargin(on_error="raise"), MemoryLogger()
    fit([callback], built, DataLoader(TensorDataset(inputs, targets), 12), val=False, logger=logger)
    assert series(callback, f"{LAYER}/normalization_min") == {0: 0.0, 1: 0.0, 2: 0.0}
    assert not [
        name for row in callback.history for name in row if name.endswith(("eps_n", "generalization_bound/main"))
    ]
    rows = {row[0]: row[3] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}
    assert [rows["smallest N(v_j)"], rows["theorem: inverse_normalization"]] == ["violated", "violated"]


def traced(callbacks, accumulate):
    torch.manual_seed(21)
    trace = Trace()
    trainer = quiet_trainer([*callbacks, trace], max_epochs=3, accumulate_grad_batches=accumulate)
    trainer.fit(module(momentum=0.9), loader(SAMPLES, 4, shuffle=True))
    everything = trace.everything(trainer)
    for part in [*everything["metrics"], everything["last"]]:
        for name in [name for name in part if name.startswith(TOPIC)]:
            del part[name]
    return everything


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_of_the_papers_network_is_bit_identical(accumulate):
    callback = BatchNormMargin(exact_margins=True, schedule=Schedule(every_n_steps=1))
    expected, got = traced([], accumulate), traced([callback], accumulate)
    assert len(statuses(callback)) == 1 + got["step"]
    assert set(statuses(callback)) == {0.0}
    assert differences(expected, got) == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_every_precision_is_measured(precision):
    inputs, targets = samples(SAMPLES)
    callback = BatchNormMargin(exact_margins=True, schedule=OFTEN, on_error="raise")
    train = DataLoader(TensorDataset(inputs.float(), targets), 12)
    fit([callback], module().float(), train, val=False, precision=precision)
    assert all(row[f"{TOPIC}/perceptron_sum"] > 0 for row in callback.history[1:])
    single = series(run("GD").callback, f"{TOPIC}/gamma")
    tolerance = 1e-5 if precision == "32-true" else 0.1
    assert series(callback, f"{TOPIC}/gamma")[0] == pytest.approx(single[0], abs=tolerance)


def same_batches():
    """Three equal batches an epoch: a training that is resumed within an epoch gets no others."""
    inputs, targets = samples(4)
    return DataLoader(TensorDataset(inputs.repeat(3, 1), targets.repeat(3)), batch_size=4)


def timeless(callback):
    return [
        {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in row.items() if "/cost/" not in name}
        for row in callback.history
    ]


@pytest.mark.filterwarnings("ignore:.*(mid-epoch|exists and is not empty|resuming from).*")
@pytest.mark.parametrize("step", [2, 6], ids=["within_an_epoch", "end_of_an_epoch"])
def test_a_resumed_training_logs_what_an_uninterrupted_one_does(tmp_path, step):
    def made():
        return BatchNormMargin(exact_margins=True, schedule=Schedule(every_n_steps=2))

    uninterrupted, again = made(), made()
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    quiet_trainer([uninterrupted, keep], max_epochs=3, enable_checkpointing=True).fit(module(), same_batches())
    trainer = quiet_trainer([again], max_epochs=3)
    trainer.fit(module(), same_batches(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert measured_steps(again) == [0, 2, 4, 6, 8, 9]
    assert timeless(again) == timeless(uninterrupted)
    assert again.tables() == uninterrupted.tables()


def test_diverged_weights_are_reported_and_stop_nothing():
    built = module()
    built.optimizer = functools.partial(torch.optim.SGD, lr=float("inf"))
    callback = BatchNormMargin(schedule=OFTEN)
    with pytest.warns(UserWarning, match="logged no numbers at step 1, training goes on: FloatingPointError"):
        fit([callback], built, loader(SAMPLES, 12), val=False)
    assert statuses(callback) == [0.0, 1.0, 1.0]


@pytest.mark.filterwarnings("ignore:.*number of training batches.*")
def test_the_experiment_measures_two_classes_of_digits():
    torch.set_default_dtype(torch.float32)
    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", overrides=["experiment=batch_norm_margin", "model.width=64", "paths.run=run"])
    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    network = instantiate(config.model, in_features=data.in_features, _convert_="all")
    built = instantiate(config.training, network, _convert_="all")
    callbacks = [instantiate(callback, _convert_="all") for callback in config.callbacks.values()]
    logger = MemoryLogger()
    quiet_trainer(callbacks, logger, max_epochs=20).fit(built, datamodule=data)
    (callback,) = [callback for callback in callbacks if isinstance(callback, BatchNormMargin)]
    assert statuses(callback) == [0.0, 0.0]
    assert 0 < series(callback, f"{TOPIC}/best/gamma")[0] < 1
    margins = series(callback, f"{TOPIC}/margin")
    assert margins[20] > margins[0]
    rows = {row[0]: row[3] for row in logger.tables[f"{TOPIC}/conditions"][-1][2]}
    assert rows["N(v_j) against the samples'"] == rows["loss"] == rows["samples of a step"] == "holds"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1, "much"])
def test_impossible_delta_is_refused(delta):
    with pytest.raises(ValueError, match=r"Expected `delta` in \(0, 1\), the probability of failure"):
        BatchNormMargin(delta=delta)
