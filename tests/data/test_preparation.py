"""Evaluation preprocessing against figures worked out by hand, normalising beside its arithmetic."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.data.preparation import IMAGENET, ImagePreparation, normalise

Interpolation = Literal["bilinear", "bicubic"]

SIZE = 7
"""Side of the crop in most tests here: the shorter side before it is 8, small enough to write down."""


def evaluation_image(image: np.ndarray, size: int, interpolation: Interpolation) -> np.ndarray:
    return ImagePreparation(size, "centre", interpolation, *IMAGENET).resized(image)


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)


def _gradient(width: int, height: int, *, along_rows: bool) -> np.ndarray:
    """A grey image whose level is the number of the row (or of the column)."""
    rows, columns = np.indices((height, width))
    return _grey(rows if along_rows else columns)


def test_one_colour_stays_itself() -> None:
    prepared = evaluation_image(np.full((400, 300, 3), (0, 51, 255), np.uint8), 224, "bicubic")
    assert (prepared.shape, prepared.dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_array_equal(prepared, np.broadcast_to((0, 51, 255), (224, 224, 3)))


@pytest.mark.parametrize(
    ("longer", "first"),
    [(8, 0), (9, 1), (10, 2), (11, 2), (12, 2), (13, 3), (14, 4), (15, 4)],
)
@pytest.mark.parametrize("upright", [True, False])
def test_corner_of_the_crop_rounds_to_even(longer: int, first: int, upright: bool) -> None:
    """(longer − 7) / 2 of 0.5, 1, 1.5, 2, 2.5, …; an image whose shorter side is 8 is not resized."""
    image = _gradient(8, longer, along_rows=True) if upright else _gradient(longer, 8, along_rows=False)
    levels = evaluation_image(image, SIZE, "bilinear")
    expected = np.arange(first, first + 7)
    shown = levels[:, :, 0] if upright else levels[:, :, 0].T
    np.testing.assert_array_equal(shown, np.broadcast_to(expected[:, None], (7, 7)))


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((16, 21), (8, 10)),  # 8 · 21 / 16 = 10.5
        ((21, 16), (10, 8)),
        ((17, 40), (8, 18)),  # 18.82…
        ((40, 17), (18, 8)),
        ((5, 9), (8, 14)),  # 14.4, enlarged
        ((30, 30), (8, 8)),
    ],
)
def test_longer_side_is_cut_to_whole_pixels(
    size: tuple[int, int], scaled: tuple[int, int], method: Interpolation
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    resized = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling[method.upper()]))
    left, top = round((scaled[0] - SIZE) / 2), round((scaled[1] - SIZE) / 2)
    levels = evaluation_image(image, SIZE, method)
    np.testing.assert_array_equal(levels, resized[top : top + SIZE, left : left + SIZE])


def test_bilinear_halving_is_antialiased() -> None:
    """Half the size: every pixel weighs its four nearest by 1, 3, 3 and 1 eighths, where plain bilinear takes two."""
    columns = np.array([0, 64, 8, 248, 16, 40, 240, 0, 96, 32, 0, 128, 200, 8, 16, 64], np.uint8)
    levels = evaluation_image(_grey(np.tile(columns, (16, 1))), SIZE, "bilinear")
    wide = columns.astype(int)
    expected = [(wide[2 * x - 1] + 3 * wide[2 * x] + 3 * wide[2 * x + 1] + wide[2 * x + 2]) / 8 for x in range(1, 7)]
    assert expected[0] == (64 + 3 * 8 + 3 * 248 + 16) / 8 == 106
    np.testing.assert_array_equal(levels[:, 1:, 0], np.broadcast_to(expected, (7, 6)))


def test_bicubic_differs_from_bilinear() -> None:
    """At a step, bicubic overshoots: darker than dark is cut to 0, so the light side shows it."""
    step = _grey(np.repeat([[100] * 8 + [200] * 8], 16, axis=0))
    cubic = evaluation_image(step, SIZE, "bicubic")
    linear = evaluation_image(step, SIZE, "bilinear")
    assert cubic.max() > 200 and cubic.min() < 100
    assert (linear.max(), linear.min()) == (200, 100)


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (7, 8), (112, 128), (32, 37), (300, 343)])
def test_shorter_side_before_the_crop(size: int, shorter: int) -> None:
    """256 / 224 of the crop: an image that has this size already comes through unresampled."""
    noise = np.random.default_rng(0).integers(0, 256, (shorter, shorter, 3), np.uint8)
    corner = round((shorter - size) / 2)
    levels = evaluation_image(noise, size, "bicubic")
    np.testing.assert_array_equal(levels, noise[corner : corner + size, corner : corner + size])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (3, 1), (300, 2)])
def test_tiny_images(height: int, width: int, method: Interpolation) -> None:
    image = np.full((height, width, 3), (9, 0, 255), np.uint8)
    np.testing.assert_array_equal(evaluation_image(image, 32, method), np.broadcast_to((9, 0, 255), (32, 32, 3)))


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_images_that_would_be_huge_when_scaled(method: Interpolation) -> None:
    """60,000 pixels to the pixel: as the 20 in their middle, of which the crop shows one."""
    for short in (1, 2):
        image = np.random.default_rng(short).integers(0, 256, (60_000, short, 3), np.uint8)
        for turned in (image, image.swapaxes(0, 1)):
            middle = turned[29_990:30_010] if turned is image else turned[:, 29_990:30_010]
            found, expected = (evaluation_image(one, 224, method).astype(int) for one in (turned, middle))
            assert abs(found - expected).max() <= 1
        whole = ImagePreparation(300, "whole", method, *IMAGENET).resized(image)
        expected = np.asarray(Image.fromarray(image).resize((300, 300), Image.Resampling[method.upper()]))
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 300), (90, 2), (40, 30), (600, 500), (20, 1000)])
def test_resizing_only_the_crop_is_within_a_level(
    shape: tuple[int, int], method: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of resizing the whole image, as long as bicubic interpolation stays between black and white."""
    noise = np.random.default_rng(0).integers(60, 196, (*shape, 3), np.uint8)
    expected = [evaluation_image(noise, size, method).astype(int) for size in (7, 64)]
    monkeypatch.setattr("cdnv2_jax.data.preparation.MOST_PIXELS", 0)
    for size, whole in zip((7, 64), expected, strict=True):
        assert abs(evaluation_image(noise, size, method) - whole).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (5, 9)])
