"""Figures of a data set before any training: kernel eigenvalues, energies of labels on them, predicted residuals.

They are pure, look like those of :mod:`lightning_bounds.report.figures`, and have logarithmic axes throughout.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_bounds.report.drawing import Curve, check_any, draw_curves, draw_legend, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def eigenvalue_figure(spectra: Mapping[str, Tensor], title: str = "") -> "Figure":
    """Eigenvalues of kernels by their rank; what is not positive, below the rounding, is not drawn.

    Args:
        spectra: Eigenvalues by name, such as ``relu`` and ``softplus``, in descending order, shapes ``(n,)``.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no spectrum, or one is no vector in descending order.

    References:
        Arora et al. 2019, Figure 1(b), (d).

    Example:
        >>> import torch
        >>> figure = eigenvalue_figure({"relu": torch.tensor([4.0, 1.0, 0.0])})
        >>> figure.axes[0].lines[0].get_xdata().tolist()
        [1, 2, 3]
    """
    for name, values in spectra.items():
        if values.dim() != 1 or values.numel() == 0 or bool((values.diff() > 0).any()):
            raise ValueError(
                f"Expected descending eigenvalues (n,) of {name!r}, but got shape {tuple(values.shape)}, "
                "not descending; sort them."
            )
    curves = {name: (list(range(1, len(values) + 1)), values.tolist()) for name, values in spectra.items()}
    return _figure(curves, title, xlabel="number of the eigenvalue", ylabel="eigenvalue", yscale="log")


def label_energy_figure(energies: Mapping[str, Tensor], title: str = "") -> "Figure":
    """Share of the labels' energy ``Σ_{i≤r} (v_i·y)² / |y|²`` on the ``r`` leading eigenvectors, over ``r``.

    Args:
        energies: The shares for ``r = 1 .. n`` by name, such as ``true`` and ``random``, shapes ``(n,)``.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no shares, or they do not grow from 0 to 1.

    References:
        Arora et al. 2019, Figure 1(b), (d), whose projections are summed here.

    Example:
        >>> import torch
        >>> figure = label_energy_figure({"true": torch.tensor([0.9, 1.0]), "random": torch.tensor([0.5, 1.0])})
        >>> figure.axes[0].get_xscale()
        'log'
    """
    for name, shares in energies.items():
        inside = shares.dim() == 1 and shares.numel() > 0 and float(shares.min()) >= 0 and float(shares.max()) <= 1.001
        if not inside or bool((shares.diff() < -1e-9).any()):
            raise ValueError(
                f"Expected shares (n,) of {name!r} that grow within [0, 1], but got shape {tuple(shares.shape)}; "
                "sum the squared projections and divide by the squared norm."
            )
    curves = {name: (list(range(1, len(shares) + 1)), shares.tolist()) for name, shares in energies.items()}
    ylabel = r"share of the label energy  $\sum_{i \leq r} (v_i^\top y)^2 / \|y\|^2$"
    return _figure(curves, title, xlabel="number r of leading eigenvectors", ylabel=ylabel, yscale="linear")


def predicted_residual_figure(curves: Mapping[str, Curve], title: str = "") -> "Figure":
    """Predicted residuals ``|y - u(k)| / |y|`` over the steps of gradient descent; step 0 has no place on the axis.

    Args:
        curves: Steps and residuals by name, such as ``true labels`` and ``random labels``.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or a curve has not one value per step.

    References:
        Arora et al. 2019, Theorem 4.1 and Figure 1(a), (c).

    Example:
        >>> figure = predicted_residual_figure({"true": ([1, 10], [0.5, 0.01])})
        >>> figure.axes[0].get_xscale(), figure.axes[0].get_yscale()
        ('log', 'log')
    """
    ylabel = r"predicted residual  $\|y - u(k)\| / \|y\|$"
    return _figure(curves, title, xlabel="step k of gradient descent", ylabel=ylabel, yscale="log")


def _figure(curves: Mapping[str, Curve], title: str, *, xlabel: str, ylabel: str, yscale: str) -> "Figure":
    check_any(curves)
    with panels_of([""], title) as (figure, (panel,)):
        draw_curves(panel, curves)
        panel.set_xscale("log", nonpositive="mask")
        if yscale == "log":
            panel.set_yscale("log", nonpositive="mask")
        else:
            panel.set_ylim(0.0, 1.02)
        panel.set(xlabel=xlabel, ylabel=ylabel)
        draw_legend(figure, [panel])
    return figure
