"""`python scripts/inspect_data.py`: its numbers are those of the theory's functions, and it stays in its run folder."""

import json
import math
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from lightning_bounds.data import ImageDataModule, digits, mixture, sphere
from lightning_bounds.data.regression import RegressionDataModule
from lightning_bounds.theory import fine_grained, gaussian, information_space, overparameterization

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from inspect_data import inspect, plain  # noqa: E402
from inspecting.measurements import Settings  # noqa: E402
from inspecting.samples import samples_of  # noqa: E402
from inspecting.tables import tables  # noqa: E402

SETTINGS = {
    "activations": ["softplus"], "targets": [0.1, 0.01], "delta": 0.1, "widths": [100, 10_000], "kappa": 0.01,
    "alpha_bars": [0.01, 0.1], "Gamma": 3.0, "zeta": 0.01,
}  # fmt: skip
OVERRIDES = [
    "data=digits", "+data.classes=[3,5]", "num_samples=200", "random_seeds=[0,1]", "theory.activations=[softplus]",
    "theory.widths=[100,10000]", "theory.alpha_bars=[0.01,0.1]",
]  # fmt: skip


def restored(value):
    """JSON back to numbers, with its infinities."""
    if isinstance(value, dict):
        endless = {name: float(text) for name, text in value.get("nonfinite", {}).items()}
        return {name: endless.get(name, restored(item)) for name, item in value.items() if name != "nonfinite"}
    return [restored(item) for item in value] if isinstance(value, list) else value


