"""What theory says about a data set before any training: spectra, label complexity, bounds, steps, learning rates.

python scripts/inspect_data.py data=digits +data.classes=[3,5] data.label_noise=0
python scripts/inspect_data.py data=fashion_mnist data.source.folder=... num_samples=1000
python scripts/inspect_data.py data=mixture data.source.sigma=0.3
python scripts/inspect_data.py data=sphere data.source.function=cubic
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from inspecting.measurements import (
    Settings,
    descent_of,
    measure_column,
    measure_dynamics,
    measure_guarantees,
    measure_inputs,
    measure_kernel,
    measure_random_initialization,
    needed_widths,
)
from inspecting.samples import LabelSet, Samples, samples_of
from inspecting.tables import tables
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from lightning_bounds.report import eigenvalue_figure, label_energy_figure, predicted_residual_figure
from lightning_bounds.theory import fine_grained


@hydra.main(version_base="1.3", config_path="../conf", config_name="inspect_data")
def main(config: DictConfig) -> None:
    """Load the data, measure everything, print the tables, write figures and JSON."""
    # Matplotlib tells of each mathematical font that is not installed, and takes its own.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    settings = Settings(**OmegaConf.to_container(config.theory))
    datamodule = instantiate(config.data, _convert_="all")
    datamodule.setup("fit")
    results = inspect(samples_of(datamodule, config.num_samples, list(config.random_seeds)), settings)

    folder = Path(config.paths.run)
    for table in tables(results):
        print(f"{table}\n")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures(results).items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=150)
        print(f"Figure: {folder / 'figures' / name}.png")
    (folder / "inspect_data.json").write_text(json.dumps(plain(results), allow_nan=False, indent=1))
    print(f"Numbers: {folder / 'inspect_data.json'}")
    print(f"Run folder: {folder}")


def inspect(samples: Samples, settings: Settings) -> dict[str, Any]:
    """Every number of the inspection, as the JSON file has it."""
    inputs, label_sets, activations = *samples, settings.activations
    gram = fine_grained.relu_gram(inputs)
    worst = LabelSet({"": fine_grained.worst_case_labels(gram)}, None)
    label_sets = {**label_sets, "worst": worst}
    columns = [(name, column) for name, label_set in label_sets.items() for column in label_set.columns]
    entries = len(activations) * len(settings.alpha_bars) * sum(s.coded is not None for s in label_sets.values())
    # Without a terminal there is no bar.
    with tqdm(total=3 + 2 * len(activations) + len(columns) + entries, desc="inspecting", disable=None) as bar:
        descent = descent_of(gram)
        results: dict[str, Any] = {"settings": asdict(settings), "inputs": measure_inputs(inputs)}
        bar.update()
        results["kernels"] = {"relu": measure_kernel(inputs, "relu", gram)}
        bar.update()
        for activation in activations:
            results["kernels"][activation] = measure_kernel(inputs, activation)
            bar.update()
        results["labels"] = {
            name: {"columns": {}, **measure_dynamics(label_set, descent, settings.targets)}
            for name, label_set in label_sets.items()
        }
        for name, column in columns:
            labels = label_sets[name].columns[column]
            results["labels"][name]["columns"][column] = measure_column(inputs, labels, descent, settings)
            bar.update()
        results["random_initialization"] = []
        for activation in activations:
            for entry in measure_random_initialization(inputs, label_sets, activation, settings):
                results["random_initialization"].append(entry)
                bar.update()
        labels = next(iter(label_sets["true"].columns.values()))
        results["guarantees"] = measure_guarantees(inputs, labels, activations, settings.width)
        bar.update(1 + len(activations))
    results["needed_widths"] = needed_widths(results)
    return results


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The three figures by name."""
    spectra, energies = (
        {name: torch.tensor(entry[key], dtype=torch.float64) for name, entry in results[part].items()}
        for part, key in (("kernels", "eigenvalues"), ("labels", "cumulative_energy"))
    )
    curves = {
        f"{name} labels": (entry["curve"]["steps"], entry["curve"]["relative_residual"])
        for name, entry in results["labels"].items()
    }
    return {
        "eigenvalues": eigenvalue_figure(spectra, title="Eigenvalues of the neural covariance"),
        "label_energy": label_energy_figure(energies, title="Labels on the eigenvectors of H_infinity"),
        "predicted_residual": predicted_residual_figure(curves, title="Predicted gradient descent, step size 1 / λ₁"),
    }


def plain(value: Any) -> Any:
    """The same for JSON, which has no infinity: null, with a mapping ``nonfinite`` beside it that says which it was."""
    if isinstance(value, Mapping):
        endless = {k: str(v) for k, v in value.items() if isinstance(v, float) and not math.isfinite(v)}
        kept = {key: None if key in endless else plain(item) for key, item in value.items()}
        return {**kept, "nonfinite": endless} if endless else kept
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
