"""RandAugment (Cubuk et al. 2020) of timm, which the official code uses with "rand-m9-mstd0.5".

First come the operations, uint8 [h, w, 3] → uint8 [h, w, 3] as in Pillow, then the policy and its random choices.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from cdnv2_jax.data.preparation import PILLOW, Interpolation
from cdnv2_jax.errors import UserError

LEVELS = np.arange(256)
JUST_BELOW_HALF = 0.499
"""Subtracted before OpenCV rounds, so that fractions are truncated as in Pillow and whole numbers are unchanged."""

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""Kernel of Pillow's ImageFilter.SMOOTH."""


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch every channel to 0 … 255."""
    tables = []
    for channel in cv2.split(image):
        lowest, highest = int(channel.min()), int(channel.max())
        scale = 255 / (highest - lowest) if highest > lowest else 1.0
        tables.append(LEVELS * scale - lowest * scale if highest > lowest else LEVELS)
    return _look_up(image, np.stack(tables, axis=1))


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten the histogram of every channel as far as a lookup table can."""
    return _look_up(image, np.stack([_equalizing(channel) for channel in cv2.split(image)], axis=1))


def _equalizing(channel: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).astype(np.int64).ravel()
    present = counts[counts > 0]
    step = int(counts.sum() - present[-1]) // 255  # pixels per level, not counting the last level present
    if len(present) < 2 or not step:
        return LEVELS
    before = np.cumsum(counts) - counts
    return (step // 2 + before) // step


def invert(image: np.ndarray) -> np.ndarray:
    """Replace every level with 255 − level."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper `bits` (0 … 8) of every level."""
    return _look_up(image, LEVELS & -(1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert levels of `threshold` (0 … 256) and above."""
    return _look_up(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """Brighten levels below 128 by `addend`."""
    return _look_up(image, np.where(LEVELS < 128, LEVELS + addend, LEVELS))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolate between the greyscale image (factor 0) and the image (1), or extrapolate."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolate between the image's mean grey (factor 0) and the image (1), or extrapolate."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _look_up(image, mean + np.float32(factor) * (LEVELS - mean).astype(np.float32))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolate between black (factor 0) and the image (1), or extrapolate."""
    return _look_up(image, np.float32(factor) * LEVELS.astype(np.float32))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolate between the smoothed image (factor 0) and the image (1), or extrapolate; keep the border pixels."""
    smooth = cv2.filter2D(image, -1, SMOOTH)
    smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return _blend(smooth, image, factor)


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """Compute degenerate + factor · (image − degenerate), truncated to whole numbers."""
    return cv2.addWeighted(image, factor, degenerate, 1 - factor, -JUST_BELOW_HALF)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Map levels by a table [256], or [256, 3] for each channel, whose values are clipped to 0 … 255 and truncated."""
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[:, None])


FILL = (124, 116, 104)
"""Mean colour of ImageNet."""

ROUNDING_ERROR = 1e-4
"""Bound on the error of float32 sums; added before truncation, so that uniform areas keep their level."""


def rotate(image: np.ndarray, degrees: float, resample: Interpolation) -> np.ndarray:
    """Rotate an image about its centre, counter-clockwise."""
    return np.array(Image.fromarray(image).rotate(degrees, PILLOW[resample], fillcolor=FILL))


def shear_x(image: np.ndarray, factor: float, resample: Interpolation) -> np.ndarray:
    """Shift each row to the left by `factor` times its distance from the top."""
    return _move_rows(image, factor * (np.arange(len(image)) + 0.5), resample)


def shear_y(image: np.ndarray, factor: float, resample: Interpolation) -> np.ndarray:
    """Shift each column up by `factor` times its distance from the left."""
    return cv2.transpose(shear_x(cv2.transpose(image), factor, resample))


def translate_x(image: np.ndarray, share: float, resample: Interpolation) -> np.ndarray:
    """Shift an image to the left by the fraction `share` of its width."""
    height, width = image.shape[:2]
    return _move_rows(image, np.full(height, share * width), resample)


def translate_y(image: np.ndarray, share: float, resample: Interpolation) -> np.ndarray:
    """Shift an image up by the fraction `share` of its height."""
    return cv2.transpose(translate_x(cv2.transpose(image), share, resample))


def _move_rows(image: np.ndarray, distances: np.ndarray, resample: Interpolation) -> np.ndarray:
    """Shift row y to the left by distances[y] pixels, of any sign and size."""
    height, width = image.shape[:2]
    whole = np.floor(distances)
    weights = _weights((distances - whole).astype(np.float32), resample)
    taps = len(weights)
    # Interpolation replicates border pixels; positions that come from outside the image are filled below.
    margin = int(min(np.abs(whole).max(), width)) + 2
    padded = cv2.copyMakeBorder(image, 0, 0, margin, margin, cv2.BORDER_REPLICATE).reshape(height, -1)
    starts = margin + 1 - taps // 2 + np.clip(whole, -width, width).astype(int)
    rows = sliding_window_view(padded, 3 * (width + taps - 1), axis=1)[np.arange(height), 3 * starts]
    neighbours = sliding_window_view(rows.astype(np.float32), 3 * width, axis=1)[:, ::3]
    moved = np.einsum("ty,ytx->yx", weights, neighbours) + np.float32(ROUNDING_ERROR)
    pixels = np.clip(moved, 0, 255).astype(np.uint8).reshape(image.shape)
    from_x = np.arange(width) + 0.5 + distances[:, None]
    inside = (from_x >= 0) & (from_x < width)
    return cv2.copyTo(pixels, inside.astype(np.uint8), _blank(height, width).copy())


@functools.lru_cache(maxsize=2)
def _blank(height: int, width: int) -> np.ndarray:
    # Cached because filling an image with three numbers takes NumPy as long as everything else here.
    return np.full((height, width, 3), FILL, np.uint8)


def _weights(fraction: np.ndarray, resample: Interpolation) -> np.ndarray:
    """Return the weights [2 or 4, rows] of the pixels around a point `fraction` right of one (bicubic: a = −1)."""
    t = fraction
    if resample == "bilinear":
        return np.stack([1 - t, t])
    square, cube = t**2, t**3
    return np.stack([-t + 2 * square - cube, 1 - 2 * square + cube, t + square - cube, -square + cube])


HIGHEST_MAGNITUDE = 10.0
PROBABILITY = 0.5
SECTION = re.compile(r"(mstd|m|n)([0-9]+(?:\.[0-9]+)?)")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """A RandAugment policy.

    Attributes:
      magnitude: mean of the operations' magnitudes, 0 … 10.
      deviation: standard deviation of the magnitudes.
      layers: number of operations chosen for an image.
    """

    magnitude: float = HIGHEST_MAGNITUDE
    deviation: float = 0.0
    layers: int = 2


class Operation(NamedTuple):
    """An operation with its argument.

    Attributes:
      name: name of the operation in `OPERATIONS`.
      argument: its argument; unused if it takes none.
      resample: interpolation of geometric operations.
    """

    name: str
    argument: float
    resample: Interpolation


class Kind(NamedTuple):
    """An operation, and how its argument depends on a strength in [0, 1].

    Attributes:
      function: the operation; takes an image and, unless `form` is "plain", an argument.
      form: type of the argument: "plain" (none), "whole" (a whole number), "factor" (0.1 … 1.9) or "geometric" (either
        sign, and an interpolation).
      largest: argument at strength 1, for "whole" and "geometric" operations.
    """

    function: Callable[..., np.ndarray]
    form: Literal["plain", "whole", "factor", "geometric"]
    largest: float = 0.0

    @property
    def negated(self) -> bool:
        """Whether the argument is negated at random."""
        return self.form == "geometric"

    def argument(self, strength: float) -> float:
        """Return the argument at a strength in [0, 1], before it is negated."""
        if self.form == "factor":
            return strength * 1.8 + 0.1
        return int(strength * self.largest) if self.form == "whole" else strength * self.largest


OPERATIONS: dict[str, Kind] = {
    "AutoContrast": Kind(auto_contrast, "plain"),
    "Equalize": Kind(equalize, "plain"),
    "Invert": Kind(invert, "plain"),
    "Rotate": Kind(rotate, "geometric", 30.0),
    "Posterize": Kind(posterize, "whole", 4),
    "Solarize": Kind(solarize, "whole", 256),
    "SolarizeAdd": Kind(solarize_add, "whole", 110),
    "Color": Kind(color, "factor"),
    "Contrast": Kind(contrast, "factor"),
    "Brightness": Kind(brightness, "factor"),
    "Sharpness": Kind(sharpness, "factor"),
    "ShearX": Kind(shear_x, "geometric", 0.3),
    "ShearY": Kind(shear_y, "geometric", 0.3),
    "TranslateXRel": Kind(translate_x, "geometric", 0.45),
    "TranslateYRel": Kind(translate_y, "geometric", 0.45),
}
NAMES = tuple(OPERATIONS)


def parse_rand_augment(text: str) -> RandAugment:
    """Parse timm's notation: "rand", then in any order m (0 … 10, default 10), mstd (default 0) and n (default 2).

    Raises:
      UserError: anything else, such as timm's weights ("w") and increasing variants ("inc").
    """
    head, *sections = text.split("-")
    found = [SECTION.fullmatch(section) for section in sections]
    values = {match[1]: match[2] for match in found if match}
    chosen = {"magnitude": float(values.get("m", HIGHEST_MAGNITUDE)), "deviation": float(values.get("mstd", 0.0))}
    layers = values.get("n", "2")
    sound = head == "rand" and len(values) == len(sections) and layers.isdigit()
    if not sound or chosen["magnitude"] > HIGHEST_MAGNITUDE or not math.isfinite(chosen["deviation"]):
        raise UserError(
            f'rand_augment {text!r} is not a supported policy: write "rand-m9-mstd0.5", with m (magnitude) in 0 … 10, '
            'mstd (its standard deviation) and optionally n (number of operations), or "" for none'
        )
    return RandAugment(**chosen, layers=int(layers))


def draw_operations(policy: RandAugment, rng: np.random.Generator) -> list[Operation]:
    """Draw the operations for one image, in order: each of `layers` random operations is kept with probability ½.

    Operations are chosen with replacement. The magnitude is normal, clipped to 0 … 10. Geometric operations are negated
    and bicubic with probability ½ each.
    """
    return [_draw(NAMES[kind], policy, rng) for kind in rng.integers(len(NAMES), size=policy.layers) if _happens(rng)]


def _happens(rng: np.random.Generator) -> bool:
    return bool(rng.random() < PROBABILITY)


def _draw(name: str, policy: RandAugment, rng: np.random.Generator) -> Operation:
    magnitude = min(HIGHEST_MAGNITUDE, max(0.0, rng.normal(policy.magnitude, policy.deviation)))
    kind = OPERATIONS[name]
    argument = kind.argument(magnitude / HIGHEST_MAGNITUDE)
    if not kind.negated:
        return Operation(name, argument, "bilinear")
    return Operation(name, -argument if _happens(rng) else argument, "bicubic" if _happens(rng) else "bilinear")


def apply_operation(image: np.ndarray, operation: Operation) -> np.ndarray:
    """Apply an operation: uint8 [h, w, 3] → uint8 [h, w, 3]."""
    function, form, _ = OPERATIONS[operation.name]
    if form == "plain":
        return function(image)
    if form == "geometric":
        return function(image, operation.argument, operation.resample)
    return function(image, int(operation.argument) if form == "whole" else operation.argument)