def prepared(datamodule, num_samples=None, random_seeds=(0,)):
    datamodule.setup("fit")
    return samples_of(datamodule, num_samples, list(random_seeds))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of the command from an empty folder: that folder, what was printed, and its seconds."""
    folder = tmp_path_factory.mktemp("inspection")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(ROOT / "scripts" / "inspect_data.py"), f"hydra.run.dir={folder / 'run'}", *OVERRIDES]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor: others' work on the machine does not count.
    return folder, result.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def results(run):
    return restored(json.loads((run[0] / "run" / "inspect_data.json").read_text()))


@pytest.fixture(scope="module")
def samples():
    return prepared(ImageDataModule(digits.load, classes=[3, 5], label_noise=0.25), 200, [0, 1])


@pytest.fixture(scope="module")
def gram(samples):
    return fine_grained.relu_gram(samples.inputs)


@pytest.fixture(scope="module")
def columns(samples, gram):
    """Labels of a single output by set and column, made once more from their definition."""
    found = {
        (name, column): labels for name, entry in samples.label_sets.items() for column, labels in entry.columns.items()
    }
    return {**found, ("worst", ""): fine_grained.worst_case_labels(gram)}


COLUMNS = [("true", ""), ("noisy", ""), ("random", "seed 0"), ("random", "seed 1"), ("worst", "")]


@pytest.mark.slow
def test_it_takes_less_than_10_seconds_and_says_where_the_files_are(run):
    folder, output, seconds = run
    assert seconds < 10
    for name in ("inspect_data.json", "figures/eigenvalues.png", "figures/label_energy.png"):
        assert str(folder / "run" / name) in output
    assert output.strip().splitlines()[-1] == f"Run folder: {folder / 'run'}"


@pytest.mark.slow
def test_nothing_is_written_outside_the_run_folder(run):
    assert [path.name for path in run[0].iterdir()] == ["run"]
    files = {str(path.relative_to(run[0] / "run")) for path in (run[0] / "run").rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(".hydra/")} == {
        "inspect_data.json", "inspect_data.log", "figures/eigenvalues.png", "figures/label_energy.png",
        "figures/predicted_residual.png",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eigenvalues", "label_energy", "predicted_residual"])
def test_figures_are_pictures_with_something_on_them(run, name):
    with Image.open(run[0] / "run" / "figures" / f"{name}.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_complexity_and_bound_are_those_of_the_theory(results, samples, gram, columns, name, column):
    entry, labels = results["labels"][name]["columns"][column], columns[name, column]
    assert entry["complexity"] == pytest.approx(fine_grained.complexity_measure(samples.inputs, labels), rel=1e-9)
    assert entry["complexity"] == pytest.approx(
        math.sqrt(2 / 200 * float(labels @ torch.linalg.solve(gram, labels))), rel=1e-7
    )
    steps = results["labels"][name]["steps_to_relative_residual"]["0.01"] if name != "random" else None
    bound = fine_grained.generalization_bound(
        samples.inputs, labels, delta=0.1, width=10_000, kappa=0.01,
        learning_rate=results["kernels"]["relu"]["learning_rate_monotone"], steps=steps,
    )  # fmt: skip
    assert entry["generalization_bound"]["value"] == pytest.approx(bound.value, rel=1e-9)
    assert [item["name"] for item in entry["generalization_bound"]["conditions"]] == [c.name for c in bound.conditions]
    if name != "random":
        assert entry["generalization_bound"]["conditions"][-1]["actual"] == steps == bound.conditions[-1].actual


@pytest.mark.slow
@pytest.mark.parametrize("name", ["true", "noisy", "worst"])
@pytest.mark.parametrize("target", [0.1, 0.01])
def test_steps_are_the_first_at_which_the_predicted_residual_is_reached(results, gram, columns, name, target):
    labels, rate = columns[name, ""], results["kernels"]["relu"]["learning_rate_monotone"]
    steps = results["labels"][name]["steps_to_relative_residual"][str(target)]
    before, after = fine_grained.predicted_residual_norm(gram, labels, rate, [steps - 1, steps]) / labels.norm()
    assert float(after) <= target < float(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["true", "worst"])
def test_curves_are_predicted_residuals(results, gram, columns, name):
    curve, labels = results["labels"][name]["curve"], columns[name, ""]
    rate = results["kernels"]["relu"]["learning_rate_monotone"]
    expected = fine_grained.predicted_residual_norm(gram, labels, rate, curve["steps"]) / labels.norm()
    assert_close(torch.tensor(curve["relative_residual"]), expected, rtol=1e-7, atol=1e-12)
    assert curve["steps"] == sorted(set(curve["steps"]))


@pytest.mark.slow
def test_energies_are_the_squared_projections(results, gram, columns):
    labels = columns["true", ""]
    expected = fine_grained.label_projections(gram, labels).projections.square().cumsum(0) / labels.square().sum()
    assert_close(torch.tensor(results["labels"]["true"]["cumulative_energy"]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_kernels_and_learning_rates_are_those_of_the_neural_covariance(results, samples, activation):
    kernel = results["kernels"][activation]
    eigenvalues = torch.linalg.eigvalsh(gaussian.neural_covariance(samples.inputs, activation)).flip(0)
    assert_close(torch.tensor(kernel["eigenvalues"]), eigenvalues, rtol=1e-7, atol=1e-10)
    assert kernel["learning_rate_monotone"] == pytest.approx(1 / float(eigenvalues[0]))
    assert kernel["learning_rate_limit"] == pytest.approx(2 / float(eigenvalues[0]))
    assert kernel["kappa_tilde"] == overparameterization.kappa_tilde(samples.inputs, activation)
    assert kernel["smallest_eigenvalue"] == overparameterization.neural_eigenvalue(samples.inputs, activation)


@pytest.mark.slow
def test_inputs_guarantees_and_widths_are_those_of_the_theory(results, samples):
    inputs, labels = samples.inputs, samples.label_sets["true"].columns[""]
    relu = overparameterization.relu_guarantee(inputs, labels, width=10_000)
    smooth = overparameterization.smooth_guarantee(inputs, labels, width=10_000, activation="softplus")
    expected = {"relu": relu, "softplus": smooth}
    assert results["guarantees"] == {name: restored(plain(entry.to_dict())) for name, entry in expected.items()}
    assert results["inputs"]["kappa"] == overparameterization.kappa(inputs)
    assert results["inputs"]["separation"] == overparameterization.separation(inputs)
    needed = {(row["theorem"], row["factor"]): row["width"] for row in results["needed_widths"]}
    theorem = "Oymak & Soltanolkotabi 2019, Theorem 6.2, softplus"
    required = {item.name: item.required for item in smooth.conditions}
    assert needed[theorem, "hidden, as 1"] == pytest.approx(required["sqrt(k d)"] ** 2 / 64)
    # A width that is given as needed is enough, half of it is not.
    for factor, enough in ((1.01, True), (0.5, False)):
        width = math.ceil(factor * needed[theorem, "of the proof"])
        again = overparameterization.smooth_guarantee(inputs, labels, width=width, activation="softplus")
        assert {item.name: item.holds for item in again.conditions}["sqrt(k d), explicit"] is enough


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_bounds_over_the_cut_off_are_those_of_the_theorem(results, samples, index):
    entry = results["random_initialization"][index]
    bound = information_space.random_initialization_bound(
        samples.inputs, samples.label_sets[entry["labels"]].coded, activation=entry["activation"],
        alpha_bar=entry["alpha_bar"], Gamma=3.0, zeta=0.01, delta=0.1, width=10_000,
    )  # fmt: skip
    assert entry["bound"]["value"] == pytest.approx(bound.value)
    assert entry["bound"]["valid"] == bound.valid


@pytest.mark.slow
def test_random_labels_are_harder_than_true_ones_and_the_worst_are_the_hardest(results):
    sets = results["labels"]
    complexity = {name: [column["complexity"] for column in entry["columns"].values()] for name, entry in sets.items()}
    steps = {name: entry["steps_to_relative_residual"]["0.01"] for name, entry in sets.items()}
    assert complexity["true"][0] < complexity["noisy"][0] < min(complexity["random"])
    assert max(complexity["random"]) < complexity["worst"][0]
    assert steps["true"] < steps["random"] < steps["worst"]


@pytest.mark.slow
def test_the_tables_show_the_numbers_of_the_file(run, results):
    assert all(table in run[1] for table in tables(results))
    assert f"{results['labels']['true']['columns']['']['complexity']:.3g}"[:4] in run[1]
    assert "unknown, for factors up to" in run[1]


def test_two_classes_are_signs_and_more_are_one_against_the_rest():
    three = prepared(ImageDataModule(digits.load, classes=[1, 2, 3], train_samples=30))
    data = ImageDataModule(digits.load, classes=[1, 2, 3], train_samples=30)
    data.setup()
    assert list(three.label_sets["true"].columns) == ["class 0", "class 1", "class 2"]
    assert torch.equal(three.label_sets["true"].columns["class 2"] > 0, data.train_labels == 2)
    assert torch.equal(three.label_sets["true"].coded.argmax(dim=1), data.train_labels)
    two = prepared(ImageDataModule(digits.load, classes=[1, 2], train_samples=30)).label_sets
    assert list(two) == ["true", "random"]
    assert torch.equal(two["true"].columns[""], two["true"].coded[:, 0])
    assert set(two["true"].columns[""].tolist()) == {-1.0, 1.0}


def test_real_targets_are_one_column_and_random_ones_a_permutation():
    sets = prepared(RegressionDataModule(partial(sphere.load, noise=0.1, train_samples=20))).label_sets
    assert {name: tuple(entry.matrix.shape) for name, entry in sets.items()} == dict.fromkeys(
        ("true", "noisy", "random"), (20, 1)
    )
    true, drawn = sets["true"].columns[""], sets["random"].columns["seed 0"]
    assert torch.equal(true.sort().values, drawn.sort().values)
    assert not torch.equal(true, drawn)


def test_random_parts_and_labels_depend_on_their_seeds_alone():
    def once(num_samples=40, seed=0):
        return prepared(ImageDataModule(digits.load), num_samples, [seed])

    first, again, other = once(), once(), once(seed=1)
    assert first.inputs.shape == (40, 64)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.inputs, other.inputs)
    random = [samples.label_sets["random"].matrix for samples in (first, again, other)]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])
    assert len(once(num_samples=5000).inputs) == 1437


def test_rows_of_another_norm_are_inspected_and_the_conditions_say_so():
    samples = prepared(ImageDataModule(digits.load, classes=[0, 1], train_samples=30, unit_norm=False))
    results = inspect(samples, Settings(**SETTINGS))
    bound = results["labels"]["true"]["columns"][""]["generalization_bound"]
    assert {item["name"]: item["status"] for item in bound["conditions"]}["norm_deviation"] == "violated"
    assert not any(entry["bound"]["valid"] for entry in results["random_initialization"])


def test_equal_inputs_with_different_labels_take_for_ever_and_the_file_says_so():
    data = ImageDataModule(partial(mixture.load, num_classes=2, clusters_per_class=1, sigma=0.0, train_samples=12))
    data.setup()
    data.train_labels = data.original_labels = torch.arange(12) % 2
    results = inspect(samples_of(data, None, [0]), Settings(**SETTINGS))
    true = plain(results)["labels"]["true"]
    assert true["steps_to_relative_residual"] == {"0.1": None, "0.01": None, "nonfinite": {"0.1": "inf", "0.01": "inf"}}
    assert true["columns"][""]["status"] == "singular, labels outside range"
    assert restored(true)["columns"][""]["complexity"] == math.inf
    assert json.dumps(plain(results), allow_nan=False)
    assert len(tables(results)) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [0.1, 1.0]}, r"`targets`, relative residuals in \(0, 1\), but got \[0.1, 1.0\]"),
        ({"widths": []}, r"`widths`, integers of at least 2, but got \[\]"),
        ({"activations": ["relu"]}, "without relu"),
        ({"activations": ["rleu"]}, "Expected an activation among"),
        ({"delta": 0.0}, r"`delta` in \(0, 1\)"),
        ({"Gamma": 0.5}, "`Gamma` of at least 1"),
        ({"alpha_bars": [-1.0]}, "`alpha_bar`, the relative cut-off"),
        ({"kappa": 0.0}, "`kappa` to be positive"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**SETTINGS | change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 1}, "`num_samples` of at least 2"),
        ({"random_seeds": []}, "`random_seeds`, one non-negative integer at least"),
        ({"random_seeds": [-1]}, r"but got \[-1\]"),
    ],
)
def test_wrong_samples_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(ImageDataModule(digits.load), **options)


def test_labels_that_are_all_zero_are_refused():
    data = RegressionDataModule(lambda: sphere.load()._replace(train_clean_labels=torch.zeros(500)))
    with pytest.raises(ValueError, match="Expected labels other than 0"):
        prepared(data)
