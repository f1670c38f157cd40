"""Output margins of a classifier: by how much the right class wins."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bounds.theory.labels import class_indices

# The quantiles that are shown where nobody asks for others.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def output_margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """Margin of every sample: ``f_y(x) - max_{c != y} f_c(x)``, and ``y f(x)`` for a single output.

    A sample is classified correctly if and only if its margin is positive; a margin of zero counts as an error.

    Args:
        outputs: Network outputs ``f``, shape ``(n, K)``, or ``(n,)`` for a single output.
        targets: Classes ``(n,)``, coded rows ``(n, K)``, or labels ±1 (or 0 and 1) for a single output.

    Returns:
        Margins, shape ``(n,)``, in the units of the outputs.

    Raises:
        ValueError: If the shapes do not match or a label is out of range.

    References:
        Bartlett, Foster, Telgarsky 2017, section 1 (multiclass); Arora et al. 2019, section 3 (binary, ``y f``).

    Example:
        >>> output_margins(torch.tensor([[0.1, 0.9], [0.6, 0.4]]), torch.tensor([1, 1]))
        tensor([ 0.8000, -0.2000])
    """
    outputs = outputs.unsqueeze(1) if outputs.dim() == 1 else outputs
    if outputs.dim() != 2 or targets.dim() == 0 or outputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"Expected outputs (n, K) and targets of the same n, "
            f"but got {tuple(outputs.shape)} and {tuple(targets.shape)}."
        )
    classes = class_indices(targets, outputs.shape[1]).to(outputs.device)
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * classes - 1).to(outputs.dtype)
    right = outputs.gather(1, classes.unsqueeze(1))
    others = outputs.scatter(1, classes.unsqueeze(1), -torch.inf)
    return right.squeeze(1) - others.amax(dim=1)


def margin_statistics(margins: Tensor, quantiles: Sequence[float] = QUANTILES) -> dict[str, Tensor]:
    """Mean and quantiles of margins.

    The quantile ``q`` of ``n`` sorted margins lies at position ``q (n - 1)``, linearly between its two neighbors: the
    same as ``torch.quantile``, but of any number of margins.

    Args:
        margins: Shape ``(n,)``, any order.
        quantiles: Which quantiles, different numbers in [0, 1].

    Returns:
        Scalars by name: ``mean``, and in the order of ``quantiles`` the ``minimum`` for 0, the ``maximum`` for 1,
        ``quantile_05`` for 0.05 and ``quantile_02_5`` for 0.025.

    Raises:
        ValueError: If there is no margin, one is not finite, or quantiles are missing, repeated or out of range.

    Example:
        >>> margin_statistics(torch.tensor([3.0, -1.0, 1.0]), quantiles=[0.0, 0.5])
        {'mean': tensor(1.), 'minimum': tensor(-1.), 'quantile_50': tensor(1.)}
    """
    check_quantiles(quantiles)
    if len(margins) == 0:
        raise ValueError("Expected at least one sample, but got none; `update` a metric before `compute`.")
    not_finite = int((~margins.isfinite()).sum())
    if not_finite:
        raise ValueError(
            f"Expected finite margins, but {not_finite} of {len(margins)} are NaN or infinite; "
            "the outputs of the network have diverged."
        )
    ascending = margins.sort().values
    return {"mean": margins.mean(), **{_quantile_name(q): _quantile(ascending, q) for q in quantiles}}


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Raise ValueError unless the quantiles are different numbers in [0, 1], at least one."""
    if not quantiles or len(set(quantiles)) != len(quantiles) or not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"Expected `quantiles` to be different numbers in [0, 1], but got {tuple(quantiles)}.")


def _quantile(ascending: Tensor, q: float) -> Tensor:
    position = q * (len(ascending) - 1)
    lower, upper = math.floor(position), math.ceil(position)
    return torch.lerp(ascending[lower], ascending[upper], position - lower)


def _quantile_name(q: float) -> str:
    if q in (0, 1):
        return "maximum" if q else "minimum"
    whole, _, decimals = f"{100 * q:.10f}".rstrip("0").rstrip(".").partition(".")
    return f"quantile_{whole:0>2}_{decimals}" if decimals else f"quantile_{whole:0>2}"
