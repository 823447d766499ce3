"""Fields of architectures: which values are refused, and which names when they are overridden."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cdnv2_jax.errors import UserError


def make_tuples(architecture: Any, names: Iterable[str]) -> None:
    """Turns fields of a frozen dataclass, lists as JSON has them, into tuples; UserError for what is no sequence."""
    for name in names:
        try:
            object.__setattr__(architecture, name, tuple(getattr(architecture, name)))
        except TypeError:
            raise UserError(f"{name} must be a sequence of numbers, got {getattr(architecture, name)!r}") from None


def check_whole(name: str, value: Any, lowest: int = 1) -> None:
    """UserError unless `value` is a whole number from `lowest` on, or a tuple of such."""
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
            raise UserError(f"{name} must be {lowest} or more and whole, got {number!r}")


def refuse_unknown(overrides: Mapping[str, Any], fields: Collection[str], shorthands: Collection[str] = ()) -> None:
    """UserError for an override that is neither a field nor a shorthand, with the nearest of them."""
    for name in overrides:
        if name not in fields and name not in shorthands:
            near = difflib.get_close_matches(name, [*fields, *shorthands], n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(fields))}"
            raise UserError(f"a network has no {name!r}{hint}")
