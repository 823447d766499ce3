"""StableHLO from `jax.export`: one file that needs only JAX to run, on CPUs, GPUs and TPUs, for any batch size."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from cdnv2_jax.layers.lowering import KINDS, full_precision, override, tracing_for
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checksums import sealed, sha256
from cdnv2_jax.weights.programs import PLATFORMS, metadata_file

LOCATIONS = "jax_traceback_in_locations_limit"
WITHOUT_KERNELS = {kind: "layers" for kind, lowerings in KINDS.items() if "kernel" in lowerings}


def classifier_to_stablehlo(network: Network, image_size: int) -> bytes:
    """Serialise a `jax.export.Exported`: float32 [batch, size, size, channels] → logits, float32 [batch, classes].

    It contains the weights but not this project's kernels; each platform gets the lowerings chosen for it.
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, network.architecture.in_channels), jnp.float32)
    return exported(network, lambda network, images: network(images).astype(jnp.float32), images)


def exported(module: nnx.Module, function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> bytes:
    """Serialise `function(module, *arguments)` for all platforms, with the module's arrays as constants.

    The program contains the precision of its products: all bits of the network's dtype, wherever it runs.
    """
    graph, state = nnx.split(module)

    def traced_for(platform: str) -> Callable[..., Any]:
        def run(state: nnx.State, *arguments: jax.Array) -> Any:
            with tracing_for(platform), full_precision(module), override(**WITHOUT_KERNELS):
                return function(nnx.merge(graph, state), *arguments)

        return run

    branches = {"cpu": traced_for("cpu"), "cuda": traced_for("gpu"), "tpu": traced_for("tpu")}
    # The arrays are operands of the branches: as constants inside each branch they would be stored three times.
    program = jax.jit(lambda *arguments: jax.lax.platform_dependent(state, *arguments, **branches))
    with _without_source_locations():
        return bytes(export.export(program, platforms=PLATFORMS)(*arguments).serialize())


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Omit the source file and line of each operation from programs traced inside: paths are local to a machine."""
    before = getattr(jax.config, LOCATIONS)
    jax.config.update(LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(LOCATIONS, before)


def write_program(path: Path, program: bytes, metadata: Mapping[str, Any]) -> None:
    """Write a program, and beside it its metadata and checksum as indented JSON, readable by people too."""
    path.write_bytes(program)
    text = json.dumps(sealed({**metadata, "sha256": sha256(program)}), indent=2, ensure_ascii=False)
    metadata_file(path).write_text(text + "\n", encoding="utf-8")
