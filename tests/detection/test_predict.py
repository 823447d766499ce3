"""Boxes in the pixels of the pictures as they are, in their order, from whole batches; by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cdnv2_jax
from cdnv2_jax import UserError
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.detection.predict import MOST_WAITING, DetectedImage, predict_boxes
from cdnv2_jax.detectors.detector import Classes
from cdnv2_jax.weights.detector_programs import Found
from cdnv2_jax.weights.metadata import DescribedDetector
from cdnv2_jax.weights.open import DetectorProgram
from tests.tables import table

ZERO_MEAN = CanvasPreparation(64, 96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = Classes(("white", "all"), (3, "b"))


class FindsWhite:
    """Finds what is brighter than half, and the image itself with half the score; notes the batches that it is given.

    A class of its own, so that what the network would compute is known.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray, sizes: np.ndarray) -> list[Found]:
        assert images.dtype == np.float32 and sizes.dtype == np.int32
        self.batches.append(images.shape)
        found = []
        for image, (height, width) in zip(images, sizes.tolist(), strict=True):
            assert not image[height:].any() and not image[:, width:].any()
            y, x = np.nonzero(image.min(-1) > 0.5)
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 0, 0)
            boxes = np.array([box, (0, 0, width, height)], np.float32)
            found.append(Found(boxes, np.array([0.8, 0.4], np.float32), np.array([0, 1])))
        return found


def program(canvas: tuple[int, int] | None = None, threshold: float = 0.05) -> tuple[DetectorProgram, FindsWhite]:
    finds = FindsWhite()
    described = DescribedDetector("retinanet", "cdnv2_a", "plain", CLASSES, ZERO_MEAN, threshold, canvas)
    return DetectorProgram(described, finds), finds


def picture(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], orientation: int | None = None) -> Path:
    """A grey picture (width, height) with a white box (x1, y1, x2, y2), as stored."""
    image = Image.new("RGB", size, (40, 40, 40))
    image.paste((255, 255, 255), box)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


PICTURES = {
    # (width, height), white box, orientation → the box upright
    "as large as its canvas": ((96, 64), (10, 20, 50, 60), None, (10, 20, 50, 60)),
    "shrunk by 5": ((480, 320), (50, 100, 250, 300), None, (50, 100, 250, 300)),
    "enlarged, limited by its long side": ((60, 20), (12, 4, 48, 16), None, (12, 4, 48, 16)),
    "a portrait": ((64, 96), (20, 10, 60, 50), None, (20, 10, 60, 50)),
    "one that lies on its side": ((96, 64), (10, 20, 50, 60), 6, (4, 10, 44, 50)),
    "one upside down": ((96, 64), (10, 20, 50, 60), 3, (46, 4, 86, 44)),
}


@table("size, box, orientation, upright", PICTURES)
def test_boxes_of_the_original(
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    orientation: int | None,
    upright: tuple[float, ...],
    tmp_path: Path,
) -> None:
    """On the canvas of its orientation, and on one of another shape; within what a pixel of the canvas is worth."""
    path = picture(tmp_path / "a.png", size, box, orientation)
    width, height = size[::-1] if orientation == 6 else size
    for canvas in (None, (64, 96), (96, 64), (32, 256)):
        detector, _ = program(canvas)
        (found,) = predict_boxes(detector, [path], threshold=0.05, batch_size=2)
        assert isinstance(found, DetectedImage) and (found.height, found.width) == (height, width)
        white, whole = found.objects
        scale = max(width / 96, height / 96, height / (canvas or (96, 96))[0], width / (canvas or (96, 96))[1], 1)
        np.testing.assert_allclose(white.box, upright, atol=1.1 * scale)
        np.testing.assert_allclose(whole.box, (0, 0, width, height), atol=1e-4)
        assert (white.name, white.category_id, whole.name, whole.category_id) == ("white", 3, "all", "b")


