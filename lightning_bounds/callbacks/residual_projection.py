"""Residual and labels seen from the information space of a reference Jacobian, during training."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from lightning_bounds.callbacks.base import DiagnosticCallback
from lightning_bounds.callbacks.cost import foresee
from lightning_bounds.callbacks.residual_record import ResidualRecord
from lightning_bounds.callbacks.values import Moment, Table, data_name
from lightning_bounds.lightning import pl
from lightning_bounds.report import residual_figure
from lightning_bounds.schedule import Schedule
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.information_space import InformationSpace, check_rule

Loss = Callable[[Tensor, Tensor], Tensor]

# The columns of the paper's tables, by the names that they are logged under.
_RATIOS = {
    "label_information": "|Π_I y|/|y|",
    "label_nuisance": "|Π_N y|/|y|",
    "label_pinv": "|J_I⁺ y|/|y|",
    "initial_residual_information": "|Π_I r₀|/|r₀|",
    "initial_residual_nuisance": "|Π_N r₀|/|r₀|",
    "initial_residual_pinv": "|J_I⁺ r₀|/|r₀|",
}


class ResidualProjection(DiagnosticCallback):
    """How much of the residual, and of the labels, lies on the information and on the nuisance space.

    A basis comes from the Jacobian at one moment, of the same data: training data on theirs, validation data on theirs.
    Residuals are kept, so that a basis that is known late (the final one) is applied to the whole past: its rows are
    logged with the steps they belong to.

    Logs, below ``residual_projection/<split>/``:
        ``residual_energy`` (``|r_t|² / |r_0|²``); and below ``<basis>/``, at every measurement,
        ``residual_information`` (``|Π_I r_t|² / |r_0|²``) and ``residual_nuisance`` (``|Π_N r_t|² / |r_0|²``), and
        once, when the basis is taken, ``dimension``, ``cutoff`` (``σ_r``, or the cut-off asked for), ``tied`` (1 if
        the Jacobian does not determine the space), ``noise_floor``, ``label_information`` (``|Π_I y| / |y|``),
        ``label_nuisance`` (``|Π_N y| / |y|``), ``label_pinv`` (``|J_I⁺ y| / |y|``), and
        ``initial_residual_information``, ``initial_residual_nuisance``, ``initial_residual_pinv`` (the same of
        ``r_0``).

    Args:
        rank: Dimension of the information space; 50, as in the experiments of the paper, if no rule is given.
        cutoff: Rather all singular values of at least this.
        relative_cutoff: Rather all of at least this fraction of the largest.
        energy: Rather the fewest that hold this fraction of ``|J|_F²``.
        bases: Which Jacobians: ``"initial"``, ``"final"``, ``"current"`` (anew at every measurement), or a whole number
            of epochs, after which it is taken.
        residual: ``"labels"``, ``f - y`` with one-hot ``y``, or ``"loss_gradient"``, the gradient of the summed loss by
            the outputs, for a network trained with another loss than least squares.
        loss: Summed loss of ``(outputs, targets)`` for ``"loss_gradient"``; by default the module's ``summed_loss``.
        schedule: When residuals are measured; every epoch by default, and always before the first step.
        arguments: See :class:`DiagnosticCallback`; training and validation data by default.

    Raises:
        ValueError: If more than one rule is given, a rule is out of range, or a basis is unknown.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Tables 1 to 3 and Figures 6 to 8.

    Example:
        >>> ResidualProjection(relative_cutoff=0.1, bases=["initial", 100, "final"]).rule
        {'relative_cutoff': 0.1}
    """

    topic = "residual_projection"
    default_splits = ("train", "val")

    def __init__(
        self,
        rank: int | None = None,
        cutoff: float | None = None,
        relative_cutoff: float | None = None,
        energy: float | None = None,
        bases: Sequence[str | int] = ("initial", "final"),
        residual: str = "labels",
        loss: Loss | None = None,
        schedule: Schedule | None = None,
        **arguments: Any,
    ) -> None:
        check_rule(rank, cutoff, relative_cutoff, energy)
        given = {"rank": rank, "cutoff": cutoff, "relative_cutoff": relative_cutoff, "energy": energy}
        self.rule: dict[str, Any] = {name: value for name, value in given.items() if value is not None} or {"rank": 50}
        if len(self.rule) > 1:
            raise ValueError(f"Expected one of rank, cutoff, relative_cutoff and energy, but got {self.rule}.")
        if residual not in ("labels", "loss_gradient"):
            raise ValueError(f"Expected `residual` to be 'labels' or 'loss_gradient', but got {residual!r}.")
        if isinstance(bases, str) or not bases:
            raise ValueError(f"Expected `bases` to be a sequence like ['initial', 100, 'final'], but got {bases!r}.")
        self.bases = {_basis_name(basis): basis for basis in bases}
        self.residual, self.loss = residual, loss
        super().__init__(schedule=schedule or Schedule(every_n_epochs=1), **arguments)

    def reset(self) -> None:
        """Forget residuals and bases."""
        super().reset()
        self.records: dict[str, ResidualRecord] = {}

    @cached_property
    def state_key(self) -> str:
        """Residuals and bases of another kind are another state."""
        return f"{super().state_key}{{'rule': {self.rule}, 'residual': {self.residual!r}}}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what the loss and the length of the training must allow."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.residual == "loss_gradient" and not (self.loss or hasattr(pl_module, "summed_loss")):
            raise ValueError(
                "Expected a summed loss for residual='loss_gradient', but the module has no `summed_loss`; "
                "pass `loss`, a callable from outputs and targets to the loss summed over the samples."
            )
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
        late = [basis for basis in self.bases.values() if isinstance(basis, int) and epochs and basis > epochs]
        if late:
            raise ValueError(f"Expected `bases` within the {epochs} epochs of training, but got {late}.")

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise before the first step if labels do not fit the outputs, or the rank does not fit the probe."""
        super().check(trainer, pl_module)
        for split, probe in self.probes.items():
            rows = self.snapshot(trainer, pl_module, probe).labels.numel()
            if self.rule.get("rank", 1) > rows:
                raise ValueError(
                    f"Expected `rank` of at most {rows}, samples times outputs of the {split} probe, "
                    f"but got {self.rule['rank']}; look at more samples or lower the rank."
                )
            snapshot = self.snapshot(trainer, pl_module, probe)
            foresee(trainer, snapshot, None, self.max_seconds, type(self).__name__)

    def wanted(self, moment: Moment) -> bool:
        """The beginning, and moments at which a basis is taken."""
        return moment.event == "init" or bool(self._taken(moment))

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float | Tensor]:
        """Residuals of this moment on all known bases, and those of the past on a new one."""
        values = super().observe(trainer, pl_module)
        self._log_past(trainer, self._taken(self.moment))
        return values

    def measure(self, snapshot: Snapshot) -> Mapping[str, float | Tensor]:
        """Energies of the residual, and the six ratios of a basis that is taken now."""
        if self.residual == "loss_gradient":
            residual = snapshot.loss_gradient(self.loss or cast(Loss, snapshot.model.summed_loss))
        else:
            residual = snapshot.residual
        split = snapshot.probe.split
        if split not in self.records and self.moment.event != "init":
            raise RuntimeError(f"Expected the {split} residual before the first step, but it could not be measured.")
        record = self.records.get(split, ResidualRecord())
        news = record.add(self.moment.step, self.moment.epoch, residual)
        self.records[split] = record
        taken = [*self._taken(self.moment), *(name for name in self.bases if name == "current" and news)]
        values: dict[str, float | Tensor] = {}
        for name in taken:
            space = record.spaces[name] = self._space(snapshot)
            values.update({f"{name}/{key}": value for key, value in record.ratios(space, snapshot.labels).items()})
        if news:
            values["residual_energy"] = record.energies()[-1]
        # At the end of training the last epoch's residual is looked at again, on the basis that is new.
        for name, space in record.spaces.items():
            if news or name in taken:
                values.update({f"{name}/{key}": value[0] for key, value in record.projected(space, last=1).items()})
        return values

    def tables(self) -> dict[str, Table]:
        """The six ratios of each reference Jacobian, as in Tables 1 to 3 of the paper."""
        columns = ["Jacobian", "data", *_RATIOS.values()]
        rows: list[list[str | float]] = []
        for name in self.bases:
            for split in self.records:
                prefix = f"{self.topic}/{split}/{name}/"
                taken = [row for row in self.history if f"{prefix}dimension" in row]
                if taken:
                    rows.append([name, split, *(taken[-1][f"{prefix}{ratio}"] for ratio in _RATIOS)])
        return {f"{self.topic}/alignment": Table(columns, rows)} if rows else {}

    def figures(self) -> dict[str, Any]:
        """Energies of the residual over the epochs, one figure for each basis, one panel for each data set."""
        figures = {}
        for name in (name for name in self.bases if name != "current"):
            panels = {}
            for split, record in self.records.items():
                if name in record.spaces:
                    projected = record.projected(record.spaces[name])
                    curves = {
                        "information": projected["residual_information"],
                        "nuisance": projected["residual_nuisance"],
                        "total": record.energies(),
                    }
                    panels[data_name(split)] = {key: (record.epochs, energy.tolist()) for key, energy in curves.items()}
            if panels:
                title = f"Residual energy on the spaces of the {name.replace('_', ' ')} Jacobian"
                figures[f"{self.topic}/{name}"] = residual_figure(panels, title=title)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Residuals and bases, so that a resumed training goes on with them."""
        return {**super().state_dict(), "records": {split: record.state() for split, record in self.records.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the residuals and bases of a checkpoint."""
        super().restore(state)
        self.records = {split: ResidualRecord.from_state(record) for split, record in state["records"].items()}
        # A training that goes on after its end will have another final basis, whose rows are to come.
        rows = [(row, {key: value for key, value in row.items() if "/final/" not in key}) for row in self.history]
        prefix = f"{self.topic}/"
        self.history = [rest for row, rest in rows if rest == row or any(key.startswith(prefix) for key in rest)]

    def _taken(self, moment: Moment) -> list[str]:
        """Names of the reference bases that are taken at this moment."""
        now = {"init": "initial", "end": "final", "epoch": moment.epoch}.get(moment.event)
        return [name for name, basis in self.bases.items() if basis == now]

    def _space(self, snapshot: Snapshot) -> InformationSpace:
        space = snapshot.spectrum.information_space(**self.rule)
        if space.dimension == 0:
            largest = float(snapshot.spectrum.singular_values[0])
            raise ValueError(
                f"Expected a cut-off of at most {largest:.4g}, the largest singular value of the "
                f"{snapshot.probe.split} Jacobian, but got {self.rule}; lower it, or use relative_cutoff."
            )
        return space

    def _log_past(self, trainer: pl.Trainer, names: Sequence[str]) -> None:
        """Log the residuals of the past on bases that were taken only now, each at the step that it belongs to."""
        rows: dict[tuple[int, float], dict[str, float | Tensor]] = {}
        for name in names:
            for split, record in ((split, record) for split, record in self.records.items() if name in record.spaces):
                for key, energies in record.projected(record.spaces[name]).items():
                    for step, epoch, energy in zip(record.steps, record.epochs, energies, strict=True):
                        if step < self.moment.step:
                            rows.setdefault((step, epoch), {})[f"{self.topic}/{split}/{name}/{key}"] = energy
        for (step, epoch), values in rows.items():
            self.log_values(trainer, values, step, epoch)


def _basis_name(basis: str | int) -> str:
    if isinstance(basis, int) and not isinstance(basis, bool) and basis >= 1:
        return f"epoch_{basis}"
    if basis in ("initial", "final", "current"):
        return str(basis)
    raise ValueError(f"Expected a basis to be 'initial', 'final', 'current' or a number of epochs, but got {basis!r}.")
