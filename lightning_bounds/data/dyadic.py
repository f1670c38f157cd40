"""The dyadic data set, on which batch norm gains a factor of the root of the dimension over a linear predictor."""

import torch

from lightning_bounds.data.image_data import ImageData, checked
from lightning_bounds.theory.batch_norm_margin.dyadic import dyadic_dataset


def load(dim: int = 4) -> ImageData:
    """The ``2d`` samples ``±2^-j e_j``, ``j = 1 .. d``, as images of one row: class 1 for ``+``, class 0 for ``-``.

    The samples are the whole distribution, so training and test part are the same.

    Args:
        dim: ``d``, the number of features, at most 100: smaller powers of two are no normal numbers in float32.

    Returns:
        Images ``(2d, 1, 1, d)``, exact in float32, and their classes.

    Raises:
        ValueError: If ``dim`` is not an integer in ``1 .. 100``.

    References:
        Test error guarantees for batch-normalized shallow ReLU networks trained with gradient descent, Definition 1.1.

    Example:
        >>> data = load(dim=2)
        >>> data.train_inputs[:, 0, 0]
        tensor([[ 0.5000,  0.0000],
                [ 0.0000,  0.2500],
                [-0.5000, -0.0000],
                [-0.0000, -0.2500]])
        >>> data.train_labels
        tensor([1, 1, 0, 0])
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= 100:
        raise ValueError(f"Expected `dim` to be an integer in 1..100, but got {dim!r}.")
    inputs, signs = dyadic_dataset(dim)
    images, labels = inputs.to(torch.float32).reshape(2 * dim, 1, 1, dim), (signs > 0).long()
    return checked(ImageData(images, labels, images.clone(), labels.clone(), num_classes=2))
