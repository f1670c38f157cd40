"""What all figures share: panels in one style, curves with fixed colors, a legend that covers nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Times and values.
Curve = tuple[Sequence[float], Sequence[float]]


@contextmanager
def panels_of(names: Iterable[str], title: str) -> "Iterator[tuple[Figure, list[Axes]]]":
    """A figure with one panel per name and shared axes, in our style, laid out when the caller has drawn."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected matplotlib, which draws the figures, but it is not installed; "
            "do `pip install 'lightning-bounds[experiments]'`."
        ) from error
    count = len(list(names))
    check_any(range(count))
    look = {
        "figure.dpi": 100,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "lines.linewidth": 1.8,
        "lines.markersize": 4,
        "legend.frameon": False,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.wspace": 0.03,
    }
    with style.context(["default", look]):
        figure = Figure(figsize=(6.4, 4.2) if count == 1 else (4.8 * count, 4.2), layout="constrained")
        if title:
            figure.suptitle(title, fontsize=12, fontweight="bold")
        panels = list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0])
        for panel in panels:
            panel.tick_params(which="both", labelsize=9)
        yield figure, panels
        # Ticks take their style when a layout first needs them, so the layout is settled in here, once and for all.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def draw_curves(panel: "Axes", curves: Mapping[str, Curve]) -> None:
    """Draw named curves over whole epochs or steps, with marks where there are few.

    Raises:
        ValueError: If a curve has not as many values as times.
    """
    from matplotlib.ticker import MaxNLocator

    for (name, (times, values)), color in zip(curves.items(), colors(curves), strict=True):
        if len(times) != len(values):
            raise ValueError(
                f"Expected one value per epoch or step in curve {name!r}, but got {len(values)} for {len(times)}."
            )
        marker = "o" if len(times) <= 30 else ""
        panel.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        panel.plot(times, values, color=color, marker=marker, linestyle="--" if name == "total" else "-", label=name)


def draw_legend(figure: "Figure", panels: "Sequence[Axes]") -> None:
    """Name the curves below the panels, where nothing is covered; equal names of several panels once."""
    handles = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    # About 15 characters fit an inch, and a label's line and gap take the place of 8.
    columns = int(15 * figure.get_figwidth() / (8 + max(map(len, handles), default=0)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=max(columns, 1))


def colors(names: Iterable[str]) -> list[str]:
    """A color for each name: a fixed one, or the next of the palette."""
    fixed = {"information": "#0072B2", "nuisance": "#D55E00", "total": "#000000"}
    palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
    return [fixed.get(name, palette[i % len(palette)]) for i, name in enumerate(names)]


def check_any(given: Iterable[object]) -> None:
    """Raise ValueError if there is nothing to draw."""
    if not list(given):
        raise ValueError("Expected something to draw, but got an empty mapping; pass at least one named entry.")
