"""What the callbacks log, against the same quantities computed by hand in plain torch."""

import copy
import functools
import itertools
import math
import re

import pytest
import torch
from references import alignment_by_svd, jacobian_by_loop
from small_training import CALLBACKS, SMALL, Module, fit, loader, measured_steps, mlp, quiet_trainer, samples, series
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds import JacobianSpectrum, MarginMonitor, Probe, ResidualProjection, Schedule, TrajectoryMonitor
from lightning_bounds.callbacks import DiagnosticCallback
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised
from lightning_bounds.report import MemoryLogger, histogram

RANK = 3
BASES = ["initial", 1, "current", "final"]


class Networks(pl.Callback):
    """Copies of the network before training, after every step, and after every epoch."""

    def __init__(self):
        self.by_step = {}

    def on_train_start(self, trainer, pl_module):
        self.by_step[0] = copy.deepcopy(pl_module.network)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.by_step[trainer.global_step] = copy.deepcopy(pl_module.network)


class Run:
    """A training of two epochs of three steps with one of each callback, all of whose records are kept."""

    def __init__(self):
        self.networks, self.logger = Networks(), MemoryLogger()
        self.callbacks = [
            CALLBACKS["jacobian_spectrum"](splits=["train", "val"], schedule=Schedule(every_n_epochs=1)),
            CALLBACKS["residual_projection"](rank=RANK, bases=BASES),
            CALLBACKS["margins"](),
            CALLBACKS["trajectory"](),
        ]
        trainer = quiet_trainer([self.networks, *self.callbacks], self.logger)
        trainer.fit(Module(), loader(shuffle=True), loader(8, seed=2))
        self.metrics = dict(trainer.callback_metrics)

    def row(self, step, key):
        """The one record of ours about a step that holds a key."""
        (row,) = [r for r in self.logger.records if r.get("bounds/opt_step") == step and key in r]
        return row

    def logged(self, step, prefix):
        """All numbers about a step below a prefix, by the rest of their names."""
        rows = [row for row in self.logger.records if row.get("bounds/opt_step") == step]
        found = [(name.removeprefix(prefix), v) for row in rows for name, v in row.items() if name.startswith(prefix)]
        assert len(found) == len(dict(found)), "logged twice"
        return dict(found)


@functools.cache
def run():
    return Run()


def chosen(split, count=5):
    """The probe's samples by hand: the first of a random order from the probe's own seed, sorted."""
    inputs, targets = samples(12) if split == "train" else samples(8, seed=2)
    indices = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:count].sort().values
    return inputs[indices], targets[indices]


def residual_of(network, split):
    inputs, targets = chosen(split)
    return (network(inputs) - nn.functional.one_hot(targets, 2)).detach().flatten()


def jacobian_of(network, split):
    return jacobian_by_loop(network, chosen(split)[0])


SPLITS = pytest.mark.parametrize("split", ["train", "val"])
STEPS = pytest.mark.parametrize("step", [0, 3, 6])


@SPLITS
@STEPS
def test_spectrum_is_that_of_the_dense_jacobian(split, step):
    jacobian = jacobian_of(run().networks.by_step[step], split)
    sigma = torch.linalg.svdvals(jacobian)
    shares = sigma / sigma.sum()
    got = run().logged(step, f"jacobian_spectrum/{split}/")
    floor = got.pop("noise_floor")
    assert 0 < floor < 1e-5 * sigma[0]
    assert got == pytest.approx(
        {
            "sigma_max": float(sigma[0]),
            "frobenius_norm": float(jacobian.norm()),
            "stable_rank": float(jacobian.square().sum() / sigma[0] ** 2),
            "effective_rank": math.exp(-float((shares * shares.log()).sum())),
            "energy_rank_90": 1 + int((sigma.square().cumsum(0) < 0.9 * jacobian.square().sum()).sum()),
            "resolved_rank": int((sigma > floor).sum()),
        },
        rel=1e-9,
    )


