"""ImageNet's archives, tiny ones: images, labels, and archives that are damaged or do not go together."""

import io
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.imagenet_tars import read_devkit, read_imagenet_tars
from tests.data.sources.imagenet_archives import (
    CLASSES,
    LABELS,
    TRAIN,
    TRAIN_IMAGES,
    TRUTH,
    VAL,
    tar_bytes,
    write_archives,
    write_devkit,
)

TRAIN_TAR, VAL_TAR, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_archives(tmp_path)


@pytest.mark.parametrize("repetition", ["first", "from the cache"])
def test_training_images(repetition: str, directory: Path) -> None:
    if repetition == "from the cache":
        read_imagenet_tars(directory, "train")
        assert (directory / f"{TRAIN_TAR}.index.npz").exists()
    source = read_imagenet_tars(directory, "train")
    assert source.class_names == CLASSES
    samples = [source[index] for index in range(len(source))]
    path = directory / TRAIN_TAR
    expected = [(label, f"{path}/{name}", image) for label, name, image in TRAIN_IMAGES]
    assert [(sample.label, sample.name, sample.image) for sample in samples] == expected


@pytest.mark.parametrize("repetition", ["first", "from the cache"])
def test_validation_images(repetition: str, directory: Path) -> None:
    """In the order of their numbers, which is not that of the tar."""
    if repetition == "from the cache":
        read_imagenet_tars(directory, "val")
    source = read_imagenet_tars(directory, "val")
    assert source.class_names == CLASSES
    samples = [source[index] for index in range(len(source))]
    assert [sample.label for sample in samples] == LABELS
    assert [sample.image for sample in samples] == [image for _, image in sorted(VAL.items())]


def test_training_needs_no_devkit(directory: Path) -> None:
    (directory / DEVKIT).unlink()
    assert len(read_imagenet_tars(directory, "train")) == len(TRAIN_IMAGES)


def test_devkit(tmp_path: Path) -> None:
    classes, truth = read_devkit(write_devkit(tmp_path))
    assert classes == CLASSES
    np.testing.assert_array_equal(truth, LABELS)


@pytest.mark.parametrize(
    ("truth", "complaint"),
    [(b"1\n2\n4\n1\n", "has invalid contents"), (b"1\n2\nx\n", "x"), (b"1\n\x00", "has invalid contents")],
    ids=["a class with children", "no number", "binary"],
)
def test_bad_ground_truth(truth: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        read_devkit(write_devkit(tmp_path, truth))


def test_bad_devkit(tmp_path: Path) -> None:
    path = write_devkit(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        read_devkit(path)
    path.write_bytes(tar_bytes({"x/data/meta.mat": b"MATLAB 5.0 MAT-file, or not" * 20}, "w:gz"))
    with pytest.raises(UserError, match="lacks data/ILSVRC2012_validation_ground_truth"):
        read_devkit(path)
    truth = "x/data/ILSVRC2012_validation_ground_truth.txt"
    path.write_bytes(tar_bytes({"x/data/meta.mat": b"MATLAB 5.0 MAT-file, or not" * 20, truth: b"1"}, "w:gz"))
    with pytest.raises(UserError, match="has invalid contents"):
        read_devkit(path)


@pytest.mark.parametrize("missing", [VAL_TAR, DEVKIT])
def test_missing_archive(missing: str, directory: Path) -> None:
    (directory / missing).unlink()
    with pytest.raises(UserError, match=f"lacks {missing}: put {TRAIN_TAR}, {VAL_TAR} and {DEVKIT} into"):
        read_imagenet_tars(directory, "val")


def test_validation_tar_and_devkit_differ(directory: Path) -> None:
    write_devkit(directory, b"1\n" * 5)
    with pytest.raises(UserError, match=r"has 4 images.* the classes of 5"):
        read_imagenet_tars(directory, "val")


def test_training_tar_and_devkit_differ(directory: Path) -> None:
    (directory / TRAIN_TAR).write_bytes(tar_bytes({"n00000001.tar": tar_bytes({"a.JPEG": b"x"})}))
    with pytest.raises(UserError, match="differ in the classes n00000001, n01440764"):
        read_imagenet_tars(directory, "train")


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8, 0.95])
def test_cut_training_tar(fraction: float, directory: Path) -> None:
    whole = tar_bytes({f"{wnid}.tar": tar_bytes(files) for wnid, files in TRAIN.items()})
    whole = whole.rstrip(b"\0") + b"\0" * 1024  # without the filling up to 10,240 bytes
    (directory / TRAIN_TAR).write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(UserError, match=r"ends .*download it again"):
        read_imagenet_tars(directory, "train")
    assert not list(directory.glob("*.npz"))


