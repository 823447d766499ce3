"""The verb `config` with `--config`: print the settings that result from a config and the command line."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cdnv2_jax.commands.read_config import read_with_origins
from cdnv2_jax.schema import Field, fields_of
from cdnv2_jax.terminal import say


class Line(NamedTuple):
    """A setting: its dotted name, its value, where the value comes from, and its meaning and range."""

    name: str
    value: Any
    origin: str
    help: str


def print_config(spec: str, overrides: Sequence[str]) -> None:
    """Print every setting on two lines; what the first starts with, after `--config.`, sets it again.

    Args:
      spec: name of a config of the package or path of a config file, optionally followed by `:variant`.
      overrides: arguments of the form `--config.data.batch_size=32`.

    Raises:
      UserError: as for `read_config`.
    """
    config, origins = read_with_origins(spec, overrides)
    lines = list(_lines(config, origins, ""))
    width = max(len(f"{line.name}={line.value}") for line in lines if len(str(line.value)) < 40)
    for line in lines:
        say(f"{f'{line.name}={line.value}':{width}}  {line.origin}", f"    {line.help}")


def _lines(part: Any, origins: Mapping[str, str], prefix: str) -> Iterator[Line]:
    """Yield the settings of a dataclass and of the dataclasses in it, in the order of declaration."""
    for name, field in fields_of(type(part)).items():
        value = getattr(part, name)
        if dataclasses.is_dataclass(value):
            yield from _lines(value, origins, f"{prefix}{name}.")
        elif field.entries is not None:
            yield from _entries(part, field, origins, f"{prefix}{name}.")
        else:
            yield _line(field, value, origins, prefix)


def _entries(part: Any, field: Field, origins: Mapping[str, str], prefix: str) -> Iterator[Line]:
    """Yield the settings that a mapping may hold, with the values in the object built from it."""
    assert field.entries is not None
    given, made = getattr(part, field.name), getattr(part, field.makes)
    shorthands = getattr(made, "SHORTHANDS", {})
    set_by = {name: key for key in given for name in shorthands.get(key, ()) if getattr(made, name) == given[key]}
    for name, entry in field.entries(vars(part)).items():
        if name in given:
            yield _line(entry, given[name], origins, prefix)
        elif hasattr(made, name):
            origin = {prefix + name: f"from {set_by[name]}"} if name in set_by else {}
            yield _line(entry, getattr(made, name), origin, prefix)


def _line(field: Field, value: Any, origins: Mapping[str, str], prefix: str) -> Line:
    name = prefix + field.name
    return Line(name, value, origins.get(name, "default"), f"{field.help}; {field.allowed}")