@SPLITS
@STEPS
def test_singular_values_are_logged_as_a_histogram_and_kept(split, step):
    sigma = torch.linalg.svdvals(jacobian_of(run().networks.by_step[step], split))
    key = f"jacobian_spectrum/{split}/singular_values"
    kept = series(run().callbacks[0], key)[step]
    assert_close(kept, sigma, rtol=1e-7, atol=1e-9)
    # Lightning counts a step from 0 where it logs what was seen after it.
    logged = dict(run().logger.histograms[key])[max(step - 1, 0)]
    assert_close(logged, histogram(kept), rtol=0, atol=0)


def reference_step(basis, step):
    return {"initial": 0, "epoch_1": 3, "current": step, "final": 6}[basis]


@SPLITS
@STEPS
def test_residual_energy_is_relative_to_the_initial_residual(split, step):
    residual, first = (residual_of(run().networks.by_step[s], split) for s in (step, 0))
    key = f"residual_projection/{split}/residual_energy"
    assert run().row(step, key)[key] == pytest.approx(float(residual @ residual / (first @ first)), rel=1e-12)


@SPLITS
@STEPS
@pytest.mark.parametrize("basis", ["initial", "epoch_1", "current", "final"])
def test_every_residual_is_projected_on_every_basis_also_on_later_ones(split, step, basis):
    network = run().networks.by_step[reference_step(basis, step)]
    left, _, _ = torch.linalg.svd(jacobian_of(network, split))
    residual, first = (residual_of(run().networks.by_step[s], split) for s in (step, 0))
    energies = (left.T @ residual).square() / (first @ first)
    got = run().logged(step, f"residual_projection/{split}/{basis}/")
    expected = {"residual_information": float(energies[:RANK].sum()), "residual_nuisance": float(energies[RANK:].sum())}
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-7)


@SPLITS
@STEPS
@pytest.mark.parametrize("basis", ["initial", "epoch_1", "current", "final"])
def test_information_and_nuisance_add_up_to_the_residual_energy(split, step, basis):
    got = run().logged(step, f"residual_projection/{split}/")
    parts = got[f"{basis}/residual_information"] + got[f"{basis}/residual_nuisance"]
    assert parts == pytest.approx(got["residual_energy"], rel=1e-12)


@SPLITS
@pytest.mark.parametrize(("basis", "step"), [("initial", 0), ("epoch_1", 3), ("current", 3), ("final", 6)])
def test_a_basis_is_described_once_when_it_is_taken(split, basis, step):
    network = run().networks.by_step[step]
    jacobian = jacobian_of(network, split)
    labels = nn.functional.one_hot(chosen(split)[1], 2).to(jacobian).flatten()
    label = alignment_by_svd(jacobian, labels, RANK)
    residual = alignment_by_svd(jacobian, residual_of(run().networks.by_step[0], split), RANK)
    kinds = ("information", "nuisance", "pinv")
    expected = {
        "dimension": RANK,
        "cutoff": float(torch.linalg.svdvals(jacobian)[RANK - 1]),
        "tied": 0.0,
        **{f"label_{kind}": ratio for kind, ratio in zip(kinds, label, strict=True)},
        **{f"initial_residual_{kind}": ratio for kind, ratio in zip(kinds, residual, strict=True)},
    }
    got = run().logged(step, f"residual_projection/{split}/{basis}/")
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-7)


@SPLITS
@pytest.mark.parametrize("basis", ["initial", "epoch_1", "final"])
def test_a_basis_is_not_described_again(split, basis):
    key = f"residual_projection/{split}/{basis}/dimension"
    assert list(series(run().callbacks[1], key)) == [{"initial": 0, "epoch_1": 3, "final": 6}[basis]]


def test_training_and_validation_data_are_seen_each_through_its_own_jacobian():
    keys = [f"residual_projection/{split}/initial/cutoff" for split in ("train", "val")]
    train, val = (run().row(0, key)[key] for key in keys)
    assert abs(train - val) > 1e-3


