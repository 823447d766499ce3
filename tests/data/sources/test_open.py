"""Every source by its name: what it gives, what is missing, and its way into worker processes."""

import importlib.util
import multiprocessing
import pickle
import re
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.open import GENERATED, READERS, SOURCES, open_source
from cdnv2_jax.data.sources.write_array_record import write_array_record
from tests.data.sources.cifar_binaries import write_archive, write_folder
from tests.data.sources.huggingface_sets import write_saved
from tests.data.sources.idx_files import write_idx_images
from tests.data.sources.imagenet_archives import write_archives
from tests.data.sources.photographs import write_photographs
from tests.data.sources.webdataset_tars import write_tars

CLASSES = {
    "digits": 10,
    "synthetic": 7,
    "image_folder": 4,
    "imagenet_tars": 3,
    "cifar10": 10,
    "cifar100": 100,
    "fashion_mnist": 10,
    "mnist": 10,
    "tfds": 4,
    "huggingface": 3,
    "webdataset": 3,
}
OPENABLE = [name for name in SOURCES if name != "huggingface" or importlib.util.find_spec("datasets")]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sources")
    photographs = write_photographs(root / "photographs")
    write_folder(root / "cifar10", "cifar10")
    (root / "cifar100").mkdir()
    write_archive(root / "cifar100", "cifar100")
    (root / "imagenet").mkdir()
    write_archives(root / "imagenet")
    splits = cast(tuple[Split, ...], ("train", "val"))
    sources = {split: READERS["image_folder"].read(photographs, split) for split in splits}
    write_array_record(sources, root, name="photos", shard_bytes=1 << 19, overwrite=False)
    found = {"image_folder": photographs, "imagenet_tars": root / "imagenet", "tfds": root / "photos"}
    found["webdataset"] = write_tars(root / "tars")
    if "huggingface" in OPENABLE:
        found["huggingface"] = write_saved(root / "saved")
    found["fashion_mnist"] = found["mnist"] = write_idx_images(root / "idx")
    named = {"cifar10": root / "cifar10", "cifar100": root / "cifar100"}
    return {"digits": "", "synthetic": "", **{name: str(path) for name, path in (found | named).items()}}


def _open(name: str, directory: str, split: Split, classes: int | None = None) -> Source:
    return open_source(name, directory=directory, split=split, image_size=16, num_classes=classes or CLASSES[name])


def _same(one: Sample, other: Sample) -> bool:
    return (one.label, one.name) == (other.label, other.name) and np.array_equal(
        np.frombuffer(one.image, np.uint8) if isinstance(one.image, bytes) else one.image,
        np.frombuffer(other.image, np.uint8) if isinstance(other.image, bytes) else other.image,
    )


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", OPENABLE)
def test_open(name: str, split: Split, directories: dict[str, str]) -> None:
    source = _open(name, directories[name], split)
    assert len(source) > 0
    assert len(source.class_names) == CLASSES[name]
    for index in (0, len(source) - 1):
        sample = source[index]
        assert isinstance(sample, Sample) and type(sample.label) is int and 0 <= sample.label < CLASSES[name]
        assert sample.name
        if isinstance(sample.image, np.ndarray):
            assert (sample.image.dtype, sample.image.shape[2]) == (np.uint8, 3)
        copy = pickle.loads(pickle.dumps(source))
        assert _same(copy[index], sample)
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("name", OPENABLE)
def test_fingerprint(name: str, directories: dict[str, str], tmp_path: Path) -> None:
    """Of 64 digits; the same wherever the files are, another for the other split."""
    first = _open(name, directories[name], "train").fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    if directories[name]:
        shutil.copytree(directories[name], tmp_path / "copy")
    copy = _open(name, directories[name] and str(tmp_path / "copy"), "train")
    assert copy.fingerprint() == pickle.loads(pickle.dumps(copy)).fingerprint() == first
    assert _open(name, directories[name], "val").fingerprint() != first


def _last(source: Source) -> Sample:
    return source[len(source) - 1]


def test_worker_processes(directories: dict[str, str]) -> None:
    """Started anew, not forked: nothing of this process is there but what was pickled; files were open before."""
    sources = [_open(name, directories[name], "train") for name in OPENABLE]
    here = [_last(source) for source in sources]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(_last, sources)
        pool.close()
        pool.join()
    assert all(_same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("name", READERS)
def test_no_directory(name: str) -> None:
    with pytest.raises(UserError, match=r"config\.data\.directory is empty: (put|let) .*DIRECTORY"):
        _open(name, "", "train")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_nothing_in_the_directory(name: str, exists: bool, split: Split, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    if exists:
        directory.mkdir()
    with pytest.raises(UserError, match=f"{re.escape(str(directory))}.*: (put|let) .*DIRECTORY") as complaint:
        _open(name, str(directory), split)
    assert "\n" not in str(complaint.value)


def test_a_directory_that_may_not_be_read(directories: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(UserError, match=r"photographs.* cannot be read: Permission denied"):
        _open("image_folder", directories["image_folder"], "train")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("imagefolder", "did you mean 'image_folder'"), ("cifar-10", "did you mean 'cifar10'"), ("x", "choose one of")],
)
def test_no_such_source(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        open_source(name, directory="", split="train", image_size=8, num_classes=1)


def test_count_of_synthetic_images() -> None:
    source = open_source("synthetic", directory="", split="train", image_size=8, num_classes=2, count=5)
    assert len(source) == 5
    assert set(GENERATED) == set(SOURCES) - set(READERS)