def test_as_arithmetic(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    found = normalise(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.dtype, found.shape) == (np.float32, image.shape)
    np.testing.assert_array_equal(found, (image.astype(np.float32) / 255 - mean) / std)


def test_by_hand() -> None:
    found = normalise(np.array([[[0, 51, 255]]], np.uint8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


def test_shorter_side_of_choice() -> None:
    """As Pillow resizes and crops; another size keeps the proportion."""
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    preparation = ImagePreparation(32, "centre", "bicubic", *IMAGENET, shorter_side=40)
    expected = Image.fromarray(image).resize((60, 40), Image.Resampling.BICUBIC).crop((14, 4, 46, 36))
    np.testing.assert_array_equal(preparation.resized(image), np.asarray(expected))
    assert preparation.at_size(64).shorter_side == 80
    for wrong in ({"shorter_side": 31}, {"shorter_side": 4097}, {"shorter_side": 40, "resize": "whole"}):
        with pytest.raises(ValueError, match="invalid shorter_side"):
            dataclasses.replace(preparation, **wrong)


@pytest.mark.parametrize("resize", ["centre", "whole"])
@pytest.mark.parametrize("channels", [1, 2, 4, 200])
def test_each_channel_is_prepared_alone(channels: int, resize: Literal["centre", "whole"]) -> None:
    """A fourth is not transparency."""
    image = np.random.default_rng(channels).integers(0, 256, (60, 40, channels), np.uint8)
    mean, std = tuple(np.linspace(0, 1, channels)), tuple(np.linspace(0.5, 2, channels))
    prepared = ImagePreparation(16, resize, "bicubic", mean, std, shorter_side=20 if resize == "centre" else 0)(image)
    assert (prepared.shape, prepared.dtype) == ((16, 16, channels), np.float32)
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        if resize == "centre":
            plane = plane.resize((20, 30), Image.Resampling.BICUBIC).crop((2, 7, 18, 23))
        expected = np.asarray(plane.resize((16, 16), Image.Resampling.BICUBIC), np.float32)
        np.testing.assert_allclose(prepared[..., channel], (expected / 255 - mean[channel]) / std[channel], atol=1e-5)
