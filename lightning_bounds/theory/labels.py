"""Label coding: class indices, one-hot rows and the sign labels of a single output, always validated.

Every part of the package codes labels here, so that the residual that a callback projects is the residual that the
loss trains on.
"""

import torch
from torch import Tensor


def label_matrix(targets: Tensor, num_outputs: int, dtype: torch.dtype | None = None) -> Tensor:
    """Targets as a matrix ``Y`` with one row per sample and one column per output.

    * integer classes and ``K >= 2`` outputs: one-hot rows, ``Y[i, c] = 1`` if ``c`` is the class of sample ``i``;
    * integer classes 0 and 1 and one output: ``-1`` and ``+1``; integers that are already ``-1`` and ``+1`` stay;
    * floating targets: the real targets themselves, shape ``(n, ...)`` with ``K`` numbers per sample.

    Args:
        targets: Class indices ``(n,)`` or ``(n, 1)`` of an integer type, or real targets with ``n * K`` entries.
        num_outputs: ``K``, the number of outputs per sample.
        dtype: Type of the result; real targets keep theirs and classes get the default type if it is not given.

    Returns:
        ``Y``, shape ``(n, K)``.

    Raises:
        ValueError: If a class lies outside ``0 .. K-1``, sign labels are neither ±1 nor 0 and 1, real targets are not
            finite, or the sizes do not match.

    References:
        Oymak, Fabian, Li, Soltanolkotabi 2019, Definition 3.4 (one-hot labels).

    Example:
        >>> label_matrix(torch.tensor([1, 0]), num_outputs=3)
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
        >>> label_matrix(torch.tensor([1, 0]), num_outputs=1)
        tensor([[ 1.],
                [-1.]])
    """
    n = targets.shape[0] if targets.dim() else 0
    if targets.is_floating_point():
        if n == 0 or targets.numel() != n * num_outputs:
            raise ValueError(
                f"Expected real targets with {num_outputs} numbers per sample, as many as the network has outputs, "
                f"but got shape {tuple(targets.shape)}; for classes pass an integer tensor of shape (n,)."
            )
        if not bool(targets.isfinite().all()):
            bad = (~targets.reshape(n, -1).isfinite().all(dim=1)).nonzero().flatten().tolist()
            raise ValueError(
                f"Expected finite targets, but samples {bad[:10]} are NaN or infinite; remove or fix them."
            )
        return targets.reshape(n, num_outputs).to(dtype or targets.dtype)
    classes = class_indices(targets, num_outputs)
    dtype = dtype or torch.get_default_dtype()
    if num_outputs == 1:
        return (2 * classes - 1).to(dtype).unsqueeze(1)
    return torch.nn.functional.one_hot(classes, num_outputs).to(dtype)


def class_indices(targets: Tensor, num_outputs: int) -> Tensor:
    """The class of each sample: an index in ``0 .. K-1``, or 0 and 1 for the signs -1 and +1 of a single output.

    Args:
        targets: Classes ``(n,)`` or ``(n, 1)`` of an integer or boolean type; coded rows ``(n, K)`` (the one largest
            entry is the class); or, for a single output, sign labels ``(n,)`` or ``(n, 1)`` of any type.
        num_outputs: ``K``, the number of outputs per sample.

    Returns:
        Integer tensor, shape ``(n,)``.

    Raises:
        ValueError: If a class is out of range, or the targets are not a coding of classes.

    Example:
        >>> class_indices(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), num_outputs=2)
        tensor([1, 0])
        >>> class_indices(torch.tensor([-1.0, 1.0]), num_outputs=1)
        tensor([0, 1])
    """
    if targets.dim() == 2 and targets.shape[1] == num_outputs and num_outputs > 1:
        return _coded_classes(targets)
    if targets.dim() == 0 or targets.numel() != targets.shape[0]:
        raise ValueError(
            f"Expected one class per sample, shape (n,), or coded rows (n, {num_outputs}), "
            f"but got shape {tuple(targets.shape)}."
        )
    flat = targets.reshape(-1)
    if num_outputs == 1:
        return _sign_classes(flat)
    if flat.is_floating_point() or flat.is_complex():
        raise ValueError(
            f"Expected integer classes for {num_outputs} outputs, but got {flat.dtype}; convert them with `.long()`."
        )
    outside = (flat < 0) | (flat >= num_outputs)
    if bool(outside.any()):
        sample = int(outside.nonzero()[0])
        raise ValueError(
            f"Expected classes in 0..{num_outputs - 1}, as the network has {num_outputs} outputs, "
            f"but sample {sample} has label {int(flat[sample])}."
        )
    return flat.long()


def _coded_classes(rows: Tensor) -> Tensor:
    # NaN equals nothing, so a row with NaN has no largest entry either.
    largest = (rows == rows.amax(dim=1, keepdim=True)).int()
    unclear = (largest.sum(dim=1) != 1).nonzero().flatten().tolist()
    if unclear:
        raise ValueError(
            f"Expected coded rows with one largest entry each, the class, but those of samples {unclear[:10]} have "
            "several or NaN; for several labels per sample there is no class."
        )
    return largest.argmax(dim=1)


def _sign_classes(flat: Tensor) -> Tensor:
    values = set(flat.unique().tolist())
    if values <= {-1, 1}:
        return (flat > 0).long()
    if values <= {0, 1} and not flat.is_floating_point():
        return flat.long()
    raise ValueError(
        f"Expected labels -1 and +1, or integer classes 0 and 1, for a single output, but got {sorted(values)[:10]}."
    )


def as_signs(labels: Tensor, n: int) -> Tensor:
    """Labels -1 and +1 for a single output, ``(n,)`` or ``(n, 1)``, in float64 of shape ``(n,)``.

    Raises:
        ValueError: If there are not ``n``, or one is neither -1 nor +1.

    Example:
        >>> as_signs(torch.tensor([0, 1]), 2)
        Traceback (most recent call last):
        ValueError: Expected labels -1 and +1, but got [0.0, 1.0]; code classes 0 and 1 as `2 * labels - 1`.
    """
    if labels.dim() not in (1, 2) or labels.shape[0] != n or labels.numel() != n or labels.is_complex():
        raise ValueError(f"Expected one label for each of the {n} samples, but got shape {tuple(labels.shape)}.")
    signs = labels.detach().double().reshape(n)
    if not bool((signs.abs() == 1).all()):
        finite = "" if bool(signs.isfinite().all()) else "finite "
        raise ValueError(
            f"Expected {finite}labels -1 and +1, but got {signs.unique().tolist()[:10]}; "
            "code classes 0 and 1 as `2 * labels - 1`."
        )
    return signs
