"""Data sets in a bucket, against the same files on a disk."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax.data import storage
from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import HostBatch, Share, TrainingRow
from cdnv2_jax.data.image_paths import image_files
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.data.read_ahead import prepared_batches
from cdnv2_jax.data.source import PixelSource, Sample, Source
from cdnv2_jax.data.sources import tar_members
from cdnv2_jax.data.sources.generated import SyntheticSource
from cdnv2_jax.data.sources.open import open_directory
from cdnv2_jax.data.sources.tar_members import open_tar
from cdnv2_jax.data.sources.write_array_record import write_array_record
from cdnv2_jax.data.storage import AT_ONCE, Ahead, at_once, read_file
from cdnv2_jax.detection.data.shapes import write_shapes
from cdnv2_jax.detection.data.sources import open_source as open_detection
from cdnv2_jax.errors import RunFailure, UserError
from cdnv2_jax.files import remove
from cdnv2_jax.paths import as_path, is_remote
from tests.bucket_server import BUCKET, BucketServer, bucket_server
from tests.data.image_files import write_images, write_noise
from tests.data.readers import Failing
from tests.data.sources.cifar_binaries import write_archive
from tests.data.sources.imagenet_archives import write_archives
from tests.data.sources.webdataset_tars import write_tar, write_tars
from tests.tables import table

ROOT = f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


def uploaded(directory: Path, name: str) -> Path:
    """A copy of all files in a directory, under their names."""
    root = as_path(f"{ROOT}/{name}")
    for file in sorted(directory.rglob("*")):
        place = root / file.relative_to(directory)
        if file.is_file():
            assert is_remote(place)
            place.upload(file)
    return root


def write_folders(directory: Path) -> None:
    write_noise(directory / "train", ["b", "a c", "ü#?[1]"], 5)
    write_images(directory, {"train/b/deep/er": ["~1~.png", "Z.PNG"], "val/b": ["x.jpg"], "val/ü#?[1]": ["y.jpg"]})
    write_images(directory, {"other": ["z.jpg"]})
    (directory / "train/b/empty.jpg").touch()
    (directory / "train/b/.hidden.jpg").write_text("x")
    (directory / "train/b/notes.txt").write_text("x")


def write_records(directory: Path) -> None:
    sources = {"train": SyntheticSource("train", 32, 3, 10), "val": SyntheticSource("val", 32, 3, 4)}
    write_array_record(sources, directory, name="made", shard_bytes=6000, overwrite=False)


SOURCES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "folders": ("image_folder", write_folders),
    "tars": ("webdataset", write_tars),
    "archives": ("imagenet_tars", write_archives),
    "cifar": ("cifar10", lambda directory: write_archive(directory, "cifar10")),
    "records": ("tfds", write_records),
}


@table("name", list(SOURCES))
def test_sources(name: str, tmp_path: Path, server: BucketServer) -> None:
    source, write = SOURCES[name]
    local = tmp_path / name
    local.mkdir()
    write(local)
    remote = uploaded(local, name)
    for split in ("train", "val"):
        expected = open_directory(source, local, split)
        found = open_directory(source, str(remote), split)
        again = pickle.loads(pickle.dumps(open_directory(source, remote, split)))  # from an index, if there is one
        assert found.fingerprint() == again.fingerprint() == expected.fingerprint()
        assert [text.replace(str(remote), str(local)) for text in found.remarks] == list(expected.remarks)
        assert found.in_bucket == again.in_bucket == (not isinstance(found, PixelSource))
        for index in range(len(expected)):
            for sample in (found[index], again[index]):
                assert np.array_equal(as_array(sample), as_array(expected[index]))
                assert sample.label == expected[index].label
                assert sample.name.replace(str(remote), str(local)) == expected[index].name


def as_array(sample: Sample) -> np.ndarray:
    return np.frombuffer(sample.image, np.uint8) if isinstance(sample.image, bytes) else sample.image


def batches(source: Source[Sample], workers: int) -> list[HostBatch]:
    augmentation = Augmentation(image_size=16, crop="random_resized")
    row = TrainingRow(source, Share(4, host=1, hosts=2), seed=1, augmentation=augmentation)
    with host_batches(row, 0, 12, workers) as found:
        return list(found)


def assert_same_batches(tmp_path: Path, name: str, workers: int) -> None:
    write_folders(tmp_path / "local")
    found = batches(open_directory("image_folder", uploaded(tmp_path / "local", name), "train"), workers)
    expected = batches(open_directory("image_folder", tmp_path / "local", "train"), 0)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_batches(tmp_path: Path, server: BucketServer) -> None:
    assert_same_batches(tmp_path, "batches", workers=0)


@pytest.mark.slow  # starts processes, which import everything
def test_batches_of_processes(tmp_path: Path, server: BucketServer) -> None:
    assert_same_batches(tmp_path, "processes", workers=2)


def test_detection(tmp_path: Path, server: BucketServer) -> None:
    local = tmp_path / "local"
    write_shapes(local, train_images=5, val_images=2, seed=0)
    remote = uploaded(local, "coco")
    given = str(remote / "annotations/instances_val.json")
    expected = open_detection("coco", directory=str(local), split="val")
    for annotations in ("", "annotations/instances_val.json", given):
        found = open_detection("coco", directory=str(remote), split="val", annotations=annotations)
        assert found.in_bucket and found.fingerprint() == expected.fingerprint() and found.remarks == expected.remarks
        assert [found[index].image for index in range(2)] == [expected[index].image for index in range(2)]
    remove(remote / "val/000001000001.jpg")
    with pytest.raises(UserError, match=rf"^{remote}/val lacks 1 of 2 images, '000001000001.jpg': copy it again$"):
        open_detection("coco", directory=str(remote), split="val")


def test_pictures_to_predict(tmp_path: Path, server: BucketServer) -> None:
    write_folders(tmp_path)
    remote = uploaded(tmp_path, "pictures")

    def prepared(root: Path) -> list[tuple[str, object]]:
        given = image_files([root / "other/z.jpg", root / "train", root / "train/b"])
        found = [one for batch in prepared_batches(given, np.mean, batch_size=4, max_megapixels=1) for one in batch]
        return [(str(path).replace(str(root), ""), str(made).replace(str(root), "")) for path, made in found]

    assert prepared(remote) == prepared(tmp_path)
    assert len(prepared(remote)) > 15
    ((path, error),) = next(prepared_batches([remote / "none.jpg"], np.mean, batch_size=1, max_megapixels=1))
    assert str(error) == f"{path} cannot be read as an image (no such object): fix or remove it"


@table(
    "source, directory, message",
    [
        ("image_folder", f"{ROOT}/none", "gs://test-bucket/none: no objects have names that begin so: check bucket"),
        ("image_folder", "gs://no-such-bucket/a", "gs://no-such-bucket/a: no objects have names that begin so"),
        ("image_folder", "http://host/a", "paths of http:// are not supported"),
        ("huggingface", f"{ROOT}/refused", "data sets of Hugging Face cannot be read from a bucket: copy it to a disk"),
        ("webdataset", f"{ROOT}/refused", "gs://test-bucket/refused holds no tars"),
        ("tfds", f"{ROOT}/refused", "gs://test-bucket/refused holds no dataset_info.json"),
        ("imagenet_tars", f"{ROOT}/refused", "gs://test-bucket/refused lacks ILSVRC2012_img_train.tar"),
    ],
)
def test_refusals(source: str, directory: str, message: str, tmp_path: Path, server: BucketServer) -> None:
    write_images(tmp_path, {"c": ["1.jpg"]} if not (tmp_path / "c").exists() else {})
    uploaded(tmp_path, "refused")
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        open_directory(source, directory, "train")


def test_sizes_are_checked(tmp_path: Path, server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    (tmp_path / "none").touch()
    remote = uploaded(tmp_path, "sizes")
    for small in (storage.SMALL, 10, 4):
        monkeypatch.setattr(storage, "SMALL", small)
        assert read_file(remote / "ten", 10) == b"0123456789" and read_file(str(remote / "none"), 10) == b""
        with pytest.raises(ValueError, match="it has 10 bytes, more than the 9 allowed"):
            read_file(remote / "ten", 9)


def test_index_takes_few_requests(tmp_path: Path, server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", {f"{number}.cls": b"%d" % number for number in range(300)})
    remote = uploaded(tmp_path, "few")
    requests = []

    def read_part(file: os.PathLike[str], offset: int, size: int) -> bytes:
        requests.append((offset, size))
        return original(file, offset, size)

    original = tar_members.read_part
    monkeypatch.setattr(tar_members, "read_part", read_part)
    tar = open_tar(remote / "a.tar").from_front_to_back()
    assert [tar.read(one.offset, one.size) for one in tar.members()] == [b"%d" % number for number in range(300)]
    assert len(requests) == 1


def test_damaged_tar(tmp_path: Path, server: BucketServer) -> None:
    whole = write_tar(tmp_path / "whole.tar", {"1.cls": b"1", "1.jpg": b"image" * 1000}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    remote = uploaded(tmp_path, "damaged")
    with pytest.raises(UserError, match=r"cut\.tar ends inside '1\.jpg': copy or download it again"):
        list(open_tar(remote / "cut.tar").members())
    with pytest.raises(UserError, match=r"none\.tar cannot be opened: no such object"):
        list(open_tar(remote / "none.tar").members())


class Far(Failing):
    """Images that take 20 ms to arrive; counts how many are under way."""

    in_bucket = True
    under_way = most = 0
    changing = threading.Lock()

    def __getitem__(self, index: int) -> Sample:
        with Far.changing:
            Far.under_way += 1
            Far.most = max(Far.most, Far.under_way)
        time.sleep(0.02)
        with Far.changing:
            Far.under_way -= 1
        return super().__getitem__(index)


def test_samples_of_a_bucket_are_read_ahead() -> None:
    row = TrainingRow(Far(64, damaged=(5,)), Share(32), seed=0, augmentation=Augmentation(image_size=8))
    with host_batches(row, 0, 4, 0) as found:
        assert [index for batch in found for index in batch["broken"] if index >= 0] == [5, 5]
    assert AT_ONCE // 2 <= Far.most <= 4 * AT_ONCE


def test_what_fails_ahead_is_raised_where_it_is_read() -> None:
    ahead, source = pickle.loads(pickle.dumps(Ahead())), Failing(4, at=2, how="memory")
    ahead.start(source, [1, 2, 3, 99, -1])
    assert ahead.read(source, 1).name == "image 1"
    with pytest.raises(MemoryError):
        ahead.read(source, 2)
    assert ahead.read(source, 3).name == ahead.read(source, 3).name


def test_order_and_number_of_calls_at_once() -> None:
    started = []

    def call(item: int) -> int:
        started.append(item)
        time.sleep(0.01 * (item % 3))
        return item

    results = at_once(call, range(100), in_bucket=True)
    assert next(results) == 0 and len(started) <= AT_ONCE
    assert list(results) == list(range(1, 100))


@pytest.mark.soak  # a bucket that does not answer is asked for half a minute
def test_a_bucket_that_is_gone(tmp_path: Path) -> None:
    with bucket_server() as server:
        write_images(tmp_path, {"train/c": ["1.jpg", "2.jpg"], "val/c": ["3.jpg"]})
        remote = uploaded(tmp_path, "gone")
        source = open_directory("image_folder", remote, "train")
        server.freeze()
        threading.Timer(25, server.thaw).start()
        assert source[0].name == f"{remote}/train/c/1.jpg"
        server.kill()
        with pytest.raises(RunFailure, match=rf"{remote}/train/c/1.jpg: the bucket does not answer"):
            source[0]
