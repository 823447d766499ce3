"""The whole of what is done to one training image."""

import hashlib
from typing import Literal

import cv2
import numpy as np
import pytest

from cdnv2_jax.data.augment.crops import crop_and_resize, draw_box
from cdnv2_jax.data.augment.training_image import NOTHING, Augmentation, training_image
from cdnv2_jax.errors import UserError
from tests.data.photographs import assorted, photographs

IMAGENET = Augmentation(224, "random_resized", flip=True, rand_augment="rand-m9-mstd0.5", erase_probability=0.2)
CIFAR = Augmentation(32, "shift", shift=4, flip=True)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([5, seed])


@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
def test_any_size_comes_out_as_asked(image: np.ndarray) -> None:
    before = image.copy()
    for seed in range(20):
        pixels, rectangle = training_image(image, "x", _random(seed), IMAGENET)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (224, 224, 3))
        assert len(rectangle) == 4 and rectangle.top + rectangle.height <= 224
    np.testing.assert_array_equal(image, before)


def test_depends_on_nothing_but_image_and_generator() -> None:
    """Not on what was made before, nor on the number of OpenCV's threads."""
    pixels = photographs()[1]
    first = [training_image(pixels, "x", _random(seed), IMAGENET) for seed in range(40)]
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        again = [training_image(pixels, "y", _random(seed), IMAGENET) for seed in reversed(range(40))][::-1]
    finally:
        cv2.setNumThreads(threads)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.erased == other.erased
    assert len({hashlib.sha256(image.pixels.tobytes()).digest() for image in first}) == 40


def test_opencv_runs_in_one_thread() -> None:
    assert cv2.getNumThreads() == 1


def test_share_of_rectangles() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    erasing = Augmentation(8, erase_probability=0.2)
    share = np.mean([training_image(image, "x", _random(seed), erasing).erased != NOTHING for seed in range(5000)])
    assert share == pytest.approx(0.2, abs=0.03)


def test_nothing_is_done_unless_asked() -> None:
    image = assorted()["flower"]
    pixels, rectangle = training_image(image, "x", _random(), Augmentation(224))
    np.testing.assert_array_equal(pixels, image)
    assert rectangle == NOTHING


def test_shift_and_flip() -> None:
    """What comes out is one of 81 places, mirrored or not."""
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    possible = {}
    for top in range(9):
        for left in range(9):
            part = padded[top : top + 32, left : left + 32]
            possible[part.tobytes()] = (top, left, False)
            possible[part[:, ::-1].tobytes()] = (top, left, True)
    seen = {possible[training_image(image, "x", _random(seed), CIFAR).pixels.tobytes()] for seed in range(3000)}
    assert len(seen) == 162


@pytest.mark.parametrize("crop", ["none", "shift"])
def test_wrong_size(crop: str) -> None:
    augmentation = Augmentation(32, crop)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"^train image 3 is 40 × 30 pixels, not 32 × 32: resize it"):
        training_image(np.zeros((30, 40, 3), np.uint8), "train image 3", _random(), augmentation)


def test_bad_policy_is_met_early() -> None:
    with pytest.raises(UserError, match="is no such policy"):
        Augmentation(224, rand_augment="rand-m12")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
def test_interpolation_of_crops(interpolation: Literal["random", "bilinear", "bicubic"]) -> None:
    """Over many draws: always the one that is asked for, or each in about half of them."""
    flower, augmentation = photographs()[1], Augmentation(32, "random_resized", interpolation=interpolation)
    bicubic = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        box = draw_box(flower.shape[0], flower.shape[1], np.random.default_rng(seed))
        made = training_image(flower, "flower", rng, augmentation).pixels
        methods = [m for m in ("bilinear", "bicubic") if np.array_equal(made, crop_and_resize(flower, box, 32, m))]
        assert len(methods) == 1
        bicubic += methods == ["bicubic"]
    assert {"bilinear": bicubic == 0, "bicubic": bicubic == 60, "random": 15 < bicubic < 45}[interpolation]
