"""Reading of MNIST-like data sets from IDX files."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax.data.sources.idx import parse_idx, read_idx_images
from cdnv2_jax.errors import UserError
from tests.data.sources.idx_files import idx, write_idx_images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_parse_idx() -> None:
    """The first bytes of MNIST's label file: magic number 2049, then the number of items."""
    content = bytes.fromhex("00000801 00000003 05 00 09")
    assert parse_idx(content, 1).tolist() == [5, 0, 9]
    images = bytes.fromhex("00000803 00000001 00000002 00000003") + bytes(range(6))
    assert parse_idx(images, 3).tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 bytes, too few"),
        ("00000801 000000", "7 bytes, too few"),
        ("00000802 00000001 00000001 05", "begins with 00 00 08 02, not with 00 00 08 01"),
        ("00000d01 00000001 00000000", "begins with 00 00 0d 01"),
        ("00000801 00000003 0500", "2 values for a shape of [3]"),
        ("00000801 00000001 0500", "2 values for a shape of [1]"),
        ("00000801 ffffffff 05", "1 values for a shape of [4294967295]"),
    ],
)
def test_parse_damaged(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_idx(bytes.fromhex(content), 1)


@pytest.mark.parametrize("packed", [True, False])
def test_read(packed: bool, tmp_path: Path) -> None:
    """Packed or not, the same images; grey levels become three equal channels."""
    directory = write_idx_images(tmp_path / "data", packed=packed)
    source = read_idx_images("fashion_mnist", directory, "val")
    assert (len(source), source.class_names[9]) == (5, "ankle boot")
    first = source[0]
    drawn = np.random.default_rng(0)
    drawn.integers(0, 256, (12, 6, 4), np.uint8)
    expected = drawn.integers(0, 256, (5, 6, 4), np.uint8)[0]
    assert isinstance(first.image, np.ndarray) and first.image.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(first.image[..., channel], expected)
    assert [source[index].label for index in range(5)] == [0, 1, 2, 3, 4]
    assert first.name == "fashion_mnist val image 0"


def _message(directory: Path, name: str = "fashion_mnist") -> str:
    with pytest.raises(UserError) as caught:
        read_idx_images(name, directory, "train")
    return str(caught.value)


def test_faults(tmp_path: Path) -> None:
    """One line that names the file or the directory, and what to do."""
    assert "lacks train-images-idx3-ubyte: put train-images" in _message(tmp_path)
    directory = write_idx_images(tmp_path / "data")
    labels = directory / "train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for content in (b"", whole[:-9], b"no gzip", gzip.compress(b"")):
        labels.write_bytes(content)
        assert _message(directory).startswith(f"{labels} cannot be read (")
    labels.write_bytes(gzip.compress(idx(np.zeros(11, np.uint8))))
    assert "12 train images but 11 labels" in _message(directory)
    labels.write_bytes(gzip.compress(idx(np.full(12, 10, np.uint8))))
    assert "a train label is 10, of 10 classes of mnist" in _message(directory, "mnist")
    labels.write_bytes(whole)
    images = directory / "train-images-idx3-ubyte.gz"
    for shape in ((12, 0, 4), (12, 257, 1)):
        images.write_bytes(gzip.compress(idx(np.zeros(shape, np.uint8))))
        assert "download them again" in _message(directory)
    images.write_bytes(gzip.compress(bytes(300 << 20)))  # 300 KB that would unpack to more than is read
    assert _message(directory) == f"{images} unpacks to more than 268,435,456 bytes: download it again"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_files() -> None:
    """Counts of the data set's description: 7,000 images of each class, and the mean of the training pixels."""
    source = read_idx_images("fashion_mnist", DEBIAN, "train")
    held_out = read_idx_images("fashion_mnist", DEBIAN, "val")
    assert source.images.shape == (60_000, 28, 28, 3) and held_out.images.shape == (10_000, 28, 28, 3)
    assert np.bincount(source.labels).tolist() == [6_000] * 10
    assert np.bincount(held_out.labels).tolist() == [1_000] * 10
    assert round(source.images[..., 0].mean() / 255, 4) == 0.2860
