"""RandAugment: reading its name, the distribution of draws, the meaning of arguments, by hand-written tables."""

import math

import numpy as np
import pytest

from cdnv2_jax.data.augment.rand_augment import (
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
    with pytest.raises(UserError, match=r'is no such policy: write "rand-m9-mstd0.5"') as caught:
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
@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
def test_every_operation_keeps_size_and_type(name: str, image: np.ndarray) -> None:
    kind = OPERATIONS[name]
    for strength in (0.0, 0.9, 1.0):
        argument = kind.argument(strength)
        for operation in (Operation(name, argument, "bilinear"), Operation(name, -argument, "bicubic")):
            if operation.argument >= 0 or kind.negated:
                found = apply_operation(image, operation)
                assert (found.dtype, found.shape) == (np.uint8, image.shape)
