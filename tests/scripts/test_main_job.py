"""`python scripts/train.py` with its defaults: what it prints, what it writes, and that all of it agrees."""

import csv
import math

import pytest
import torch
from PIL import Image
from readers import wandb_history, wandb_images, wandb_tables
from training_job import printed, table_rows

from lightning_bounds.report import read_jsonl

pytestmark = pytest.mark.slow
PROJECTION = "residual_projection/train"
RATIOS = [
    f"{vector}_{kind}" for vector in ("label", "initial_residual") for kind in ("information", "nuisance", "pinv")
]


@pytest.fixture(scope="module")
def rows(main_job):
    return read_jsonl(main_job.folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def table(main_job):
    return table_rows(main_job.output)


def series(rows, name):
    """Values of a metric by step, in the order of the steps; the last one logged for a step counts."""
    return dict(sorted({row["bounds/opt_step"]: row[name] for row in rows if name in row}.items()))


def only(rows, name):
    (value,) = [row[name] for row in rows if name in row]
    return value


def test_it_takes_less_than_90_seconds_and_2_gigabytes(main_job, train_into):
    # Other work on the machine may have slowed one run down, hardly two.
    assert main_job.seconds < 90 or train_into().seconds < 90
    assert 0 < main_job.peak_bytes < 2e9


def test_it_shows_progress_and_prints_the_run_folder_last(main_job):
    assert "Epoch" in main_job.output + main_job.errors
    assert main_job.output.strip().splitlines()[-1] == f"Run folder: {main_job.folder}"


def test_information_share_of_the_labels_grows_from_the_initial_to_the_final_jacobian(rows):
    initial, final = (only(rows, f"{PROJECTION}/{basis}/label_information") for basis in ("initial", "final"))
    assert final > initial + 0.1


@pytest.mark.parametrize("basis", ["initial", "final"])
def test_training_residual_falls_faster_on_the_information_space(rows, basis):
    information, nuisance = (
        list(series(rows, f"{PROJECTION}/{basis}/residual_{space}").values()) for space in ("information", "nuisance")
    )
    tenth = len(information) // 10
    assert information[tenth] / information[0] < 0.5 * nuisance[tenth] / nuisance[0]
    assert information[-1] / information[0] < 0.5 * nuisance[-1] / nuisance[0]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("basis", ["initial", "final"])
def test_energies_on_both_spaces_add_up_at_every_epoch(rows, split, basis):
    prefix = f"residual_projection/{split}"
    total = series(rows, f"{prefix}/residual_energy")
    information, nuisance = (series(rows, f"{prefix}/{basis}/residual_{s}") for s in ("information", "nuisance"))
    assert len(total) == 101
    assert list(information) == list(nuisance) == list(total)
    assert [a + b for a, b in zip(information.values(), nuisance.values(), strict=True)] == pytest.approx(
        list(total.values()), rel=1e-9
    )


@pytest.mark.parametrize("vector", ["label", "initial_residual"])
@pytest.mark.parametrize("basis", ["initial", "final"])
def test_squared_ratios_add_up_to_one(rows, basis, vector):
    information, nuisance = (only(rows, f"{PROJECTION}/{basis}/{vector}_{s}") for s in ("information", "nuisance"))
    assert math.hypot(information, nuisance) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("network", "record"), [("initial", 0), ("final", -1)])
def test_the_printed_table_is_what_was_logged(rows, table, network, record):
    measured = [row for row in rows if "test/error" in row][record]
    cells = table[network]
    assert [float(cell) for cell in cells[:6]] == [
        printed(only(rows, f"{PROJECTION}/{network}/{ratio}")) for ratio in RATIOS
    ]
    assert [float(cell) for cell in cells[6:8]] == [printed(measured["train/error"]), printed(measured["test/error"])]
    fitted, _, flips = cells[8].split()
    assert int(flips) == round(0.25 * 1437)
    assert int(fitted) / int(flips) == pytest.approx(measured["train/fitted_flips"], abs=1e-6)


