"""The papers' figures as matplotlib figures that nothing global knows of: no pyplot, no display, no style left set.

Each function is pure: numbers in, a ``Figure`` out. Curves and vectors come as mappings from their names, which the
figure shows. ``information``, ``nuisance`` and ``total`` have fixed colors; other names get theirs in order, from the
palette of Okabe and Ito, which color-blind readers can tell apart.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_bounds.report.drawing import Curve, check_any, colors, draw_curves, draw_legend, panels_of
from lightning_bounds.report.histogram import histogram
from lightning_bounds.report.tables import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum_figure(
    spectra: Mapping[str, Tensor], noise_floors: Mapping[str, float] | None = None, title: str = ""
) -> "Figure":
    """Histograms of singular values in common bins, side by side, with the counts on a logarithmic axis.

    Args:
        spectra: Singular values by name, such as ``initial`` and ``final``, shapes ``(r,)``.
        noise_floors: By the same names, the value under which singular values are not resolved; it is marked, and what
            lies under it is shaded.
        title: Title of the figure.

    Returns:
        The figure, one panel per spectrum.

    Raises:
        ValueError: If there is no spectrum.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Figure 5.

    Example:
        >>> import torch
        >>> figure = spectrum_figure({"initial": torch.tensor([9.0, 1.0]), "final": torch.tensor([12.0, 0.5])})
        >>> [panel.get_title("left") for panel in figure.axes]
        ['initial', 'final']
    """
    with panels_of(spectra, title) as (figure, panels):
        edges = histogram(torch.cat([torch.zeros(1), *(_finite(values) for values in spectra.values())])).edges
        for (name, values), panel, color in zip(spectra.items(), panels, colors(spectra), strict=True):
            panel.stairs(_counts(values, edges), edges.tolist(), fill=True, color=color, baseline=0.5)
            panel.set(yscale="log", xlabel="singular value", xlim=(float(edges[0]), float(edges[-1])))
            panel.set_title(name, loc="left", pad=18)
            finite = _finite(values)
            facts = [
                f"{len(values):,} values",
                *([f"largest {format_number(float(finite.max()))}"] if len(finite) else []),
            ]
            floor = (noise_floors or {}).get(name)
            if floor is not None:
                panel.axvspan(0, floor, color="0.5", alpha=0.3, linewidth=0)
                panel.axvline(floor, color="0.2", linestyle="--", linewidth=1.2)
                facts.append(f"noise floor {format_number(floor)} (dashed)")
            panel.text(0, 1.02, ", ".join(facts), transform=panel.transAxes, fontsize=9, color="0.35")
        panels[0].set_ylabel("number of singular values")
        panels[0].set_ylim(bottom=0.5)
    return figure


def residual_figure(panels: Mapping[str, Mapping[str, Curve]], title: str = "") -> "Figure":
    """Residual energies ``‖Π r_t‖² / ‖r_0‖²`` over the epochs on a logarithmic axis that the panels share.

    Args:
        panels: Panels by name, such as ``training data`` and ``test data``; each maps the names of its curves,
            ``information``, ``nuisance`` and ``total``, to epochs and energies. An energy of zero is not drawn.
        title: Title of the figure.

    Returns:
        The figure, one panel per entry.

    Raises:
        ValueError: If there is no panel, or a curve has not one value per epoch.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Figures 6 to 8.

    Example:
        >>> curves = {"information": ([0, 1], [0.8, 0.1]), "nuisance": ([0, 1], [0.2, 0.19])}
        >>> figure = residual_figure({"training data": curves, "test data": curves})
        >>> figure.axes[0].get_yscale(), [line.get_label() for line in figure.axes[0].lines]
        ('log', ['information', 'nuisance'])
    """
    with panels_of(panels, title) as (figure, axes):
        for (name, curves), panel in zip(panels.items(), axes, strict=True):
            draw_curves(panel, curves)
            panel.set_yscale("log", nonpositive="mask")
            panel.set_xlabel("epoch")
            panel.set_title(name, loc="left")
        axes[0].set_ylabel(r"residual energy  $\|\Pi\, r_t\|^2 / \|r_0\|^2$")
        draw_legend(figure, axes)
    return figure


def error_figure(curves: Mapping[str, Curve], title: str = "") -> "Figure":
    """Misclassification errors over the epochs, in percent.

    Args:
        curves: Epochs and errors by name, such as ``train`` and ``test``; errors are fractions in [0, 1].
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or a curve has not one value per epoch.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Figures 6c and 8c.

    Example:
        >>> figure = error_figure({"train": ([0, 1, 2], [0.6, 0.2, 0.0]), "test": ([0, 1, 2], [0.6, 0.3, 0.2])})
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('epoch', 'misclassification error')
    """
    check_any(curves)
    with panels_of([""], title) as (figure, (panel,)):
        from matplotlib.ticker import PercentFormatter

        draw_curves(panel, curves)
        panel.set(xlabel="epoch", ylabel="misclassification error")
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        panel.set_ylim(bottom=0.0)
        draw_legend(figure, [panel])
    return figure


def margin_figure(margins: Mapping[str, Tensor], title: str = "") -> "Figure":
    """Distributions of margins in common bins; what lies left of the line at zero is misclassified.

    Args:
        margins: Margins by name, such as ``initial`` and ``final``, shapes ``(n,)``.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no margins.

    Example:
        >>> import torch
        >>> figure = margin_figure({"initial": torch.tensor([-1.0, 1.0]), "final": torch.tensor([1.0, 2.0])})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['initial (50.0% negative)', 'final (0.0% negative)']
    """
    with panels_of([""] if margins else [], title) as (figure, (panel,)):
        edges = histogram(torch.cat([_finite(values) for values in margins.values()]), bins=40).edges
        for (name, values), color in zip(margins.items(), colors(margins), strict=True):
            finite = _finite(values)
            share = [count / max(len(finite), 1) for count in _counts(values, edges)]
            negative = f"{name} ({float((finite < 0).sum()) / max(len(finite), 1):.1%} negative)"
            panel.stairs(share, edges.tolist(), fill=True, color=color, alpha=0.3)
            panel.stairs(share, edges.tolist(), color=color, linewidth=1.6, label=negative)
        panel.axvline(0.0, color="black", linewidth=1.2)
        panel.set(xlabel="margin", ylabel="share of samples")
        panel.set_ylim(bottom=0.0)
        draw_legend(figure, [panel])
    return figure


def trajectory_figure(
    curves: Mapping[str, Curve],
    limits: Mapping[str, float] | None = None,
    title: str = "",
    logarithmic: bool = False,
) -> "Figure":
    """Lengths in weight space over the steps: distance from initialization, path length, against what theory allows.

    Args:
        curves: Steps and lengths by name, such as ``distance from initialization`` and ``path length``.
        limits: Guaranteed radii by name, drawn as dashed lines; an infinite one is left out. If one lies more than ten
            times above the curves, the axis becomes logarithmic.
        title: Title of the figure.
        logarithmic: Whether the axis is logarithmic in any case.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or a curve has not one value per step.

    References:
        Oymak & Soltanolkotabi 2019 (Toward moderate overparameterization), Theorem 2.1: radius and path length.

    Example:
        >>> figure = trajectory_figure({"path length": ([0, 10], [0.0, 2.0])}, limits={"guaranteed radius": 50.0})
        >>> figure.axes[0].get_yscale()
        'log'
    """
    check_any(curves)
    radii = {name: radius for name, radius in (limits or {}).items() if math.isfinite(radius)}
    with panels_of([""], title) as (figure, (panel,)):
        draw_curves(panel, curves)
        for (name, radius), color in zip(radii.items(), colors([*curves, *radii])[len(curves) :], strict=True):
            label = f"{name} ({format_number(radius)})"
            panel.axhline(radius, color=color, linestyle="--", linewidth=1.6, label=label)
        longest = max((value for _, values in curves.values() for value in values), default=0.0)
        if logarithmic or any(radius > 10 * longest > 0 for radius in radii.values()):
            panel.set_yscale("log", nonpositive="mask")
        else:
            panel.set_ylim(bottom=0.0)
        panel.set(xlabel="step", ylabel="length in weight space")
        draw_legend(figure, [panel])
    return figure


def _finite(values: Tensor) -> Tensor:
    numbers = values.detach().to(device="cpu", dtype=torch.float64)
    return numbers[numbers.isfinite()]


def _counts(values: Tensor, edges: Tensor) -> list[int]:
    return torch.histogram(_finite(values), edges).hist.long().tolist()
