"""The tables that an inspection prints, with a word on what is in them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from inspecting.measurements import best_random_initialization
from lightning_bounds.report import format_number, text_table

_INPUTS = {
    "samples": "n",
    "features": "d",
    "norm_deviation": "max | |x| - 1 |; the theorems assume rows of norm 1",
    "spectral_norm": "|X|, largest singular value of the inputs",
    "separation": "min |x_i ± x_j| over pairs; 0 for equal or opposite inputs",
    "khatri_rao_sigma_min": "smallest singular value of X * X; 0 if n > d (d + 1) / 2",
    "kappa": "sqrt(d/n) |X| / sigma_min(X * X)^2, condition number of the inputs",
}
_KERNELS = {
    "largest_eigenvalue": "largest",
    "smallest_eigenvalue": "smallest",
    "condition_number": "condition number",
    "effective_dimension": "trace / largest",
    "kappa_tilde": "sqrt(d/n) |X| / smallest",
    "learning_rate_monotone": "1 / largest",
    "learning_rate_limit": "2 / largest",
}
_GUARANTEES = {
    "learning_rate": "sum loss",
    "mean_learning_rate": "mean loss",
    "rate": "q",
    "initial_residual": "|r_0|",
    "radius": "|W_t - W_0|",
    "probability": "probability",
}
# Ranks at which the label energy is printed, and how many columns of a set of labels are.
_RANKS = (1, 10, 100)
_MOST_COLUMNS = 10


def tables(results: Mapping[str, Any]) -> list[str]:
    """All tables as text, each with its explanation below, in the order of reading."""
    parts = (_inputs, _kernels, _labels, _columns, _random_initialization, _guarantees, _widths, _conditions)
    return [part(results) for part in parts]


def _inputs(results: Mapping[str, Any]) -> str:
    rows = [[name, results["inputs"][name], meaning] for name, meaning in _INPUTS.items()]
    return text_table("Inputs", ["quantity", "value", "what it is"], rows)


def _kernels(results: Mapping[str, Any]) -> str:
    rows = [[name, *(kernel[key] for key in _KERNELS)] for name, kernel in results["kernels"].items()]
    return _explained(
        text_table("Neural covariance", ["activation", *_KERNELS.values()], rows),
        "Eigenvalues of E[φ'(Xw) φ'(Xw)^T] ∘ X X^T over w ~ N(0, I); that of relu is H_infinity.",
        "On the sum loss, a learning rate of 1 / largest is the highest at which gradient descent is monotone, as the",
        "theorems assume; from 2 / largest on it diverges. Averaged over n samples, the loss takes n times as much.",
    )


def _labels(results: Mapping[str, Any]) -> str:
    sets = results["labels"]
    ranks = [rank for rank in _RANKS if rank < results["inputs"]["samples"]]
    targets = list(sets["true"]["steps_to_relative_residual"])
    rows = [
        [
            name,
            math.fsum(column["complexity"] for column in entry["columns"].values()) / len(entry["columns"]),
            *(entry["cumulative_energy"][rank - 1] for rank in ranks),
            *(entry["steps_to_relative_residual"][target] for target in targets),
        ]
        for name, entry in sets.items()
    ]
    columns = [*(f"energy, r = {rank}" for rank in ranks), *(f"steps to {target}" for target in targets)]
    return _explained(
        text_table("Labels on H_infinity", ["labels", "complexity", *columns], rows),
        "complexity: sqrt(2 y^T H^-1 y / n), the mean over the columns below; it bounds the error on fresh data.",
        "energy: share of the labels on the r leading eigenvectors, which are learned first.",
        "steps: of gradient descent at the learning rate 1 / largest, until |y - u(k)| / |y| has fallen so far.",
    )


def _columns(results: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            column or "all",
            entry["complexity"],
            entry["relative_accuracy"],
            entry["status"],
            entry["generalization_bound"]["value"],
            _verdict(entry["generalization_bound"]),
        ]
        for name, label_set in results["labels"].items()
        for column, entry in list(label_set["columns"].items())[:_MOST_COLUMNS]
    ]
    names = ["labels", "column", "complexity", "accuracy", "kernel", "bound", "verdict"]
    return _explained(
        text_table("Labels of a single output", names, rows),
        f"A class against the rest, or two classes as -1 and +1; {_MOST_COLUMNS} of a kind at most, all in the file.",
        "accuracy: what rounding may do to y^T H^-1 y, relative to itself.",
        "bound: complexity + sqrt(log(n / (lambda_0 delta)) / n), Arora et al. 2019, Theorem 5.1, hidden factor as 1.",
    )


def _random_initialization(results: Mapping[str, Any]) -> str:
    entries = results["random_initialization"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["labels"], entry["activation"]), []).append(entry)
    rows = []
    for (name, activation), group in groups.items():
        best = min(group, key=lambda entry: entry["bound"]["value"])["bound"]
        bounds = [entry["bound"]["value"] for entry in group]
        assumed = best["assumptions"]
        dimension, largest = int(assumed["information_dimension"]), max(best["terms"], key=best["terms"].__getitem__)
        rows.append([name, activation, *bounds, dimension, largest, assumed["iterations"], _verdict(best)])
    cutoffs = [f"{alpha_bar:g}" for alpha_bar in dict.fromkeys(entry["alpha_bar"] for entry in entries)]
    names = ["labels", "activation", *cutoffs, "dimension", "largest term", "steps", "verdict"]
    return _explained(
        text_table("Bound on the test error after early stopping, by relative cut-off", names, rows),
        "Oymak et al. 2019, Theorem 3.2, over alpha_bar. Of the smallest: dimension of the information space, the term",
        "that weighs most, and the number of steps at the largest learning rate that the theorem allows.",
    )


def _guarantees(results: Mapping[str, Any]) -> str:
    n = results["inputs"]["samples"]
    rows = []
    for activation, guarantee in results["guarantees"].items():
        numbers = {**guarantee, "mean_learning_rate": n * guarantee["learning_rate"]}
        rows.append([activation, *(numbers[name] for name in _GUARANTEES)])
    return _explained(
        text_table("Guaranteed convergence", ["activation", *_GUARANTEES.values()], rows),
        "Oymak & Soltanolkotabi 2019, Theorem 6.3 (relu) and 6.2: learning rates for the two losses, the rate q in",
        "|r_t|^2 <= (1 - q)^t |r_0|^2, and bounds on the first residual and on the distance from the initial weights.",
    )


def _widths(results: Mapping[str, Any]) -> str:
    widths = results["settings"]["widths"]
    rows = [
        [row["theorem"], row["factor"], row["width"], *("yes" if width >= row["width"] else "no" for width in widths)]
        for row in results["needed_widths"]
    ]
    return _explained(
        text_table("Hidden units that suffice", ["theorem", "factor", "needed", *(f"{k}?" for k in widths)], rows),
        "factor: the one that the theorem hides, taken as 1, or that of its proof.",
    )


def _conditions(results: Mapping[str, Any]) -> str:
    column = next(iter(results["labels"]["true"]["columns"].values()))
    reports = {"Arora et al. 2019, Theorem 5.1": column["generalization_bound"]}
    for name, guarantee in results["guarantees"].items():
        reports[f"Oymak & Soltanolkotabi 2019, {name}"] = guarantee
    best = best_random_initialization(results["random_initialization"], "true")
    if best is not None:
        reports[f"Oymak et al. 2019, Theorem 3.2, {best['activation']}, {best['alpha_bar']:g}"] = best["bound"]
    rows = list(_condition_rows(reports))
    return _explained(
        text_table("Conditions", ["theorem", "condition", "actual", "required", "status"], rows),
        "Of the theorems for the true labels, the first column of them. unknown: it depends on a factor that the paper",
        "hides, and holds for factors up to the one that is shown.",
    )


def _condition_rows(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for theorem, report in reports.items():
        for item in report["conditions"]:
            factors = "" if item["ratio"] is None else f", for factors up to {format_number(float(item['ratio']))}"
            required = f"{item['relation']} {_text(item['required'])}".strip()
            yield [theorem, item["name"], _text(item["actual"]), required, item["status"] + factors]


def _explained(table: str, *lines: str) -> str:
    return "\n".join([table, *(f"  {line}" for line in lines)])


def _verdict(report: Mapping[str, Any]) -> str:
    verdict = "vacuous" if report["vacuous"] else "not vacuous"
    return verdict if report["valid"] else f"{verdict}, conditions violated"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else format_number(float(value))
