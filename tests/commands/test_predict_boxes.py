"""`predict` with detectors: formats, drawn pictures, and what is refused."""

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from pycocotools.coco import COCO

from cdnv2_jax import UserError, save
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.export.detector import write_onnx
from cdnv2_jax.weights.metadata import described_detector
from tests.commands.shell import Shell
from tests.export.detectors import CANVAS, CLASSES, detector, metadata, write_retinanet
from tests.export.networks import USAGE
from tests.tables import table
from tests.weights.networks import network as small_classifier
from tests.weights.networks import used

PREDICT = ("main.py", "predict", "--checkpoint", "network.onnx")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "network.onnx"
    write_retinanet(path)
    return path


@pytest.fixture
def here(network: Path, shell: Shell) -> Shell:
    """A shell in a directory with the detector and `album`: two pictures of one name, and one of another format."""
    Path("network.onnx").symlink_to(network)
    random = np.random.default_rng(0)
    for name, size in {"7.png": (60, 90, 3), "more/7.png": (90, 60, 3), "more/b.webp": (300, 200, 3)}.items():
        path = Path("album", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(path)
    return shell


def test_every_format_says_the_same(here: Shell) -> None:
    """And pycocotools reads the last."""

    def printed(format: str) -> str:
        outcome = here.run(*PREDICT, "album", "--threshold", "0.2", "--format", format)
        assert outcome.status == 0 and "3 images; objects of 3 classes that score 0.2 or more" in outcome.err
        return outcome.out

    images = [json.loads(line) for line in printed("json").splitlines()]
    assert [image["image"] for image in images] == ["album/7.png", "album/more/7.png", "album/more/b.webp"]
    assert [(image["height"], image["width"]) for image in images] == [(60, 90), (90, 60), (300, 200)]
    objects = [(image["image"], one) for image in images for one in image["objects"]]
    assert len(objects) > 20
    for _, one in objects:
        assert one["name"] == CLASSES.names[one["label"]] and one["category_id"] == CLASSES.category_ids[one["label"]]
    header, *rows = csv.reader(io.StringIO(printed("csv")))
    assert header == ["image", "x1", "y1", "x2", "y2", "score", "label", "name", "category_id"]
    assert rows == [
        [image, *map(str, (*one["box"], one["score"], one["label"], one["name"], one["category_id"]))]
        for image, one in objects
    ]
    lines = printed("text").splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [image["image"] for image in images]
    first = images[0]["objects"][0]
    assert lines[1].split() == [f"{first['score']:.2%}", first["name"], *(f"{side:.1f}" for side in first["box"])]
    Path("found.json").write_text(printed("coco"))
    truth: Any = COCO()
    truth.dataset = {"images": [{"id": 1}, {"id": 2}, {"id": 3}], "categories": [{"id": 1}, {"id": 2}, {"id": 5}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes("found.json").dataset["annotations"]
    assert len(found) == len(objects)
    for one, (image, expected) in zip(found, objects, strict=True):
        x, y, width, height = one["bbox"]
        np.testing.assert_allclose((x, y, x + width, y + height), expected["box"], atol=1e-9)
        assert (one["score"], one["category_id"]) == (expected["score"], expected["category_id"])
        assert one["file_name"] == image and one["image_id"] == [each["image"] for each in images].index(image) + 1


def test_numbers_of_images(here: Shell) -> None:
    """As COCO names its files; but a number that two files have, or that one of them lacks, would mix images up."""
    printed = here.run(*PREDICT, "--format", "coco", "album/7.png")
    assert {one["image_id"] for one in json.loads(printed.out)} == {7}
    assert printed.err.startswith("image_id: the numbers that the files are named by\n")
    for images in (("album/7.png", "album/more/7.png"), ("album/7.png", "album/more/b.webp")):
        printed = here.run(*PREDICT, "--format", "coco", *images)
        assert {one["image_id"] for one in json.loads(printed.out)} == {1, 2}
        assert "image_id: the images' positions from 1" in printed.err
    assert here.run(*PREDICT, "--format", "coco", "--threshold", "1", "album").out == "[]\n"
    assert "nothing found" in here.run(*PREDICT, "--threshold", "1", "album").out


def test_drawn(here: Shell) -> None:
    """Each under its own name, in its own size and with other pixels; nothing is replaced unasked."""
    arguments = (*PREDICT, "--threshold", "0.2", "--draw", "drawn", "album")
    assert here.run(*arguments).status == 0
    names = {"7.png": "7.png", "more/7.png": "more/7.png", "more/b.webp": "more/b.webp.png"}
    assert {str(path.relative_to("drawn")) for path in Path("drawn").rglob("*.*")} == set(names.values())
    for name, drawn in names.items():
        ours, theirs = (Image.open(path).convert("RGB") for path in (Path("album", name), Path("drawn", drawn)))
        assert ours.size == theirs.size and ours.tobytes() != theirs.tobytes()
    assert "drawn/7.png exists" in here.refuses(*arguments)
    assert here.run(*arguments, "--overwrite").status == 0
    into = (*PREDICT, "--draw", ".", "--overwrite", "album/7.png", "album/more/7.png")
    assert here.run(*into).status == 0 and Path("7.png").is_file() and Path("more/7.png").is_file()


def test_one_broken_picture(here: Shell) -> None:
    """The others are printed and drawn; every result has the number of its own place."""
    Path("album/a.png").write_text("nothing of the kind")
    printed = here.run(*PREDICT, "--format", "coco", "--threshold", "0.2", "--draw", "drawn", "album")
    assert printed.status == 2 and "album/a.png cannot be read as an image" in printed.err
    assert {(one["file_name"], one["image_id"]) for one in json.loads(printed.out)} == {
        ("album/7.png", 1),
        ("album/more/7.png", 3),
        ("album/more/b.webp", 4),
    }
    assert "1 skipped (1 unreadable)" in printed.err and len(list(Path("drawn").rglob("*.png"))) == 3


MISTAKES = {
    "classes of a classifier": (("--top", "3"), "network.onnx holds a detector: leave out --top"),
    "names of a classifier": (("--class-names", "names.txt"), "leave out --class-names"),
    "weights of an official file": (("--weights", "ema"), "network.onnx holds one network, with no choice of weights"),
    "less than the detector's": (("--threshold", "0.001"), "leaves out scores below 0.005: give --threshold from"),
    "no number": (("--threshold", "nan"), "must be a number from 0 to 1, got 'nan'"),
    "over themselves": (("--draw", "album", "--overwrite"), "album/7.png is one of the pictures"),
    "through a link": (("--draw", "link", "--overwrite"), "link/7.png is one of the pictures"),
    "into a file": (("--draw", "names.txt"), "names.txt exists and is not a directory"),
    "over nothing": (("--overwrite",), "--overwrite replaces drawn pictures: add --draw DIR"),
    "of a classifier": (
        ("--checkpoint", "classifier", "--draw", "drawn", "--threshold", "0", "--format", "coco"),
        "classifier holds a classifier: leave out --threshold, --draw, --format coco",
    ),
}


@pytest.fixture
def mistaken(here: Shell) -> Shell:
    """With a file of names, a link to the album, and a classifier."""
    Path("names.txt").write_text("a\nb\nc\n")
    Path("link").symlink_to("album")
    save("classifier", used(small_classifier("condensed"), USAGE))
    return here


@table("arguments, complaint", MISTAKES)
def test_mistakes(arguments: tuple[str, ...], complaint: str, mistaken: Shell) -> None:
    assert complaint in mistaken.refuses(*PREDICT, "album", *arguments)


def test_copies_of_one_name(here: Shell) -> None:
    Image.open("album/7.png").save("album/more/b.webp.png")
    complaint = "album/more/b.webp and album/more/b.webp.png would both be drawn as drawn/b.webp.png: rename one"
    assert complaint in here.refuses(*PREDICT, "album/more", "--draw", "drawn")


def test_weights_that_are_not_numbers(here: Shell) -> None:
    damaged = nnx.clone(detector("retinanet"))
    assert isinstance(damaged, RetinaNet)
    damaged.head.boxes.kernel[...] = jnp.nan * damaged.head.boxes.kernel[...]
    write_onnx(Path("damaged.onnx"), damaged, CANVAS, metadata())
    complaint = here.refuses("main.py", "predict", "--checkpoint", "damaged.onnx", "album")
    assert "damaged.onnx returns NaN or infinity" in complaint


def _of_usage(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: values | {"usage": values["usage"] | changes}


DAMAGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no canvas": lambda values: {key: value for key, value in values.items() if key != "canvas"},
    "a canvas of other sides": lambda values: values | {"canvas": [64, 65]},
    "a canvas without end": lambda values: values | {"canvas": [64, 32 * 10**9]},
    "a canvas of text": lambda values: values | {"canvas": "64x96"},
    "too few names": _of_usage(class_names=["disc"]),
    "too few ids": _of_usage(category_ids=[1, 2]),
    "ids that are neither numbers nor text": _of_usage(category_ids=[1, 2, [5]]),
    "no names": _of_usage(class_names=None),
    "sides without end": _of_usage(preparation={"short_side": 10**9}),
    "another preprocessing": _of_usage(preparation={"size": 224}),
    "more than a score": lambda values: values | {"score_threshold": 2},
    "no score": lambda values: values | {"score_threshold": float("nan")},
    "another kind": lambda values: values | {"detector": "yolo"},
    "a number of classes": lambda values: values | {"num_classes": True},
}


@table("change", DAMAGED)
def test_damaged_metadata(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    assert described_detector(metadata(), "file").classes == CLASSES
    with pytest.raises(UserError, match="file: its metadata is invalid"):
        described_detector(change(metadata()), "file")
