"""Margins from trained reference networks, the procedure of the paper's experiments."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive
from lightning_bounds.theory.batch_norm_margin.arguments import as_inputs
from lightning_bounds.theory.batch_norm_margin.margins import DISPLACEMENT_FRACTION
from lightning_bounds.theory.batch_norm_margin.network import Weights, draw_weights
from lightning_bounds.theory.batch_norm_margin.normalization import (
    displacement,
    effective_directions,
    inverse_normalization,
    whole_set_statistics,
)
from lightning_bounds.theory.labels import as_signs


class ReferenceMargins(NamedTuple):
    """Margins of one pair of trained reference networks.

    Attributes:
        width: ``m``.
        seed: Of the initial weights.
        gamma_a: ``1/√m min_i y_i Σ_j a_ref_j relu(<v̄_j, x̄_i>)``.
        gamma_c: ``1/√m min_i y_i Σ_j c_ref_j a_j relu(<v̄_j, x̄_i>)``, gates at ``c = 1``, as the theorem needs it.
        gamma_c_reference_gates: The same with gates that follow ``c_ref``, as the paper computes it.
        gamma: ``gamma_a + gamma_c``; negative parts are kept.
        displacement: ``Δ_V``; 0 with frozen directions.
        eps_n: ``max_j 1/N(v_j)`` of the initial directions.
        reference_output: ``a_ref``, unit vector ``(m,)``.
        reference_scale: ``c_ref``, unit vector ``(m,)``.
        rows: ``v̄``, effective rows, shape ``(m, d)``.
    """

    width: int
    seed: int
    gamma_a: float
    gamma_c: float
    gamma_c_reference_gates: float
    gamma: float
    displacement: float
    eps_n: float
    reference_output: Tensor
    reference_scale: Tensor
    rows: Tensor


def reference_network_margins(
    inputs: Tensor,
    labels: Tensor,
    *,
    widths: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    steps: int = 10_000,
    learning_rate: float = 0.05,
    eps: float = 0.0,
    free_directions: bool = False,
) -> list[ReferenceMargins]:
    """Lower bounds on the margins by training an ``a``- and a ``c``-network: Adam, full batch, logistic loss.

    For every width and seed the weights are drawn; ``a`` is trained at ``c = 1``, ``c`` at ``a = a_0``, both with
    frozen directions, and both are divided by their norms. With ``free_directions`` both are then trained again with
    one matrix of effective rows, projected after each step onto ``Δ_V <= gamma / 32``, ``gamma`` of the first training.

    Args:
        inputs: Training inputs, shape ``(n, d)``; centered here, to be put in the unit ball before (:func:`unit_ball`).
        labels: -1 and +1, shape ``(n,)``.
        widths: ``m``, each 1 or more.
        seeds: Of the initial weights, each with a generator of its own; 5 in the paper.
        steps: Steps of Adam; 10,000 to 30,000 in the paper.
        learning_rate: Of Adam; 0.01 to 0.1 in the paper.
        eps: ``ε`` of the batch normalization.
        free_directions: Whether the directions are moved as well; if ``gamma`` is not positive, they may not.

    Returns:
        One entry for each width and seed, widths outermost.

    Raises:
        ValueError: If shapes do not match, a label is neither -1 nor +1, or a number is out of range.

    References:
        Appendix A.2 (errata E301, E304, E318). :func:`maximal_layer_margins` finds the best frozen margins exactly.

    Example:
        >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0])
        >>> [reference] = reference_network_margins(x, y, widths=[6], seeds=[0], steps=200)
        >>> reference.gamma_a > 0, reference.displacement
        (True, 0.0)
    """
    inputs = as_inputs(inputs)
    signs = as_signs(labels, len(inputs)).to(inputs.device)
    check_count("steps", steps)
    check_positive("learning_rate", learning_rate)
    check_not_negative("eps", eps)
    for width in widths:
        check_count("width", width)
    if len(widths) == 0 or len(seeds) == 0:
        raise ValueError(f"Expected at least one width and one seed, but got {list(widths)} and {list(seeds)}.")
    deviations = whole_set_statistics(inputs).deviations
    found = []
    for width in widths:
        for seed in seeds:
            weights = Weights(*(part.to(inputs.device) for part in draw_weights(width, inputs.shape[1], seed)))
            rows = effective_directions(weights.directions, inputs, eps)
            eps_N = inverse_normalization(weights.directions, inputs, eps)
            training = _Training(deviations, signs, weights, rows, steps, learning_rate)
            margins = training.margins(seed, eps_N, *training.run(radius=0.0))
            if free_directions and margins.gamma > 0:
                radius = margins.gamma / DISPLACEMENT_FRACTION
                margins = training.margins(seed, eps_N, *training.run(radius=radius))
            found.append(margins)
    return found


class _Training(NamedTuple):
    """One draw of the weights and how to train references of it."""

    deviations: Tensor
    signs: Tensor
    weights: Weights
    rows: Tensor
    steps: int
    learning_rate: float

    def run(self, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        """Trained ``a``, ``c`` and effective rows, these within ``Δ_V <= radius`` of the initial ones."""
        a, c, rows = (part.clone() for part in (self.weights.output_weights, self.weights.scales, self.rows))
        trained = [a.requires_grad_(), c.requires_grad_(), *([rows.requires_grad_()] if radius > 0 else [])]
        optimizer = torch.optim.Adam(trained, lr=self.learning_rate)
        normalized = self.deviations @ self.rows.mT
        with torch.enable_grad():
            for _ in range(self.steps):
                z = self.deviations @ rows.mT if radius > 0 else normalized
                # The two networks share the rows alone: with frozen ones the sum trains each for itself.
                outputs = torch.stack([z.relu() @ a, (c * z).relu() @ self.weights.output_weights])
                optimizer.zero_grad()
                torch.nn.functional.softplus(-self.signs * outputs).mean(dim=1).sum().backward()
                optimizer.step()
                if radius > 0:
                    self._project(rows, radius)
        return a.detach(), c.detach(), rows.detach()

    @torch.no_grad()
    def _project(self, rows: Tensor, radius: float) -> None:
        moved = rows - self.rows
        length = float(moved.norm()) / math.sqrt(len(rows))
        if length > radius:
            rows.copy_(self.rows + moved * (radius / length))

    def margins(self, seed: int, eps_N: float, a: Tensor, c: Tensor, rows: Tensor) -> ReferenceMargins:
        a_ref, c_ref = a / a.norm(), c / c.norm()
        z, initial, root = self.deviations @ rows.mT, self.weights.output_weights, math.sqrt(len(a))
        # E301: over sqrt(m).
        gamma_a = float((self.signs * (z.relu() @ a_ref)).min()) / root
        # E318: gates at c = 1.
        gamma_c = float((self.signs * (z.relu() @ (c_ref * initial))).min()) / root
        followed = float((self.signs * ((c_ref * z).relu() @ initial)).min()) / root
        gamma = gamma_a + gamma_c
        moved = displacement(rows, self.rows)
        return ReferenceMargins(len(a), seed, gamma_a, gamma_c, followed, gamma, moved, eps_N, a_ref, c_ref, rows)
