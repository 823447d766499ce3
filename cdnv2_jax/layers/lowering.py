"""Choice of a lowering for each operation, by the platform it is traced for and by measured times; and precision."""

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.errors import UserError, suggestion

# Part of the key of JAX's tracing caches, so that a function traced for one platform is traced again for another.
_other = jax.make_user_context(None)


def traced_platform() -> str:
    """Return "cpu", "gpu" or "tpu": the platform of the default devices, unless inside `tracing_for`."""
    return _other.value or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Choose lowerings inside as on the platform `name`, for programs compiled here to run elsewhere."""
    with _other(name):
        yield


Precision = Literal["default", "high", "highest"]


@contextlib.contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """Trace products inside, and their gradients, with this precision; in a `with` block or as a decorator.

    It matters for float32 on GPUs and TPUs alone; products of bfloat16 and products on CPUs are the same with each.

    Args:
      precision: "highest" computes with all bits of float32. "high" rounds factors to TF32, 11 bits, on NVIDIA GPUs,
        and computes with three bfloat16 products on TPUs. "default" is what JAX is set to: TF32 on NVIDIA GPUs and
        bfloat16, 8 bits, on TPUs, unless JAX_DEFAULT_MATMUL_PRECISION says otherwise.
    """
    with contextlib.nullcontext() if precision == "default" else jax.default_matmul_precision(precision):
        yield


def full_precision(module: nnx.Module) -> contextlib.AbstractContextManager[None]:
    """Trace the inference of a network or detector inside with all bits of its dtype, on every back end.

    Products of bfloat16 have them anyway, and asked for them the compiler for TPUs fuses less.
    """
    dtypes = [vars(part)["dtype"] for _, part in nnx.iter_modules(module) if "dtype" in vars(part)]
    narrow = all(dtype is not None and jnp.dtype(dtype).itemsize < 4 for dtype in dtypes)
    return multiplying("default" if narrow and dtypes else "highest")


KINDS: dict[str, tuple[str, ...]] = {
    "condensed_block": ("layers", "kernel"),
    "masked_block": ("layers", "kernel"),
    "training_block": ("layers", "kernel"),
    "grouped_conv": ("grouped", "pairs", "quads", "block_diagonal"),
    "grouped_pointwise": ("batched", "block_diagonal"),
    "condensed_pointwise": ("scattered", "gathered"),
}
"""Kind of operation → its lowerings. The first is for back ends without rows of this kind in the table."""

TABLE = Path(__file__).with_name("lowerings.json")
VARIABLE = "CDNV2_LOWERINGS"

Direction = Literal["forward", "gradient"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes that an operation's cost depends on.

    Attributes:
      batch: number of images.
      side: side of the map in pixels; the root of its area if it is not square.
      inputs: number of input channels, across all groups.
      outputs: number of output channels, across all groups.
      groups: number of groups.
    """

    batch: int
    side: float
    inputs: int
    outputs: int
    groups: int

    def distance(self, other: "Shape") -> float:
        """Return a distance that grows with the ratios between the shapes' sizes; 0.0 for equal shapes."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return sum(math.log(max(ours, 1) / max(theirs, 1)) ** 2 for ours, theirs in pairs)


def shape_of(x: jax.Array, outputs: int, groups: int) -> Shape:
    """Return the shape of an operation that reads x, [batch, height, width, inputs]."""
    batch, height, width, inputs = x.shape
    # A program exported for batches of any size gets the lowerings for a batch of 32.
    return Shape(batch if isinstance(batch, int) else 32, math.sqrt(height * width), inputs, outputs, groups)


# Part of the key of JAX's tracing caches, so that a function traced under other overrides is traced again.
_overridden = jax.make_user_context(())


@contextlib.contextmanager
def override(**lowerings: str) -> Iterator[None]:
    """Use these lowerings for operations traced inside: `override(condensed_block="layers", grouped_conv="grouped")`.

    Inner overrides take precedence over outer ones, and both over the environment variable CDNV2_LOWERINGS
    ("condensed_block=layers,grouped_conv=grouped", read when tracing). An override is ignored where the lowering is
    not available, because of an operation's shape or for want of a compiler.

    Raises:
      UserError: unknown kind of operation or lowering.
    """
    _check(lowerings)
    with _overridden(tuple(sorted({**dict(_overridden.value), **lowerings}.items()))):
        yield


def choose(kind: str, shape: Shape, direction: Direction = "forward", among: Sequence[str] | None = None) -> str:
    """Return the lowering to use: the override, else the fastest for the nearest measured shape, else the default.

    Args:
      kind: a key of KINDS.
      shape: what is to be computed, on `traced_platform()`.
      direction: "gradient" if the gradient will be computed too.
      among: the possible lowerings; None for all of the kind.
    """
    among = among or KINDS[kind]
    wanted = {**_from_environment(os.environ.get(VARIABLE, "")), **dict(_overridden.value)}.get(kind)
    if wanted is not None and wanted in among:
        return wanted
    rows = [row for row in _rows(traced_platform()) if row["kind"] == kind and set(row[direction]) & set(among)]
    if not rows:
        return among[0]
    times: Mapping[str, float] = min(rows, key=lambda row: shape.distance(row["shape"]))[direction]
    return min((lowering for lowering in among if lowering in times), key=lambda lowering: times[lowering])


@functools.cache
def _rows(platform: str) -> list[dict[str, Any]]:
    """Return the table's rows for a back end: kind, shape, and milliseconds by lowering for each direction."""
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
            raise UserError(f"no kind of operation is called {kind!r}: {suggestion(kind, KINDS)}")
        if lowering not in KINDS[kind]:
            raise UserError(f"{kind} has no lowering {lowering!r}: there are {', '.join(KINDS[kind])}")
