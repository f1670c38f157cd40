"""MNIST and Fashion-MNIST from local IDX files, plain or compressed with gzip."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_bounds.data.image_data import ImageData, checked


def load(folder: str | Path) -> ImageData:
    """MNIST, Fashion-MNIST or any data set of ten classes in their format, pixels ``/ 255``.

    The folder holds four files, each as it is or with ``.gz`` at its end: ``train-images-idx3-ubyte``,
    ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``; the spelling
    ``train-images.idx3-ubyte`` is understood too. Where several exist, the plain file is taken.

    Args:
        folder: Where the four files are; ``~`` is the home folder. The Debian package ``dataset-fashion-mnist``
            installs them, and ``dpkg -L dataset-fashion-mnist`` says where.

    Returns:
        Images ``(n, 1, H, W)`` and their classes; 60000 and 10000 images of 28 x 28 pixels in the real data sets.

    Raises:
        FileNotFoundError: If a file is missing under all of its names.
        ValueError: If a file is damaged or holds something else, or images and labels do not match.

    References:
        LeCun, Cortes, Burges, The MNIST database of handwritten digits (file format);
        Xiao, Rasul, Vollgraf, Fashion-MNIST, 2017.

    Example:
        >>> import struct, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> for part in ("train", "t10k"):
        ...     images = struct.pack(">4I", 0x803, 2, 1, 3) + bytes([0, 51, 255, 255, 51, 0])
        ...     labels = struct.pack(">2I", 0x801, 2) + bytes([7, 2])
        ...     _ = Path(folder.name, f"{part}-images-idx3-ubyte").write_bytes(images)
        ...     _ = Path(folder.name, f"{part}-labels-idx1-ubyte").write_bytes(labels)
        >>> data = load(folder.name)
        >>> data.train_inputs.shape, data.train_labels
        (torch.Size([2, 1, 1, 3]), tensor([7, 2]))
        >>> folder.cleanup()
    """
    folder = Path(folder).expanduser()
    # All four files are looked for before the first is read: a missing one is known at once.
    train_files, test_files = [(_find(folder, part, "images"), _find(folder, part, "labels")) for part in _parts()]
    train_inputs, train_labels = _read_part(*train_files)
    test_inputs, test_labels = _read_part(*test_files)
    if train_inputs.shape[1:] != test_inputs.shape[1:]:
        raise ValueError(
            f"Expected images of shape {tuple(train_inputs.shape[2:])} in {test_files[0]}, as in {train_files[0]}, "
            f"but got {tuple(test_inputs.shape[2:])}; take both files from one data set."
        )
    return checked(ImageData(train_inputs, train_labels, test_inputs, test_labels, num_classes=10))


def read_idx(path: str | Path) -> Tensor:
    """The array in one IDX file: two zero bytes, a type, the number of dimensions, the sizes, the big-endian data.

    Args:
        path: An IDX file, plain or compressed; which of the two is seen from its first bytes, not from its name.

    Returns:
        Tensor with the type and the shape that the file states.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not IDX, is damaged, or has more or less data than its header says.

    References:
        LeCun, Cortes, Burges, The MNIST database of handwritten digits, section "The IDX file format".

    Example:
        >>> import struct, tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(struct.pack(">BBBBI2h", 0, 0, 0x0B, 1, 2, -1, 300))
        ...     file.flush()
        ...     read_idx(file.name)
        tensor([ -1, 300], dtype=torch.int16)
    """
    path = Path(path)
    content = _content(path)
    types = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in types:
        raise ValueError(
            f"Expected {path} to start as an IDX file, with 00 00 and a type among {bytes(types).hex(' ')}, "
            f"but got {content[:4].hex(' ') or 'an empty file'}; is it another file, or an error page saved as data?"
        )
    num_dims, start = content[3], 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(
            f"Expected a header of {start} bytes for {num_dims} dimensions in {path}, but got {len(content)} bytes; "
            f"the file is truncated, fetch it again."
        )
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    dtype = np.dtype(types[content[2]])
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if found != expected:
        raise ValueError(
            f"Expected {expected} bytes of data in {path}, as its header says shape {shape} of {dtype}, "
            f"but got {found}; the file is {'truncated' if found < expected else 'too long'}, fetch it again."
        )
    array = np.frombuffer(content, dtype.newbyteorder(">"), offset=start).astype(dtype)
    return torch.from_numpy(array.reshape(shape))


def _parts() -> tuple[str, str]:
    return "train", "t10k"


def _find(folder: Path, part: str, kind: str) -> Path:
    dims = 3 if kind == "images" else 1
    names = [f"{part}-{kind}{dot}idx{dims}-ubyte{end}" for end in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"Expected one of {names} in the folder {folder}, "
        f"but got {'none of them' if folder.is_dir() else 'no such folder'}; check the path."
    )


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"Expected an IDX file at {path}, but there is none; check the path.")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"Expected {path} to be a complete gzip file, but got {len(content)} bytes that do not decompress "
            f"({error}); fetch it again."
        ) from error


def _read_part(images_file: Path, labels_file: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.dim() != 3 or images.dtype != torch.uint8 or images.numel() == 0:
        raise ValueError(
            f"Expected images in {images_file}, bytes of shape (n, H, W), "
            f"but got {images.dtype} of shape {tuple(images.shape)}; is it another file under this name?"
        )
    if labels.dim() != 1 or labels.dtype != torch.uint8:
        raise ValueError(
            f"Expected labels in {labels_file}, bytes of shape (n,), "
            f"but got {labels.dtype} of shape {tuple(labels.shape)}; is it another file under this name?"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"Expected {len(images)} labels in {labels_file}, as many as images in {images_file}, "
            f"but got {len(labels)}; take both files from one data set."
        )
    if int(labels.max()) > 9:
        raise ValueError(f"Expected labels 0..9 in {labels_file}, but got {int(labels.max())}; the file is damaged.")
    return images.unsqueeze(1).to(torch.float32) / 255, labels.long()
