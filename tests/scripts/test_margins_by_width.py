"""`python scripts/margins_by_width.py`: its numbers, and what it writes."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from sklearn.svm import SVC

from lightning_bounds.theory import batch_norm_margin

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "margins_by_width.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("margins_by_width", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("margins_by_width", overrides=["paths.run=run", *overrides])


def digits(*overrides):
    return instantiate(config("data.train_samples=20", *overrides).data, _convert_="all")


def test_inputs_are_centered_and_in_the_unit_ball(script):
    inputs, labels = script.two_classes(digits())
    assert inputs.shape == (20, 64)
    assert float(inputs.mean(dim=0).abs().max()) < 1e-12
    assert float(inputs.norm(dim=1).max()) == pytest.approx(1, rel=1e-12)
    assert set(labels.tolist()) == {-1.0, 1.0}


def test_more_classes_than_two_are_refused(script):
    with pytest.raises(ValueError, match=r"Expected data of two classes, but got 3; set `data\.classes`"):
        script.two_classes(digits("data.classes=[1,2,3]"))


@pytest.fixture(scope="module")
def found(script):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    inputs, labels = script.two_classes(digits())
    reference = {"steps": 300, "learning_rates": [0.05, 0.01]}
    yield inputs, labels, script.measured(inputs, labels, [16, 64], [0, 1, 2], 0.0, reference)
    torch.set_default_dtype(before)


def test_every_width_and_seed_is_measured_by_both_methods(found):
    assert [(one.width, one.seed, one.method) for one in found[2]] == [
        (width, seed, method) for width in (16, 64) for seed in (0, 1, 2) for method in ("exact", "reference networks")
    ]


def test_trained_networks_never_exceed_the_exact_margins(found):
    exact, trained = ([one for one in found[2] if one.method == m] for m in ("exact", "reference networks"))
    above = [
        (one.width, one.seed)
        for one, best in zip(trained, exact, strict=True)
        if one.gamma_a > best.gamma_a * (1 + 1e-6) + 1e-9 or one.gamma_c > best.gamma_c * (1 + 1e-6) + 1e-9
    ]
    assert above == []
    assert max(one.gamma_a for one in trained) > 0


def test_the_best_learning_rate_of_each_draw_is_shown(found):
    inputs, labels, margins = found
    one = next(m for m in margins if (m.width, m.seed, m.method) == (64, 1, "reference networks"))
    rates = {"widths": [64], "seeds": [1], "steps": 300}
    tried = [
        batch_norm_margin.reference_network_margins(inputs, labels, learning_rate=rate, **rates)[0].gamma
        for rate in (0.05, 0.01)
    ]
    assert tried[0] != tried[1]
    assert one.gamma == max(tried)


def test_the_wider_network_has_the_larger_margin(script, found):
    rows = [row for row in script.summary(found[2]) if row[0] == "exact"]
    assert rows[1][6] > rows[0][6] > 0


def test_exact_margins_are_those_of_a_support_vector_machine(found):
    inputs, labels, margins = found
    one = next(m for m in margins if (m.width, m.seed, m.method) == (64, 2, "exact"))
    V = batch_norm_margin.draw_weights(64, 64, seed=2).directions
    z = torch.relu((inputs @ V.T) / (inputs @ V.T).std(dim=0, correction=0))
    # Without a bias: both signs of every sample.
    signed = labels.unsqueeze(1) * z
    machine = SVC(C=1e10, kernel="linear", tol=1e-10).fit(torch.cat([signed, -signed]), [1] * 20 + [-1] * 20)
    assert one.gamma_a * 8 == pytest.approx(1 / float((machine.coef_**2).sum()) ** 0.5, rel=1e-4)


def test_means_and_two_standard_errors_are_those_of_the_seeds(script):
    values = [(0.1, 0.01), (0.2, 0.03), (0.6, -0.01)]
    margins = [script.Margins("exact", 8, seed, a, c, a + c, 5.0 + seed) for seed, (a, c) in enumerate(values)]
    (row,) = script.summary(margins)
    spread = (((0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2) / 2) ** 0.5
    assert row[:4] == ["exact", 8, pytest.approx(0.3), pytest.approx(2 * spread / 3**0.5)]
    assert row[8:] == [pytest.approx(6.0), "3 of 3"]
    assert script.summary(margins[:1])[0][3] == 0.0


def test_error_bars_are_drawn_for_every_margin_and_method(script):
    rows = [[m, w, 0.1 * w, 0.01, 0.02, 0.001, 0.12 * w, 0.01, 3.0, "1 of 1"] for m in ("a", "b") for w in (2, 4)]
    panels = script.figure(rows, 0.05).axes
    assert [panel.get_title() for panel in panels] == ["a", "b"]
    assert [len(panel.containers) for panel in panels] == [3, 3]
    bars = panels[0].containers[0]
    assert bars[0].get_ydata().tolist() == pytest.approx([0.2, 0.4])
    ends = [segment[:, 1].tolist() for segment in bars[2][0].get_segments()]
    assert ends == [pytest.approx([0.19, 0.21]), pytest.approx([0.39, 0.41])]


@pytest.mark.parametrize("data", ["digits", "mnist5000", "fashion_mnist", "cifar10", "mnist", "dyadic"])
def test_every_data_group_can_be_chosen(data):
    folder = ["data.source.folder=images"] if data in ("fashion_mnist", "cifar10", "mnist") else []
    built = instantiate(config(f"data={data}", *folder, "data.classes=[0,1]").data, _convert_="all")
    assert (built.classes, built.unit_norm, built.label_noise) == ([0, 1], False, 0.0)


@pytest.mark.slow
def test_the_command_writes_table_numbers_and_figure(tmp_path):
    run = tmp_path / "run"
    overrides = ["data.train_samples=30", "widths=[32,128]", "seeds=[0,1]", "reference.steps=200"]
    command = [sys.executable, str(SCRIPT), f"hydra.run.dir={run}", *overrides]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip().splitlines()[-1] == f"Run folder: {run}"
    assert "4/4" in result.stderr
    report = json.loads((run / "margins_by_width.json").read_text())
    assert (report["samples"], report["features"], len(report["margins"])) == (30, 64, 8)
    with (run / "margins_by_width.csv").open() as file:
        rows = list(csv.DictReader(file))
    gammas = [one["gamma"] for one in report["margins"] if (one["method"], one["width"]) == ("exact", 128)]
    assert float(rows[1]["gamma"]) == pytest.approx(sum(gammas) / 2)
    assert Image.open(run / "margins_by_width.png").size[0] > 500
