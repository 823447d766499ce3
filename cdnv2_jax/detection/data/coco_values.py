"""Values of COCO's JSON files, which many tools write a little differently: read, or refused with the item's place."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from cdnv2_jax.detection.data.annotations import Id
from cdnv2_jax.errors import UserError

LARGEST = 1e9
"""Limit on coordinates, areas and sides, pixels."""
WHOLE_NUMBERS = range(-(2**63), 2**63)
PIXELS = range(1, int(LARGEST))
SURROGATES = re.compile("[\ud800-\udfff]")
DIGITS = re.compile(r"0|-?[1-9][0-9]{0,17}")


def identity(item: Any, key: str, place: str) -> tuple[Id, Id]:
    """Return an id to compare with others, and as the file has it: 12, "12" and 12.0 are the same, "012" is not."""
    value = field(item, key, place)
    if is_text(value):
        return int(value) if DIGITS.fullmatch(value) else value, value
    number = whole_number(item, key, place)
    return number, number


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is text that can be shown: not blank, and without the half characters that JSON allows."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATES.search(value)


def whole_number(item: Any, key: str, place: str, allowed: range = WHOLE_NUMBERS) -> int:
    """Return a whole number, which some tools write as 640.0."""
    value = field(item, key, place)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value not in allowed:  # `type`, because True is an int too
        wanted = "a whole number" if allowed is WHOLE_NUMBERS else "a whole number of pixels above 0"
        raise wrong(place, key, value, wanted)
    return value


def box(item: Mapping[str, Any], place: str) -> tuple[float, ...]:
    """Return x, y, width and height in pixels."""
    value: Any = item.get("bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(one) for one in value):
        raise wrong(place, "bbox", value, "four numbers: x, y, width, height")
    if value[2] < 0 or value[3] < 0:
        raise wrong(place, "bbox", value, "x, y, width, height with no negative size")
    return tuple(value)


def area(item: Mapping[str, Any], place: str) -> float:
    """Return the area of the object in pixels; without it, as many tools leave it out, that of the box."""
    value: Any = item.get("area")
    if value is None:
        _, _, width, height = box(item, place)
        return width * height
    if not _is_number(value):
        raise wrong(place, "area", value, "a number of pixels")
    return value


def flag(item: Mapping[str, Any], key: str, place: str) -> bool:
    """Return a flag, False if it is missing or null: official files have `iscrowd` but no `ignore`."""
    value = item.get(key)
    if value is not None and (not isinstance(value, int | float) or value not in (0, 1)):
        raise wrong(place, key, value, "0 or 1")
    return bool(value)


def field(item: Any, key: str, place: str) -> Any:
    """Return a field of an item, None without it."""
    if not isinstance(item, dict):
        raise UserError(f"{place} is {shown(item)}, not a JSON object: copy the file again")
    return item.get(key)


def wrong(place: str, key: str, value: Any, wanted: str) -> UserError:
    """Return the error for a value that is missing or not what it should be."""
    if value is None:
        return UserError(f"{place} has no {key!r}, which should be {wanted}: fix or remove it")
    return UserError(f"{place} has {key!r} {shown(value)}, which should be {wanted}: fix or remove it")


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, int) and value not in WHOLE_NUMBERS:
        return "a huge number"  # Python refuses to print the largest ones
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number within the limits; this excludes NaN and infinities, which JSON may hold."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST
