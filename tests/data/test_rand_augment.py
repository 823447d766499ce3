"""RandAugment: its notation and random choices by tables, its operations beside Pillow's."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cdnv2_jax.data import rand_augment as ops
from cdnv2_jax.data.preparation import PILLOW, Interpolation
from cdnv2_jax.data.rand_augment import (
    FILL,
    NAMES,
    OPERATIONS,
    Operation,
    RandAugment,
    apply_operation,
    draw_operations,
    parse_rand_augment,
)
from cdnv2_jax.errors import UserError
from tests.data.photographs import assorted

OFFICIAL = RandAugment(9.0, 0.5, 2)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5", OFFICIAL),
        ("rand-mstd0.5-m9", OFFICIAL),
        ("rand-m7-n3-mstd1", RandAugment(7.0, 1.0, 3)),
        ("rand-m0-n0", RandAugment(0.0, 0.0, 0)),
        ("rand", RandAugment(10.0, 0.0, 2)),
    ],
)
def test_parse(text: str, policy: RandAugment) -> None:
    assert parse_rand_augment(text) == policy


BAD = "|rand-|m9|augmix-m3|rand-m11|rand-m-1|rand-m9-m8|rand-n1.5|rand-w0|rand-m9-inc1|rand-mstd|rand-mstdinf|rand_m9"
BAD += "|RAND-m9|rand-m9 |rand-m٣|rand-m9-x2|rand-m" + "9" * 400


@pytest.mark.parametrize("text", BAD.split("|"))
def test_bad_policies(text: str) -> None:
    with pytest.raises(UserError, match=r'is not a supported policy: write "rand-m9-mstd0.5"') as caught:
        parse_rand_augment(text)
    assert "\n" not in str(caught.value)


def _many(policy: RandAugment, images: int = 20_000) -> list[list[Operation]]:
    rng = np.random.default_rng(0)
    return [draw_operations(policy, rng) for _ in range(images)]


def _near(found: float | np.floating, expected: float, draws: int) -> bool:
    """Within five standard deviations of a share."""
    return abs(float(found) - expected) < 5 * math.sqrt(expected * (1 - expected) / draws)


def test_operations_are_drawn_alike_with_replacement() -> None:
    drawn = _many(OFFICIAL)
    for count, expected in ((0, 1 / 4), (1, 1 / 2), (2, 1 / 4)):
        assert _near(np.mean([len(operations) == count for operations in drawn]), expected, len(drawn))
    names = [operation.name for operations in drawn for operation in operations]
    for name in NAMES:
        assert _near(names.count(name) / len(names), 1 / 15, len(names)), name
    pairs = [operations for operations in drawn if len(operations) == 2]
    assert _near(np.mean([first.name == second.name for first, second in pairs]), 1 / 15, len(pairs))


def test_signs_and_interpolation() -> None:
    """Geometric arguments only, either way with probability ½, independently."""
    drawn = [operation for operations in _many(OFFICIAL) for operation in operations]
    geometric = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    others = [operation for operation in drawn if operation.name not in geometric]
    assert all(operation.argument >= 0 and operation.resample == "bilinear" for operation in others)
    for name in geometric:
        kinds = [(operation.argument < 0, operation.resample) for operation in drawn if operation.name == name]
        for negated in (True, False):
            for resample in ("bilinear", "bicubic"):
                assert _near(kinds.count((negated, resample)) / len(kinds), 1 / 4, len(kinds))


ARGUMENTS = {
    "AutoContrast": (0, 0, 0),
    "Equalize": (0, 0, 0),
    "Invert": (0, 0, 0),
    "Rotate": (0, 27, 30),
    "Posterize": (0, 3, 4),
    "Solarize": (0, 230, 256),
    "SolarizeAdd": (0, 99, 110),
    "Color": (0.1, 1.72, 1.9),
    "Contrast": (0.1, 1.72, 1.9),
    "Brightness": (0.1, 1.72, 1.9),
    "Sharpness": (0.1, 1.72, 1.9),
    "ShearX": (0, 0.27, 0.3),
    "ShearY": (0, 0.27, 0.3),
    "TranslateXRel": (0, 0.405, 0.45),
    "TranslateYRel": (0, 0.405, 0.45),
}
"""Sizes of arguments at magnitudes 0, 9 and 10 (Cubuk et al. 2020, in timm's reading)."""


@pytest.mark.parametrize(("place", "magnitude"), [(0, 0.0), (1, 9.0), (2, 10.0)])
def test_arguments(place: int, magnitude: float) -> None:
    assert list(ARGUMENTS) == list(NAMES)
    seen = set()
    for operation in (operation for drawn in _many(RandAugment(magnitude), 400) for operation in drawn):
        assert abs(operation.argument) == pytest.approx(ARGUMENTS[operation.name][place]), operation
        seen.add(operation.name)
    assert seen == set(NAMES)


def test_magnitude_is_normal_and_kept_within_bounds() -> None:
    """Read back from rotations; of N(9, 0.5) a share of 0.0228 lies above 10, which two standard deviations are."""
    angles = [op.argument for drawn in _many(OFFICIAL, 60_000) for op in drawn if op.name == "Rotate"]
    magnitudes = np.abs(angles) / 3
    assert magnitudes.max() == pytest.approx(10)
    at_bound = np.isclose(magnitudes, 10)
    assert _near(at_bound.mean(), 0.02275, len(magnitudes))
    assert np.median(magnitudes) == pytest.approx(9, abs=0.05)
    below_one_deviation = (magnitudes < 8.5).mean()
    assert _near(below_one_deviation, 0.1587, len(magnitudes))


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_keeps_size_and_type(name: str) -> None:
    kind = OPERATIONS[name]
    for image, strength in itertools.product(assorted().values(), (0.0, 0.9, 1.0)):
        argument = kind.argument(strength)
        for operation in (Operation(name, argument, "bilinear"), Operation(name, -argument, "bicubic")):
            if operation.argument >= 0 or kind.negated:
                found = apply_operation(image, operation)
                assert (found.dtype, found.shape) == (np.uint8, image.shape)


FACTORS = [0.1, 0.35, 0.7, 0.9, 1.0, 1.3, 1.72, 1.9]


def _solarize_add(image: Image.Image, addend: int) -> Image.Image:
    return image.point([min(255, level + addend) if level < 128 else level for level in range(256)] * 3)


TABLES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., Image.Image], list]] = {
    "auto_contrast": (lambda image, _: ops.auto_contrast(image), lambda image, _: ImageOps.autocontrast(image), [0]),
    "equalize": (lambda image, _: ops.equalize(image), lambda image, _: ImageOps.equalize(image), [0]),
    "invert": (lambda image, _: ops.invert(image), lambda image, _: ImageOps.invert(image), [0]),
    "posterize": (ops.posterize, ImageOps.posterize, list(range(1, 9))),
    "solarize": (ops.solarize, ImageOps.solarize, [0, 1, 77, 128, 230, 255, 256]),
    "solarize_add": (ops.solarize_add, _solarize_add, [0, 1, 50, 99, 110]),
}
"""Ours, Pillow's, arguments; those that give the very same pixels."""


