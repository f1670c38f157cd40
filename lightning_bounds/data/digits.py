"""The handwritten digits of scikit-learn: 1797 real images of 8 x 8 pixels, installed with the package."""

import torch

from lightning_bounds.data.image_data import ImageData, random_split


def load(test_fraction: float = 0.2, seed: int = 0) -> ImageData:
    """Handwritten digits 0 to 9, pixels ``/ 16``, split into 1437 training and 360 test images by default.

    Args:
        test_fraction: The test part has ``ceil(1797 * test_fraction)`` images; the default is a common choice.
        seed: Seed of the permutation behind the split; the global random state is not used.

    Returns:
        Images ``(n, 1, 8, 8)`` and their classes.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If ``test_fraction`` leaves one of the parts empty.

    References:
        Alpaydin & Kaynak, Optical recognition of handwritten digits, UCI 1998 (its test set, as in scikit-learn).

    Example:
        >>> data = load()
        >>> data.train_inputs.shape, data.test_inputs.shape
        (torch.Size([1437, 1, 8, 8]), torch.Size([360, 1, 8, 8]))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "Expected scikit-learn, which holds the digits, but it is not installed; "
            "run `pip install 'lightning-bounds[experiments]'`."
        ) from error
    digits = load_digits()
    inputs = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) / 16
    return random_split(inputs, torch.from_numpy(digits.target).long(), 10, test_fraction, seed)
