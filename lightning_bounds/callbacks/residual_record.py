"""Residuals of one data set over a training, and the information spaces that they are projected on."""

import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lightning_bounds.theory.information_space import InformationSpace


class ResidualRecord:
    """Residuals ``r_0, r_1, ...`` with their steps and epochs, and the reference spaces taken so far.

    Attributes:
        steps: Steps at which residuals were measured, ascending.
        epochs: The same in epochs.
        residuals: One vector ``(n*K,)`` for each of them, float64, on the CPU.
        spaces: Reference spaces by the name of their basis.

    Example:
        >>> record = ResidualRecord()
        >>> record.add(0, 0.0, torch.tensor([3.0, 4.0])), record.add(9, 1.0, torch.tensor([3.0, 0.0]))
        (True, True)
        >>> [float(energy) for energy in record.energies()]
        [1.0, 0.36]
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.epochs: list[float] = []
        self.residuals: list[Tensor] = []
        self.spaces: dict[str, InformationSpace] = {}

    def add(self, step: int, epoch: float, residual: Tensor) -> bool:
        """Keep the residual of a step, of several at one step the last; whether it says anything new.

        Raises:
            FloatingPointError: If the residual's energy is not finite.
            ValueError: If the first residual is zero, so that nothing can be compared with it.
        """
        residual = residual.detach().double().cpu()
        energy = float(residual.square().sum())
        if not math.isfinite(energy):
            raise FloatingPointError(f"Expected a residual of finite energy, but got {energy}.")
        if not self.steps and energy == 0.0:
            raise ValueError("Expected an initial residual other than zero, but the outputs equal the labels already.")
        if self.steps and self.steps[-1] == step:
            if torch.equal(self.residuals[-1], residual):
                return False
            del self.steps[-1], self.epochs[-1], self.residuals[-1]
        self.steps.append(step)
        self.epochs.append(epoch)
        self.residuals.append(residual)
        return True

    def energies(self) -> Tensor:
        """``|r_t|² / |r_0|²`` for each residual kept."""
        energies = torch.stack(self.residuals).square().sum(dim=1)
        return energies / energies[0]

    def projected(self, space: InformationSpace, last: int | None = None) -> dict[str, Tensor]:
        """``|Π_I r_t|² / |r_0|²`` and ``|Π_N r_t|² / |r_0|²`` for each residual kept, or only the ``last`` ones."""
        chosen = self.residuals if last is None else self.residuals[-last:]
        information, nuisance = space.energies(torch.stack(chosen, dim=1))
        start = self.residuals[0].square().sum()
        return {"residual_information": information.cpu() / start, "residual_nuisance": nuisance.cpu() / start}

    def ratios(self, space: InformationSpace, labels: Tensor) -> dict[str, float]:
        """The space itself, and the six ratios of the labels and of ``r_0``."""
        values = {
            "dimension": float(space.dimension),
            "cutoff": space.cutoff,
            "tied": float(space.tied),
            "noise_floor": space.noise_floor,
        }
        for name, vector in (("label", labels), ("initial_residual", self.residuals[0])):
            for kind, ratio in space.alignment(vector)._asdict().items():
                values[f"{name}_{kind}"] = float(ratio)
        return values

    def state(self) -> dict[str, Any]:
        """As tensors and plain Python types; the current and the final basis are taken anew, and are left out."""
        spaces = {
            name: {field.name: getattr(space, field.name) for field in fields(space)}
            for name, space in self.spaces.items()
            if name not in ("current", "final")
        }
        lists = {"steps": list(self.steps), "epochs": list(self.epochs), "residuals": list(self.residuals)}
        return {**lists, "spaces": spaces}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ResidualRecord":
        """The record that :meth:`state` was taken of."""
        record = cls()
        record.steps, record.epochs = list(state["steps"]), list(state["epochs"])
        record.residuals = [residual.double() for residual in state["residuals"]]
        record.spaces = {name: InformationSpace(**space) for name, space in state["spaces"].items()}
        return record
