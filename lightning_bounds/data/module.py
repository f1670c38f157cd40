"""Images for a Lightning trainer: one preparation for every experiment, with the labels before and after noise."""

import inspect
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds.data import transforms
from lightning_bounds.data.image_data import ImageData, checked
from lightning_bounds.data.label_noise import check_noise, flip_labels
from lightning_bounds.lightning import pl

# Errors are measured without gradients, on more samples at a time than a step of training takes.
_EVALUATION_BATCH = 512


class ImageDataModule(pl.LightningDataModule):
    """Images, prepared in this order: classes, subsample, block means, unit norm, flattening, label noise.

    Every sample is ``(input, label, original_label)``; the two labels differ where label noise has changed the first.
    The validation loaders are a list of two, ``[test set, training set in its order]``, so that training and test
    errors are measured with the same weights at the end of an epoch. The training loader is shuffled, unless a batch
    is the whole training set.

    All draws have seeds of their own, the five words of ``numpy.random.SeedSequence(seed).generate_state(5)``: training
    subsample, test subsample, training label noise, test label noise, order of the training batches. So another
    fraction of label noise meets the same images, and the global random states are never used.

    Args:
        source: Function that loads the images, such as ``lightning_bounds.data.digits.load``; with arguments of its
            own as a ``functools.partial``, in YAML by ``_partial_: true``.
        classes: Classes to keep, in the order of their new labels; all by default.
        train_samples: Number of training samples to draw; all by default.
        test_samples: Number of test samples to draw; all by default.
        size: Height and width to reduce the images to by block means; as they are by default.
        unit_norm: Whether each input is divided by its Euclidean norm, which the papers assume.
        flatten: Whether inputs are vectors rather than images.
        label_noise: Portion of the training labels that is drawn again, in [0, 1].
        noise_convention: How they are drawn: ``"different"`` or ``"uniform"``, see :func:`label_noise.flip_labels`.
        noisy_test: Whether the test labels get the same portion of noise, as in Figure 2 of Arora et al. 2019.
        batch_size: Samples per batch; ``None`` is the whole set, for gradient descent.
        seed: Non-negative seed of all draws.

    Attributes:
        in_features: Number of entries of one input; this and what follows is known after ``setup``.
        input_shape: Shape of one input.
        num_classes: Number of classes.
        train_inputs: Training inputs, shape ``(n, *input_shape)``.
        train_labels: Training labels with the noise, shape ``(n,)``.
        original_labels: Training labels before the noise, shape ``(n,)``.
        flipped: Indices of the training samples whose label is wrong, ascending.
        test_inputs: Test inputs, shape ``(n_test, *input_shape)``.
        test_labels: Test labels, with noise only if ``noisy_test``.
        test_original_labels: Test labels before the noise.

    Raises:
        TypeError: If ``source`` is not a function that needs no further arguments, or does not return ``ImageData``.
        ValueError: If an argument is out of its range, here; if it does not fit the data, in ``setup``.

    Example:
        >>> from lightning_bounds.data import digits
        >>> data = ImageDataModule(digits.load, classes=[3, 7], train_samples=100, label_noise=0.25)
        >>> data.setup()
        >>> data.in_features, data.num_classes, len(data.flipped)
        (64, 2, 25)
        >>> inputs, labels, original_labels = next(iter(data.train_dataloader()))
        >>> inputs.shape, int((labels != original_labels).sum())
        (torch.Size([100, 64]), 25)
    """

    in_features: int
    input_shape: tuple[int, ...]
    num_classes: int
    train_inputs: Tensor
    train_labels: Tensor
    original_labels: Tensor
    flipped: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    test_original_labels: Tensor

    def __init__(
        self,
        source: Callable[[], ImageData],
        classes: Sequence[int] | None = None,
        train_samples: int | None = None,
        test_samples: int | None = None,
        size: int | None = None,
        unit_norm: bool = True,
        flatten: bool = True,
        label_noise: float = 0.0,
        noise_convention: str = "different",
        noisy_test: bool = False,
        batch_size: int | None = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not callable(source):
            raise TypeError(
                f"Expected `source` to be a function that loads images, but got {type(source).__name__}; "
                f"in YAML, set `_partial_: true` beside its `_target_`."
            )
        try:
            inspect.signature(source).bind()
        except TypeError as error:
            raise TypeError(
                f"Expected `source` to be a function that needs no further arguments, but got {source}: {error}; "
                f"bind it with `functools.partial`, in YAML beside the `_target_` of `source`."
            ) from error
        counts = {"train_samples": train_samples, "test_samples": test_samples, "size": size, "batch_size": batch_size}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"Expected `{name}` to be a positive integer or None, but got {count!r}.")
        if classes is not None and not (isinstance(classes, Sequence) and len(set(classes)) == len(classes) >= 2):
            raise ValueError(f"Expected `classes` to be a list of two or more different classes, but got {classes!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"Expected `seed` to be a non-negative integer, but got {seed!r}.")
        check_noise(label_noise, noise_convention)
        self.source = source
        self.classes = None if classes is None else list(classes)
        self.train_samples, self.test_samples, self.size = train_samples, test_samples, size
        self.unit_norm, self.flatten = unit_norm, flatten
        self.label_noise, self.noise_convention, self.noisy_test = label_noise, noise_convention, noisy_test
        self.batch_size = batch_size
        seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(5)]
        self.train_seed, self.test_seed, self.train_noise_seed, self.test_noise_seed, self.order_seed = seeds

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 (all stages need the same data)
        """Load and prepare the data, the first time that this is called.

        Args:
            stage: Lightning's stage, which makes no difference.

        Raises:
            TypeError: If ``source`` does not return ``ImageData``.
            ValueError: If the data is not well formed, or an argument does not fit it.
        """
        if "train_inputs" in vars(self):
            return
        data = self.source()
        if not isinstance(data, ImageData):
            raise TypeError(f"Expected `source` to return ImageData, but got {type(data).__name__}.")
        data = checked(data)
        num_classes = data.num_classes if self.classes is None else len(self.classes)
        test_noise = self.label_noise if self.noisy_test else 0.0
        test_inputs, test_truth = self._prepared(data.test_inputs, data.test_labels, self.test_samples, self.test_seed)
        inputs, truth = self._prepared(data.train_inputs, data.train_labels, self.train_samples, self.train_seed)
        test_noisy = flip_labels(test_truth, test_noise, num_classes, self.noise_convention, self.test_noise_seed)
        noisy = flip_labels(truth, self.label_noise, num_classes, self.noise_convention, self.train_noise_seed)
        self.num_classes, self.input_shape, self.in_features = num_classes, tuple(inputs.shape[1:]), inputs[0].numel()
        self.test_inputs, self.test_labels, self.test_original_labels = test_inputs, test_noisy.labels, test_truth
        self.train_labels, self.original_labels, self.flipped = noisy.labels, truth, noisy.flipped
        self.train_inputs = inputs

    def train_dataloader(self) -> DataLoader:
        """Loader of the training set, in an order that depends on ``seed`` and on how often it was iterated."""
        train_set = self._train_set()
        return self._loader(train_set, self.batch_size or len(train_set), shuffle=self.batch_size is not None)

    def val_dataloader(self) -> list[DataLoader]:
        """Two loaders without shuffling: the test set, and the training set."""
        return [self.test_dataloader(), self._loader(self._train_set(), _EVALUATION_BATCH, shuffle=False)]

    def test_dataloader(self) -> DataLoader:
        """Loader of the test set, without shuffling."""
        test_set = TensorDataset(self.test_inputs, self.test_labels, self.test_original_labels)
        return self._loader(test_set, _EVALUATION_BATCH, shuffle=False)

    def _prepared(self, inputs: Tensor, labels: Tensor, count: int | None, seed: int) -> transforms.Samples:
        if self.classes is not None:
            inputs, labels = transforms.select_classes(inputs, labels, self.classes)
        if count is not None:
            inputs, labels = transforms.subsample(inputs, labels, count, seed)
        if self.size is not None:
            inputs = transforms.block_mean(inputs, self.size)
        if self.unit_norm:
            inputs = transforms.unit_norm(inputs)
        if self.flatten:
            inputs = inputs.flatten(1)
        return transforms.Samples(inputs, labels)

    def _train_set(self) -> TensorDataset:
        return TensorDataset(self.train_inputs, self.train_labels, self.original_labels)

    def _loader(self, dataset: TensorDataset, batch_size: int, shuffle: bool) -> DataLoader:
        # A generator of its own, also without shuffling: a loader without one draws from the global random state.
        generator = torch.Generator().manual_seed(self.order_seed)
        return DataLoader(dataset, batch_size, shuffle=shuffle, generator=generator)

    def __getattr__(self, name: str) -> NoReturn:
        """Say that what is read from the data is not known before ``setup``."""
        if name in ImageDataModule.__annotations__:
            raise AttributeError(f"Expected `setup` before `{name}` is read; call `datamodule.setup()` first.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.")
