"""What a rule of a layer is: where the samples are in its tensors, and outer products that make up its gradients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_bounds.jacobian.scratch import Scratch

Options = Mapping[str, Any]


class Layout(NamedTuple):
    """Where the samples are in a tensor: in dimension ``dim``, each taking ``repeats`` places.

    The places of a sample lie together (sample-major) unless ``interleaved``.
    """

    dim: int
    repeats: int = 1
    interleaved: bool = False

    def samples_first(self, tensor: Tensor) -> Tensor:
        """The tensor as ``(n, repeats, ...)``, without copying."""
        n = tensor.shape[self.dim] // self.repeats
        if self.interleaved:
            return tensor.unflatten(self.dim, (self.repeats, n)).movedim((self.dim + 1, self.dim), (0, 1))
        return tensor.unflatten(self.dim, (n, self.repeats)).movedim((self.dim, self.dim + 1), (0, 1))

    def first_sample(self, tensor: Tensor) -> Tensor:
        """The part of the tensor that belongs to the first sample, with as many dimensions."""
        first = self.samples_first(tensor)[:1]
        return first.movedim((0, 1), (self.dim, self.dim + 1)).flatten(self.dim, self.dim + 1)


class Factors(NamedTuple):
    """Outer products that add up to the gradients by a weight matrix, in ``groups`` that see separate inputs.

    Attributes:
        left: Gradients by the outputs of the layer, shape ``(n, groups, K * o, S)``.
        right: Inputs of the layer, shape ``(n, groups, S, i)``.
    """

    left: Tensor
    right: Tensor


class Layer(NamedTuple):
    """What is known of a layer.

    Attributes:
        arguments: Names the arguments of the function; ``input`` and the roles are among them.
        factors: Outer products that make up the gradient by the weight, if that is their form.
        rows: Gradients by the weight, shape ``(n, K, ...)``, where there are no factors; and by the bias in any case.
        supports: Whether the rule holds with these arguments.
        write: Writes rows by the weight without outer products, or says that those are faster.
        roles: Arguments that may be parameters.
    """

    arguments: Callable[..., dict[str, Any]]
    factors: Callable[[Tensor, Sequence[Tensor], Layout, Options, Scratch | None], Factors] | None
    rows: Callable[[str, Tensor, Sequence[Tensor], Layout, Options, tuple[int, ...]], Tensor]
    supports: Callable[[Options], bool] = lambda _: True
    roles: tuple[str, ...] = ("weight", "bias")
    write: Callable[[Tensor, Tensor, Sequence[Tensor], Layout, Options, Scratch | None], bool] = lambda *_: False
