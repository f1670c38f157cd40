"""The table, the ratios that are promised, and the plot of cost over size."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
GIB = 2**30
# A result that is further from the truth is not counted as a result.
CORRECT = 1e-3
OURS32, OURS64, BUDGETED = "ours float32", "ours float64 (default)", "ours float32, within the budget"
COLD, WARM = "ours cold", "ours warm"
PLAIN, OBSERVED = "training", "training with callbacks"


def table(case: Mapping[str, Any]) -> str:
    """One case as text: a line for each method, fastest first, with what could not be measured and why."""
    columns = ("method", "seconds", "runs", "peak GiB", "Gram or residual", "worst σ", "top 50 σ", "note")
    rows = [columns, *(_cells(row, case) for row in sorted(case["rows"], key=lambda row: row.get("seconds", math.inf)))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"truth: {case['truth']}"] if case.get("truth") else []
    if "limit" in case:
        limit = case["limit"]
        notes.append(
            f"machine: forward {limit['forward_seconds']:.3g} s, forward + backward "
            f"{limit['forward_backward_seconds']:.3g} s, products {limit['product_seconds']:.3g} s; "
            f"limit {limit['limit_seconds']:.3g} s"
        )
    return "\n".join([f"{case['name']}", *(f"  {line}" for line in (*lines, *notes))])


def claims(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every ratio that can be formed from what was measured, with what is promised.

    Returns:
        Mappings with ``claim``, ``value``, ``required`` (as text) and ``holds``; the last two are None where nothing is
        promised.
    """
    by_name = {case["name"]: {row["method"]: row for row in case["rows"] if row["status"] == "ok"} for case in cases}
    found: list[dict[str, Any]] = []

    def add(claim: str, value: float | None, least: float | None = None, most: float | None = None) -> None:
        if value is None:
            return
        required = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else None
        holds = value >= least if least is not None else value <= most if most is not None else None
        found.append({"claim": claim, "value": value, "required": required, "holds": holds})

    for n, factor in ((128, 1.2), (512, 1.5), (2048, 1.8)):
        rows = by_name.get(f"W1 all K=3 n={n}", {})
        peer = best_peer(rows)
        add(f"W1 n={n}: best peer / ours float32, time", _ratio(peer, rows.get(OURS32)), least=factor)
        add(f"W1 n={n}: ours float64 / best peer, time", _ratio(rows.get(OURS64), peer), most=1.25)
        for ours in (OURS32, OURS64):
            value = _ratio(peer, rows.get(ours), _with_eigenvalues)
            add(f"W1 n={n}: best peer / {ours}, time with eigenvalues", value)
        if n == 512:
            add("W1 n=512: ours float32 / best peer, memory", _ratio(rows.get(OURS32), peer, _peak), most=0.6)
    for n in (1000, 4000):
        rows = by_name.get(f"W2 hidden width=10000 K=1 n={n}", {})
        add(f"W2 K=1 n={n}: best peer / ours float32, time", _ratio(best_peer(rows), rows.get(OURS32)), least=1)
        add(f"W2 K=1 n={n}: nngeometry / ours", _ratio(best_peer(rows, "nngeometry"), rows.get(OURS32)), least=2)
    rows = by_name.get("W2 all width=10000 K=10 n=1000", {})
    add("W2 K=10: nngeometry / ours", _ratio(best_peer(rows, "nngeometry"), rows.get(OURS32)), least=4.5)
    add("W2 K=10: neural-tangents / ours", _ratio(best_peer(rows, "neural-tangents"), rows.get(OURS32)), least=2.5)
    rows = by_name.get("W3 all K=3 n=1024", {})
    lowrank = best_peer(rows, "torch.func jacobian + svd_lowrank")
    add("W3 n=1024: torch.func + svd_lowrank / ours cold", _ratio(lowrank, _correct(rows.get(COLD))), least=2)
    add("W3 n=1024: torch.func + svd_lowrank / ours warm", _ratio(lowrank, _correct(rows.get(WARM))), least=5)
    for method in (COLD, WARM):
        row = by_name.get("W3 all K=3 n=4096", {}).get(method)
        add(f"W3 n=4096: GiB of {method}", row and row["peak_bytes"] / GIB, most=8)
    rows = by_name.get("W4 all width=128 K=10 n=256", {})
    ours = _fastest([rows[method] for method in (OURS32, OURS64) if method in rows])
    add("W4: best correct peer / ours", _ratio(best_peer(rows), ours), least=2)
    rows = by_name.get("W5 all K=10 n=60000", {})
    add("W5: with / without callbacks, time", _ratio(rows.get(OBSERVED), rows.get(PLAIN)), most=1.03)
    for case in cases:
        rows = by_name[case["name"]]
        if BUDGETED in rows:
            value = rows[BUDGETED]["peak_bytes"] / case["memory_budget"]
            add(f"{case['name']}: peak / memory_budget", value, most=1.2)
        if PLAIN in rows and OBSERVED in rows:
            equal = float(rows[PLAIN]["weights"] == rows[OBSERVED]["weights"])
            add(f"{case['name']}: equal weights with and without callbacks", equal, least=1)
    for label, size, most in (("p", "p", 1.1), ("n K", "num_samples", 2.1)):
        points = cost_points(cases, size)
        if len(points) > 2:
            # Between the two largest: small sizes are dominated by what does not grow.
            (x0, y0), (x1, y1) = points[-2:]
            add(f"cost: power of {label} that time grows with", math.log(y1 / y0) / math.log(x1 / x0), most=most)
    return found


