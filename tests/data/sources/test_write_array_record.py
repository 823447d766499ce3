"""Photographs → our data set → our reader and TensorFlow Datasets' own: the same bytes and labels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.source import PixelSource, Sample, Source
from cdnv2_jax.data.sources.generated import SyntheticSource
from cdnv2_jax.data.sources.image_folder import read_image_folder
from cdnv2_jax.data.sources.tfds import read_tfds
from cdnv2_jax.data.sources.write_array_record import write_array_record
from tests.data.sources.photographs import CLASSES, write_photographs


def _write(directory: Path, sources: dict[str, Source], *, shard_bytes: int = 1 << 20, overwrite: bool = False) -> Path:
    return write_array_record(sources, directory, name="photos", shard_bytes=shard_bytes, overwrite=overwrite)


def _theirs(directory: Path) -> Any:
    """A data set as TensorFlow Datasets reads it; its annotations do not go with how it is documented."""
    return tfds.builder_from_directory(directory)


def _contents(source: Source) -> list[tuple[object, int]]:
    return [(source[index].image, source[index].label) for index in range(len(source))]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = write_photographs(tmp_path_factory.mktemp("photographs"))
    return {"train": read_image_folder(folder, "train"), "val": read_image_folder(folder, "val")}


@pytest.fixture(scope="module")
def made(photographs: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("made"), photographs)


@pytest.mark.parametrize("split", ["train", "val"])
def test_read_back(split: str, photographs: dict[str, Source], made: Path) -> None:
    read = read_tfds(made, "train" if split == "train" else "val")
    assert read.class_names == CLASSES
    assert _contents(read) == _contents(photographs[split])
    assert "/".join(Path(photographs[split][1].name).parts[-2:]) in read[1].name


@pytest.mark.parametrize(("split", "their_split"), [("train", "train"), ("val", "validation")])
def test_read_back_by_tensorflow_datasets(
    split: str, their_split: str, photographs: dict[str, Source], made: Path
) -> None:
    builder = _theirs(made)
    assert builder.info.features["label"].names == CLASSES
    assert builder.info.supervised_keys == ("image", "label")
    encoded = builder.as_data_source(their_split, decoders={"image": tfds.decode.SkipDecoding()})
    assert [(row["image"], row["label"]) for row in encoded] == _contents(photographs[split])
    for row, (image, _) in zip(builder.as_data_source(their_split), _contents(photographs[split]), strict=True):
        assert isinstance(image, bytes)
        np.testing.assert_array_equal(row["image"], np.asarray(Image.open(io.BytesIO(image))))


def test_found_by_name_below_its_output(made: Path) -> None:
    builder = tfds.builder("photos", data_dir=made.parents[1])
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 5, "validation": 2}


def test_files_are_of_the_size_asked_for(made: Path) -> None:
    """1 MiB: the third of the five photographs is the first to go beyond it."""
    lengths = tfds.builder_from_directory(made).info.splits["train"].shard_lengths
    assert lengths == [3, 2]
    assert len(list(made.glob("photos-train.array_record-0000?-of-00002"))) == 2


def test_nothing_tells_where_it_was_made(made: Path, photographs: dict[str, Source]) -> None:
    folder = str(Path(photographs["train"][0].name).parents[1]).encode()
    assert not any(folder in path.read_bytes() for path in made.iterdir())


def test_pixels_become_png(tmp_path: Path) -> None:
    synthetic = SyntheticSource("train", 32, 3, 4)
    made = _write(tmp_path, {"train": synthetic})
    builder = _theirs(made)
    assert builder.info.features["image"].encoding_format == "png"
    for row, index in zip(builder.as_data_source("train"), range(4), strict=True):
        np.testing.assert_array_equal(row["image"], synthetic[index].image)
        assert row["label"] == synthetic[index].label


def test_written_twice_the_same(photographs: dict[str, Source], made: Path, tmp_path: Path) -> None:
    again = _write(tmp_path, photographs)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }


class _Breaking(PixelSource):
    def __getitem__(self, index: int) -> Sample:
        return Sample(b"no image", 0, f"/data/{index}.jpg") if index else super().__getitem__(index)


def _grey(kind: type[PixelSource], names: list[str]) -> PixelSource:
    return kind(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, int), names, "grey image")


def test_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/data/1\.jpg is not a JPEG"):
        _write(tmp_path, {"train": _grey(_Breaking, ["a"])})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_replaced_only_on_request(tmp_path: Path) -> None:
    sources: dict[str, Source] = {"train": _grey(PixelSource, ["a"])}
    made = _write(tmp_path, sources)
    (made / "mark").touch()
    with pytest.raises(UserError, match="exists"):
        _write(tmp_path, sources)
    assert (made / "mark").exists()
    _write(tmp_path, sources, overwrite=True)
    assert not (made / "mark").exists()


@pytest.mark.parametrize("names", [["a", ""], ["a", " b"], ["a", "b\nc"]])
def test_class_names_that_would_not_come_back(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="single lines"):
        _write(tmp_path, {"train": _grey(PixelSource, names)})


def test_splits_with_different_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="different classes, 1 and 2"):
        _write(tmp_path, {"train": _grey(PixelSource, ["a"]), "val": _grey(PixelSource, ["a", "b"])})


@pytest.mark.parametrize("name", ["Photos", "../x", "a-b", "", "1x"])
def test_name_of_the_data_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--name"):
        write_array_record({"train": _grey(PixelSource, ["a"])}, tmp_path, name=name, shard_bytes=1, overwrite=False)
