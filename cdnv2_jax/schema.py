"""Settings: frozen dataclasses whose fields carry a description and the values that they allow.

@settings
class Data:
    source: str = setting("name of the data source")
    batch_size: int = setting("images per update", least=1)
    std: tuple[float, float, float] = setting("standard deviations", default=(0.5, 0.5, 0.5), least=1e-6)

    def __post_init__(self):
        check(self)
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, Literal, TypeVar

from cdnv2_jax.errors import UserError

Settings = TypeVar("Settings")
Fields = Mapping[str, "Field"]


LARGEST: dict[type, float] = {int: 2**31 - 1, float: 3e38}
"""Largest magnitude of the numbers of a field without a bound of its own: what int32 and float32 hold."""
LONGEST = 64
"""Most entries of a tuple of any length whose field has no limit of its own."""


class FieldError(UserError):
    """An invalid value of a field; the message starts with the field's name."""


class Text(str):
    """A value as given on the command line; its field decides how to parse it."""


def setting(
    help: str,
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    filled: bool = False,
    longest: int = LONGEST,
    entries: "Callable[[Mapping[str, Any]], Fields] | None" = None,
    makes: str = "",
) -> Any:
    """Declare a field of a settings class.

    Args:
      help: one line that says what the field means.
      default: the default value; without `default` or `factory` the field is required.
      factory: function without arguments that makes a mutable default.
      least: lower bound, inclusive, of a number or of every number in a tuple.
      most: upper bound, inclusive. Fields that determine sizes need one: they may come from a stranger's file.
      above: lower bound, exclusive.
      filled: whether a tuple of any length must hold at least one entry.
      longest: most entries of a tuple of any length.
      entries: for a mapping, a function from the values of the fields before it to the fields that it may hold.
      makes: for a mapping, the property that builds a dataclass from it.
    """
    rules = {"least": least, "most": most, "above": above, "filled": filled, "longest": longest}
    metadata = {"help": help, **rules, "entries": entries, "makes": makes}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