def best_peer(rows: Mapping[str, Row], prefix: str = "") -> Row | None:
    """The fastest method that is not ours, whose name begins with ``prefix``, among those with a right result."""
    peers = [row for name, row in rows.items() if not name.startswith("ours") and name.startswith(prefix)]
    return _fastest([row for row in peers if _correct(row)])


def cost_points(cases: Sequence[Mapping[str, Any]], size: str) -> list[tuple[float, float]]:
    """Sizes and times of our method in the sweep over ``"p"`` or ``"num_samples"``, ascending."""
    network = "mlp" if size == "p" else "resnet"
    points = [
        (float(case[size]), row["seconds"])
        for case in cases
        if case["work"] == "cost" and case["network"] == network
        for row in case["rows"]
        if row["method"] == OURS32 and row["status"] == "ok"
    ]
    return sorted(points)


def claims_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The ratios as text."""
    words = {True: "holds", False: "FAILS", None: "     "}
    lines = [
        f"  {words[claim['holds']]}  {claim['claim']}: {claim['value']:.3g}"
        + (f" (required: {claim['required']})" if claim["required"] else "")
        for claim in found
    ]
    return "\n".join(["Ratios", *lines]) if lines else "Ratios: none can be formed from these sizes"


def plot(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw time over ``p`` and over ``n``, with lines of slope one and two beside them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        panels = (("p", 1, "parameters p (two-layer network)"), ("num_samples", 2, "samples n (ResNet-20, K = 3)"))
        for axes, (size, power, label) in zip(figure.subplots(1, 2), panels, strict=True):
            points = cost_points(cases, size)
            if points:
                x, y = zip(*points, strict=True)
                axes.loglog(x, y, "o-", label="measured")
                axes.loglog(
                    x, [y[-1] * (value / x[-1]) ** power for value in x], "--", color="gray", label=f"power {power}"
                )
                axes.legend()
            # Plain numbers need none of the fonts of mathematics.
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("")
            places = [x for x, _ in points]
            axes.set_xticks(places, [f"{x / 1e6:.2g} M" if size == "p" else f"{x:g}" for x in places])
            axes.set(xlabel=label, ylabel="seconds for a Gram matrix")
        figure.savefig(path, dpi=150)


def _cells(row: Row, case: Mapping[str, Any]) -> tuple[str, ...]:
    if row["status"] != "ok":
        return row["method"], "-", "-", "-", "-", "-", "-", f"{row['status']}: {row['reason']}"
    notes = []
    if "eigenvalue_seconds" in row:
        notes.append(f"eigenvalues {row['eigenvalue_seconds']:.2g} s")
    if "limit" in case and row["method"].startswith("ours float32"):
        notes.append(f"{case['limit']['limit_seconds'] / row['seconds']:.0%} of the machine's limit")
    if "weights" in row:
        notes.append(f"weights {row['weights']}")
    error = row.get("gram_error", row.get("residual"))
    numbers = [error, row.get("singular_value_error"), row.get("top_error")]
    cells = ["-" if number is None else f"{number:.1e}" for number in numbers]
    return (
        row["method"],
        f"{row['seconds']:.3g}",
        str(row["runs"]),
        f"{row['peak_bytes'] / GIB:.2f}",
        *cells,
        ", ".join(notes),
    )


def _correct(row: Row | None) -> Row | None:
    """The row if its result is right: Gram matrices as a whole, triplets in their singular values."""
    if row is None:
        return None
    return row if row.get("gram_error", row.get("singular_value_error", 0.0)) <= CORRECT else None


def _fastest(rows: Sequence[Row]) -> Row | None:
    return min(rows, key=_seconds, default=None)


def _ratio(numerator: Row | None, denominator: Row | None, of: Any = None) -> float | None:
    if numerator is None or denominator is None:
        return None
    of = of or _seconds
    return float(of(numerator) / max(of(denominator), 1e-9))


def _seconds(row: Row) -> float:
    return float(row["seconds"])


def _peak(row: Row) -> float:
    return float(row["peak_bytes"])


def _with_eigenvalues(row: Row) -> float:
    return float(row["seconds"] + row["eigenvalue_seconds"])
