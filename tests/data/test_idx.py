import gzip
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_bounds.data import idx


def header() -> bytes:
    """Start of an IDX file of 2 x 3 bytes."""
    return bytes([0, 0, 8, 2]) + struct.pack(">2I", 2, 3)


def respell(folder: Path, dot: str, ending: str) -> None:
    """Replace the four files by the same under other names, compressed if the names say so."""
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        name = path.name.replace("-idx", f"{dot}idx") + ending
        (folder / name).write_bytes(gzip.compress(content) if ending else content)


def fashion_mnist_folder() -> Path:
    """Where the Debian package put its files, or skip."""
    try:
        listing = subprocess.run(["dpkg", "-L", "dataset-fashion-mnist"], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    return next(Path(line).parent for line in listing.stdout.splitlines() if "train-images" in line)


@pytest.mark.parametrize(
    ("code", "letter", "dtype", "values"),
    [
        (0x08, "B", torch.uint8, [0, 1, 255]),
        (0x09, "b", torch.int8, [-128, 0, 127]),
        (0x0B, "h", torch.int16, [-1, 256, 300]),
        (0x0C, "i", torch.int32, [-70000, 1, 2]),
        (0x0D, "f", torch.float32, [-1.5, 0.25, 1e20]),
        (0x0E, "d", torch.float64, [-1.5, 0.25, 1e200]),
    ],
)
def test_every_type_of_the_format_is_read_in_big_endian(tmp_path, code, letter, dtype, values):
    path = tmp_path / "array"
    path.write_bytes(bytes([0, 0, code, 1]) + struct.pack(f">I3{letter}", 3, *values))
    torch.testing.assert_close(idx.read_idx(path), torch.tensor(values, dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (1, 2, 3, 2), (0, 28, 28)])
def test_reading_gives_back_what_was_written(tmp_path, idx_bytes, shape):
    array = (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    (tmp_path / "array").write_bytes(idx_bytes(array))
    torch.testing.assert_close(idx.read_idx(str(tmp_path / "array")), torch.from_numpy(array), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["array.gz", "array"])
def test_compressed_files_are_known_by_their_content(tmp_path, idx_bytes, name):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (tmp_path / name).write_bytes(gzip.compress(idx_bytes(array)))
    torch.testing.assert_close(idx.read_idx(tmp_path / name), torch.from_numpy(array), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "but got an empty file"),
        (b"\0\0\x08", "but got 00 00 08"),
        (b"<html>not found</html>", "start as an IDX file, with 00 00 and a type among 08 09 0b.*but got 3c 68 74 6d"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "a type among 08.*but got 00 00 07 01"),
        (b"\0\0\x08\x03\0\0\0\x01", "header of 16 bytes for 3 dimensions.*but got 8 bytes"),
        (header() + bytes(5), r"Expected 6 bytes of data.*shape \(2, 3\) of uint8, but got 5; the file is truncated"),
        (header() + bytes(7), "Expected 6 bytes of data.*but got 7; the file is too long"),
        (bytes([0, 0, 8, 4]) + b"\xff" * 16, "Expected 340282366604025813516997721482669850625 bytes"),
        (gzip.compress(header() + bytes(6))[:-9], "complete gzip file, but got .* bytes that do not decompress"),
        (gzip.compress(header() + bytes(6))[:12], "complete gzip file"),
        (b"\x1f\x8b" + b"garbage garbage garbage", "complete gzip file"),
        (gzip.compress(header() + bytes(6))[:-8] + b"12345678", "complete gzip file"),
    ],
)
def test_damaged_files_are_refused_by_name_with_what_was_found(tmp_path, content, message):
    path = tmp_path / "damaged-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        idx.read_idx(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        idx.read_idx(tmp_path / "no-such-file")


def test_folder_is_read_into_scaled_images_and_labels(idx_folder):
    data = idx.load(idx_folder)
    assert data.train_inputs.shape == (20, 1, 4, 6)
    assert data.test_inputs.shape == (10, 1, 4, 6)
    torch.testing.assert_close(data.train_inputs[:, 0, 3, 5] * 255, torch.arange(1.0, 21.0, dtype=torch.float32))
    torch.testing.assert_close(data.train_labels, torch.arange(20) % 10)
    torch.testing.assert_close(data.test_labels, torch.arange(10))
    assert (data.train_inputs.dtype, data.num_classes) == (torch.float32, 10)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_all_spellings_of_the_four_names_are_found(idx_folder, dot, ending):
    expected = idx.load(str(idx_folder))
    respell(idx_folder, dot, ending)
    torch.testing.assert_close(idx.load(idx_folder)[:4], expected[:4], rtol=0, atol=0)


def test_home_folder_is_expanded(idx_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(idx_folder))
    assert len(idx.load("~").train_labels) == 20


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_file_of_the_four_is_an_error_with_all_its_names(idx_folder, name):
    (idx_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"'{name}', .*'{name}\.gz', .*but got none of them"):
        idx.load(idx_folder)


def test_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in the folder .*nowhere, but got no such folder"):
        idx.load(tmp_path / "nowhere")


def test_labels_in_the_place_of_images_are_refused(idx_folder):
    labels = idx_folder / "train-labels-idx1-ubyte"
    (idx_folder / "train-images-idx3-ubyte").write_bytes(labels.read_bytes())
    with pytest.raises(ValueError, match=r"Expected images in .*train-images.*but got torch.uint8 of shape \(20,\)"):
        idx.load(idx_folder)


def test_images_in_the_place_of_labels_are_refused(idx_folder):
    images = idx_folder / "t10k-images-idx3-ubyte"
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(images.read_bytes())
    with pytest.raises(
        ValueError, match=r"Expected labels in .*t10k-labels.*but got torch.uint8 of shape \(10, 4, 6\)"
    ):
        idx.load(idx_folder)


def test_labels_of_another_part_are_refused(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte").write_bytes((idx_folder / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match=r"Expected 20 labels in .*train-labels.*train-images.*but got 10"):
        idx.load(idx_folder)


def test_labels_above_nine_are_refused(idx_folder, idx_bytes):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(1, 11, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"Expected labels 0\.\.9 in .*t10k-labels.*but got 10"):
        idx.load(idx_folder)


def test_test_images_of_another_resolution_are_refused(idx_folder, idx_bytes):
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.ones((10, 5, 5), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"shape \(4, 6\) in .*t10k-images.*train-images.*but got \(5, 5\)"):
        idx.load(idx_folder)


def test_a_set_without_images_is_refused(idx_folder, idx_bytes):
    (idx_folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.ones((0, 4, 6), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"Expected images in .*train-images.*\(0, 4, 6\)"):
        idx.load(idx_folder)


def test_real_fashion_mnist_has_its_published_counts_and_moments(rng_untouched):
    folder = fashion_mnist_folder()
    with rng_untouched():
        data = idx.load(folder)
    assert data.train_inputs.shape == (60000, 1, 28, 28)
    assert data.test_inputs.shape == (10000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert float(data.train_inputs.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(data.train_inputs.std()) == pytest.approx(0.3530, abs=1e-4)
    assert data.train_labels[:5].tolist() == [9, 0, 0, 3, 0]
