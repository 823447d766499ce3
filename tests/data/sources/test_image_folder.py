"""Folders of images: what belongs to them, which labels they get, what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.image_folder import ImageFolderSource, read_image_folder
from tests.data.sources.photographs import CLASSES, TRAIN, VAL, write_photographs


def _touch(*paths: Path) -> None:
    """Write a byte to each; a name that ends in ">" becomes a link to nothing."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(">"):
            path.with_name(path.name[:-1]).symlink_to("nowhere")
        else:
            path.write_bytes(b"x")


def test_photographs(tmp_path: Path) -> None:
    """Every file once, bytes as they are; a held-out class keeps its number in the training classes."""
    write_photographs(tmp_path)
    splits: list[tuple[Split, dict[str, list[str]]]] = [("train", TRAIN), ("val", VAL)]
    for split, classes in splits:
        source = read_image_folder(tmp_path, split)
        assert source.class_names == CLASSES
        samples = [source[index] for index in range(len(source))]
        files = [tmp_path / split / name / Path(path).name for name, paths in classes.items() for path in sorted(paths)]
        assert [sample.name for sample in samples] == [str(file) for file in files]
        assert [sample.image for sample in samples] == [file.read_bytes() for file in files]
        assert [sample.label for sample in samples] == [CLASSES.index(file.parent.name) for file in files]
        assert source[-1] == samples[-1]


def test_a_folder_of_classes_is_what_is_held_out(tmp_path: Path) -> None:
    """Also when a class happens to be called train."""
    _touch(tmp_path / "train" / "1.jpg", tmp_path / "boat" / "1.JPEG", tmp_path / "boat" / "2.png")
    source = read_image_folder(tmp_path, "val")
    assert source.class_names == ["boat", "train"]
    assert [source[index].label for index in range(len(source))] == [0, 0, 1]
    with pytest.raises(UserError, match="no folders of classes called train or training"):
        read_image_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["boat/1.jpg", "train/1.jpg", "train/old/2.jpg"], ["boat", "train"]),  # a train with a folder in it
        (["boat/1.jpg", "test/1.jpg", "test/new/2.jpg", "train/3.jpg"], ["boat", "test", "train"]),
        (["raw/1.jpg", "val/a/1.jpg", "val/b/1.jpg"], ["a", "b"]),
        (["raw/1.jpg", "val/a/1.jpg", "val/3.jpg", "train/a/1.jpg", "train/b/1.jpg"], ["a", "b"]),
    ],
)
def test_class_or_split(files: list[str], classes: list[str], tmp_path: Path) -> None:
    _touch(*(tmp_path / file for file in files))
    assert read_image_folder(tmp_path, "val").class_names == classes


def test_val_alone(tmp_path: Path) -> None:
    _touch(tmp_path / "val" / "a" / "1.jpg", tmp_path / "val" / "b" / "1.jpg")
    assert read_image_folder(tmp_path, "val").class_names == ["a", "b"]


def _names(source: ImageFolderSource, folder: Path) -> list[str]:
    return [os.path.relpath(source[index].name, folder) for index in range(len(source))]


def test_what_is_no_image_of_a_class(tmp_path: Path) -> None:
    """Each kind is skipped with a remark; links to files and folders are followed, but not in circles."""
    train, elsewhere = tmp_path / "train", tmp_path.with_name(f"{tmp_path.name}_elsewhere")
    _touch(train / "a" / "1.JPG", train / "a" / "notes.txt", train / "a" / "._1.JPG", train / "a" / ".DS_Store")
    _touch(train / ".ipynb_checkpoints" / "4.jpg", train / "__MACOSX" / "4.jpg", train / "a" / "@eaDir" / "4.jpg")
    _touch(elsewhere / "2.jpg", elsewhere / "class" / "3.jpg", train / "5.jpg")
    (train / "a" / "empty.png").touch()
    (train / "a" / "2.jpg").symlink_to(elsewhere / "2.jpg")
    for name in ("lost1.jpg", "lost2.jpg", "lost3.jpg", "lost4.jpg"):
        (train / "a" / name).symlink_to(tmp_path / "nowhere")
    (train / "a" / "itself.jpg").symlink_to("itself.jpg")
    (train / "a" / "itself").symlink_to("itself")
    (train / "b").symlink_to(elsewhere / "class")
    (train / "a" / "up").symlink_to(tmp_path)
    os.mkfifo(train / "a" / "pipe.jpg")  # reading it would wait for ever
    source = read_image_folder(tmp_path, "train")
    assert _names(source, train) == ["a/1.JPG", "a/2.jpg", "b/3.jpg"]
    kinds = {remark.partition(": ")[0]: remark.partition(": ")[2].split(", ") for remark in source.remarks}
    assert {kind: len(names) for kind, names in kinds.items()} == {
        "6 dangling links skipped": 4,  # three names and "…"
        "1 empty file skipped": 1,
        "1 hidden file skipped": 1,
        "1 classless image skipped": 1,
        "1 circular link skipped": 1,
        "2 other files skipped": 2,
    }
    assert kinds["1 empty file skipped"] == ["a/empty.png"]


