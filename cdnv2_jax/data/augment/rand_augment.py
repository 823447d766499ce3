"""RandAugment (Cubuk et al. 2020) as the official code configures timm's: "rand-m9-mstd0.5"."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cdnv2_jax.data.augment import operations as color
from cdnv2_jax.data.augment import operations as geometry
from cdnv2_jax.data.augment.operations import Resample
from cdnv2_jax.errors import UserError

HIGHEST_MAGNITUDE = 10.0
PROBABILITY = 0.5
SECTION = re.compile(r"(mstd|m|n)([0-9]+(?:\.[0-9]+)?)")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Attributes: magnitude of operations, mean and standard deviation (0 … 10); how many are drawn for an image."""

    magnitude: float = HIGHEST_MAGNITUDE
    deviation: float = 0.0
    layers: int = 2


class Operation(NamedTuple):
    """What is done to an image: the operation's name in `OPERATIONS`, its argument, and how it interpolates."""

    name: str
    argument: float
    resample: Resample


class Kind(NamedTuple):
    """How a strength in [0, 1] becomes an argument, whether that is negated at random, and what it is applied by."""

    argument: Callable[[float], float]
    negated: bool
    apply: Callable[[np.ndarray, Operation], np.ndarray]


def _plain(function: Callable[[np.ndarray], np.ndarray]) -> Kind:
    return Kind(lambda strength: 0.0, False, lambda image, operation: function(image))


def _whole(function: Callable[[np.ndarray, int], np.ndarray], most: int) -> Kind:
    return Kind(lambda strength: int(strength * most), False, lambda image, op: function(image, int(op.argument)))


def _enhancing(function: Callable[[np.ndarray, float], np.ndarray]) -> Kind:
    return Kind(lambda strength: strength * 1.8 + 0.1, False, lambda image, op: function(image, op.argument))


def _geometric(function: Callable[[np.ndarray, float, Resample], np.ndarray], most: float) -> Kind:
    return Kind(lambda strength: strength * most, True, lambda image, op: function(image, op.argument, op.resample))


OPERATIONS: dict[str, Kind] = {
    "AutoContrast": _plain(color.auto_contrast),
    "Equalize": _plain(color.equalize),
    "Invert": _plain(color.invert),
    "Rotate": _geometric(geometry.rotate, 30.0),
    "Posterize": _whole(color.posterize, 4),
    "Solarize": _whole(color.solarize, 256),
    "SolarizeAdd": _whole(color.solarize_add, 110),
    "Color": _enhancing(color.color),
    "Contrast": _enhancing(color.contrast),
    "Brightness": _enhancing(color.brightness),
    "Sharpness": _enhancing(color.sharpness),
    "ShearX": _geometric(geometry.shear_x, 0.3),
    "ShearY": _geometric(geometry.shear_y, 0.3),
    "TranslateXRel": _geometric(geometry.translate_x, 0.45),
    "TranslateYRel": _geometric(geometry.translate_y, 0.45),
}
NAMES = tuple(OPERATIONS)


def parse_rand_augment(text: str) -> RandAugment:
    """Reads timm's way of writing it: "rand", then in any order m (0 … 10, else 10), mstd (else 0) and n (else 2).

    UserError for anything else; timm's weights ("w") and increasing variants ("inc") are not here.
    """
    head, *sections = text.split("-")
    found = [SECTION.fullmatch(section) for section in sections]
    values = {match[1]: match[2] for match in found if match}
    chosen = {"magnitude": float(values.get("m", HIGHEST_MAGNITUDE)), "deviation": float(values.get("mstd", 0.0))}
    layers = values.get("n", "2")
    sound = head == "rand" and len(values) == len(sections) and layers.isdigit()
    if not sound or chosen["magnitude"] > HIGHEST_MAGNITUDE or not math.isfinite(chosen["deviation"]):
        raise UserError(
            f'rand_augment {text!r} is no such policy: write "rand-m9-mstd0.5", with m (magnitude) in 0 … 10, mstd '
            '(its standard deviation) and perhaps n (operations, a whole number), or "" for none'
        )
    return RandAugment(**chosen, layers=int(layers))


def draw_operations(policy: RandAugment, rng: np.random.Generator) -> list[Operation]:
    """What to do to one image, in that order: of `layers` operations each is done with probability ½.

    They are drawn with replacement; the magnitude is normal, kept in 0 … 10; geometric arguments are negated and
    interpolated bicubically with probability ½ each.
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
    """uint8 [h, w, 3] → uint8 [h, w, 3]."""
    return OPERATIONS[operation.name].apply(image, operation)
