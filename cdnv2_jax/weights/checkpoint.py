"""Our own checkpoints: one network or detector as a directory of named arrays (Orbax) with a JSON description."""

import dataclasses
import json
import logging
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.networks.family import blank_network, family_of, find_family
from cdnv2_jax.networks.network import Form, Network

FORMAT = 1
DETECTOR = "detector"


def save(
    path: str | Path, model: Network, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Saves a network, masked, condensed or plain, as the directory `path`, all of it or nothing.

    Args:
      path: the directory to make.
      model: any network of `create_model`, `condense` or `load_torch_checkpoint`.
      metadata: JSON values to keep beside it, such as where its weights come from.
      overwrite: replace what is at `path`; otherwise that is a UserError.
    """
    description = {"format": FORMAT, **describe_network(model), "metadata": dict(metadata or {})}
    write_module(Path(path), model, description, overwrite=overwrite)


def load(path: str | Path, *, dtype: DTypeLike | None = None) -> Network:
    """Loads a network saved by `save`, in evaluation mode.

    Args:
      path: the directory.
      dtype: dtype of the computation, as for `create_model`.

    Raises:
      UserError: nothing there, not such a directory, damaged, or holding NaN.
    """
    path = Path(path)
    description = read_description(path)
    if "kind" in description:
        raise UserError(f"{path} holds a {description['kind']}, not a classifier")
    try:
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}")
        model = described_network(description, dtype=dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not one of format {FORMAT} ({error})") from error
    fill_module(path, model, description)
    return model


def describe_network(model: Network) -> dict[str, Any]:
    """JSON values from which `described_network` makes a network of the same structure."""
    return {
        "name": model.name,
        "family": family_of(model.architecture).name,
        "architecture": dataclasses.asdict(model.architecture),
        "form": dataclasses.asdict(model.form),
        "param_dtype": str(np.dtype(model.param_dtype)),
    }


def described_network(description: Mapping[str, Any], *, dtype: DTypeLike | None) -> Network:
    """A network in evaluation mode whose variables have shapes but no values yet.

    Raises KeyError, TypeError, ValueError or AttributeError for a description that is none.
    """
    param_dtype = np.dtype(description["param_dtype"])
    if not jnp.issubdtype(param_dtype, jnp.floating):
        raise ValueError(f"parameters of type {param_dtype}")
    # Checkpoints from before there were others do not say that they hold a CondenseNet.
    family = find_family(description.get("family", "condensenet"))
    return blank_network(
        family.architecture(**description["architecture"]),
        Form(**description["form"]),
        name=description["name"],
        dtype=dtype,
        param_dtype=param_dtype,
    )


def write_module(path: Path, module: nnx.Module, description: Mapping[str, Any], *, overwrite: bool) -> None:
    """Writes a module's arrays and what it is made of as the directory `path`, all of it or nothing."""
    versions = {package: version(package) for package in ("jax", "flax", "orbax-checkpoint")}
    write_arrays(path, flat_arrays(nnx.state(module)), {**description, "versions": versions}, overwrite=overwrite)


def fill_module(path: Path, module: nnx.Module, description: Mapping[str, Any]) -> None:
    """Fills a module of the right structure with the arrays at `path`; UserError when they are damaged or hold NaN."""
    state = nnx.state(module)
    restored = read_arrays(path, flat_arrays(state), description.get("crc32", {}))
    for name, array in restored.items():
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(np.asarray(array)).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    fill_state(state, restored)
    nnx.update(module, state)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """What was saved beside the network at `path`: name, architecture, form, metadata, versions."""
    return read_description(Path(path))


def save_detector(
    path: Path,
    detector: PyramidDetector,
    classes: Classes,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a detector as the directory `path`, all of it or nothing; UserError when it exists, unless `overwrite`."""
    description = {
        "format": FORMAT,
        "kind": DETECTOR,
        "settings": dataclasses.asdict(detector.settings),
        "backbone": describe_network(detector.backbone),
        "classes": dataclasses.asdict(classes),
        "metadata": dict(metadata or {}),
    }
    write_module(path, detector, description, overwrite=overwrite)


def load_detector(path: Path, *, dtype: DTypeLike | None = None) -> tuple[PyramidDetector, Classes]:
    """(detector in evaluation mode, its classes), as saved by `save_detector`.

    Args:
      path: the directory.
      dtype: of the computation; None for that of the parameters.

    Raises:
      UserError: nothing there, another kind of checkpoint, damaged, or holding NaN.
    """
    description = read_description(path)
    if description.get("kind") != DETECTOR:
        raise UserError(f"{path} holds a classifier, not a detector")
    try:
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}")
        settings, classes = DetectorSettings(**description["settings"]), Classes(**description["classes"])
        backbone = described_network(description["backbone"], dtype=dtype)
        detector = nnx.eval_shape(lambda: build_detector(settings, backbone, dtype=dtype, rngs=nnx.Rngs(0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not one of format {FORMAT} ({error})") from error
    detector.eval()
    fill_module(path, detector, description)
    return detector, classes


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


def write_arrays(path: Path, arrays: Mapping[str, Any], description: Mapping[str, Any], *, overwrite: bool) -> None:
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
