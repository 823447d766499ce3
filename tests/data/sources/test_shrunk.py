"""Photographs shrunk for training: the same crops as of the full ones, and a data set that TFDS reads, too."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.augment import Augmentation, training_image
from cdnv2_jax.data.random_crop import Rectangle, scaled
from cdnv2_jax.data.source import PixelSource, Sample, Source
from cdnv2_jax.data.sources.image_folder import read_image_folder
from cdnv2_jax.data.sources.shrunk import Shrunk
from cdnv2_jax.data.sources.tfds import read_tfds
from cdnv2_jax.data.sources.write_array_record import write_array_record
from tests.data.sources.photographs import write_photographs

SHORT_SIDE = 256
AUGMENTATION = Augmentation(224, "random_resized", flip=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source[Sample]]:
    folder = write_photographs(tmp_path_factory.mktemp("photographs"))
    return {"train": read_image_folder(folder, "train"), "val": read_image_folder(folder, "val")}


@pytest.fixture(scope="module")
def made(whole: dict[str, Source[Sample]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = {**whole, "train": Shrunk(whole["train"], SHORT_SIDE)}
    output = tmp_path_factory.mktemp("made")
    return write_array_record(sources, output, name="photos", shard_bytes=1 << 20, overwrite=False)


def test_training_images_are_shrunk_and_held_out_ones_whole(whole: dict[str, Source[Sample]], made: Path) -> None:
    shrunk, full = read_tfds(made, "train"), whole["train"]
    for index in range(len(full)):
        image = shrunk[index].image
        assert isinstance(image, bytes)
        height, width = full[index].pixels().shape[:2]
        picture = Image.open(io.BytesIO(image))
        scale = SHORT_SIDE / min(height, width)
        assert (picture.format, picture.size) == ("JPEG", (round(width * scale), round(height * scale)))
        assert shrunk[index].full_size == (height, width)
    held_out = read_tfds(made, "val")
    assert [held_out[i] for i in range(2)] == [
        Sample(whole["val"][i].image, whole["val"][i].label, held_out[i].name) for i in range(2)
    ]


def test_crops_are_those_of_the_full_images(whole: dict[str, Source[Sample]], made: Path) -> None:
    """The same random numbers choose the same part of both, which differ in detail only: mean levels of 255."""
    shrunk = read_tfds(made, "train")
    away: list[float] = []
    for index in range(len(shrunk)):
        full, small = whole["train"][index].pixels(), shrunk[index]
        for seed in range(8):
            randoms = [np.random.default_rng([index, seed]) for _ in range(2)]
            theirs = training_image(full, "full", randoms[0], AUGMENTATION).pixels
            ours = training_image(small.pixels(), "small", randoms[1], AUGMENTATION, small.full_size).pixels
            assert randoms[0].random() == randoms[1].random()
            away.append(float(np.abs(ours.astype(float) - theirs).mean()))
    assert np.mean(away) < 5 and max(away) < 16


def test_tensorflow_datasets_reads_it(made: Path) -> None:
    builder: Any = tfds.builder_from_directory(made)  # as in test_write_array_record
    rows = list(builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()}))
    source = read_tfds(made, "train")
    assert [(row["full_height"], row["full_width"]) for row in rows] == [source[i].full_size for i in range(len(rows))]


@pytest.mark.parametrize(
    ("box", "size", "to", "expected"),
    [
        ((0, 0, 400, 600), (400, 600), (200, 300), (0, 0, 200, 300)),
        ((100, 300, 50, 30), (400, 600), (200, 300), (50, 150, 25, 15)),
        ((399, 599, 1, 1), (400, 600), (200, 300), (199, 299, 1, 1)),
        ((0, 0, 1, 1), (4000, 6000), (20, 30), (0, 0, 1, 1)),
        ((3, 5, 7, 9), (400, 600), (400, 600), (3, 5, 7, 9)),
    ],
)
def test_scaled_boxes(box: tuple[int, ...], size: tuple[int, int], to: tuple[int, int], expected: tuple[int, ...]):
    assert scaled(Rectangle(*box), size, to) == Rectangle(*expected)


def test_small_and_broken_images_are_unchanged() -> None:
    images = np.zeros((1, 40, 64, 3), np.uint8)
    small = PixelSource(images, np.array([0]), ["one"], "image")
    assert Shrunk(small, 40)[0].full_size is None
    assert Shrunk(small, 39)[0].full_size == (40, 64)

    class Broken(PixelSource):
        def __getitem__(self, index: int) -> Sample:
            return Sample(b"no image", 0, "broken.jpg")

    assert Shrunk(Broken(images, np.array([0]), ["one"], "image"), 32)[0].image == b"no image"
    with pytest.raises(UserError, match="--short-side 8: must be at least 32"):
        Shrunk(small, 8)
