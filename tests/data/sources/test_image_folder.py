"""Folders of images: what belongs to them, which labels they get, what is refused."""

from pathlib import Path

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.image_folder import read_image_folder
from tests.data.sources.photographs import CLASSES, TRAIN, VAL, write_photographs


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    with pytest.raises(UserError, match="train holds no class folders"):
        read_image_folder(tmp_path, "train")


def test_val_alone(tmp_path: Path) -> None:
    _touch(tmp_path / "val" / "a" / "1.jpg", tmp_path / "val" / "b" / "1.jpg")
    assert read_image_folder(tmp_path, "val").class_names == ["a", "b"]


def test_what_is_no_image_of_a_class(tmp_path: Path) -> None:
    train = tmp_path / "train"
    _touch(train / "a" / "1.jpg", train / "a" / "deeper" / "2.jpg", train / "a" / "notes.txt")
    _touch(train / "a" / ".hidden.jpg", train / "3.jpg")
    _touch(train / ".ipynb_checkpoints" / "4.jpg")
    (train / "a" / "folder.jpg").mkdir()
    source = read_image_folder(tmp_path, "train")
    assert (source.class_names, len(source)) == (["a"], 1)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = ["ä.jpg", "日本.png", "z z.jpeg"]
    _touch(*(tmp_path / "train" / "größe" / name for name in names))
    source = read_image_folder(tmp_path, "train")
    assert [Path(source[index].name).name for index in range(3)] == sorted(names)


@pytest.mark.parametrize(
    ("files", "split", "complaint"),
    [
        ([], "train", "not a directory|holds no class folders"),
        (["train/a/1.jpg"], "val", "has train/ but no class folders in val/"),
        (["train/a/1.jpg", "val/1.jpg"], "val", "has train/ but no class folders in val/"),
        (["train/a/1.jpg", "train/b/notes.txt"], "train", "no images .* in .*/train/b: fill or remove"),
        (["train/a/notes.txt"], "train", "holds no images"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg"], "val", "has classes that .*/train lacks: b"),
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