def quantile_by_hand(values, q):
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


@SPLITS
@STEPS
def test_margins_are_those_of_the_outputs(split, step):
    network = run().networks.by_step[step]
    inputs, targets = chosen(split)
    outputs = network(inputs).tolist()
    margins = [f[y] - max(v for c, v in enumerate(f) if c != y) for f, y in zip(outputs, targets.tolist(), strict=True)]
    weights = [network[0].weight.detach(), network[2].weight.detach()]
    spectral = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)
    frobenius = math.prod(float(torch.linalg.matrix_norm(weight, "fro")) for weight in weights)
    quantiles = {f"quantile_{q:02}": quantile_by_hand(margins, q / 100) for q in (5, 25, 50, 75, 95)}
    expected = {
        "mean": sum(margins) / 5,
        "minimum": min(margins),
        "maximum": max(margins),
        "error": sum(margin <= 0 for margin in margins) / 5,
        **quantiles,
        **{f"spectral/{name}": quantiles[name] / spectral for name in ("quantile_05", "quantile_50")},
        **{f"frobenius/{name}": quantiles[name] / frobenius for name in ("quantile_05", "quantile_50")},
    }
    assert run().logged(step, f"margins/{split}/") == pytest.approx(expected, rel=1e-9)
    kept = series(run().callbacks[2], f"margins/{split}/margins")[step]
    assert kept.tolist() == pytest.approx(margins, rel=1e-12)
    normalized = series(run().callbacks[2], f"margins/{split}/spectral/margins")[step]
    assert normalized.tolist() == pytest.approx([margin / spectral for margin in margins], rel=1e-9)