def settings(cls: type[Settings]) -> type[Settings]:
    """Make a frozen, keyword-only dataclass and list its own fields with their help in its docstring."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    own = [field for field in dataclasses.fields(made) if field.name in cls.__annotations__]
    lines = [f"  {field.name}: {field.metadata['help']}." for field in own]
    made.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])
    return made


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a dataclass, or an entry of a mapping: its name, type, default and the arguments of `setting`."""

    name: str
    hint: Any
    default: Any
    help: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    filled: bool = False
    longest: int = LONGEST
    entries: Callable[[Mapping[str, Any]], Fields] | None = None
    makes: str = ""

    @property
    def kind(self) -> Any:
        """The type; X for `X | None`."""
        return _without_none(self.hint)

    @property
    def base(self) -> Any:
        """The type without its arguments: `tuple` for `tuple[int, ...]`."""
        return typing.get_origin(self.kind) or self.kind

    @property
    def part(self) -> type | None:
        """The dataclass that the field holds, or None."""
        return self.kind if isinstance(self.kind, type) and dataclasses.is_dataclass(self.kind) else None

    @property
    def optional(self) -> bool:
        """Whether None is allowed."""
        return self.kind is not self.hint

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values; empty if they cannot be listed."""
        return typing.get_args(self.kind) if self.base is Literal else (False, True) if self.kind is bool else ()

    @property
    def allowed(self) -> str:
        """The allowed values in words that follow "must be"."""
        return f"{self._allowed()}, or None" if self.optional else self._allowed()

    def _allowed(self) -> str:
        if self.base is tuple:
            entries = typing.get_args(self.kind)
            count = "" if entries[-1] is Ellipsis else f"{len(entries)} "
            return f"a sequence of {count}numbers, each {self._entry().allowed}"
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.base not in (int, float):
            return {str: "a string", dict: "a mapping of fields to values"}.get(self.base) or f"a {self.base.__name__}"
        if self.least is not None and self.most is not None:
            limits = f"in [{self.least}, {self.most}]"
        else:
            ends = {"> {}": self.above, ">= {}": self.least, "<= {}": self.most}
            limits = " and ".join(words.format(end) for words, end in ends.items() if end is not None)
        if self.base is int:
            return f"an integer {limits}" if limits else "an integer"
        return f"a number {limits}" if limits else "a finite number"

    def _entry(self) -> "Field":
        return dataclasses.replace(self, hint=typing.get_args(self.kind)[0])

    def checked(self, value: Any, beside: Mapping[str, Any] | None = None) -> Any:
        """Return the value as the field stores it; FieldError if it is not allowed.

        Args:
          value: of any type; lists become tuples and integers become floats if the field's type requires it.
          beside: for a mapping, the values of the fields before it.
        """
        if isinstance(value, Text):
            value = self.read(value)
        if (self.optional and value is None) or self.hint is Any:
            return value
        if self.base is tuple:
            return self._checked_tuple(value)
        if self.base is dict and isinstance(value, Mapping):
            return self._checked_mapping(value, beside or {})
        if self.base in (int, float):
            fits = _is_number(value, self.base) and self._in_range(value)
            value = float(value) if fits and self.base is float else value
        elif self.choices:
            fits = any(value == choice and type(value) is type(choice) for choice in self.choices)
        else:
            fits = isinstance(value, self.base)
        if not fits:
            near = difflib.get_close_matches(_shown(value).strip("'"), map(str, self.choices), n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            bounded = self.base in LARGEST and self.most is None
            if bounded and _is_number(value, self.base) and self._limit() < abs(value) < math.inf:
                hint = f": {self._limit():.10g} is the limit"
            raise FieldError(f"{self.name} must be {self._allowed()}, got {_shown(value)}{hint}")
        return value

    def _in_range(self, value: float) -> bool:
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return low and value <= self._limit() and (self.least is not None or value >= -LARGEST[self.base])

    def _limit(self) -> float:
        return LARGEST[self.base] if self.most is None else self.most

    def _checked_tuple(self, value: Any) -> tuple[Any, ...]:
        entries = typing.get_args(self.kind)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise FieldError(f"{self.name} must be a sequence of numbers, got {_shown(value)}")
        count = None if entries[-1] is Ellipsis else len(entries)
        if count not in (None, len(value)) or (self.filled and not value):
            raise FieldError(f"{self.name} must hold {count or 'one or more'} numbers, got {_shown(tuple(value))}")
        if len(value) > max(self.longest, count or 0):
            raise FieldError(f"{self.name} must hold {self.longest} numbers or fewer, got {len(value)}")
        rule = self._entry()
        return tuple(rule.checked(entry) for entry in value)

    def _checked_mapping(self, value: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        if self.entries is None:
            return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
        known = self.entries(beside)
        refuse_unknown(value, known, self.name)
        with naming(self.name):
            return {key: known[key].checked(entry) for key, entry in value.items()}

    def read(self, text: str) -> Any:
        """Parse text: unchanged for a string field, otherwise as a Python literal; unchanged too if it is not one."""
        if self.base is str or (self.base is Literal and isinstance(self.choices[0], str) and text != "None"):
            return str(text)
        if self.kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), str(text))
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return str(text)
        return (value,) if self.base is tuple and isinstance(value, int | float) else value


def check(instance: Any) -> None:
    """Check every field of a dataclass against its type and range; call it in `__post_init__`.

    Lists become tuples and integers become floats if the field's type requires it.

    Raises:
      FieldError: an invalid value; the message names the field, the allowed values and the given one.
    """
    known = fields_of(type(instance))
    for name, field in known.items():
        value = getattr(instance, name)
        checked = field.checked(value, vars(instance))
        if checked is not value:
            object.__setattr__(instance, name, checked)
    for name, field in known.items():
        if field.makes:
            with naming(name):
                getattr(instance, field.makes)


def build(cls: type[Settings], values: Any, where: str) -> Settings:
    """Build a dataclass from a mapping, and nested dataclasses from nested mappings.

    Args:
      cls: the dataclass.
      values: mapping from field names to values.
      where: the name of the mapping in messages, such as "config".

    Raises:
      UserError: a field is unknown, missing or invalid; the message gives its full dotted name.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of fields, got {_shown(values)}")
    known = fields_of(cls)
    refuse_unknown(values, known, where)
    if missing := [f"{where}.{name}" for name in known if known[name].default is MISSING and name not in values]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    given = {}
    for name, value in values.items():
        part = known[name].part
        if part is None or (value is None and known[name].optional):
            given[name] = value
        else:
            given[name] = build(part, value, f"{where}.{name}")
    with naming(where):
        return cls(**given)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Prefix errors raised in the `with` block with `where`: field `name` becomes `where.name`."""
    try:
        yield
    except FieldError as error:
        raise FieldError(f"{where}.{error}") from error
    except UserError as error:
        raise FieldError(f"{where}: {error}") from error


def refuse_unknown(names: Iterable[Any], known: Collection[str], what: str) -> None:
    """Raise FieldError for the first unknown name, suggesting the nearest known one."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(_shown(name).strip("'"), known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
            raise FieldError(f"{what} has no {_shown(name)}{hint}")


@functools.cache
def fields_of(cls: type) -> dict[str, Field]:
    """Return the fields of a dataclass by name."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found[field.name] = Field(field.name, hints[field.name], default, **field.metadata)
    return found


def flat_fields(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {"data": {"source": …}} → {"data.source": …}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    return value == value  # not NaN


def _shown(value: Any, longest: int = 100) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}…"


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"a field must have one type, or one type and None, not {hint}")
    return kinds[0]
