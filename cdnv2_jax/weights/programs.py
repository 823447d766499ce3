"""Networks and exported programs as functions of images: compiled networks, ONNX and StableHLO files."""

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir

from cdnv2_jax.bounded_reading import read_bytes, read_text
from cdnv2_jax.errors import UserError, import_optional, one_line, shorten
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.layers.lowering import full_precision, traced_platform
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checksums import onnx_fault, sha256
from cdnv2_jax.weights.metadata import parse_metadata
from cdnv2_jax.weights.safetensors import KEY

Forward = Callable[[np.ndarray], np.ndarray | jax.Array]
"""Normalised images, float32 [b, size, size, 3] → logits [b, classes]."""

LARGEST_PROGRAM = 2 * 2**30
"""Limit on the file size in bytes, ten times the size of the largest detector."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""What StableHLO files are written for."""

CUSTOM_CALLS = {"shape_assertion"}
"""Custom calls in the StableHLO files of this project; others may address memory or call Python."""

OUTSIDE = {"infeed", "outfeed", "send", "recv"}
"""StableHLO operations that exchange values with the outside."""


PRODUCTS, FULL_PRECISION = {"dot_general", "convolution"}, "#stablehlo<precision HIGHEST>"
"""StableHLO operations that round float32 factors on GPUs and TPUs, unless both have this precision."""


def compiled_forward(model: Network) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Return images → logits, compiled, for the model as it is now; compiled once per structure and shape.

    Products are computed with all bits of the network's dtype on every back end.
    """
    graph, state = nnx.split(with_dense_kernels(model))
    arrays, structure = jax.tree.flatten(state)
    forward = _forward(graph, structure)
    return lambda images: forward(arrays, jnp.asarray(images))


@lru_cache(maxsize=16)
def _forward(graph: nnx.GraphDef, structure: Hashable) -> Callable[..., jax.Array]:
    """Return the compiled function that networks of one structure share. Its arguments are flat, because hashing and
    flattening a network at every call would take as long as computing a single image."""

    def run(arrays: list[jax.Array], images: jax.Array) -> jax.Array:
        model = nnx.merge(graph, jax.tree.unflatten(cast(Any, structure), arrays))
        with full_precision(model):
            return model(images)

    return jax.jit(run)


def open_session(path: Path) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU; UserError if the file is not one of ours, whole and valid."""
    onnxruntime = import_optional("onnxruntime", "export")
    data = _read(path)
    if fault := onnx_fault(data):
        raise UserError(f"{path} {fault}, so export it again")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so they need not be logged
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors each have a class of their own
        raise UserError(f"{path} is not an ONNX file that ONNX Runtime can run ({one_line(error)})") from error


def run_session(
    path: Path, session: Any, outputs: list[str] | None, inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Return the named outputs, or all if `outputs` is None; UserError if the graph cannot take these inputs."""
    try:
        return session.run(outputs, dict(inputs))
    except Exception as error:  # as above
        raise UserError(f"{path} does not run ({one_line(error)}): export it again") from error


def onnx_forward(path: Path) -> Forward:
    """Return the channels-first classifier at `path` as a function of channels-last images."""
    session = open_session(path)

    def forward(images: np.ndarray) -> np.ndarray:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return run_session(path, session, ["logits"], {"images": channels_first})[0]

    return forward


def read_onnx_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in the file at `path`; UserError if there is none or it is damaged."""
    try:
        found = open_session(path).get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise UserError(f"{path} has metadata that is not text in UTF-8: export it again") from error
    if KEY not in found:
        raise UserError(f"{path} has no metadata of this package: export it with `cdnv2 export`")
    return parse_metadata(found[KEY], str(path))


def metadata_file(path: Path) -> Path:
    """Return the path of the file with a StableHLO file's metadata, which `jax.export` itself cannot store."""
    return path.with_name(f"{path.name}.json")


def read_exported(path: Path) -> export.Exported:
    """Read the program at `path`; UserError if it is not a valid one or not the one that its metadata was written for,
    or if its results would be rounded on this platform.

    The checksum comes first: changed bytes can end the process in the deserialiser.
    """
    import_optional("flatbuffers", "export")  # `jax.export` reads and writes with it
    data = _read(path)
    if sha256(data) != read_stablehlo_metadata(path).get("sha256"):
        raise UserError(f"{path} is damaged, or does not belong to {metadata_file(path).name}: export it again")
    try:
        program = export.deserialize(bytearray(data))
        unusual, rounds = _faults(program)
    except Exception as error:  # errors of many types
        raise UserError(f"{path} is not a StableHLO file of jax.export ({one_line(error)}): export it again") from error
    if unusual:
        raise UserError(f"{path} was not written by `cdnv2 export` ({unusual}): it is not run")
    if rounds and (platform := traced_platform()) != "cpu":
        raise UserError(
            f"{path} was exported by an earlier version, whose products are rounded on a {platform.upper()}: export it "
            f"again"
        )
    return program


def _read(path: Path) -> bytes:
    """Return the bytes of a program; UserError if it cannot be read or is too large."""
    try:
        return read_bytes(path, LARGEST_PROGRAM)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _faults(program: export.Exported) -> tuple[str, bool]:
    """Return what a program has that those of this project do not, "" for nothing, and whether it rounds products."""
    if program.platforms != PLATFORMS or program.nr_devices != 1:
        return f"for {program.nr_devices} devices of {', '.join(program.platforms)}", False
    if program.ordered_effects or program.unordered_effects or program.disabled_safety_checks:
        return "with side effects or without safety checks", False
    found, precisions = set(), {FULL_PRECISION}

    def note(operation: ir.Operation) -> ir.WalkResult:
        kind = operation.name.removeprefix("stablehlo.")
        if kind == "custom_call":
            found.add(f"calls {ir.StringAttr(operation.attributes['call_target_name']).value}")
        elif kind in OUTSIDE:
            found.add(kind)
        elif kind in PRODUCTS and "f32" in str(operation.operands[0].type):
            attributes = operation.attributes
            given = ir.ArrayAttr(attributes["precision_config"]) if "precision_config" in attributes else [""]
            precisions.update(map(str, given))
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        program.mlir_module(serialized=False).operation.walk(note)
    return shorten(sorted(found - {f"calls {name}" for name in CUSTOM_CALLS})), len(precisions) > 1


def stablehlo_forward(path: Path) -> Forward:
    """Return the classifier at `path` as a compiled function."""
    program = read_exported(path)
    if len(program.in_avals) != 1 or len(program.out_avals) != 1:
        raise UserError(
            f"{path} takes {len(program.in_avals)} arrays and returns {len(program.out_avals)}: it is not a classifier"
        )
    return compiled_program(path, program)


def compiled_program(path: Path, program: export.Exported) -> Callable[..., Any]:
    """Return the program from `path`, compiled, as a function that returns NumPy arrays."""
    run = jax.jit(program.call)

    def call(*inputs: np.ndarray) -> Any:
        try:
            return jax.device_get(run(*inputs))
        except Exception as error:  # damaged programs raise errors of many types in the compiler
            raise UserError(f"{path} does not run ({one_line(error)}): export it again") from error

    return call


def read_stablehlo_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata beside the StableHLO file at `path`; UserError if it cannot be read or is damaged."""
    beside = metadata_file(path)
    try:
        text = read_text(beside)
    except ValueError as error:
        raise UserError(f"{beside}, which belongs to {path}, cannot be read ({error}): copy it there") from error
    return parse_metadata(text, str(beside))
