"""What the machine itself can do, so that a time can be read as a fraction of it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarking.cases import Case, differentiable_attention
from benchmarking.truth import load_case

_BATCH = 64


def machine_limits(sizes: str) -> dict[str, float]:
    """Rates of a square matrix product, in FLOP/s, and the number of threads."""
    size = 4096 if sizes == "full" else 512
    rates: dict[str, float] = {"threads": torch.get_num_threads()}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        a, out = torch.rand(size, size, dtype=dtype), torch.empty(size, size, dtype=dtype)
        # The argument is bound now, the call comes at once.
        rates[f"gemm_{name}"] = 2 * size**3 / _median_seconds(lambda a=a, out=out: torch.mm(a, a, out=out))
    return rates


def gram_limit(case: Case, folder: Path, gemm_rate: float) -> dict[str, float]:
    """What a Gram matrix cannot take less than, when nothing but its products and passes costs time.

    ``forward + K backward + flops / rate``, with the flops of a symmetric product: ``(n K)² p`` with an explicit
    Jacobian; for the MLP ``n² d + (n K)² width`` (hidden layer) and ``n² width`` (output layer).
    """
    network, inputs = load_case(case, folder)
    # Parameters that are not asked for cost the least backward pass nothing.
    p = sum(parameter.numel() for parameter in network.parameters())
    batches = inputs.split(_BATCH)

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                network(batch)

    def forward_backward() -> None:
        for batch in batches:
            network.zero_grad()
            network(batch).sum().backward()

    with differentiable_attention():
        seconds, both = _median_seconds(forward), _median_seconds(forward_backward)
    n, K = case.num_samples, case.num_outputs
    flops = float((n * K) ** 2 * p)
    if case.network == "mlp":
        flops = float(n**2 * 784 + (n * K) ** 2 * case.width + (0 if case.layers else n**2 * case.width))
    return {
        "forward_seconds": seconds,
        "forward_backward_seconds": both,
        "product_seconds": flops / gemm_rate,
        "limit_seconds": seconds + K * max(0.0, both - seconds) + flops / gemm_rate,
    }


def _median_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
