"""Data files in the real formats, and a watch over the global random states."""

import contextlib
import pickle
import random
import struct

import numpy as np
import pytest
import torch

from lightning_bounds.data import ImageData, ImageDataModule


@pytest.fixture
def rng_untouched():
    """Context that fails if the global state of torch, numpy or Python moves inside it."""

    @contextlib.contextmanager
    def watch():
        before = torch.get_rng_state(), np.random.get_state(), random.getstate()
        yield
        torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
        assert pickle.dumps(np.random.get_state()) == pickle.dumps(before[1])
        assert random.getstate() == before[2]

    return watch


@pytest.fixture
def idx_bytes():
    """Bytes of an IDX file of unsigned bytes, written from the definition of the format."""

    def encode(array: np.ndarray) -> bytes:
        return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    return encode


@pytest.fixture
def idx_folder(tmp_path, idx_bytes):
    """Folder with 20 training and 10 test images of 4 x 6 pixels, ``image[i] = i + 1`` and ``label[i] = i % 10``."""
    for part, n in (("train", 20), ("t10k", 10)):
        images = np.broadcast_to(np.arange(1, n + 1).reshape(n, 1, 1), (n, 4, 6)).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes((np.arange(n) % 10).astype(np.uint8)))
    return tmp_path


@pytest.fixture
def python2_batch():
    """A CIFAR-10 batch as Python 2 pickled it: the opcodes of the real files, with the pixels and labels given."""

    def encode(pixels: np.ndarray, labels: list[int]) -> bytes:
        n, width = pixels.shape
        listed = b"".join(b"K" + bytes([label]) for label in labels)
        return (
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
            b"U\x06labelsq\x04]q\x05(" + listed + b"e"
            b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"
            b"(K\x01M" + struct.pack("<H", n) + b"M" + struct.pack("<H", width) + b"\x86"
            b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b"
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            b"T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tb"
            b"U\tfilenamesq\x0c]q\ru."
        )

    return encode


@pytest.fixture
def cifar_folder(tmp_path, python2_batch):
    """Folder with six batches of 4 images, whose pixels all are ``1 + 4 b + i``, ``label = (4 b + i) % 10``."""
    for b, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        numbers = 4 * b + np.arange(4)
        pixels = np.repeat(1 + numbers, 3072).reshape(4, 3072).astype(np.uint8)
        (tmp_path / name).write_bytes(python2_batch(pixels, [int(i) % 10 for i in numbers]))
    return tmp_path


@pytest.fixture
def numbered_images():
    """Source of images of 2 x 4 x 4 pixels, all different, of four classes in turn."""

    def load(num_train=60, num_test=30):
        pixels = torch.arange((num_train + num_test) * 32, dtype=torch.float32).add(1).sin().abs()
        train, test = pixels.reshape(-1, 2, 4, 4).split([num_train, num_test])
        return ImageData(train, torch.arange(num_train) % 4, test, torch.arange(num_test) % 4, num_classes=4)

    return load


@pytest.fixture
def ready(numbered_images):
    """Data module of the numbered images after ``setup``, with the options given."""

    def build(**options):
        datamodule = ImageDataModule(numbered_images, **options)
        datamodule.setup("fit")
        return datamodule

    return build