def test_the_table_names_the_papers_ratios(table):
    assert table["network"] == [
        "|Π_I y|/|y|", "|Π_N y|/|y|", "|J_I⁺ y|/|y|", "|Π_I r₀|/|r₀|", "|Π_N r₀|/|r₀|", "|J_I⁺ r₀|/|r₀|",
        "train error", "test error", "fitted flips",
    ]  # fmt: skip


def test_the_network_learns_and_then_fits_flipped_labels(rows):
    errors = [row["test/error"] for row in rows if "test/error" in row]
    flips = [row["train/fitted_flips"] for row in rows if "train/fitted_flips" in row]
    assert min(errors) < 0.1 < errors[-1] < 0.3
    assert min(flips) < 0.1
    assert flips[-1] > 0.4


def test_csv_holds_the_numbers_of_the_json_lines(main_job, rows):
    with (main_job.folder / "metrics.csv").open() as file:
        cells = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    ours = [row for row in cells if "bounds/opt_step" in row]
    expected = [{k: v for k, v in row.items() if isinstance(v, float)} for row in rows if "bounds/opt_step" in row]
    assert len(ours) == len(expected)
    names = {name for row in expected for name in row}
    assert [{name: float(row[name]) for name in row if name in names} for row in ours] == [
        pytest.approx(row) for row in expected
    ]


def test_wandb_holds_the_numbers_and_histograms_of_the_json_lines(main_job, rows):
    history = [row for row in wandb_history(main_job.folder) if "bounds/opt_step" in row]
    expected = [row for row in rows if "bounds/opt_step" in row]
    assert len(history) == len(expected)
    for found, row in zip(history, expected, strict=True):
        assert {name: found[name] for name, value in row.items() if isinstance(value, float)} == pytest.approx(
            {name: value for name, value in row.items() if isinstance(value, float)}
        )
        histograms = {name: value for name, value in row.items() if isinstance(value, dict) and "counts" in value}
        assert {name: found[f"{name}.values"] for name in histograms} == {k: v["counts"] for k, v in histograms.items()}


def test_wandb_holds_the_tables_and_figures_of_the_folder(main_job):
    tables, folder = wandb_tables(main_job.folder), main_job.folder
    assert {f"{name.replace('/', '_')}.csv" for name in tables} == {path.name for path in (folder / "tables").iterdir()}
    with (folder / "tables" / "residual_projection_alignment.csv").open() as file:
        columns, *cells = csv.reader(file)
    logged = tables["residual_projection/alignment"]
    assert logged["columns"] == columns
    assert [[str(cell) for cell in row] for row in logged["data"]] == cells
    images = wandb_images(folder)
    assert {f"{name.replace('/', '_')}.png" for name in images} == {p.name for p in (folder / "figures").iterdir()}


@pytest.mark.parametrize(
    "name",
    [
        "jacobian_spectrum_train", "residual_projection_initial", "residual_projection_final", "summary_errors",
        "margins_train", "margins_val", "trajectory",
    ],
)  # fmt: skip
def test_figures_are_pictures_with_something_on_them(main_job, name):
    with Image.open(main_job.folder / "figures" / f"{name}.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > 20


def test_every_measurement_was_made(rows):
    statuses = {name: row[name] for row in rows for name in row if name.startswith("bounds/status/")}
    assert set(statuses) == {
        f"bounds/status/{topic}" for topic in ("jacobian_spectrum", "residual_projection", "margins", "trajectory")
    }
    assert {row[name] for row in rows for name in row if name in statuses} == {0.0}


def test_the_final_weights_and_the_callbacks_states_are_saved(main_job):
    checkpoint = torch.load(main_job.folder / "final.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 100
    assert {"network.hidden.weight", "network.output.weight"} <= set(checkpoint["state_dict"])
    assert (main_job.folder / "final.ckpt").stat().st_size < 30e6


def test_the_same_seed_gives_the_same_numbers(main_job, rows, train_into):
    again = read_jsonl(train_into("trainer.max_epochs=2", "logger=jsonl").folder / "metrics.jsonl")
    for name in ("test/error", "residual_projection/train/residual_energy", "margins/train/mean"):
        assert [row[name] for row in again if name in row] == [row[name] for row in rows if name in row][:3]