def flat(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@STEPS
def test_trajectory_is_that_of_the_weights(step):
    networks = run().networks.by_step
    now, start = flat(networks[step]), flat(networks[0])
    path = sum(float((flat(networks[s + 1]) - flat(networks[s])).norm()) for s in range(step))
    got = run().logged(step, "trajectory/")
    expected = {
        "distance": float((now - start).norm()),
        "relative_distance": float((now - start).norm() / start.norm()),
        "path_length": path,
        "norm": float(now.norm()),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert got["path_length"] >= got["distance"]


@STEPS
@pytest.mark.parametrize("layer", [0, 2])
def test_layer_norms_are_those_of_torch(step, layer):
    now, start = (run().networks.by_step[s][layer].weight.detach() for s in (step, 0))
    expected = {
        "distance": float(torch.linalg.matrix_norm(now - start, "fro")),
        "spectral_distance": float(torch.linalg.matrix_norm(now - start, 2)),
        "frobenius_norm": float(torch.linalg.matrix_norm(now, "fro")),
        "spectral_norm": float(torch.linalg.matrix_norm(now, 2)),
    }
    got = run().logged(step, f"trajectory/layers/network_{layer}_weight/")
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


# What the section "Logs" of each page says, and the words there that look like names but are part of formulas.
SPECTRUM = {
    *("sigma_max", "frobenius_norm", "stable_rank", "effective_rank", "energy_rank_90", "resolved_rank"),
    *("noise_floor", "singular_values"),
}
LEADING = {"nuisance_share", "relative_error"}
ENERGIES = {"residual_information", "residual_nuisance"}
BASIS = {
    *("dimension", "cutoff", "tied", "noise_floor", "label_information", "label_nuisance", "label_pinv"),
    *("initial_residual_information", "initial_residual_nuisance", "initial_residual_pinv"),
}
MARGINS = {
    *("mean", "minimum", "quantile_05", "quantile_25", "quantile_50", "quantile_75", "quantile_95", "maximum", "error"),
    *("spectral/quantile_05", "spectral/quantile_50", "frobenius/quantile_05", "frobenius/quantile_50"),
    *("margins", "spectral/margins"),
}
LAYER = {"distance", "frobenius_norm", "spectral_distance", "spectral_norm"}
TRAJECTORY = {"distance", "relative_distance", "path_length", "norm"}
PAGES = {
    JacobianSpectrum: (SPECTRUM | LEADING, {"exp", "rank"}),
    ResidualProjection: ({"residual_energy"} | ENERGIES | BASIS, {"r_0"}),
    MarginMonitor: (MARGINS, set()),
    TrajectoryMonitor: (TRAJECTORY | LAYER, set()),
}


@pytest.mark.parametrize("callback", PAGES)
def test_the_page_of_a_callback_names_what_it_logs(callback):
    names, formulas = PAGES[callback]
    section = re.search(r"Logs, below ``.*?:\n(.*?)\n\n", callback.__doc__, flags=re.DOTALL)[1]
    # In front of a colon stands a prefix, as in "below ``<basis>/``".
    quoted = set(re.findall(r"``([a-z][a-z0-9_/]*[a-z0-9])``", section))
    assert quoted == names | formulas


def test_the_page_of_the_base_names_what_all_callbacks_log():
    quoted = set(re.findall(r"``(bounds/[a-z/<>_]+)``", DiagnosticCallback.__doc__))
    assert quoted == {"bounds/opt_step", "bounds/status/<topic>", "bounds/cost/<topic>/seconds"}
    assert "``.../share``" in DiagnosticCallback.__doc__


def names_of(callback):
    """Everything that a callback logged in the run, by its full name."""
    return {name for row in callback.history for name in row} - {"step", "epoch"}


def expected_names():
    spectrum = {f"jacobian_spectrum/{split}/{name}" for split in ("train", "val") for name in SPECTRUM}
    basis = {f"{basis}/{name}" for basis in ("initial", "epoch_1", "current", "final") for name in ENERGIES | BASIS}
    projection = {f"residual_projection/{s}/{name}" for s in ("train", "val") for name in {"residual_energy"} | basis}
    margins = {f"margins/{split}/{name}" for split in ("train", "val") for name in MARGINS}
    layers = {f"layers/network_{layer}_weight/{name}" for layer in (0, 2) for name in LAYER}
    trajectory = {f"trajectory/{name}" for name in TRAJECTORY | layers}
    return [spectrum, projection, margins, trajectory]


@pytest.mark.parametrize("number", range(4), ids=list(CALLBACKS))
def test_a_callback_logs_exactly_what_its_page_names(number):
    callback = run().callbacks[number]
    base = {f"bounds/status/{callback.topic}"}
    base |= {f"bounds/cost/{callback.topic}/{name}" for name in ("seconds", "share")}
    assert names_of(callback) == expected_names()[number] | base


def test_the_loggers_get_what_the_histories_hold():
    ours = [row for row in run().logger.records if "bounds/opt_step" in row]
    logged = {name for row in ours for name in row} | set(run().logger.histograms)
    kept = {name for callback in run().callbacks for name in names_of(callback)}
    assert logged == kept | {"step", "epoch", "bounds/opt_step"}


def test_rows_stand_at_the_step_that_lightning_gives_them():
    ours = [row for row in run().logger.records if "bounds/opt_step" in row]
    assert {(row["bounds/opt_step"], row["step"], row["epoch"]) for row in ours} == {(0, 0, 0), (3, 2, 1), (6, 5, 2)}


@pytest.mark.parametrize("topic", CALLBACKS)
def test_status_is_zero_and_costs_are_plausible(topic):
    rows = [row for row in run().logger.records if f"bounds/status/{topic}" in row]
    assert {row[f"bounds/status/{topic}"] for row in rows} == {0.0}
    assert all(0 < row[f"bounds/cost/{topic}/seconds"] < 10 for row in rows)
    assert all(0 < row[f"bounds/cost/{topic}/share"] < 1 for row in rows)


def test_table_of_ratios_holds_what_was_logged():
    ((step, columns, rows),) = run().logger.tables["residual_projection/alignment"]
    ratios = [f"{of}_{kind}" for of in ("label", "initial_residual") for kind in ("information", "nuisance", "pinv")]
    expected = [
        [basis, split, *(run().logged(taken, f"residual_projection/{split}/{basis}/")[ratio] for ratio in ratios)]
        for basis, taken in (("initial", 0), ("epoch_1", 3), ("current", 6), ("final", 6))
        for split in ("train", "val")
    ]
    assert step == 5
    assert columns[:3] == ["Jacobian", "data", "|Π_I y|/|y|"]
    assert len(columns) == 8
    assert rows == expected


def test_figures_of_every_topic_are_drawn_at_the_end():
    assert {name: [step for step, _ in figures] for name, figures in run().logger.figures.items()} == {
        name: [5]
        for name in (
            *("jacobian_spectrum/train", "jacobian_spectrum/val", "margins/train", "margins/val", "trajectory"),
            *("residual_projection/initial", "residual_projection/epoch_1", "residual_projection/final"),
        )
    }


def test_the_trainers_metrics_hold_the_last_numbers():
    last = {}
    for row in run().logger.records:
        if row.get("bounds/opt_step") == 6:
            last |= {name: value for name, value in row.items() if name.split("/")[0] in (*CALLBACKS, "bounds")}
    del last["bounds/opt_step"]
    assert {name: float(run().metrics[name]) for name in last} == pytest.approx(last, rel=1e-12)


def cross_entropy_sum(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


def cubic(outputs, targets):
    return (outputs - nn.functional.one_hot(targets, outputs.shape[1])).abs().pow(3).sum() / 3


def softmax_residual(outputs, targets):
    return outputs.softmax(dim=1) - nn.functional.one_hot(targets, 2)


def cubic_residual(outputs, targets):
    difference = outputs - nn.functional.one_hot(targets, 2)
    return difference * difference.abs()


@pytest.mark.parametrize(
    ("loss", "module_loss", "residual"),
    [
        (None, "cross_entropy", softmax_residual),
        (cross_entropy_sum, "least_squares", softmax_residual),
        (cubic, "cross_entropy", cubic_residual),
        (None, "least_squares", lambda outputs, targets: outputs - nn.functional.one_hot(targets, 2)),
    ],
    ids=["the_modules", "users_cross_entropy", "users_cubic", "the_modules_least_squares"],
)
def test_the_gradient_of_the_loss_takes_the_place_of_the_residual(loss, module_loss, residual):
    callback = ResidualProjection(
        rank=RANK, probe=SMALL, splits=["train"], residual="loss_gradient", loss=loss, bases=["initial"]
    )
    networks = Networks()
    fit([networks, callback], Supervised(mlp(), loss=module_loss), val=False)
    inputs, targets = chosen("train")
    expected = {step: residual(networks.by_step[step](inputs), targets).flatten().detach() for step in (0, 3, 6)}
    assert_close(dict(zip((0, 3, 6), callback.records["train"].residuals, strict=True)), expected)
    left, _, _ = torch.linalg.svd(jacobian_by_loop(networks.by_step[0], inputs))
    share = (left[:, :RANK].T @ expected[6]).square().sum() / expected[0].square().sum()
    key = "residual_projection/train/initial/residual_information"
    assert series(callback, key)[6] == pytest.approx(float(share), rel=1e-7)


@pytest.mark.parametrize(
    ("rule", "dimension"),
    [
        ({"cutoff": 2.0}, lambda sigma: int((sigma >= 2.0).sum())),
        ({"relative_cutoff": 0.3}, lambda sigma: int((sigma >= 0.3 * sigma[0]).sum())),
        ({"energy": 0.8}, lambda sigma: 1 + int((sigma.square().cumsum(0) < 0.8 * sigma.square().sum()).sum())),
        ({"rank": 4}, lambda sigma: 4),
    ],
    ids=str,
)
def test_the_information_space_follows_each_rule(rule, dimension):
    callback = ResidualProjection(**rule, probe=SMALL, splits=["train"], bases=["initial"])
    fit([callback], val=False, max_epochs=1)
    expected = dimension(torch.linalg.svdvals(jacobian_by_loop(mlp(), chosen("train")[0])))
    assert 0 < expected < 10
    assert series(callback, "residual_projection/train/initial/dimension") == {0: expected}


def test_with_the_current_basis_alone_only_scheduled_moments_are_measured():
    callback = ResidualProjection(rank=2, probe=SMALL, bases=["current"], schedule=Schedule(every_n_epochs=2))
    fit([callback], max_epochs=3)
    assert measured_steps(callback) == [0, 6, 9]


def test_a_basis_between_measurements_is_taken_on_time():
    callback = ResidualProjection(rank=2, probe=SMALL, bases=[2], schedule=Schedule(every_n_epochs=3))
    fit([callback], max_epochs=3)
    assert series(callback, "residual_projection/train/epoch_2/dimension") == {6: 2}
    assert sorted(series(callback, "residual_projection/train/epoch_2/residual_information")) == [0, 6, 9]


@pytest.mark.parametrize("labels", [lambda targets: targets, lambda targets: 2 * targets - 1, lambda t: 2.0 * t - 1])
def test_binary_margins_are_label_times_output(labels):
    inputs, targets = samples()
    callback = MarginMonitor(probe=SMALL, splits=["train"])
    module = Supervised(mlp(outputs=1), loss="logistic")
    networks = Networks()
    data = DataLoader(TensorDataset(inputs, labels(targets)), batch_size=4)
    fit([networks, callback], module, data, val=False, max_epochs=1)
    inputs, targets = chosen("train")
    expected = (2 * targets - 1) * networks.by_step[3](inputs).detach()[:, 0]
    assert_close(series(callback, "margins/train/margins")[3], expected)
    assert series(callback, "margins/train/error")[3] == float((expected <= 0).double().mean())


@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_coarser_path_is_between_the_distance_and_the_length(every):
    callback = TrajectoryMonitor(path_every_n_steps=every, schedule=Schedule(every_n_epochs=5))
    networks = Networks()
    fit([networks, callback])
    corners = [0, *(step for step in range(1, 6) if step % every == 0), 6]
    lengths = [
        float((flat(networks.by_step[b]) - flat(networks.by_step[a])).norm()) for a, b in itertools.pairwise(corners)
    ]
    assert series(callback, "trajectory/path_length")[6] == pytest.approx(sum(lengths), rel=1e-12)
    assert series(callback, "trajectory/path_length")[6] > series(callback, "trajectory/distance")[6]


def test_the_trajectory_of_chosen_layers_leaves_the_others_out():
    callback, networks = TrajectoryMonitor(layers=["network.2"]), Networks()
    fit([networks, callback])
    (start, end) = (networks.by_step[step][2] for step in (0, 6))
    assert series(callback, "trajectory/distance")[6] == pytest.approx(float((flat(end) - flat(start)).norm()))
    assert [name for name in names_of(callback) if "network_0" in name] == []


def test_without_weights_at_the_start_there_is_no_relative_distance():
    module = Module()
    nn.init.zeros_(module.network[2].weight)
    nn.init.zeros_(module.network[2].bias)
    callback = TrajectoryMonitor(layers=["network.2"])
    fit([callback], module)
    assert "trajectory/relative_distance" not in names_of(callback)
    assert series(callback, "trajectory/distance")[6] > 0


def test_margins_of_a_network_with_a_zero_layer_are_errors_and_not_normalized():
    module = Module()
    nn.init.zeros_(module.network[2].weight)
    nn.init.zeros_(module.network[2].bias)
    callback = MarginMonitor(probe=SMALL, splits=["train"], schedule=Schedule(at_end=False))
    fit([callback], module)
    assert [name for name in names_of(callback) if "spectral" in name or "frobenius" in name] == []
    assert series(callback, "margins/train/maximum") == {0: 0.0}
    assert series(callback, "margins/train/error") == {0: 1.0}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_mode_of_batch_norm_is_part_of_the_number(mode):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    callback = JacobianSpectrum(Probe(num_samples=5, mode=mode), schedule=Schedule(at_end=False))
    expected_network = copy.deepcopy(network)
    fit([callback], Module(network))
    inputs, _ = chosen("train")
    outputs = expected_network.train(mode == "train")(inputs).flatten()
    parameters = list(expected_network.parameters())
    rows = [torch.autograd.grad(output, parameters, retain_graph=True) for output in outputs]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    expected = float(torch.linalg.svdvals(jacobian)[0])
    assert series(callback, "jacobian_spectrum/train/sigma_max")[0] == pytest.approx(expected, rel=1e-9)


def test_layers_restrict_the_jacobian_to_their_columns():
    callback = JacobianSpectrum(Probe(num_samples=5, layers=["network.0"]), schedule=Schedule(at_end=False))
    fit([callback])
    jacobian = jacobian_by_loop(mlp(), chosen("train")[0])[:, : 3 * 4 + 4]
    expected = float(torch.linalg.svdvals(jacobian)[0])
    assert series(callback, "jacobian_spectrum/train/sigma_max")[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 1e-5), ("bf16-true", 1e-5), ("64-true", 1e-9)])
def test_numbers_do_not_suffer_from_the_precision_of_training(precision, tolerance):
    callback, networks = JacobianSpectrum(SMALL, schedule=Schedule(every_n_epochs=5)), Networks()
    inputs, targets = samples()
    train = DataLoader(TensorDataset(inputs.float(), targets), batch_size=4)
    fit([networks, callback], Module().float(), train, val=False, precision=precision)
    probed = chosen("train")[0].float().double()
    expected = {s: torch.linalg.svdvals(jacobian_by_loop(networks.by_step[s].double(), probed))[0] for s in (0, 6)}
    got = series(callback, "jacobian_spectrum/train/sigma_max")
    assert got == pytest.approx({step: float(value) for step, value in expected.items()}, rel=tolerance)


class WithMappings(Module):
    """Batches and outputs are mappings."""

    def forward(self, tokens):
        return {"features": tokens, "scores": self.network(tokens)}

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch["tokens"])["scores"], batch["answer"])


