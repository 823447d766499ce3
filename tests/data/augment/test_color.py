"""Colour operations beside Pillow's, over the range of their arguments."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cdnv2_jax.data.augment import operations as color
from tests.data.photographs import assorted

FACTORS = [0.1, 0.35, 0.7, 0.9, 1.0, 1.3, 1.72, 1.9]


def _solarize_add(image: Image.Image, addend: int) -> Image.Image:
    return image.point([min(255, level + addend) if level < 128 else level for level in range(256)] * 3)


TABLES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., Image.Image], list]] = {
    "auto_contrast": (lambda image, _: color.auto_contrast(image), lambda image, _: ImageOps.autocontrast(image), [0]),
    "equalize": (lambda image, _: color.equalize(image), lambda image, _: ImageOps.equalize(image), [0]),
    "invert": (lambda image, _: color.invert(image), lambda image, _: ImageOps.invert(image), [0]),
    "posterize": (color.posterize, ImageOps.posterize, list(range(1, 9))),
    "solarize": (color.solarize, ImageOps.solarize, [0, 1, 77, 128, 230, 255, 256]),
    "solarize_add": (color.solarize_add, _solarize_add, [0, 1, 50, 99, 110]),
}
"""Ours, Pillow's, arguments; those that give the very same pixels."""


def _enhance(kind: type) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


BLENDS = {
    "color": (color.color, _enhance(ImageEnhance.Color)),
    "contrast": (color.contrast, _enhance(ImageEnhance.Contrast)),
    "brightness": (color.brightness, _enhance(ImageEnhance.Brightness)),
    "sharpness": (color.sharpness, _enhance(ImageEnhance.Sharpness)),
}


@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
@pytest.mark.parametrize(("ours", "pillow", "arguments"), TABLES.values(), ids=TABLES)
def test_tables(ours: Callable, pillow: Callable, arguments: list, image: np.ndarray) -> None:
    before = image.copy()
    for argument in arguments:
        found = ours(image, argument)
        assert (found.dtype, found.shape) == (np.uint8, image.shape)
        np.testing.assert_array_equal(found, pillow(Image.fromarray(image), argument))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
@pytest.mark.parametrize(("ours", "pillow"), BLENDS.values(), ids=BLENDS)
def test_blends(ours: Callable, pillow: Callable, image: np.ndarray) -> None:
    """One level at most, in one pixel of a thousand at most."""
    before = image.copy()
    for factor in FACTORS:
        found = ours(image, factor)
        assert (found.dtype, found.shape) == (np.uint8, image.shape)
        difference = np.abs(found.astype(int) - np.asarray(pillow(Image.fromarray(image), factor)))
        assert difference.max() <= 1
        assert difference.mean() <= 1e-3 or image.size < 3000
    np.testing.assert_array_equal(image, before)


def test_posterizing_to_no_bits_is_black() -> None:
    """Magnitudes below 2.5 do that; Pillow did until it took to refusing it."""
    np.testing.assert_array_equal(color.posterize(assorted()["temple"], 0), 0)


@pytest.mark.parametrize("operation", [color.color, color.contrast, color.brightness, color.sharpness])
def test_factor_of_one_changes_nothing(operation: Callable) -> None:
    image = assorted()["flower"]
    np.testing.assert_array_equal(operation(image, 1.0), image)


def test_degenerate_images() -> None:
    """Factor 0: black, mean grey, grey."""
    image = np.array([[[200, 100, 10], [0, 50, 250]]], np.uint8)
    grey = [round(0.299 * 200 + 0.587 * 100 + 0.114 * 10), round(0.587 * 50 + 0.114 * 250)]
    np.testing.assert_array_equal(color.brightness(image, 0.0), 0)
    np.testing.assert_array_equal(color.contrast(image, 0.0), int(np.mean(grey) + 0.5))
    np.testing.assert_array_equal(color.color(image, 0.0), np.repeat([[[level] for level in grey]], 3, axis=2))
