"""Orbax, for the whole project: a directory of named arrays with a JSON description, written atomically."""

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import refuse_existing, replacing

# Orbax reports every file it touches and every failure with a traceback; users hear about each once, from us.
for _library in ("absl", "asyncio"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)


def flat_arrays(state: nnx.State) -> dict[str, Any]:
    """{"blocks/0/1/lgc/kernel": array, …} of an NNX state."""
    return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def fill_state(state: nnx.State, arrays: Mapping[str, Any]) -> None:
    """Puts the arrays of `flat_arrays` into a state of the same structure."""
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(arrays["/".join(map(str, path))])


def write(path: Path, arrays: Mapping[str, Any], description: Mapping[str, Any], *, overwrite: bool) -> None:
    """Writes a directory `path`: all of it or nothing.

    Raises:
      UserError: `path` exists and `overwrite` is False, or it is something else than a checkpoint, or the operating
        system refuses.
    """
    import orbax.checkpoint as ocp

    refuse_existing(path, overwrite)
    if path.exists() and not is_checkpoint(path):
        raise UserError(f"{path} exists and is no checkpoint: it is not replaced, give another path")
    description = json.loads(json.dumps({**description, "crc32": checksums(arrays)}))
    # NumPy arrays: with several processes Orbax takes JAX's for a part of something larger.
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(whole), description=ocp.args.JsonSave(description))
    with replacing(path) as temporary, _checkpointer() as checkpointer:
        checkpointer.save(temporary.absolute(), args)


def _checkpointer() -> Any:
    """Orbax's, for this process alone: what is written here is whole in every process, and one of them writes it."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="one-process"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        arrays=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        description=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of every array's bytes: the storage format has none, and a flipped bit would go unnoticed."""
    return {name: zlib.crc32(np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()}


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a directory that `write` made."""
    return (path / "description").is_dir() and (path / "arrays").is_dir()


def read_description(path: Path) -> dict[str, Any]:
    """The JSON description of a directory written by `write`; UserError when there is none."""
    import orbax.checkpoint as ocp

    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not is_checkpoint(path):
        raise UserError(f"{path} is not a checkpoint of this project (a directory with 'arrays' and 'description')")
    try:
        with _checkpointer() as checkpointer:
            args = ocp.args.Composite(description=ocp.args.JsonRestore())
            return dict(checkpointer.restore(path.absolute(), args)["description"])
    except Exception as error:  # whatever a damaged file trips in Orbax
        raise UserError(f"{path}: its description cannot be read ({one_line(error)})") from error


def read_arrays(
    path: Path, targets: Mapping[str, jax.ShapeDtypeStruct], expected_checksums: Mapping[str, int]
) -> dict[str, jax.Array]:
    """The arrays; UserError unless they have the targets' names, shapes and dtypes and the bytes once written."""
    import orbax.checkpoint as ocp

    try:
        with _checkpointer() as checkpointer:
            # NumPy targets: JAX arrays would have to be restored to the devices they were saved from.
            like = {name: np.empty(target.shape, target.dtype) for name, target in targets.items()}
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(like, strict=True))
            arrays = dict(checkpointer.restore(path.absolute(), args)["arrays"])
    except Exception as error:  # whatever a damaged file trips in Orbax
        raise UserError(f"{path}: its arrays do not fit its description ({one_line(error)})") from error
    # Orbax leaves shapes unchecked where NumPy arrays were saved.
    misfits = [n for n, target in targets.items() if (arrays[n].shape, arrays[n].dtype) != (target.shape, target.dtype)]
    if misfits:
        raise UserError(
            f"{path}: its arrays do not fit its description ({shorten(misfits)} have another shape or type)"
        )
    actual = checksums(arrays)
    if damaged := [name for name in arrays if actual[name] != expected_checksums.get(name)]:
        raise UserError(f"{path} is damaged: {shorten(damaged)} are not as they were written")
    return {name: jnp.array(array) for name, array in arrays.items()}