def test_cut_class_tar(directory: Path) -> None:
    """The outer tar is whole, the inner one is not."""
    inner = tar_bytes({"n01440764_1.JPEG": b"t" * 5000})[:2048]
    (directory / TRAIN_TAR).write_bytes(tar_bytes({"n01440764.tar": inner}))
    with pytest.raises(UserError, match=r"ends inside 'n01440764_1\.JPEG'"):
        read_imagenet_tars(directory, "train")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"n01440764_1.JPEG": b"x"}, "must be the original, a tar of tars"),
        ({"n01440764.tar": tar_bytes({"README": b"x"})}, "holds no images"),
        ({"n1.tar": tar_bytes({"1.JPEG": b"x"}), "../../n1.tar": tar_bytes({"2.JPEG": b"x"})}, "'n1' twice"),
    ],
    ids=["of images", "empty class", "class twice"],
)
def test_wrong_training_tar(files: dict[str, bytes], complaint: str, directory: Path) -> None:
    (directory / TRAIN_TAR).write_bytes(tar_bytes(files))
    with pytest.raises(UserError, match=complaint):
        read_imagenet_tars(directory, "train")


def test_paths_in_the_tar_lead_nowhere(directory: Path) -> None:
    inner = tar_bytes({"../../../escaped.JPEG": b"x", "/absolute.JPEG": b"y"})
    (directory / TRAIN_TAR).write_bytes(tar_bytes({f"/tmp/{wnid}.tar": inner for wnid in CLASSES}))
    before = sorted(path for path in directory.parent.rglob("*"))
    source = read_imagenet_tars(directory, "train")
    assert [source[index].image for index in range(6)] == [b"x", b"y"] * 3
    new = set(directory.parent.rglob("*")) - set(before)
    assert new == {directory / f"{TRAIN_TAR}.index.npz"}


@pytest.mark.parametrize("wrong", ["offsets", "labels", "missing"])
def test_index_that_points_outside(wrong: str, directory: Path) -> None:
    """As the right size and time of change, and yet not of this tar: built anew."""
    read_imagenet_tars(directory, "train")
    index = directory / f"{TRAIN_TAR}.index.npz"
    with np.load(index) as loaded:
        arrays = dict(loaded)
    if wrong == "missing":
        del arrays["sizes"]
    else:
        arrays[wrong] = arrays[wrong] + 1_000_000
    np.savez(index, allow_pickle=False, **arrays)
    source = read_imagenet_tars(directory, "train")
    samples = [source[position] for position in range(len(source))]
    assert [(sample.label, sample.image) for sample in samples] == [(label, image) for label, _, image in TRAIN_IMAGES]


def test_tar_cut_after_it_was_indexed(directory: Path) -> None:
    source = read_imagenet_tars(directory, "train")
    with (directory / TRAIN_TAR).open("r+b") as tar:
        tar.truncate(1000)
    with pytest.raises(UserError, match="ends before its contents do"):
        source[len(source) - 1]


def test_loadmat_reads_what_these_tests_write() -> None:
    """The test's meta.mat has the original's fields, in a column of structs."""
    from scipy.io import loadmat

    from tests.data.sources.imagenet_archives import meta_mat

    synsets = loadmat(io.BytesIO(meta_mat()))["synsets"]
    assert synsets.shape == (5, 1)
    assert synsets.dtype.names[:3] == ("ILSVRC2012_ID", "WNID", "words")
    assert len(TRUTH) == len(LABELS)
