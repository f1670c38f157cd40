"""How long the path of a network's weights is, at a cost that a step of a small network does not feel."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lightning_bounds.jacobian.parameters import plain_name

# Entries of small weights that are handled as one tensor, and of places that are kept until they are measured together.
_GATHERED = 2**20


class Weights:
    """Some parameters of a module by name; where they are is looked up once, as that takes as long as a small step.

    Names are those of :func:`selected_parameters`, without torch.compile's wrapper.

    Args:
        module: The module.
        names: Which; all if not given. Those that it does not have are left out.

    Example:
        >>> list(Weights(torch.nn.Sequential(torch.nn.Linear(2, 1)), ["0.bias"]).now())
        ['0.bias']
    """

    def __init__(self, module: nn.Module, names: Iterable[str] | None = None) -> None:
        owners = dict(module.named_modules(remove_duplicate=False))
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for path, _ in module.named_parameters():
            owner, _, attribute = path.rpartition(".")
            self._places[plain_name(path)] = (owners[owner], attribute)
        if names is not None:
            self._places = {name: self._places[name] for name in names if name in self._places}

    def now(self) -> dict[str, Tensor]:
        """The parameters, without a graph, in the module's memory."""
        found = {name: owner._parameters.get(attribute) for name, (owner, attribute) in self._places.items()}
        return {name: weight.detach() for name, weight in found.items() if weight is not None}


class Path:
    """The length ``Σ_s |θ_{s+1} - θ_s|`` of the path of some weights, from where they are.

    Places of small networks are measured some at a time: what is done at every step is a copy of the weights.

    Args:
        weights: By name.
        length: Of the path that led there.

    Example:
        >>> path = Path({"w": torch.zeros(2)})
        >>> path.walk({"w": torch.tensor([3.0, 4.0])})
        >>> float(path.length)
        5.0
    """

    def __init__(self, weights: Mapping[str, Tensor], length: float = 0.0) -> None:
        # Not a number of Python's, for which a GPU would be waited for at every step.
        self._length = torch.tensor(length, dtype=torch.float64)
        self._begin(weights)

    @property
    def length(self) -> Tensor:
        """In float64, of no dimension; NaN from the moment on that a step was lost."""
        self._measure()
        return self._length

    def walk(self, weights: Mapping[str, Tensor]) -> None:
        """Add the way to these weights, without those that are gone; types and devices are those of before."""
        if weights.keys() != self._shapes.keys():
            self._begin({name: weight for name, weight in self.last().items() if name in weights})
        self._ahead.append(self._joined(weights, copy=self._capacity > 1))
        if len(self._ahead) == self._capacity:
            self._measure()

    def lose(self) -> None:
        """A step was lost: the length is unknown from now on."""
        self._ahead.clear()
        self._length = self._length * math.nan

    def last(self) -> dict[str, Tensor]:
        """The weights of the last step."""
        self._measure()
        parts: dict[str, Tensor] = {}
        for names, joined in zip(self._gathered, self._last, strict=True):
            pieces = joined.split([self._shapes[name].numel() for name in names])
            parts |= {name: piece.view(self._shapes[name]) for name, piece in zip(names, pieces, strict=True)}
        return {name: parts[name] for name in self._shapes}

    def _measure(self) -> None:
        for now in self._ahead:
            norms = []
            for number, (last, new) in enumerate(zip(self._last, now, strict=True)):
                # A difference is rounded once, but half precision would keep few of its digits.
                moved = new.float() - last.float() if new.element_size() < 4 else last.sub_(new)
                norms.append(torch.linalg.vector_norm(moved, dtype=torch.float64))
                # What was not copied, the training goes on with.
                self._last[number] = last.copy_(new) if self._capacity == 1 else new
            if norms:
                self._length = self._length.to(norms[0].device) + _norm(norms)
        self._ahead.clear()

    def _begin(self, weights: Mapping[str, Tensor]) -> None:
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._gathered = _gathered(weights)
        self._capacity = max(1, _GATHERED // max(1, sum(weight.numel() for weight in weights.values())))
        self._last = self._joined(weights, copy=True)
        self._ahead: list[list[Tensor]] = []

    def _joined(self, weights: Mapping[str, Tensor], copy: bool) -> list[Tensor]:
        """The weights of each group one after the other; of a group of one, if it need not be copied, the weight."""
        lists = [[weights[name].reshape(-1) for name in names] for names in self._gathered]
        return [torch.cat(parts) if copy or len(parts) > 1 else parts[0] for parts in lists]


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """``|θ - θ'|`` over the names of the first, float64.

    Example:
        >>> distance({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
        2.0
    """
    wide = {name: torch.promote_types(weight.dtype, torch.float32) for name, weight in first.items()}
    return norm(weight.to(wide[name]) - second[name].to(wide[name]) for name, weight in first.items())


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries, float64.

    Example:
        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        5.0
    """
    norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64) for tensor in tensors]
    return float(_norm(norms)) if norms else 0.0


def _norm(norms: list[Tensor]) -> Tensor:
    return torch.stack([part.to(norms[0].device) for part in norms]).norm() if len(norms) > 1 else norms[0]


def _gathered(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of small weights of one type and device together, a large one for itself."""
    groups: dict[tuple[torch.dtype, torch.device, str], list[str]] = {}
    entries: dict[tuple[torch.dtype, torch.device], int] = {}
    for name, weight in weights.items():
        kind, place = (weight.dtype, weight.device), name
        if weight.numel() < _GATHERED:
            entries[kind] = entries.get(kind, 0) + weight.numel()
            place = str(entries[kind] // _GATHERED)
        groups.setdefault((*kind, place), []).append(name)
    return list(groups.values())
