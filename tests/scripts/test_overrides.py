"""The main job's command line: overrides, groups, sweeps, other applications, and misspelt words."""

import subprocess
import sys

import pytest
from training_job import ROOT, table_rows, train

from lightning_bounds.report import read_jsonl

pytestmark = pytest.mark.slow
SHORT = ("trainer.max_epochs=1", "logger=jsonl")
SMALL = tuple(f"callbacks.{name}.probe.num_samples=32" for name in ("jacobian_spectrum", "residual_projection"))


def test_overrides_of_the_readme_change_what_they_name(train_into):
    run = train_into(
        "data.label_noise=0.5",
        "callbacks.residual_projection.rank=30",
        "model.width=512",
        "trainer.max_epochs=20",
        "logger=jsonl",
    )
    rows = read_jsonl(run.folder / "metrics.jsonl")
    dimensions = [v for row in rows for k, v in row.items() if k.endswith("/dimension")]
    assert dimensions == [30.0] * 4
    assert table_rows(run.output)["final"][-1].endswith(f"of {round(0.5 * 1437)}")
    assert max(row["epoch"] for row in rows) == 20


def test_callbacks_none_trains_alone(train_into):
    run = train_into("callbacks=none", *SHORT)
    assert table_rows(run.output)["network"] == ["train error", "test error", "fitted flips"]
    assert "\nErrors\n" in run.output
    assert "Jacobian" not in run.output
    rows = read_jsonl(run.folder / "metrics.jsonl")
    assert {name.split("/")[0] for row in rows for name in row} == {"step", "epoch", "train", "test"}


def test_callbacks_do_not_change_what_is_learned(tmp_path):
    runs = [train(tmp_path / name / "run", f"callbacks={name}", *SHORT) for name in _made(tmp_path, "none", "bounds")]
    measured = [[r for r in read_jsonl(run.folder / "metrics.jsonl") if "test/error" in r] for run in runs]
    assert measured[0] == measured[1]


def _made(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return names


@pytest.mark.parametrize(
    ("logger", "present", "absent"),
    [
        ("csv", ["metrics.csv", "figures", "tables"], ["metrics.jsonl", "wandb", "tensorboard"]),
        ("[csv,tensorboard]", ["metrics.csv", "tensorboard"], ["metrics.jsonl", "wandb"]),
        ("none", ["final.ckpt"], ["metrics.csv", "metrics.jsonl", "wandb", "figures"]),
    ],
)
def test_loggers_are_chosen_by_name(train_into, logger, present, absent):
    run = train_into(f"logger={logger}", "trainer.max_epochs=1", *SMALL)
    names = {path.name for path in run.folder.iterdir()}
    assert set(present) <= names
    assert not set(absent) & names
    assert "final" in table_rows(run.output)


def test_a_sweep_gives_each_job_its_own_run(tmp_path):
    command = [
        "-m",
        "data.label_noise=0,0.25,0.5",
        "trainer.max_epochs=1",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        *SMALL,
    ]
    subprocess.run([sys.executable, str(ROOT / "scripts/train.py"), *command], cwd=tmp_path, check=True, timeout=500)
    flips = {}
    for job in ("0", "1", "2"):
        folder = tmp_path / "sweep" / job
        flips[job] = (folder / "tables" / "summary_alignment_and_errors.csv").read_text().strip().split(" of ")[-1]
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert flips == {"0": "0", "1": "359", "2": "718"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.label_nois=0.5", "label_nois"),
        ("data=digitz", "digits"),
        ("logger=cvs", "csv"),
        ("callbacks.residual_projection.rank=0", "Expected `rank` of at least 1, but got 0"),
        ("callbacks.residual_projection.rank=100000", "Expected `rank` of at most 320"),
        ("callbacks.margins.probe.num_samples=0", "Expected `num_samples` of 1 or more"),
        ("callbacks.jacobian_spectrum.schedule.every_n_epochs=abc", "Expected `every_n_epochs` in whole numbers"),
        ("callbacks.trajectory.layers=[hiden]", "the nearest are"),
        ("data.label_noise=1.5", "label_noise"),
        ("model.activation=rleu", "relu"),
        ("+callbacks.margins.colour=red", "colour"),
        ("training.loss=hinge", "least_squares"),
    ],
)
def test_a_wrong_word_is_named_before_the_first_step(train_into, override, message):
    run = train_into(*SHORT, *SMALL, override, check=False)
    assert message in run.output + run.errors
    assert "final" not in table_rows(run.output)
    rows = read_jsonl(run.folder / "metrics.jsonl") if (run.folder / "metrics.jsonl").exists() else []
    assert not [row for row in rows if "train/batch_loss" in row]


def test_another_application_finds_the_configs(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [_self_]\nhydra:\n  searchpath: ['pkg://lightning_bounds.conf']\n"
    )
    (tmp_path / "app.py").write_text(
        "import hydra\nfrom hydra.utils import instantiate\n"
        "@hydra.main(version_base='1.3', config_path='conf', config_name='config')\n"
        "def main(config):\n"
        "    for callback in config.callbacks.values():\n"
        "        print(type(instantiate(callback, _convert_='all')).__name__)\n"
        "main()\n"
    )
    command = [sys.executable, "app.py", "+callbacks=bounds", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["JacobianSpectrum", "ResidualProjection", "MarginMonitor", "TrajectoryMonitor"]