def _enhance(kind: type) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


BLENDS = {
    "color": (ops.color, _enhance(ImageEnhance.Color)),
    "contrast": (ops.contrast, _enhance(ImageEnhance.Contrast)),
    "brightness": (ops.brightness, _enhance(ImageEnhance.Brightness)),
    "sharpness": (ops.sharpness, _enhance(ImageEnhance.Sharpness)),
}


@pytest.mark.parametrize(("ours", "pillow", "arguments"), TABLES.values(), ids=TABLES)
def test_tables(ours: Callable, pillow: Callable, arguments: list) -> None:
    for image in assorted().values():
        before = image.copy()
        for argument in arguments:
            found = ours(image, argument)
            assert (found.dtype, found.shape) == (np.uint8, image.shape)
            np.testing.assert_array_equal(found, pillow(Image.fromarray(image), argument))
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("ours", "pillow"), BLENDS.values(), ids=BLENDS)
def test_blends(ours: Callable, pillow: Callable) -> None:
    """One level at most, in one pixel of a thousand at most."""
    for image in assorted().values():
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
    np.testing.assert_array_equal(ops.posterize(assorted()["temple"], 0), 0)


@pytest.mark.parametrize("operation", [ops.color, ops.contrast, ops.brightness, ops.sharpness])
def test_factor_of_one_changes_nothing(operation: Callable) -> None:
    image = assorted()["flower"]
    np.testing.assert_array_equal(operation(image, 1.0), image)


