"""Heat maps of bounds over two settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_bounds.report.drawing import check_any, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is drawn in one color: nothing is known of an error that a bound puts above it.
_WORST = 1.0


def heat_map_figure(
    maps: Mapping[str, Tensor],
    rows: tuple[str, Sequence[float]],
    columns: tuple[str, Sequence[float]],
    title: str = "",
    vacuous: float = 0.5,
) -> "Figure":
    """Bounds on an error over two settings, side by side; contours show where they become vacuous.

    Args:
        maps: Bounds by name, each of shape ``(rows, columns)``; from 1 on, infinite or not, all have one color.
        rows: Name and values of the setting along the vertical axis, ascending.
        columns: The same along the horizontal axis.
        title: Title of the figure.
        vacuous: Where the contour is: 1/2 is the error of a coin.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no map, or one has another shape, or NaN in it.

    Example:
        >>> import torch
        >>> figure = heat_map_figure({"two layers": torch.tensor([[0.2, 0.9]])}, ("time", [1]), ("beta", [0.1, 0.2]))
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('beta', 'time')
    """
    check_any(maps)
    shape = (len(rows[1]), len(columns[1]))
    for name, values in maps.items():
        if tuple(values.shape) != shape or bool(values.isnan().any()):
            raise ValueError(
                f"Expected numbers of shape {shape} in {name!r}, but got shape {tuple(values.shape)} or NaN."
            )
    with panels_of(maps, title) as (figure, panels):
        for panel, (name, values) in zip(panels, maps.items(), strict=True):
            shown = values.double().cpu().clamp_max(_WORST).numpy()
            image = panel.imshow(shown, origin="lower", aspect="auto", vmin=0, vmax=_WORST, cmap="viridis_r")
            if min(shape) > 1 and shown.min() < vacuous < shown.max():
                panel.contour(shown, levels=[vacuous], colors="white")
            for axis, (_, numbers) in ((panel.yaxis, rows), (panel.xaxis, columns)):
                # Every value has a place; as many as can be read are named.
                step = -(-len(numbers) // 8)
                axis.set_ticks(range(0, len(numbers), step), [f"{number:.3g}" for number in numbers[::step]])
            panel.set(title=name, xlabel=columns[0])
            panel.grid(visible=False)
        panels[0].set_ylabel(rows[0])
        figure.colorbar(image, ax=panels, label=f"bound, from {_WORST:g} on in one color")
    return figure
