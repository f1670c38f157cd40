"""What the theorems cost beside what they are made of: the kernel of a data set, a scan of bounds, exact margins."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarking.worker import peak_bytes, reset_peak, resident_bytes
from lightning_bounds.theory import batch_norm_margin, fine_grained, nearly_linear


class Sizes(NamedTuple):
    """How large the works are.

    Attributes:
        kernel: ``(n, d)`` of the data whose kernel is summarized.
        scan: Times, margins, values of beta and of epsilon, and depths of the scan; their product counts.
        margins: ``(n, width, d)`` of the batch-normalized network.
    """

    kernel: tuple[int, int]
    scan: tuple[int, int, int, int, int]
    margins: tuple[int, int, int]


SIZES = {
    "full": Sizes((10_000, 784), (25, 4, 10, 5, 2), (1000, 4096, 784)),
    "small": Sizes((600, 50), (3, 2, 2, 2, 2), (30, 64, 10)),
}


def kernel_costs(sizes: Sizes, repeats: int) -> dict[str, float]:
    """Seconds of ``H_infinity`` with its extreme eigenvalues and the complexity measure, beside its two ingredients.

    Returns:
        ``seconds``, ``product_seconds`` (``X X^T``), ``cholesky_seconds``, ``ratio`` (of medians: the first over the
        sum of the others), ``peak_grams`` (peak memory of the first run beyond the data, in Gram matrices).
    """
    n, d = sizes.kernel
    inputs = torch.nn.functional.normalize(_random(n, d))
    labels = torch.where(_random(n) < 0, -1.0, 1.0).double()
    held = resident_bytes()
    reset_peak()
    summaries = [_seconds(lambda: fine_grained.kernel_summary(inputs, labels))]
    peak = (peak_bytes() - held) / (n * n * inputs.itemsize)
    positive = inputs @ inputs.T
    positive.diagonal().add_(1)
    products, factors = [], []
    for turn in range(repeats):
        products.append(_seconds(lambda: inputs @ inputs.T))
        factors.append(_seconds(lambda: torch.linalg.cholesky(positive)))
        if turn:
            summaries.append(_seconds(lambda: fine_grained.kernel_summary(inputs, labels)))
    ours, product, factor = median(summaries), median(products), median(factors)
    return {
        "n": n,
        "d": d,
        "seconds": ours,
        "product_seconds": product,
        "cholesky_seconds": factor,
        "ratio": ours / (product + factor),
        "peak_grams": peak,
    }


def scan_costs(sizes: Sizes, repeats: int) -> dict[str, float]:
    """Seconds on one core of an a-priori scan, with the theorem's own form and with the corrected one."""
    torch.set_num_threads(1)
    times, divisors, betas, epsilons, depths = sizes.scan
    settings: dict[str, Any] = {
        "strength": 0.65,
        "rho": 3.7,
        "dim": 49,
        "samples": 60_000,
        "delta": 0.01,
        "times": torch.linspace(0.1, 3, times).tolist(),
        "divisors": torch.logspace(0, 2, divisors).tolist(),
        "betas": torch.logspace(-3, -0.5, betas).tolist(),
        "epsilons": torch.logspace(-3, -1, epsilons).tolist(),
        "depths": tuple(range(2, 2 + depths)),
        "orders": (2,),
    }
    found = {"combinations": float(times * divisors * betas * epsilons * depths)}
    for variant in ("theorem", "corrected_tight"):
        runs = [_seconds(lambda v=variant: nearly_linear.apriori_scan(**settings, variant=v)) for _ in range(repeats)]
        found[f"{variant}_seconds"] = median(runs)
    return found


def margin_costs(sizes: Sizes, repeats: int) -> dict[str, float]:
    """Seconds of the exact margins of both layers of a batch-normalized network, on random labels."""
    n, width, d = sizes.margins
    inputs, labels = _random(n, d), torch.where(_random(n) < 0, -1.0, 1.0).double()
    weights = batch_norm_margin.draw_weights(width, d, seed=0)
    options = {"output_weights": weights.output_weights, "directions": weights.directions}
    runs = [
        _seconds(lambda: batch_norm_margin.maximal_layer_margins(inputs, labels, **options)) for _ in range(repeats)
    ]
    return {"n": n, "width": width, "d": d, "seconds": median(runs)}


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