def test_degenerate_images() -> None:
    """Factor 0: black, mean grey, grey."""
    image = np.array([[[200, 100, 10], [0, 50, 250]]], np.uint8)
    grey = [round(0.299 * 200 + 0.587 * 100 + 0.114 * 10), round(0.587 * 50 + 0.114 * 250)]
    np.testing.assert_array_equal(ops.brightness(image, 0.0), 0)
    np.testing.assert_array_equal(ops.contrast(image, 0.0), int(np.mean(grey) + 0.5))
    np.testing.assert_array_equal(ops.color(image, 0.0), np.repeat([[[level] for level in grey]], 3, axis=2))


Matrix = tuple[float, float, float, float, float, float]

AFFINE: dict[str, tuple[Callable[..., np.ndarray], Callable[[float, int, int], Matrix], float]] = {
    "shear_x": (ops.shear_x, lambda factor, width, height: (1, factor, 0, 0, 1, 0), 0.3),
    "shear_y": (ops.shear_y, lambda factor, width, height: (1, 0, 0, factor, 1, 0), 0.3),
    "translate_x": (ops.translate_x, lambda share, width, height: (1, 0, share * width, 0, 1, 0), 0.45),
    "translate_y": (ops.translate_y, lambda share, width, height: (1, 0, 0, 0, 1, share * height), 0.45),
}
"""Ours, the matrix from where a pixel goes to where it comes from, the largest argument."""

RESAMPLES: list[Interpolation] = ["bilinear", "bicubic"]


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("ours", "matrix", "most"), AFFINE.values(), ids=AFFINE)
def test_beside_pillow(ours: Callable, matrix: Callable, most: float, resample: Interpolation) -> None:
    """One level at most, and that seldom; also far outside the range that RandAugment uses."""
    for image in assorted().values():
        before = image.copy()
        height, width = image.shape[:2]
        for share in (-3.7, -1, -0.87, -0.4, -0.01, 0, 0.003, 0.3, 0.66, 0.9, 1, 5):
            found = ours(image, share * most, resample)
            assert (found.dtype, found.shape) == (np.uint8, image.shape)
            expected = Image.fromarray(image).transform(
                (width, height),
                Image.Transform.AFFINE,
                matrix(share * most, width, height),
                resample=PILLOW[resample],
                fillcolor=FILL,
            )
            difference = np.abs(found.astype(int) - np.asarray(expected))
            assert difference.max() <= 1, share
            assert difference.mean() <= 0.1 or image.size < 3000, share
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_rotation_is_pillows(resample: Interpolation) -> None:
    for image in assorted().values():
        for degrees in (-30.0, -11.1, 0.0, 0.4, 27.0):
            expected = Image.fromarray(image).rotate(degrees, PILLOW[resample], fillcolor=FILL)
            np.testing.assert_array_equal(ops.rotate(image, degrees, resample), expected)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_whole_pixels_are_moved_unchanged(resample: Interpolation) -> None:
    image = assorted()["flower"]
    moved = ops.translate_x(image, 56 / 224, resample)
    np.testing.assert_array_equal(moved[:, :168], image[:, 56:])
    np.testing.assert_array_equal(moved[:, 168:], np.broadcast_to(FILL, (224, 56, 3)))
    raised = ops.translate_y(image, -56 / 224, resample)
    np.testing.assert_array_equal(raised[56:], image[:168])


def test_filling_is_not_shared() -> None:
    """What is given out may be written to."""
    image = assorted()["flat"]
    ops.shear_x(image, 0.3, "bilinear")[:] = 9
    assert tuple(ops.translate_x(image, 0.9, "bilinear")[0, -1]) == FILL
