"""Which time, margin, norm, slope and depth make the bound of nearly-linear networks smallest, before any training.

python scripts/search_bound.py
python scripts/search_bound.py data.size=14 rho=1 scan.precision_bits=[16,32] assumed_samples=60000
python scripts/search_bound.py data=fashion_mnist data.source.folder=... assumed_samples=null
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_bounds.report import heat_map_figure, text_table
from lightning_bounds.theory import nearly_linear
from lightning_bounds.theory.labels import label_matrix

_ROWS = 12


@hydra.main(version_base="1.3", config_path="../conf", config_name="search_bound")
def main(config: DictConfig) -> None:
    """Whiten the data, scan all combinations, print the best, draw heat maps, write JSON."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    datamodule = instantiate(config.data, _convert_="all")
    datamodule.setup("fit")
    scan = search(datamodule.train_inputs, datamodule.train_labels, config)
    columns = [name for name in scan.best if name not in ("divisor",)]
    rows = [[row[name] for name in columns] for row in scan.rows(_ROWS)]
    print(text_table(f"The smallest of {scan.num_scanned:,} bounds, which share delta", columns, rows))
    print("train_margin_risk is predicted from the aligned linear network; after a training take the measured one.")
    print(f"\n{scan.best_bound()}")
    folder = Path(config.paths.run)
    for name, figure in figures(scan).items():
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "figures" / f"{name}.png", dpi=150)
        print(f"Figure: {folder / 'figures' / name}.png")
    found = {"num_scanned": scan.num_scanned, "fixed": scan.fixed, "rows": scan.rows(_ROWS)}
    # JSON has no infinity.
    found["rows"] = [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in found["rows"]]
    (folder / "search_bound.json").write_text(json.dumps(found, allow_nan=False, indent=1))
    print(f"Numbers: {folder / 'search_bound.json'}\nRun folder: {folder}")


def search(inputs: torch.Tensor, classes: torch.Tensor, config: DictConfig) -> nearly_linear.Scan:
    """The bound for every combination, with the margin risk that the aligned linear network will have."""
    labels = label_matrix(classes, 1, torch.float64).flatten()
    axes: dict[str, Any] = OmegaConf.to_container(config.scan)
    grid = {name: axes[name] for name in ("times", "betas", "depths", "divisors")}
    return nearly_linear.apriori_scan(
        strength=nearly_linear.strength(inputs, labels),
        rho=config.rho,
        dim=inputs.shape[1],
        samples=config.assumed_samples or len(inputs),
        delta=config.delta,
        train_margin_risk=nearly_linear.aligned_margin_risk(inputs, labels, **grid),
        variant="corrected_tight",
        **axes,
    )


def figures(scan: nearly_linear.Scan) -> dict[str, Any]:
    """Heat maps of time against the other settings that have several values."""
    shown = [name for name, axis in scan.axes.items() if name != "time" and len(axis) > 1]
    return {
        f"time_and_{name}": heat_map_figure(
            {"smallest bound over all other settings": scan.heat_map("time", name)},
            ("time", scan.axes["time"].tolist()),
            (name, scan.axes[name].tolist()),
        )
        for name in shown
    }


if __name__ == "__main__":
    main()
