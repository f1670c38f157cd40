"""Margins gamma_a, gamma_c and gamma of batch-normalized networks against their width, exactly and as the paper does.

python scripts/margins_by_width.py
python scripts/margins_by_width.py data=fashion_mnist data.source.folder=... widths=[256,1024,4096] reference=null
python scripts/margins_by_width.py data=cifar10 data.source.folder=... data.train_samples=1000 reference.steps=30000
"""

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from lightning_bounds.report import text_table
from lightning_bounds.theory import batch_norm_margin

KINDS = ("gamma_a", "gamma_c", "gamma")
COLUMNS = ["method", "width", *(part for kind in KINDS for part in (kind, f"2 s.e. of {kind}")), "eps_N", "separable"]
_COLORS = {"gamma_a": "#0072B2", "gamma_c": "#D55E00", "gamma": "#000000"}
_LABELS = {"gamma_a": r"$\gamma_a$", "gamma_c": r"$\gamma_c$", "gamma": r"$\gamma$"}


class Margins(NamedTuple):
    """Margins of one draw of the initial weights, found by one method."""

    method: str
    width: int
    seed: int
    gamma_a: float
    gamma_c: float
    gamma: float
    eps_n: float


@hydra.main(version_base="1.3", config_path="../conf", config_name="margins_by_width")
def main(config: DictConfig) -> None:
    """Find the margins, and write the table, all numbers and the figure into the run folder."""
    # Matplotlib tells of each mathematical font that is not installed, and takes its own.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    inputs, labels = two_classes(instantiate(config.data, _convert_="all"))
    n, d = inputs.shape
    linear = batch_norm_margin.linear_max_margin(inputs, labels)
    print(f"{n} samples of {d} features, linear margin {linear:.4g}\nRun folder: {config.paths.run}", flush=True)
    reference = None if config.reference is None else OmegaConf.to_container(config.reference, resolve=True)
    found = measured(inputs, labels, list(config.widths), list(config.seeds), float(config.eps), reference)
    rows = summary(found)
    folder = Path(config.paths.run)
    report = {
        "config": OmegaConf.to_container(config, resolve=True),
        "samples": n,
        "features": d,
        "linear_margin": linear,
        "margins": [one._asdict() for one in found],
    }
    (folder / "margins_by_width.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    with (folder / "margins_by_width.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    figure(rows, linear).savefig(folder / "margins_by_width.png")
    print(f"{text_table('Margins by width', COLUMNS, rows)}\nRun folder: {config.paths.run}")


def two_classes(datamodule: Any) -> tuple[Tensor, Tensor]:
    """Training inputs ``(n, d)``, centered and in the unit ball, and labels ±1.

    Raises:
        ValueError: If there are more or fewer than two classes.
    """
    datamodule.setup("fit")
    if datamodule.num_classes != 2:
        raise ValueError(
            f"Expected data of two classes, but got {datamodule.num_classes}; set `data.classes` to two of them."
        )
    inputs = batch_norm_margin.unit_ball(datamodule.train_inputs.flatten(1))
    return inputs, 2.0 * datamodule.train_labels.double() - 1


def measured(
    inputs: Tensor,
    labels: Tensor,
    widths: Sequence[int],
    seeds: Sequence[int],
    eps: float,
    reference: dict[str, Any] | None,
) -> list[Margins]:
    """Margins of every width and seed: the exact ones, and with ``reference`` the best of trained networks.

    Any trained pair gives a lower bound, so the best of the learning rates is one: too large steps of wide networks
    bring the loss to zero in the first steps, and the margin stays small.
    """
    found = []
    progress = tqdm([(width, seed) for width in widths for seed in seeds], unit="network")
    for width, seed in progress:
        progress.set_description(f"width {width}, seed {seed}")
        a, _, V = batch_norm_margin.draw_weights(width, inputs.shape[1], seed)
        eps_N = batch_norm_margin.inverse_normalization(V, inputs, eps)
        best = batch_norm_margin.maximal_layer_margins(inputs, labels, output_weights=a, directions=V, eps=eps)
        found.append(Margins("exact", width, seed, best.gamma_a, best.gamma_c, best.gamma, eps_N))
        if reference is not None:
            rates = reference["learning_rates"]
            tried = [_trained(inputs, labels, width, seed, eps, rate, reference) for rate in rates]
            found.append(max(tried, key=lambda margins: margins.gamma))
    return found


def _trained(
    inputs: Tensor,
    labels: Tensor,
    width: int,
    seed: int,
    eps: float,
    learning_rate: float,
    reference: dict[str, Any],
) -> Margins:
    """Margins of the pair of reference networks that Adam finds with one learning rate."""
    options = {name: value for name, value in reference.items() if name != "learning_rates"}
    (trained,) = batch_norm_margin.reference_network_margins(
        inputs, labels, widths=[width], seeds=[seed], eps=eps, learning_rate=learning_rate, **options
    )
    margins = (trained.gamma_a, trained.gamma_c, trained.gamma)
    return Margins("reference networks", width, seed, *margins, trained.eps_n)


def summary(found: Sequence[Margins]) -> list[list[str | float]]:
    """One row for each method and width: means over the seeds, two standard errors, seeds of positive margin."""
    rows: list[list[str | float]] = []
    for method, width in dict.fromkeys((one.method, one.width) for one in found):
        group = [one for one in found if (one.method, one.width) == (method, width)]
        cells: list[float] = []
        for kind in KINDS:
            values = torch.tensor([getattr(one, kind) for one in group], dtype=torch.float64)
            error = 2 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            cells += [float(values.mean()), error]
        eps_N = sum(one.eps_n for one in group) / len(group)
        positive = f"{sum(one.gamma > 0 for one in group)} of {len(group)}"
        rows.append([method, width, *cells, eps_N, positive])
    return sorted(rows, key=lambda row: str(row[0]))


def figure(rows: Sequence[Sequence[Any]], linear: float) -> Figure:
    """Margins against the width, one panel for each method, error bars of two standard errors."""
    methods = list(dict.fromkeys(row[0] for row in rows))
    drawn = Figure(figsize=(5.2 * len(methods), 4.2), layout="constrained")
    panels = drawn.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for method, panel in zip(methods, panels, strict=True):
        chosen = [row for row in rows if row[0] == method]
        widths = [row[1] for row in chosen]
        for number, kind in enumerate(KINDS):
            means, errors = ([row[2 + 2 * number + k] for row in chosen] for k in (0, 1))
            panel.errorbar(widths, means, errors, marker="o", capsize=3, color=_COLORS[kind], label=_LABELS[kind])
        panel.axhline(linear, color="0.5", linestyle="--", label="linear margin")
        panel.set_xscale("log", base=2)
        panel.set(xlabel="width m", title=method)
        panel.grid(color="0.9")
    panels[0].set_ylabel("margin, two standard errors")
    drawn.suptitle("Margins of batch-normalized networks", fontweight="bold")
    panels[0].legend(frameon=False)
    return drawn


if __name__ == "__main__":
    main()
