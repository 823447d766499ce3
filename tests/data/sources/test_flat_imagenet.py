"""ImageNet's validation images in one folder: every kind of labels gives what the devkit gives, or is refused."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.image_folder import read_image_folder
from tests.data.sources.imagenet_archives import CLASSES, LABELS, SYNSETS, TRUTH, VAL, meta_mat, write_devkit

WNIDS = [SYNSETS[number][0] for number in TRUTH]
NAMES = sorted(VAL)


def _devkit(directory: Path) -> None:
    write_devkit(directory)


def _unpacked_devkit(directory: Path) -> None:
    with tarfile.open(write_devkit(directory)) as archive:
        archive.extractall(directory, filter="data")
    (directory / "ILSVRC2012_devkit_t12.tar.gz").unlink()


def _ground_truth(directory: Path) -> None:
    (directory / "meta.mat").write_bytes(meta_mat())
    (directory / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))


def _kaggle(directory: Path) -> None:
    rows = [f"{name[:-5]},{wnid} 1 2 30 40 {wnid} 5 6 70 80 " for name, wnid in zip(NAMES, WNIDS, strict=True)]
    (directory / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))


def _synsets(directory: Path) -> None:
    (directory / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS) + "\n")


def _caffe(directory: Path) -> None:
    rows = [f"{name} {label}\n" for name, label in zip(NAMES, LABELS, strict=True)]
    (directory / "val.txt").write_text("\ufeff" + "".join(reversed(rows)))


def _numbers(directory: Path) -> None:
    (directory / "val" / "val_labels.txt").write_text("\r\n".join(map(str, LABELS)))


def _write(directory: Path, folder: str = "val", train: bool = False) -> None:
    (directory / folder).mkdir(exist_ok=True)
    for name, content in VAL.items():
        (directory / folder / name).write_bytes(content)
    for wnid in CLASSES if train else ():
        (directory / "train" / wnid).mkdir(parents=True)
        (directory / "train" / wnid / "1.JPEG").write_bytes(b"x")


@pytest.mark.parametrize("folder", ["val", "Validation", ""])
@pytest.mark.parametrize("labels", [_devkit, _unpacked_devkit, _ground_truth, _kaggle, _synsets, _caffe])
def test_labels(labels: Callable[[Path], None], folder: str, tmp_path: Path) -> None:
    _write(tmp_path, folder)
    labels(tmp_path)
    source = read_image_folder(tmp_path, "val")
    named = [str(number) for number in range(1000)] if labels is _caffe else CLASSES
    assert source.class_names == named
    samples = [source[index] for index in range(len(source))]
    assert [(sample.label, sample.image) for sample in samples] == list(
        zip(LABELS, (VAL[name] for name in NAMES), strict=True)
    )
    assert samples[0].name == str(tmp_path / folder / NAMES[0])


@pytest.mark.parametrize("fraction", [0.0, 0.5])
@pytest.mark.parametrize("labels", [_devkit, _kaggle, _synsets, _caffe, _numbers])
def test_beside_training_images(labels: Callable[[Path], None], fraction: float, tmp_path: Path) -> None:
    """Labels in the order of the training folders, all of which are for training."""
    _write(tmp_path, train=True)
    labels(tmp_path)
    source = read_image_folder(tmp_path, "val", fraction)
    assert (source.class_names, [source[index].label for index in range(4)]) == (CLASSES, LABELS)
    assert len(read_image_folder(tmp_path, "train", fraction)) == 3


def test_a_part_of_the_images(tmp_path: Path) -> None:
    """Found by their numbers; what is skipped is said."""
    _write(tmp_path)
    _kaggle(tmp_path)
    (tmp_path / "val" / NAMES[0]).unlink()
    (tmp_path / "val" / NAMES[2]).write_bytes(b"")
    (tmp_path / "val" / "mine.jpg").write_bytes(b"x")
    source = read_image_folder(tmp_path, "val")
    assert [source[index].label for index in range(len(source))] == [LABELS[1], LABELS[3]]
    assert list(source.remarks) == [
        "labels from LOC_val_solution.csv",
        f"1 empty file skipped: val/{NAMES[2]}",
        "1 other image skipped: val/mine.jpg",
        "2 of 4 labelled images are there",
    ]


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("x.txt", "", "images of all classes and no labels: put ILSVRC2012_devkit_t12.tar.gz"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n2\n3\n4\n", "no labels: put .* with meta.mat"),
        ("val.txt", "0\n1\n2\n", "has 3 lines for 4 images"),
        ("val.txt", "".join(f"ILSVRC2012_val_{n:08d} {n}\n" for n in (1, 2, 3, 1000)), "labels up to 1000, for 1000"),
        ("val.txt", "0\n1\n2\n-1\n", "neither WordNet ids"),
        ("val.txt", "0\n1\n2\nn01440764\n", "neither WordNet ids"),
        ("val.txt", f"{NAMES[0]} 1\n3\n", "line 2: '3' is no label"),
        ("val.txt", f"{NAMES[0]} 1\n{NAMES[0]} 2\n", f"two labels for {NAMES[0]}"),
        ("val.txt", "photo.jpg 1\n", "line 1: 'photo.jpg 1' is no label"),
        ("val.txt", "", "has 0 lines for 4 images"),
        ("val.txt", f"{NAMES[0]} 1\n", f"has no label for {NAMES[1]}, {NAMES[2]}, {NAMES[3]}:"),
    ],
)
def test_refusals(file: str, text: str, complaint: str, tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        read_image_folder(tmp_path, "val")
    assert "\n" not in str(error.value)


def test_other_classes_than_in_training(tmp_path: Path) -> None:
    _write(tmp_path, train=True)
    (tmp_path / "train" / CLASSES[0]).rename(tmp_path / "train" / "n99999999")
    _kaggle(tmp_path)
    with pytest.raises(UserError, match=f"classes without training images: {CLASSES[0]}"):
        read_image_folder(tmp_path, "val")
    _devkit(tmp_path)
    with pytest.raises(UserError, match="other classes than the training images"):
        read_image_folder(tmp_path, "val")
