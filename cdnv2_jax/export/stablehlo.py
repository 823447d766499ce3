"""StableHLO by `jax.export`: one file that JAX alone runs, on CPUs, GPUs and TPUs, for batches of any size."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from cdnv2_jax.errors import UserError, import_optional, one_line
from cdnv2_jax.export.verify import Forward
from cdnv2_jax.layers.lowering import KINDS, override, tracing_for
from cdnv2_jax.networks.family import AnyNetwork

PLATFORMS = ("cpu", "cuda", "tpu")
LOCATIONS = "jax_traceback_in_locations_limit"
WITHOUT_KERNELS = {kind: "layers" for kind, lowerings in KINDS.items() if "kernel" in lowerings}
LARGEST_FILE = 2 * 2**30
"""Bytes; ten times what the largest detector needs."""


def metadata_file(path: Path) -> Path:
    """The file beside a StableHLO file that holds its metadata: `jax.export` has no place for it."""
    return path.with_name(f"{path.name}.json")


def classifier_to_stablehlo(network: AnyNetwork, image_size: int) -> bytes:
    """A serialised `jax.export.Exported`: float32 [batch, size, size, 3] → logits, float32 [batch, classes].

    The weights are in it. The kernels of this project are not; each platform gets the lowerings measured for it.
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32)
    return exported(network, lambda network, images: network(images).astype(jnp.float32), images)


def exported(module: nnx.Module, function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> bytes:
    """`function(module, *arguments)` for all platforms, serialised with the module's arrays as constants."""
    graph, state = nnx.split(module)

    def traced_for(platform: str) -> Callable[..., Any]:
        def run(state: nnx.State, *arguments: jax.Array) -> Any:
            with tracing_for(platform), override(**WITHOUT_KERNELS):
                return function(nnx.merge(graph, state), *arguments)

        return run

    branches = {"cpu": traced_for("cpu"), "cuda": traced_for("gpu"), "tpu": traced_for("tpu")}
    # The arrays are an operand of all branches: as constants inside of each they would be stored three times.
    program = jax.jit(lambda *arguments: jax.lax.platform_dependent(state, *arguments, **branches))
    with _without_source_locations():
        return bytes(export.export(program, platforms=PLATFORMS)(*arguments).serialize())


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Programs traced inside do not say from which file and line each operation comes: paths are this machine's own."""
    before = getattr(jax.config, LOCATIONS)
    jax.config.update(LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(LOCATIONS, before)


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes it as JSON to be read by people, too."""
    path.write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_exported(path: Path) -> export.Exported:
    """The program at `path`; UserError when it is none."""
    import_optional("flatbuffers", "export")  # by which `jax.export` reads and writes
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than any network exported here")
        return export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file trips in its reader
        raise UserError(f"{path} is no StableHLO file of jax.export's ({one_line(error)}): export it again") from error


def stablehlo_forward(path: Path) -> Forward:
    """The classifier at `path` as a compiled function."""
    program = read_exported(path)
    if len(program.in_avals) != 1 or len(program.out_avals) != 1:
        raise UserError(
            f"{path} takes {len(program.in_avals)} arrays and gives {len(program.out_avals)}: no classifier"
        )
    run = jax.jit(program.call)

    def forward(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(run(images))
        except Exception as error:  # whatever a damaged program trips in the compiler
            raise UserError(f"{path} does not run ({one_line(error)}): export it again") from error

    return forward


def read_metadata(path: Path) -> str:
    """The metadata beside the StableHLO file at `path`, as text; UserError when it is not there."""
    beside = metadata_file(path)
    try:
        return beside.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{beside}, which belongs to {path}, cannot be read: put it there ({error})") from error
