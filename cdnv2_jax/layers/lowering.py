"""Which kind of device a layer is traced for; layers choose their lowerings by it."""

import contextlib
import dataclasses
import difflib
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from cdnv2_jax.errors import UserError

# Part of what JAX's caches of traced functions go by: a function traced for one platform is traced again for another.
_other = jax.make_user_context(None)


def traced_platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the default devices, unless inside of `tracing_for`."""
    return _other.value or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Layers traced inside choose as on that platform: for programs compiled here to run elsewhere."""
    with _other(name):
        yield


KINDS: dict[str, tuple[str, ...]] = {
    "condensed_block": ("layers", "kernel"),
    "masked_block": ("layers", "kernel"),
    "training_block": ("layers", "kernel"),
    "grouped_conv": ("grouped", "pairs", "quads", "block_diagonal"),
    "grouped_pointwise": ("batched", "block_diagonal"),
}
"""Kind of operation → its lowerings, that of unmeasured back ends first: the one that needs and multiplies least."""

TABLE = Path(__file__).with_name("lowerings.json")
VARIABLE = "CDNV2_LOWERINGS"

Direction = Literal["forward", "gradient"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What an operation's cost depends on.

    Attributes:
      batch: images.
      side: of the map, pixels; of one that is not square the root of its area.
      inputs: channels of all groups together.
      outputs: channels of all groups together.
      groups: of them.
    """

    batch: int
    side: float
    inputs: int
    outputs: int
    groups: int

    def distance(self, other: "Shape") -> float:
        """Grows with the ratios between the two shapes' numbers; 0.0 for equal ones."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return sum(math.log(max(ours, 1) / max(theirs, 1)) ** 2 for ours, theirs in pairs)


def shape_of(x: jax.Array, outputs: int, groups: int) -> Shape:
    """The shape of an operation that reads x, [batch, height, width, inputs]."""
    batch, height, width, inputs = x.shape
    # A program exported for batches of any size is chosen for as one of 32.
    return Shape(batch if isinstance(batch, int) else 32, math.sqrt(height * width), inputs, outputs, groups)


# Part of what JAX's caches of traced functions go by: a function traced under other overrides is traced again.
_overridden = jax.make_user_context(())


@contextlib.contextmanager
def override(**lowerings: str) -> Iterator[None]:
    """Operations traced inside use these lowerings: `override(condensed_block="layers", grouped_conv="grouped")`.

    Inner ones come before outer ones, those before the environment variable CDNV2_LOWERINGS
    ("condensed_block=layers,grouped_conv=grouped", read when tracing). A lowering that an operation does not have,
    for its shape or for want of a compiler, is not used for it.

    Raises:
      UserError: no such kind of operation or lowering.
    """
    _check(lowerings)
    with _overridden(tuple(sorted({**dict(_overridden.value), **lowerings}.items()))):
        yield


def choose(kind: str, shape: Shape, direction: Direction = "forward", among: Sequence[str] | None = None) -> str:
    """The lowering to use: overridden, or the fastest for the nearest shape that was measured, or the default.

    Args:
      kind: a key of KINDS.
      shape: what is to be computed, on `traced_platform()`.
      direction: whether its gradient will be wanted too.
      among: those that are possible; None for all of the kind.
    """
    among = among or KINDS[kind]
    wanted = {**_from_environment(os.environ.get(VARIABLE, "")), **dict(_overridden.value)}.get(kind)
    if wanted is not None and wanted in among:
        return wanted
    rows = [row for row in _rows(traced_platform()) if row["kind"] == kind and set(row[direction]) & set(among)]
    if not rows:
        return among[0]
    times: Mapping[str, float] = min(rows, key=lambda row: shape.distance(row["shape"]))[direction]
    return min(set(times) & set(among), key=lambda lowering: times[lowering])


@functools.cache
def _rows(platform: str) -> list[dict[str, Any]]:
    """The table's rows for a back end: kind, shape, and milliseconds by lowering for each direction."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = table.get(platform, {}).get("rows", [])
    return [{"forward": {}, "gradient": {}, **row, "shape": Shape(**row["shape"])} for row in rows]


@functools.cache
def _from_environment(text: str) -> dict[str, str]:
    lowerings = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, equals, lowering = part.partition("=")
        if not equals:
            raise UserError(f"{VARIABLE}: {part!r} must be kind=lowering, e.g. grouped_conv=grouped")
        lowerings[kind.strip()] = lowering.strip()
    _check(lowerings)
    return lowerings


def _check(lowerings: Mapping[str, str]) -> None:
    for kind, lowering in lowerings.items():
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"
            raise UserError(f"no kind of operation is called {kind!r}: {hint}")
        if lowering not in KINDS[kind]:
            raise UserError(f"{kind} has no lowering {lowering!r}: there are {', '.join(KINDS[kind])}")
