"""A search, before the training, for the setting whose bound is smallest."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.bound import Bound
from lightning_bounds.theory.nearly_linear.apriori import apriori_bound
from lightning_bounds.theory.nearly_linear.arguments import as_times, check_order, check_setting
from lightning_bounds.theory.nearly_linear.deviation import check_variant, counting_term, expected_norm, log_deviations
from lightning_bounds.theory.nearly_linear.envelopes import envelope


@dataclass(frozen=True, eq=False)
class Scan:
    """Bounds over a grid of settings, which share the probability of failure.

    Attributes:
        axes: Values along each axis, in the order of the axes: ``time``, ``beta``, ``epsilon``, ``depth``, ``margin``
            (or ``divisor``), ``order``, ``precision_bits``.
        values: The bounds, one dimension per axis, float64.
        train_margin_risk: What was given, in that shape.
        counting: Their counting terms, in that shape.
        deviation: Their deviation terms, in that shape.
        margin: Their margins ``γ``, in that shape.
        fixed: What was not scanned.
    """

    axes: dict[str, Tensor]
    values: Tensor
    train_margin_risk: Tensor
    counting: Tensor
    deviation: Tensor
    margin: Tensor
    fixed: dict[str, Any] = field(repr=False)

    @property
    def num_scanned(self) -> int:
        """``K``, among which ``δ`` is shared."""
        return self.values.numel()

    def rows(self, limit: int = 10) -> list[dict[str, float]]:
        """The smallest bounds in ascending order: setting, terms and value of each."""
        order = self.values.flatten().argsort(stable=True)[:limit].tolist()
        return [self._row(index) for index in order]

    @property
    def best(self) -> dict[str, float]:
        """The first of the rows."""
        return self.rows(1)[0]

    def best_bound(self, **options: Any) -> Bound:
        """The smallest bound with its conditions; ``options`` go to :func:`apriori_bound`.

        Example:
            >>> setting = dict(strength=0.65, rho=1.0, dim=49, samples=60000, delta=0.01)
            >>> scan = apriori_scan(**setting, times=[1.0, 2.0], betas=[1e-3], epsilons=[1e-3])
            >>> round(scan.best_bound().value, 9) == round(scan.best["value"], 9)
            True
        """
        row = self.best
        setting = {name: row[name] for name in ("time", "beta", "epsilon", "margin", "train_margin_risk")}
        counts: dict[str, Any] = {name: int(row[name]) for name in ("depth", "order", "precision_bits")}
        given: dict[str, Any] = {**self.fixed, **setting, **counts, "scanned": self.num_scanned, **options}
        return apriori_bound(**given)

    def heat_map(self, rows: str = "time", columns: str = "beta") -> Tensor:
        """The smallest bound for each pair of values of two axes, shape ``(len(axes[rows]), len(axes[columns]))``.

        Raises:
            ValueError: If a name is no axis, or both are the same.
        """
        names = list(self.axes)
        if rows not in names or columns not in names or rows == columns:
            raise ValueError(f"Expected two different axes among {names}, but got {rows!r} and {columns!r}.")
        first, second = names.index(rows), names.index(columns)
        return self.values.movedim((first, second), (0, 1)).flatten(2).amin(2)

    def _row(self, index: int) -> dict[str, float]:
        places = [int(place) for place in torch.unravel_index(torch.tensor(index), self.values.shape)]
        row = {name: float(axis[place]) for (name, axis), place in zip(self.axes.items(), places, strict=True)}
        parts = {
            "margin": self.margin,
            "train_margin_risk": self.train_margin_risk,
            "counting": self.counting,
            "deviation": self.deviation,
            "value": self.values,
        }
        return row | {name: float(part[tuple(places)]) for name, part in parts.items()}


def apriori_scan(
    *,
    strength: float,
    rho: float,
    dim: int,
    samples: int,
    delta: float,
    times: Sequence[float] | Tensor,
    betas: Sequence[float],
    epsilons: Sequence[float],
    depths: Sequence[int] = (2,),
    divisors: Sequence[float] = (1.0, 10.0, 100.0),
    margins: Sequence[float] | None = None,
    orders: Sequence[int] = (1, 2),
    precision_bits: Sequence[int] = (32,),
    train_margin_risk: float | Tensor = 0.0,
    variant: str = "theorem",
    input_norm: float | None = None,
) -> Scan:
    """:func:`apriori_bound` for every combination, with ``δ`` shared among all of them (erratum E419).

    Without a training the margin risk is unknown and taken as 0, so that the smallest gap is that at the shortest time
    and the largest margin: scan times in which the network can learn, such as those of
    :func:`~lightning_bounds.theory.nearly_linear.training_time`, or give the risks.

    Args:
        strength: ``s``.
        rho: ``ρ``.
        dim: ``d``.
        samples: ``m``.
        delta: ``δ``, for all combinations together.
        times: Training times.
        betas: Norms of the initial layers.
        epsilons: Values of ``ε``.
        depths: Numbers of layers.
        divisors: ``q`` in ``γ = β^L / q``, the size of the initial outputs; the experiments, with ``L = 2``, take
            ``β²/q`` (not the ``q`` of the limits, erratum E420).
        margins: Values of ``γ`` itself, in the place of ``divisors``.
        orders: Values of ``κ``.
        precision_bits: Values of ``p``.
        train_margin_risk: ``R̂_γ``, one number or one for each combination, in a shape that broadcasts to the grid.
        variant: As in :func:`apriori_bound`.
        input_norm: As in :func:`apriori_bound`.

    Raises:
        ValueError: If an axis is empty, or a number is out of range.

    References:
        Theorem 5.2 and section 6, errata E419, E420.

    Example:
        >>> setting = dict(strength=0.65, rho=1.0, dim=49, samples=60000, delta=0.01)
        >>> scan = apriori_scan(**setting, times=[2.0, 3.0], betas=[1e-3, 0.1], epsilons=[1e-3, 1e-2])
        >>> best = scan.best
        >>> scan.num_scanned, best["time"], best["beta"], best["epsilon"], best["order"], round(best["value"], 4)
        (48, 2.0, 0.001, 0.001, 2.0, 0.1357)
    """
    check_variant(variant)
    for name, values in (("betas", betas), ("epsilons", epsilons), ("depths", depths)):
        _check_axis(name, values)
    for setting in itertools.product(betas, epsilons, depths):
        names = ("beta", "epsilon", "depth")
        check_setting(strength=strength, rho=rho, **dict(zip(names, setting, strict=True)))  # type: ignore[arg-type]
    sizes = divisors if margins is None else margins
    name = "divisors" if margins is None else "margins"
    for number in _check_axis(name, sizes):
        check_positive(name, number)
    for number in _check_axis("orders", orders):
        check_order(number)
    numbers = {
        "time": times, "beta": betas, "epsilon": epsilons, "depth": depths,
        "divisor" if margins is None else "margin": sizes, "order": orders, "precision_bits": precision_bits,
    }  # fmt: skip
    axes = {name: torch.as_tensor(values, dtype=torch.float64) for name, values in numbers.items()}
    _check_axis("times", as_times(axes["time"]))
    shape = tuple(len(axis) for axis in axes.values())
    time, beta, epsilon, depth, size, *_ = (
        axis.reshape([-1 if place == own else 1 for place in range(len(shape))])
        for own, axis in enumerate(axes.values())
    )
    constants = envelope(
        torch.tensor(float(strength), dtype=torch.float64),
        torch.tensor(float(rho), dtype=torch.float64),
        beta, epsilon, depth, root=variant == "printed",
    )  # fmt: skip
    logs = torch.cat(log_deviations(constants, time, expected_norm(dim, input_norm), orders, variant), dim=-2)
    log_margins = depth * beta.log() - size.log() if margins is None else size.log()
    kappa = axes["order"].unsqueeze(-1)
    # A linear network is its own proxy, whatever u is.
    deviation = torch.where(epsilon > 0, (logs + kappa * epsilon.log() - log_margins).exp(), 0.0)
    counting = torch.tensor(
        [
            [
                counting_term(
                    order=order, dim=dim, samples=samples, delta=delta, precision_bits=bits,
                    scanned=math.prod(shape),
                )
                for bits in _check_axis("precision_bits", precision_bits)
            ]
            for order in orders
        ],
        dtype=torch.float64,
    )  # fmt: skip
    risk = torch.as_tensor(train_margin_risk, dtype=torch.float64)
    if not bool(((risk >= 0) & (risk <= 1)).all()):
        raise ValueError("Expected `train_margin_risk` in [0, 1], but got numbers outside or NaN.")
    try:
        risk = risk.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"Expected `train_margin_risk` in a shape that broadcasts to {shape}, the axes {', '.join(axes)}, "
            f"but got {tuple(risk.shape)}."
        ) from error
    fixed = {
        "strength": strength, "rho": rho, "dim": dim, "samples": samples, "delta": delta, "variant": variant,
        "input_norm": input_norm,
    }  # fmt: skip
    return Scan(
        axes,
        risk + counting + deviation,
        risk,
        counting.expand(shape),
        deviation.expand(shape),
        log_margins.exp().expand(shape),
        fixed,
    )


def _check_axis(name: str, values: Sequence[Any] | Tensor) -> Any:
    """The values, if there is at least one."""
    if len(values) == 0:
        raise ValueError(f"Expected at least one value in `{name}`, but got none.")
    return values
