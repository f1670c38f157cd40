import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from lightning_bounds.data import cifar10


class Asks:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def pixels(n=3):
    return (np.arange(n * 3072) % 251).astype(np.uint8).reshape(n, 3072)


def write(path, batch, protocol=2):
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    return path


def test_files_of_this_test_are_batches_to_an_unrestricted_unpickler(python2_batch):
    batch = pickle.loads(python2_batch(pixels(), [4, 0, 9]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], pixels())
    assert batch[b"labels"] == [4, 0, 9]


def test_batch_of_python_2_is_read_as_an_unrestricted_unpickler_reads_it(tmp_path, python2_batch):
    content = python2_batch(pixels(), [4, 0, 9])
    (tmp_path / "batch").write_bytes(content)
    batch = cifar10.read_batch(tmp_path / "batch")
    expected = pickle.loads(content, encoding="bytes")[b"data"].reshape(3, 3, 32, 32)
    torch.testing.assert_close(batch.images, torch.from_numpy(expected), rtol=0, atol=0)
    assert batch.labels.tolist() == [4, 0, 9]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_batch_written_by_python_3_is_read(tmp_path, protocol, order):
    batch = {b"data": np.array(pixels(), order=order), b"labels": [1, 2, 3]}
    images = cifar10.read_batch(write(tmp_path / "batch", batch, protocol)).images
    torch.testing.assert_close(images.reshape(3, 3072), torch.from_numpy(pixels()), rtol=0, atol=0)


def test_pixel_of_a_row_is_channel_then_row_then_column(tmp_path):
    row = np.zeros((1, 3072), dtype=np.uint8)
    row[0, 2 * 1024 + 5 * 32 + 7] = 200
    images = cifar10.read_batch(write(tmp_path / "batch", {b"data": row, b"labels": [0]})).images
    assert images.nonzero().tolist() == [[0, 2, 5, 7]]


@pytest.mark.parametrize("inner", [".", "cifar-10-batches-py"])
def test_folder_is_read_into_scaled_images_in_the_order_of_the_batches(cifar_folder, tmp_path_factory, inner):
    parent = tmp_path_factory.mktemp("parent")
    shutil.copytree(cifar_folder, parent / inner, dirs_exist_ok=True)
    data = cifar10.load(str(parent))
    assert data.train_inputs.shape == (20, 3, 32, 32)
    assert data.test_inputs.shape == (4, 3, 32, 32)
    torch.testing.assert_close(data.train_inputs[:, 1, 30, 2] * 255, torch.arange(1.0, 21.0, dtype=torch.float32))
    torch.testing.assert_close(data.train_labels, torch.arange(20) % 10)
    torch.testing.assert_close(data.test_labels, torch.arange(20, 24) % 10)
    assert (data.train_inputs.dtype, data.num_classes) == (torch.float32, 10)


def test_loading_leaves_the_global_random_states(cifar_folder, rng_untouched):
    with rng_untouched():
        cifar10.load(cifar_folder)


def test_missing_batches_are_listed(cifar_folder):
    (cifar_folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected the files.*but \['data_batch_3'\] are missing"):
        cifar10.load(cifar_folder)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in the folder .*nowhere"):
        cifar10.load(tmp_path / "nowhere")


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    witness = tmp_path / "witness"
    batch = {b"data": Asks(os.mkdir, str(witness)), b"labels": [0]}
    with pytest.raises(ValueError, match=rf"data_batch_1.*asks for `{os.mkdir.__module__}\.mkdir`"):
        cifar10.read_batch(write(tmp_path / "data_batch_1", batch))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (b"c__builtin__\neval\n(U\x011tR.", r"(builtins|__builtin__)\.eval"),
        (b"cos\nsystem\n(U\x02lstR.", r"os\.system"),
        (b"cnumpy.core.multiarray\nscalar\n.", r"numpy\.core\.multiarray\.scalar"),
        (b"cnumpy\nload\n.", r"numpy\.load"),
        (b"cnumpy\nndarray.tofile\n.", r"numpy\.ndarray\.tofile"),
        (b"ctorch\nTensor\n.", r"torch\.Tensor"),
    ],
)
def test_any_other_global_is_refused_by_name(tmp_path, opcodes, name):
    (tmp_path / "test_batch").write_bytes(b"\x80\x02" + opcodes)
    with pytest.raises(ValueError, match=rf"test_batch, but got a pickle that asks for `{name}`"):
        cifar10.read_batch(tmp_path / "test_batch")


@pytest.mark.parametrize("kept", [0, 1, 30, 200, 3000, 9000, -1])
def test_truncated_batch_is_refused_with_its_size(tmp_path, python2_batch, kept):
    content = python2_batch(pixels(), [4, 0, 9])[:kept]
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=rf"complete pickle in .*data_batch_2, but got {len(content)} bytes"):
        cifar10.read_batch(tmp_path / "data_batch_2")


def test_array_whose_pixels_are_fewer_than_its_shape_is_refused(tmp_path, python2_batch):
    content = python2_batch(pixels(), [4, 0, 9]).replace(b"(K\x01M\x03\x00M", b"(K\x01M\x04\x00M")
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"Expected 12288 bytes of pixels in .*batch for shape \(4, 3072\), but got 9216"
    ):
        cifar10.read_batch(tmp_path / "batch")


def test_array_with_a_state_of_another_kind_is_refused(tmp_path, python2_batch):
    content = python2_batch(pixels(), [4, 0, 9]).replace(b"T\x00\x24\x00\x00" + pixels().tobytes(), b"N")
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(ValueError, match="the state of an array is its version, shape, type, order and bytes"):
        cifar10.read_batch(tmp_path / "batch")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "Expected a dictionary with b'data' and b'labels' in .*batch, but got list"),
        ({b"data": pixels(), b"fine_labels": [1, 2, 3]}, r'but got dict with \["b\'data\'", "b\'fine_labels\'"\]'),
        ({b"data": [1, 2], b"labels": [1, 2]}, "Expected a numpy array as b'data' in .*batch, but got list"),
        ({b"data": pixels()[:, :1024], b"labels": [1, 2, 3]}, r"shape \(n, 3072\), but got u1 of shape \(3, 1024\)"),
        ({b"data": pixels().reshape(3, 3, 32, 32), b"labels": [1, 2, 3]}, r"but got u1 of shape \(3, 3, 32, 32\)"),
        ({b"data": pixels().astype("int32"), b"labels": [1, 2, 3]}, r"but got i4 of shape \(3, 3072\)"),
        ({b"data": pixels(), b"labels": [1, 2]}, "Expected 3 labels in .*batch, as many as images, but got 2"),
        ({b"data": pixels(), b"labels": [1, 2, 10]}, r"classes 0\.\.9 as b'labels' in .*batch, but got \[1, 2, 10\]"),
        ({b"data": pixels(), b"labels": [1, 2, -1]}, r"but got \[1, 2, -1\]"),
        ({b"data": pixels(), b"labels": [1, 2, 2.5]}, r"but got \[1, 2, 2.5\]"),
        ({b"data": pixels(), b"labels": {1: 2}}, r"a list of classes 0\.\.9 as b'labels' in .*batch"),
    ],
)
def test_other_content_is_refused_with_what_was_found(tmp_path, batch, message):
    with pytest.raises(ValueError, match=message):
        cifar10.read_batch(write(tmp_path / "batch", batch))