def test_folders_in_a_class(tmp_path: Path) -> None:
    """In the order of torchvision: folders sorted by their whole paths, files within each."""
    names = ["b.jpg", "a/z.jpg", "a/b/1.jpg", "a b/1.png", "a.jpg/1.jpg", "a/10.jpg", "a/9.jpg", "a-/x.jpg"]
    _touch(*(tmp_path / "train" / kind / name for name in names for kind in ("cat", "dog")))
    walked = [
        os.path.join(os.path.relpath(root, tmp_path), file)
        for kind in ("cat", "dog")
        for root, _, files in sorted(os.walk(tmp_path / "train" / kind, followlinks=True))
        for file in sorted(files)
    ]
    assert _names(read_image_folder(tmp_path, "train"), tmp_path) == walked
    assert len(walked) == 2 * len(names)
    _touch(tmp_path / "train" / "emu" / "more" / "1.jpg")
    assert list(read_image_folder(tmp_path, "train").remarks) == ["all images in folders below the class: emu"]


def test_torchvision_agrees(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    write_photographs(tmp_path)
    _touch(tmp_path / "train" / "animal" / "more" / "1.JPG", tmp_path / "train" / "animal" / "a more" / "1.jpg")
    source, other = read_image_folder(tmp_path, "train"), datasets.ImageFolder(str(tmp_path / "train"))
    assert other.classes == source.class_names
    assert other.samples == [(source[index].name, source[index].label) for index in range(len(source))]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = ["ä.jpg", "日本.png", "z z.jpeg"]
    _touch(*(tmp_path / "train" / "größe" / name for name in names))
    source = read_image_folder(tmp_path, "train")
    assert [Path(source[index].name).name for index in range(3)] == sorted(names)
    folder = os.fsencode(tmp_path / "train") + b"/gr\xf6\xdfe "  # Latin-1, and a space
    os.mkdir(folder)
    for name in (b"\xe4.jpg", b"line\n.jpg", b"\xe4.txt"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(name)
    source = read_image_folder(tmp_path, "train")
    assert source.class_names == ["größe", "gr\\xf6\\xdfe "]
    assert [source[index].image for index in (3, 4)] == [b"line\n.jpg", b"\xe4.jpg"]
    for text in (source[3].name, source[4].name, *source.remarks, *source.class_names):
        assert text.isprintable() and text.encode()


@pytest.mark.parametrize(
    ("folders", "train", "val", "remark"),
    [
        ("train val", "train", "val", None),
        ("Training Validation", "Training", "Validation", None),
        ("TRAIN valid test", "TRAIN", "valid", "only TRAIN and valid used, not test"),
        ("train test", "train", "test", None),
        (
            "train val validation test raw",
            "train",
            "val",
            "only train and val used, not test, validation; not used: raw/",
        ),
        ("train training test", "train", "test", "only train and test used, not training"),
    ],
)
def test_names_of_splits(folders: str, train: str, val: str, remark: str | None, tmp_path: Path) -> None:
    _touch(*(tmp_path / folder / "a" / "1.jpg" for folder in folders.split()))
    wanted: dict[Split, str] = {"train": train, "val": val}
    for split, folder in wanted.items():
        source = read_image_folder(tmp_path, split)
        assert _names(source, tmp_path) == [f"{folder}/a/1.jpg"]
        assert "; ".join(source.remarks) == (remark or "")


@pytest.mark.parametrize("inside", ["", "train", "Training"])
def test_a_share_is_held_out(inside: str, tmp_path: Path) -> None:
    """Of a directory of classes, or of a training folder without a held-out one."""
    counts = {"boat": 30, "train": 2, "rare": 1}
    _touch(*(tmp_path / inside / name / f"{number}.jpg" for name, count in counts.items() for number in range(count)))
    train, val = read_image_folder(tmp_path, "train", 0.1), read_image_folder(tmp_path, "val", 0.1)
    assert train.class_names == val.class_names == ["boat", "rare", "train"]
    assert np.bincount([train[index].label for index in range(len(train))]).tolist() == [27, 1, 1]
    assert np.bincount([val[index].label for index in range(len(val))]).tolist() == [3, 0, 1]
    held_out = _names(val, tmp_path)
    both = sorted(_names(train, tmp_path) + held_out)
    assert both == sorted(os.path.relpath(path, tmp_path) for path in tmp_path.rglob("*.jpg"))
    assert "4 of 33 images held out, 0.1 of every class" in val.remarks[0]
    assert "1 class with a single image" in val.remarks[1]
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    tmp_path.rename(moved)
    again = read_image_folder(moved, "val", 0.1)
    assert (_names(again, moved), again.fingerprint()) == (held_out, val.fingerprint())


def test_fingerprint(tmp_path: Path) -> None:
    """Follows names, sizes and labels; not the place, nor the time."""
    _touch(tmp_path / "one" / "train" / "a" / "1.jpg", tmp_path / "one" / "train" / "b" / "1.jpg")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = read_image_folder(tmp_path / "one", "train").fingerprint()
    train = tmp_path / "two" / "train"
    assert read_image_folder(tmp_path / "two", "train").fingerprint() == first
    seen = {first}
    for change in (
        lambda: (train / "a" / "1.jpg").rename(train / "a" / "2.jpg"),
        lambda: (train / "a" / "2.jpg").write_bytes(b"xx"),
        lambda: (train / "a" / "2.jpg").rename(train / "b" / "2.jpg") and _touch(train / "a" / "1.jpg"),
        lambda: (train / "b").rename(train / "c"),
    ):
        change()
        seen.add(read_image_folder(tmp_path / "two", "train").fingerprint())
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("files", "split", "complaint"),
    [
        ([], "train", "not a directory"),
        (["a/1.jpg"], "train", "no folders of classes called train .*, or set config.data.held_out_fraction=0.1"),
        (["1.jpg"], "train", "no folders of classes called train .*: put images at"),
        (["train/1.jpg", "test1/2.jpg"], "val", "has test1/, train/ without train/CLASS or val/CLASS: put"),
        (["Training_Set/a/1.jpg", "test-set/a/2.jpg"], "val", "has Training_Set/, test-set/ without train/CLASS"),
        (["val/a/1.jpg"], "train", "no folders of classes called train or training: put"),
        (
            ["train/a/1.jpg>", "train/b/1.jpg"],
            "train",
            r"no images .* in .*train/a: .*1 dangling link skipped: a/1\.jpg",
        ),
        (["train/a>", "train/b/1.jpg"], "train", "train/a is a link whose target is missing"),
        (["valid>", "train/b/1.jpg", "test/b/1.jpg"], "val", "valid is a link whose target is missing"),
        (["train/a/1.jpg"], "val", "no folders of classes called val or validation or valid or test: put .*fraction"),
        (
            ["train/a/1.jpg", "val/1.jpg"],
            "val",
            "no folders of classes called val or validation or valid or test: put .*fraction",
        ),
        (["train/a/1.jpg", "train/b/notes.txt"], "train", "no images .* in .*/train/b: fill or remove"),
        (["train/a/notes.txt"], "train", "holds no images"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg"], "val", "val has classes that train lacks: b"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.txt"], "val", "no images .* in .*/val/b"),
    ],
)
def test_refusals(files: list[str], split: Split, complaint: str, tmp_path: Path) -> None:
    _touch(*(tmp_path / "data" / file for file in files))
    with pytest.raises(UserError, match=complaint):
        read_image_folder(tmp_path / "data", split)


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    _touch(tmp_path / "train" / "a" / "1.jpg")
    source = read_image_folder(tmp_path, "train")
    (tmp_path / "train" / "a" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"train/a/1\.jpg cannot be read \(No such file"):
        source[0]
    with pytest.raises(IndexError):
        source[1]