def test_order_and_batches(tmp_path: Path) -> None:
    """Results come in the order of the paths, of whole batches of one orientation, broken pictures among them."""
    wide = [picture(tmp_path / f"wide{n}.png", (96, 64), (0, 0, 10 + n, 20)) for n in range(20)]
    tall = [picture(tmp_path / f"tall{n}.png", (64, 96), (0, 0, 10 + n, 20)) for n in range(3)]
    broken = tmp_path / "broken.png"
    broken.write_text("nothing of the kind")
    paths = [tall[0], *wide[:10], broken, tall[1], *wide[10:], broken, tall[2]]
    detector, finds = program()
    taken = 0

    def counted():
        nonlocal taken
        for path in paths:
            taken += 1
            yield path

    results = predict_boxes(detector, counted(), threshold=0.5, batch_size=2)
    first = next(results)
    # The first one waited for another portrait, but not for all of them.
    assert isinstance(first, DetectedImage) and first.path == tall[0]
    assert taken < len(paths) and len(finds.batches) <= MOST_WAITING + 1
    found = [first, *results]
    assert [broken if isinstance(one, BrokenImage) else one.path for one in found] == paths
    for one in found:
        if isinstance(one, DetectedImage):
            (white,) = one.objects
            assert one.path and white.box[2] == pytest.approx(10 + int(one.path.stem[4:]))
    assert {shape[0] for shape in finds.batches} == {2} and len(finds.batches) <= 10 + 3


def test_fewer_than_a_batch(tmp_path: Path) -> None:
    detector, finds = program()
    list(predict_boxes(detector, [picture(tmp_path / "a.png", (96, 64), (0, 0, 9, 9))], threshold=0.5, batch_size=8))
    assert finds.batches == [(1, 64, 96, 3)]


def test_in_memory(tmp_path: Path) -> None:
    """`cdnv2_jax.detect` finds in arrays and in a Pillow image what is found in the file of the same pixels."""
    detector, _ = program()
    path = picture(tmp_path / "a.png", (96, 64), (10, 20, 50, 60))
    image = Image.open(path)
    (of_file,) = cdnv2_jax.detect(detector, path)
    found = cdnv2_jax.detect(detector, [np.asarray(image), np.asarray(image.convert("L")), image])
    assert [one.objects for one in found] == 3 * [of_file.objects] and found[0].path is None
    broken = tmp_path / "broken.png"
    broken.write_text("nothing of the kind")
    with pytest.raises(UserError, match=r"broken.png cannot be read as an image"):
        cdnv2_jax.detect(detector, [image, broken])
    with pytest.raises(UserError, match=r"image 0: an image has 4 channels, the network reads 3"):
        cdnv2_jax.detect(detector, np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(UserError, match=r"use cdnv2_jax.detect"):
        cdnv2_jax.predict(detector, image)  # pyright: ignore[reportArgumentType]


def test_nothing_to_say(tmp_path: Path) -> None:
    assert list(predict_boxes(program()[0], [], threshold=0.5, batch_size=8)) == []
    path = picture(tmp_path / "a.png", (96, 64), (0, 0, 9, 9))
    (found,) = predict_boxes(program()[0], [path], threshold=0.9, batch_size=8)
    assert isinstance(found, DetectedImage) and found.objects == [] and found.to_json()["objects"] == []


def test_what_a_detector_cannot_do(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (96, 64), (0, 0, 9, 9))
    with pytest.raises(UserError, match=r"below 0\.3: give a threshold from 0\.3 to 1"):
        list(predict_boxes(program(threshold=0.3)[0], [path], threshold=0.2, batch_size=1))
    described = program()[0].described
    strange = Found(np.zeros((1, 4), np.float32), np.ones(1), np.array([2]))
    with pytest.raises(UserError, match="classes other than its own 2"):
        list(predict_boxes(DetectorProgram(described, lambda *_: [strange]), [path], threshold=0.5, batch_size=1))
