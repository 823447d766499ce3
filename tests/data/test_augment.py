"""Training images: all that is done to one, and shifts, flips and erasing by themselves."""

import hashlib
import itertools
from typing import Literal

import cv2
import numpy as np
import pytest

from cdnv2_jax.data.augment import (
    NOTHING,
    Augmentation,
    draw_flip,
    draw_rectangle,
    draw_shift,
    erase,
    flip,
    shift,
    training_image,
)
from cdnv2_jax.data.random_crop import Rectangle, crop_and_resize, draw_box
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
    with pytest.raises(UserError, match="is not a supported policy"):
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


def test_flip() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(flip(image), image[:, ::-1])
    np.testing.assert_array_equal(flip(image[:1, :1]), image[:1, :1])
    rng = np.random.default_rng(0)
    assert np.mean([draw_flip(rng) for _ in range(10_000)]) == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (5, 9), (1, 1)])
def test_shift_is_padding_and_cropping(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), np.uint8)
    padded = np.pad(image, ((40, 40), (40, 40), (0, 0)))
    for down, right in itertools.product((-9, -4, -1, 0, 2, 8), (-5, 0, 1, 4, 40)):
        expected = padded[40 - down :, 40 - right :][: shape[0], : shape[1]]
        np.testing.assert_array_equal(shift(image, down, right), expected, err_msg=f"{down} {right}")


def test_drawn_shifts_are_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_shift(4, rng) for _ in range(9_000)])
    for column in drawn.T:
        values, counts = np.unique(column, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-4, 5))
        np.testing.assert_allclose(counts, 1000, atol=160)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    assert draw_shift(0, rng) == (0, 0)


def _rectangles(height: int, width: int, probability: float, draws: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_rectangle(height, width, probability, rng) for _ in range(draws)])


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_probability(probability: float) -> None:
    """All but nothing of what is drawn fits within ten times."""
    erased = _rectangles(224, 224, probability)[:, 2] > 0
    assert erased.mean() == pytest.approx(probability, abs=0.015)


def test_areas_and_ratios() -> None:
    """Where every ratio fits (areas below 0.3), both are as drawn."""
    _, _, tall, wide = _rectangles(1000, 1000, 1.0).T
    area, ratio = tall * wide / 1e6, np.log(tall / wide) / np.log(1 / 0.3)
    always_fits = area < 0.29
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(area[always_fits], quantiles), 0.02 + 0.27 * quantiles, atol=0.01)
    np.testing.assert_allclose(np.quantile(ratio[always_fits], quantiles), 2 * quantiles - 1, atol=0.05)
    assert area.max() == pytest.approx(1 / 3, abs=0.002)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (20, 300), (3, 3), (2, 2), (1, 1), (1, 50)])
def test_inside(height: int, width: int) -> None:
    drawn = _rectangles(height, width, 1.0, 5_000)
    top, left, tall, wide = drawn.T
    assert drawn.min() >= 0
    assert (top + tall).max() <= height and (left + wide).max() <= width
    assert ((tall > 0) == (wide > 0)).all()


def test_one_pixel_is_never_erased() -> None:
    assert {tuple(row) for row in _rectangles(1, 1, 1.0, 100)} == {NOTHING}


def test_noise() -> None:
    """Standard normal, every channel its own; the rest and the original as they were."""
    image = np.full((224, 224, 3), 7, np.float32)
    rectangle = Rectangle(10, 20, 100, 120)
    found = erase(image, rectangle, np.random.default_rng(0))
    assert found.dtype == np.float32
    noise = found[10:110, 20:140].reshape(-1, 3)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.05)
    found[10:110, 20:140] = 7
    np.testing.assert_array_equal(found, 7)
    np.testing.assert_array_equal(image, 7)


def test_nothing_to_erase() -> None:
    image = np.ones((4, 4, 3), np.float32)
    np.testing.assert_array_equal(erase(image, NOTHING, np.random.default_rng(0)), image)
