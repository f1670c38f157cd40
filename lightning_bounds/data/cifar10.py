"""CIFAR-10 from its local python batches, read without running what a pickle may ask for."""

import io
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_bounds.data.image_data import ImageData, checked


class Batch(NamedTuple):
    """One batch file of CIFAR-10.

    Attributes:
        images: Unsigned bytes, shape ``(n, 3, 32, 32)``.
        labels: Classes 0 to 9, int64, shape ``(n,)``.
    """

    images: Tensor
    labels: Tensor


def load(folder: str | Path) -> ImageData:
    """CIFAR-10 from ``data_batch_1`` .. ``data_batch_5`` and ``test_batch``, pixels ``/ 255``.

    Args:
        folder: The folder with the six files, or the one that contains it as ``cifar-10-batches-py``; ``~`` is the
            home folder.

    Returns:
        Images ``(n, 3, 32, 32)`` and their classes; 50000 and 10000 images in the real data set.

    Raises:
        FileNotFoundError: If one of the six files is missing.
        ValueError: If a file is damaged, holds something else, or asks for anything but a numpy array.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009 (the "python version").

    Example:
        >>> import pickle, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> batch = {b"data": np.full((2, 3072), 255, dtype=np.uint8), b"labels": [3, 8]}
        >>> for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        ...     _ = Path(folder.name, name).write_bytes(pickle.dumps(batch, protocol=2))
        >>> load(folder.name).train_inputs.shape
        torch.Size([10, 3, 32, 32])
        >>> folder.cleanup()
    """
    folder = Path(folder).expanduser()
    inner = folder / "cifar-10-batches-py"
    folder = inner if inner.is_dir() else folder
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the files {names} of CIFAR-10's python version in the folder {folder}, "
            f"but {missing} are missing; check the path, and unpack the archive there."
        )
    *train, test = [read_batch(folder / name) for name in names]
    return checked(
        ImageData(
            train_inputs=torch.cat([batch.images for batch in train]).to(torch.float32) / 255,
            train_labels=torch.cat([batch.labels for batch in train]),
            test_inputs=test.images.to(torch.float32) / 255,
            test_labels=test.labels,
            num_classes=10,
        )
    )


def read_batch(path: str | Path) -> Batch:
    """The images and classes in one batch file: a pickled dictionary with ``data`` ``(n, 3072)`` and ``labels``.

    Nothing that the pickle names is imported or called: numpy's part in it is played by objects that only keep what
    they are given, and any other name is an error.

    Args:
        path: A batch file, as it is in the archive.

    Returns:
        Images, with channels before rows and columns as in the file, and labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no such dictionary, has arrays of other shapes or classes other than
            0 to 9, or names anything but a numpy array.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     pickle.dump({b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [3, 8]}, file, protocol=2)
        ...     file.flush()
        ...     read_batch(file.name).labels
        tensor([3, 8])
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        batch = _ArrayUnpickler(path, content).load()
    except _ForbiddenGlobalError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(
            f"Expected a complete pickle in {path}, but got {len(content)} bytes that cannot be read ({error!r}); "
            f"fetch it again."
        ) from error
    fields = batch if isinstance(batch, dict) else {}
    if not {b"data", b"labels"} <= fields.keys():
        raise ValueError(
            f"Expected a dictionary with b'data' and b'labels' in {path}, "
            f"but got {type(batch).__name__} with {sorted(map(repr, fields))}; is it another file under this name?"
        )
    images = _images(path, fields[b"data"])
    return Batch(images, _labels(path, fields[b"labels"], len(images)))


class _ForbiddenGlobalError(Exception):
    """A pickle named something else than a numpy array."""


class _PickledDtype:
    """What a pickle says about a numpy type: its name, such as ``u1``."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Byte order and fields, which bytes do not have."""


class _PickledArray:
    """What a pickle says about a numpy array: shape, type, order and bytes; made as numpy's would be, then filled."""

    shape: tuple[int, ...] = ()
    dtype_name = "nothing"
    is_fortran = False
    content = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, self.is_fortran, content = state
        if not (isinstance(shape, tuple) and isinstance(dtype, _PickledDtype) and isinstance(content, bytes)):
            raise TypeError("the state of an array is its version, shape, type, order and bytes")
        self.shape, self.dtype_name, self.content = shape, dtype.name, content


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that knows numpy arrays and nothing else, and imports not even those."""

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _PickledArray
        if (module, name) == ("numpy", "ndarray"):
            return _PickledArray
        if (module, name) == ("numpy", "dtype"):
            return _PickledDtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in the files' old protocol
            return lambda text, _: text.encode("latin1")
        raise _ForbiddenGlobalError(
            f"Expected nothing but a numpy array, lists and bytes in {self.path}, but got a pickle that asks for "
            f"`{module}.{name}`, which the batches of CIFAR-10 do not; do not load this file with anything else, "
            f"fetch it again from its authors."
        )


def _images(path: Path, array: object) -> Tensor:
    if not isinstance(array, _PickledArray):
        raise ValueError(f"Expected a numpy array as b'data' in {path}, but got {type(array).__name__}.")
    shape, size = array.shape, len(array.content)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != 3072 or array.dtype_name != "u1":
        raise ValueError(
            f"Expected images in {path}, bytes (u1) of shape (n, 3072), but got {array.dtype_name} of shape {shape}."
        )
    if size != math.prod(shape):
        raise ValueError(f"Expected {math.prod(shape)} bytes of pixels in {path} for shape {shape}, but got {size}.")
    pixels = np.frombuffer(array.content, np.uint8).reshape(shape, order="F" if array.is_fortran else "C")
    return torch.from_numpy(pixels.copy()).reshape(-1, 3, 32, 32)


def _labels(path: Path, labels: object, n: int) -> Tensor:
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError(f"Expected a list of classes 0..9 as b'labels' in {path}, but got {str(labels)[:80]}.")
    if len(labels) != n:
        raise ValueError(f"Expected {n} labels in {path}, as many as images, but got {len(labels)}; fetch it again.")
    return torch.tensor(labels, dtype=torch.int64)
