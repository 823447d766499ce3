"""CIFAR's binary versions, tiny ones, and what else may lie in their place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.cifar import read_cifar
from tests.data.sources.cifar_binaries import EACH, FILES, NAMES, image_and_label, write_archive, write_folder

Name = Literal["cifar10", "cifar100"]


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_images_and_labels(name: Name, split: Split, write: Callable[[Path, str], Path], tmp_path: Path) -> None:
    write(tmp_path, name)
    source = read_cifar(name, tmp_path, split)
    assert list(source.class_names) == NAMES[name]
    assert len(source) == EACH * len(FILES[name, split])
    for index in range(len(source)):
        image, label = image_and_label(name, split, index)
        assert source[index].label == label
        np.testing.assert_array_equal(source[index].image, image)
    assert source[1].name == f"{name} {split} image 1"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither cifar-10-binary\.tar\.gz nor cifar-10-python\.tar\.gz: put"):
        read_cifar("cifar10", tmp_path, "train")


def _missing(folder: Path) -> None:
    (folder / "data_batch_3.bin").unlink()


def _cut(folder: Path) -> None:
    content = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(content[:-1])


def _empty(folder: Path) -> None:
    (folder / "data_batch_3.bin").write_bytes(b"")


def _huge(folder: Path) -> None:
    with (folder / "data_batch_3.bin").open("wb") as opened:
        opened.truncate(10_001 * 3073)


def _label(folder: Path) -> None:
    (folder / "data_batch_3.bin").write_bytes(bytes([10]) + bytes(3072))


def _names(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")


DAMAGE = {
    _missing: "data_batch_3.bin",
    _cut: "data_batch_3.bin has 9218 bytes, not a multiple of 3073",
    _empty: "data_batch_3.bin has 0 bytes",
    _huge: "data_batch_3.bin (?:has|cannot be read \\(it has) 30,733,073 bytes, more than the 30,730,000 allowed",
    _label: "a label is 10, of 10 classes",
    _names: "must name 10 classes, has 2",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("damage", "complaint"), DAMAGE.items())
def test_damaged(damage: Callable[[Path], None], complaint: str, packed: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar10")
    damage(folder)
    if packed:
        shutil.make_archive(str(tmp_path / "cifar-10-binary"), "gztar", tmp_path, folder.name)
        shutil.rmtree(folder)
    with pytest.raises(UserError, match=complaint):
        read_cifar("cifar10", tmp_path, "train")


def test_cut_archive(tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "cifar100")
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cifar-100-binary\.tar\.gz cannot be read"):
        read_cifar("cifar100", tmp_path, "train")
