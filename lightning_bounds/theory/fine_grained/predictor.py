"""What the very wide two-layer network predicts after training, on any inputs: kernel regression, stopped early."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_bounds.theory.arguments import as_labels, check_positive
from lightning_bounds.theory.fine_grained.arguments import as_steps
from lightning_bounds.theory.fine_grained.trajectory import fitted_share, to_fit


def kernel_predictions(
    gram: Tensor,
    labels: Tensor,
    cross_gram: Tensor | None = None,
    *,
    learning_rate: float | None = None,
    steps: Iterable[float] | Tensor = (math.inf,),
    initial_outputs: Tensor | None = None,
    initial_other_outputs: Tensor | None = None,
) -> Tensor:
    """Outputs after ``k`` steps: ``u(0) + H' Σ_i (1 - (1 - η λ_i)^k) / λ_i (v_i·(y - u(0))) v_i``.

    ``H'`` is the cross-kernel of the inputs that are asked for with the training inputs, and ``H`` itself for the
    training inputs. At infinity that is ``H' H⁺ y``, the interpolant of least norm; directions outside the range of
    ``H`` are never learned.

    Args:
        gram: ``H`` of the training inputs, shape ``(n, n)``.
        labels: ``y``, shape ``(n,)``.
        cross_gram: ``H'``, shape ``(m, n)``, such as ``relu_gram(test_inputs, inputs)``; by default ``gram``.
        learning_rate: ``η``, for the sum loss; needed for finite numbers of steps only.
        steps: Numbers of steps ``k``; by default infinity alone.
        initial_outputs: ``u(0)`` on the training inputs, shape ``(n,)``; by default 0.
        initial_other_outputs: The initial outputs on the inputs that are asked for, shape ``(m,)``, if ``cross_gram``
            and ``initial_outputs`` are given.

    Returns:
        Shape ``(len(steps), m)``, float64.

    Raises:
        ValueError: If shapes do not match, arguments are missing, or the recursion diverges.

    References:
        Arora et al. 2019, Eq. (7) for the training inputs; Jacot, Gabriel, Hongler 2018, section 5, for others.

    Example:
        >>> import torch
        >>> H = 2 * torch.eye(2)
        >>> kernel_predictions(H, torch.tensor([1.0, -1.0]), learning_rate=0.25, steps=[1, float("inf")])
        tensor([[ 0.5000, -0.5000],
                [ 1.0000, -1.0000]], dtype=torch.float64)
        >>> kernel_predictions(H, torch.tensor([1.0, -1.0]), cross_gram=torch.tensor([[2.0, 1.0]]))
        tensor([[0.5000]], dtype=torch.float64)
    """
    counts = as_steps(steps)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    elif not all(math.isinf(count) for count in counts):
        raise ValueError(f"Expected a `learning_rate` for finite numbers of steps, but got None for {counts[:10]}.")
    eigenvalues, projections, vectors = to_fit(gram, labels, initial_outputs)
    if cross_gram is None:
        readout, start = vectors * eigenvalues, initial_outputs
        if initial_other_outputs is not None:
            raise ValueError("Expected `initial_other_outputs` only with a `cross_gram`, but got none.")
    else:
        if cross_gram.dim() != 2 or cross_gram.shape[1] != len(gram) or not bool(cross_gram.isfinite().all()):
            raise ValueError(
                f"Expected a finite `cross_gram` of shape (m, {len(gram)}), a column for every training input, "
                f"but got {tuple(cross_gram.shape)}."
            )
        if (initial_outputs is None) != (initial_other_outputs is None):
            raise ValueError("Expected both `initial_outputs` and `initial_other_outputs`, or none, but got one.")
        readout, start = cross_gram.detach().to(vectors) @ vectors, initial_other_outputs
    # What lies outside the range has no part in any row of the cross-kernel, except for rounding.
    inside = eigenvalues > 0
    readout, projections, eigenvalues = readout[:, inside], projections[inside], eigenvalues[inside]
    # With no learning rate, that of any convergent descent.
    rate = learning_rate if learning_rate is not None else 1 / float(eigenvalues.max()) if len(eigenvalues) else 1.0
    shares = torch.stack([fitted_share(eigenvalues, rate, count) for count in counts])
    outputs = (shares * (projections / eigenvalues)) @ readout.T
    if start is not None:
        outputs = outputs + as_labels(start, outputs.shape[1], "initial outputs").to(outputs)
    if not bool(outputs.isfinite().all()):
        raise ValueError(
            f"Expected a `learning_rate` below 2 / {float(eigenvalues.max()):.6g}, but got {learning_rate}, "
            f"with which the recursion diverges within {max(counts):g} steps."
        )
    return outputs