class Mappings(TensorDataset):
    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return {"tokens": inputs, "answer": targets}


def test_batches_and_outputs_of_any_structure_are_read_by_functions():
    options = {"output_fn": lambda outputs: outputs["scores"], "schedule": Schedule(every_n_epochs=1)}
    options["batch_fn"] = lambda batch: ({"tokens": batch["tokens"]}, batch["answer"])
    read = JacobianSpectrum(SMALL, **options)
    fit([read], WithMappings(), DataLoader(Mappings(*samples()), batch_size=4), val=False)
    plain = JacobianSpectrum(SMALL, schedule=Schedule(every_n_epochs=1))
    fit([plain], val=False)
    key = "jacobian_spectrum/train/sigma_max"
    assert series(read, key) == series(plain, key)


def test_early_stopping_can_watch_our_numbers_wherever_it_stands():
    stop = pl.callbacks.EarlyStopping("trajectory/distance", mode="min", patience=2)
    trainer = fit([stop, TrajectoryMonitor()], max_epochs=20)
    # The distance grows from the first epoch on.
    assert trainer.current_epoch == 3
    assert stop.stopped_epoch == 2


def test_the_best_checkpoint_can_be_chosen_by_our_numbers(tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="margins/val/mean", mode="max")
    margins = MarginMonitor(probe=SMALL)
    fit([best, margins], Module(lr=3.0), enable_checkpointing=True, max_epochs=6)
    by_step = {step: value for step, value in series(margins, "margins/val/mean").items() if step > 0}
    largest = max(by_step, key=by_step.get)
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == largest
    assert float(best.best_model_score) == pytest.approx(by_step[largest])
    assert len(set(by_step.values())) == 6
    assert largest != 18
