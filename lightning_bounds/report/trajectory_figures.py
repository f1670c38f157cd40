"""A training over its steps beside what theory says of it: measured and predicted curves, guaranteed envelopes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_bounds.report.drawing import Curve, check_any, colors, draw_curves, draw_legend, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dynamics_figure(
    curves: Mapping[str, Curve],
    envelopes: Mapping[str, Curve] | None = None,
    *,
    ylabel: str,
    title: str = "",
    logarithmic: bool = False,
) -> "Figure":
    """Curves over the steps, with envelopes as dashed lines.

    Args:
        curves: Steps and values by name, such as ``measured`` and ``linearized``.
        envelopes: The same of what is guaranteed.
        ylabel: What the values are.
        title: Title of the figure.
        logarithmic: Whether the values have a logarithmic axis, on which zeros are not drawn.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or a curve has not one value per step.

    References:
        Arora, Du, Hu, Li, Wang 2019, Figure 1(a); Oymak & Soltanolkotabi 2019, Theorem 2.1.

    Example:
        >>> measured = {"measured": ([0, 9], [3.0, 0.3])}
        >>> figure = dynamics_figure(measured, {"guaranteed": ([0, 9], [3.0, 2.9])}, ylabel="residual norm")
        >>> [line.get_linestyle() for line in figure.axes[0].lines]
        ['-', '--']
    """
    check_any(curves)
    dashed = envelopes or {}
    with panels_of([""], title) as (figure, (panel,)):
        draw_curves(panel, curves)
        for (name, (steps, values)), color in zip(
            dashed.items(), colors([*curves, *dashed])[len(curves) :], strict=True
        ):
            if len(steps) != len(values):
                raise ValueError(f"Expected one value per step in {name!r}, but got {len(values)} for {len(steps)}.")
            panel.plot(steps, values, color=color, linestyle="--", linewidth=1.6, label=name)
        drawn = [value for _, values in [*curves.values(), *dashed.values()] for value in values]
        if logarithmic and any(value > 0 for value in drawn):
            panel.set_yscale("log", nonpositive="mask")
        else:
            panel.set_ylim(bottom=0.0)
        panel.set(xlabel="step", ylabel=ylabel)
        draw_legend(figure, [panel])
    return figure
