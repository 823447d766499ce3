"""Fields of settings: what a field means, what it may be, and how values are checked against that.

@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    source: str = setting("name of the data source")
    batch_size: int = setting("images per update", least=1)
    std: tuple[float, float, float] = setting("of each channel", (0.5, 0.5, 0.5), least=1e-6)

    def __post_init__(self):
        check(self)
"""

import contextlib
import dataclasses
import difflib
import functools
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, Literal, TypeVar

from cdnv2_jax.errors import UserError

Settings = TypeVar("Settings")


class FieldError(UserError):
    """A field's value is refused; the message starts with the field's name."""


def setting(
    help: str,
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | Any = MISSING,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    filled: bool = False,
) -> Any:
    """A field of a dataclass.

    Args:
      help: one line that says what the field means.
      default: its value where none is given; without one, and without `factory`, the field must be given.
      factory: makes the default where that is mutable.
      least, most: the range, both included, of a number or of every number of a tuple.
      above: the lower end of the range where that is not included.
      filled: whether a tuple of any length must hold at least one entry.
    """
    metadata = {"help": help, "least": least, "most": most, "above": above, "filled": filled}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


def check(instance: Any) -> None:
    """Checks every field of a dataclass against its type and its range; to be called in `__post_init__`.

    Lists become tuples and whole numbers become floats where the field says so.

    Raises:
      FieldError: names the field, what it may be and what was given.
    """
    for field, hint in fields_of(type(instance)).values():
        value = getattr(instance, field.name)
        checked = _checked(field.name, hint, field.metadata, value)
        if checked is not value:
            object.__setattr__(instance, field.name, checked)


def check_field(cls: type, name: str, value: Any) -> Any:
    """The value that field `name` of a dataclass would have, checked as in `check`."""
    field, hint = fields_of(cls)[name]
    return _checked(name, hint, field.metadata, value)


def build(cls: type[Settings], values: Any, where: str) -> Settings:
    """Makes a dataclass from a mapping, nested dataclasses from nested mappings.

    Args:
      cls: the dataclass.
      values: field → value.
      where: the name of the whole in messages, such as "config".

    Raises:
      UserError: a field is unknown, missing or refused; the message has its full dotted name.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must hold fields, got {values!r}")
    known = fields_of(cls)
    refuse_unknown(values, known, where)
    required = [name for name, (field, _) in known.items() if field.default is field.default_factory is MISSING]
    if missing := [f"{where}.{name}" for name in required if name not in values]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    given = {}
    for name, value in values.items():
        part = part_of(known[name][1])
        given[name] = value if part is None or value is None else build(part, value, f"{where}.{name}")
    with naming(where):
        return cls(**given)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Completes the names in the errors of a `with` block: what is said of field `name` is said of `where.name`."""
    try:
        yield
    except FieldError as error:
        raise FieldError(f"{where}.{error}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def refuse_unknown(names: Iterable[Any], known: Collection[str], what: str) -> None:
    """Raises a UserError for the first name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
            raise UserError(f"{what} has no {name!r}{hint}")


@functools.cache
def fields_of(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Name → field and type hint, of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def part_of(hint: Any) -> type | None:
    """The dataclass that a hint stands for, None if it stands for anything else."""
    bare, _ = _without_none(hint)
    return bare if isinstance(bare, type) and dataclasses.is_dataclass(bare) else None


def allowed(hint: Any, metadata: Mapping[str, Any]) -> str:
    """What a field may be, in words that follow "must be"."""
    hint, optional = _without_none(hint)
    base, entries = typing.get_origin(hint) or hint, typing.get_args(hint)
    if base is tuple:
        count = "" if entries[-1] is Ellipsis else f"{len(entries)} "
        text = f"a sequence of {count}numbers, each {allowed(entries[0], metadata)}"
    elif base in (int, float):
        text = _range(base, metadata)
    elif choices := _choices(hint):
        text = f"one of {', '.join(map(str, choices))}"
    else:
        text = {str: "a string", dict: "fields with values"}.get(base) or f"a {base.__name__}"
    return f"{text}, or None" if optional else text


def _range(kind: type, metadata: Mapping[str, Any]) -> str:
    least, most, above = (metadata.get(name) for name in ("least", "most", "above"))
    parts = [
        "" if above is None else f"above {above}",
        "" if least is None or most is not None else f"{least} or more",
        "" if most is None else f"at most {most}" if least is None else f"in [{least}, {most}]",
    ]
    limits = " and ".join(part for part in parts if part)
    if kind is int:
        return f"{limits} and whole" if limits else "a whole number"
    return f"a number {limits}" if limits else "a finite number"


def _checked(name: str, hint: Any, metadata: Mapping[str, Any], value: Any) -> Any:
    """The value as the field holds it; FieldError where it is not allowed."""
    hint, optional = _without_none(hint)
    if (optional and value is None) or hint is Any:
        return value
    base, entries = typing.get_origin(hint) or hint, typing.get_args(hint)
    if base is tuple:
        return _checked_tuple(name, entries, metadata, value)
    if base is dict and isinstance(value, Mapping):
        return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
    choices, near = _choices(hint), []
    if base in (int, float):
        fits = _is_number(value, base) and _in_range(value, metadata)
        value = float(value) if fits and base is float else value
    elif choices:
        fits = any(value == choice and type(value) is type(choice) for choice in choices)
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    else:
        fits = isinstance(value, base)
    if not fits:
        hint_text = f": did you mean {near[0]!r}?" if near else ""
        raise FieldError(f"{name} must be {allowed(hint, metadata)}, got {value!r}{hint_text}")
    return value


def _checked_tuple(name: str, entries: tuple[Any, ...], metadata: Mapping[str, Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise FieldError(f"{name} must be a sequence of numbers, got {value!r}")
    count = None if entries[-1] is Ellipsis else len(entries)
    if count not in (None, len(value)) or (metadata.get("filled") and not value):
        raise FieldError(f"{name} must hold {count or 'one or more'} numbers, got {tuple(value)!r}")
    return tuple(_checked(name, entries[0], metadata, entry) for entry in value)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    return kind is int or abs(value) <= sys.float_info.max


def _in_range(value: float, metadata: Mapping[str, Any]) -> bool:
    least, most, above = (metadata.get(name) for name in ("least", "most", "above"))
    return (least is None or value >= least) and (most is None or value <= most) and (above is None or value > above)


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return (False, True) if hint is bool else ()


@functools.cache
def _without_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` → X and True; anything else → itself and False."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"a field holds one type, or that and None, not {hint}")
    return kinds[0], len(kinds) < len(typing.get_args(hint))
