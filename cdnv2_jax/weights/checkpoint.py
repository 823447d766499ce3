"""Our own checkpoints: one network or detector as a directory of named arrays (Orbax) with a JSON description."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.bounded_reading import read_json, refuse_irregular_tree
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.layers.condensed import check_indices, share_norms, with_gathered_norms
from cdnv2_jax.layers.convolutions import OneKey
from cdnv2_jax.networks.family import blank_network, family_of, find_family, replace_head
from cdnv2_jax.networks.image_channels import for_channels
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.versions import versions
from cdnv2_jax.weights.checksums import checksums, seal_fault, sealed
from cdnv2_jax.weights.stored_arrays import read_stored

if TYPE_CHECKING:
    from cdnv2_jax.data.usage import Usage

DETECTOR = "detector"
DESCRIPTION = Path("description", "metadata")  # where Orbax stores the JSON
FIRST = "_CHECKPOINT_METADATA"
"""File of every directory that Orbax writes, the first one in the order of names."""
ARRAYS = "arrays"
USAGE_KEY = "usage"
"""Key of the `Usage` in the metadata of checkpoints and of exported files."""


def save(
    path: str | Path, model: Network, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Save a network, masked, condensed or plain, with its usage, as the directory `path`, atomically.

    Args:
      path: the directory to create.
      model: any network from `create_model`, `condense` or `load_torch_checkpoint`; its classifier may have been
        replaced by an `nnx.Linear` with another number of outputs.
      metadata: JSON values to store with it, such as where its weights come from.
      overwrite: replace an existing checkpoint at `path`.

    Raises:
      UserError: `path` exists, unless `overwrite`; or the network has other layers than its architecture, so that
        `load` could not read it; or the metadata have the key "usage", which is the network's.
    """
    stored = dict(metadata or {})
    if USAGE_KEY in stored:
        raise UserError(f"metadata cannot have the key {USAGE_KEY!r}: set the network's usage instead")
    if model.usage is not None:
        stored[USAGE_KEY] = model.usage.to_json()
    write_module(as_path(path), model, {**describe_network(model), "metadata": stored}, overwrite=overwrite)


def stored_usage(metadata: Any, num_classes: int, source: str) -> "Usage | None":
    """Return the usage in the metadata of a network; None if there is none, UserError if it is invalid."""
    from cdnv2_jax.data.usage import Usage

    try:
        return Usage.from_json(metadata[USAGE_KEY], num_classes) if USAGE_KEY in metadata else None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: its preprocessing metadata is damaged ({error})") from error


def load(
    path: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Network:
    """Load a network saved by `save`, with its usage, in evaluation mode.

    Args:
      path: the directory.
      num_classes: for a new, randomly initialised classifier with so many outputs; None to keep the one that is there.
      in_channels: channels of the images, if they are not those that it was trained on. An RGB network is adapted as in
        timm: the kernel of its first convolution is summed over red, green and blue for one channel; for n it is
        repeated, red, green, blue, red, …, and multiplied by 3 / n. Its `usage` is then yours to set.
      seed: seed of the new classifier.
      dtype: dtype of the computation, as for `create_model`.

    Raises:
      UserError: `path` does not exist, is not a checkpoint of a network, is damaged, or holds NaN or infinity; or its
        classifier is halved and cannot be replaced; or it is to be adapted to other channels, but not for RGB images.
    """
    path = as_path(path)
    description = read_description(path)
    if "kind" in description:
        raise UserError(f"{path} holds a {description['kind']}, not a classifier")
    try:
        model = described_network(description, dtype=dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not valid ({error})") from error
    fill_module(path, model, description)
    model.usage = stored_usage(description.get("metadata", {}), model.architecture.num_classes, str(path))
    if num_classes is not None:
        replace_head(model, num_classes, seed=seed)
    return model if in_channels is None else for_channels(model, in_channels)


def describe_network(model: Network) -> dict[str, Any]:
    """Return JSON values from which `described_network` builds a network of the same structure.

    Raises:
      UserError: no architecture describes the network, because layers were added, removed or replaced.
    """
    blank = blank_network(model.architecture, model.form, name=model.name, param_dtype=model.param_dtype)
    expected, found = ({name: (a.shape, a.dtype) for name, a in stored_arrays(m).items()} for m in (blank, model))
    if changed := [name for name in expected | found if expected.get(name) != found.get(name)]:
        raise UserError(
            f"the network cannot be saved, because {shorten(changed, most=4)} are not those of a {model.name}: only "
            f"its classifier may be replaced, by an nnx.Linear"
        )
    return {
        "name": model.name,
        "family": family_of(model.architecture).name,
        "architecture": dataclasses.asdict(model.architecture),
        "form": dataclasses.asdict(model.form),
        "param_dtype": str(np.dtype(model.param_dtype)),
    }


def described_network(description: Mapping[str, Any], *, dtype: DTypeLike | None) -> Network:
    """Build a network in evaluation mode whose variables have shapes but no values yet.

    Raises KeyError, TypeError, ValueError or AttributeError if the description is invalid.
    """
    param_dtype = np.dtype(description["param_dtype"])
    if not jnp.issubdtype(param_dtype, jnp.floating):
        raise ValueError(f"parameters of type {param_dtype}")
    # Checkpoints written when CondenseNet was the only family do not name it.
    family = find_family(description.get("family", "condensenet"))
    return blank_network(
        family.architecture(**description["architecture"]),
        Form(**description["form"]),
        name=description["name"],
        dtype=dtype,
        param_dtype=param_dtype,
    )


def write_module(path: Path, module: nnx.Module, description: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write a module's arrays and its description as the directory `path`, atomically."""
    description = {**description, "versions": versions("jax", "jaxlib", "flax", "orbax-checkpoint")}
    write_arrays(path, stored_arrays(module), description, overwrite=overwrite)


def fill_module(path: Path, module: nnx.Module, description: Mapping[str, Any]) -> None:
    """Fill a module of matching structure with the arrays at `path`; UserError if they are damaged or not finite."""
    state = nnx.state(module)
    restored = read_arrays(path, flat_arrays(state), description.get("crc32", {}))
    for name, array in restored.items():
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(np.asarray(array)).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    fill_state(state, restored)
    nnx.update(module, state)
    check_indices(module, str(path))
    share_norms(module)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """Return the description stored with the network at `path`: name, architecture, form, metadata, versions."""
    return read_description(as_path(path))


def save_detector(
    path: Path,
    detector: PyramidDetector,
    classes: Classes,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Save a detector as the directory `path`, atomically; UserError if it exists, unless `overwrite`."""
    description = {
        "kind": DETECTOR,
        "settings": dataclasses.asdict(detector.settings),
        "backbone": describe_network(detector.backbone),
        "classes": dataclasses.asdict(classes),
        "metadata": dict(metadata or {}),
    }
    write_module(path, detector, description, overwrite=overwrite)


def load_detector(path: Path, *, dtype: DTypeLike | None = None) -> tuple[PyramidDetector, Classes]:
    """Load a detector saved by `save_detector`: (detector in evaluation mode, its classes).

    Args:
      path: the directory.
      dtype: dtype of the computation; None for the parameters' dtype.

    Raises:
      UserError: `path` does not exist, is not a checkpoint of a detector, is damaged, or holds NaN or infinity.
    """
    description = read_description(path)
    if description.get("kind") != DETECTOR:
        raise UserError(f"{path} holds a classifier, not a detector")
    settings, classes = settings_and_classes(path, description)
    try:
        backbone = described_network(description["backbone"], dtype=dtype)
        detector = nnx.eval_shape(lambda: build_detector(settings, backbone, dtype=dtype, rngs=OneKey(0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not valid ({error})") from error
    detector.eval()
    fill_module(path, detector, description)
    return detector, classes


def settings_and_classes(path: Path, description: Mapping[str, Any]) -> tuple[DetectorSettings, Classes]:
    """Return settings and classes from the description of a detector at `path`; UserError if they are not valid."""
    try:
        settings, classes = DetectorSettings(**description["settings"]), Classes(**description["classes"])
        if not len(classes.names) == len(classes.category_ids) == settings.num_classes:
            raise ValueError(f"{len(classes.names)} names of classes, not {settings.num_classes}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not valid ({error})") from error
    return settings, classes


# Orbax logs every file it touches, and failures with a traceback; our own messages report each failure once.
for _library in ("absl", "asyncio"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)


def flat_arrays(state: nnx.State) -> dict[str, Any]:
    """Return the arrays of an NNX state by path: {"blocks/0/1/lgc/kernel": array, …}."""
    return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def stored_arrays(module: nnx.Module) -> dict[str, Any]:
    """Return the arrays of a module by path, as files have them."""
    return flat_arrays(nnx.state(with_gathered_norms(module)))


def fill_state(state: nnx.State, arrays: Mapping[str, Any]) -> None:
    """Assign arrays, named as by `flat_arrays`, to a state of the same structure."""
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(arrays["/".join(map(str, path))])


def write_arrays(path: Path, arrays: Mapping[str, Any], description: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write arrays and their description, with checksums and a seal, as the directory `path`, atomically.

    Raises:
      UserError: `path` exists and `overwrite` is False or it is not a checkpoint, or it cannot be written.
    """
    import orbax.checkpoint as ocp

    refuse_existing(path, overwrite)
    refuse_path(path)
    if path.exists() and not is_checkpoint(path) and not _is_cut_off(path):
        raise UserError(f"{path} exists and is not a checkpoint, so it is not replaced: give another path")
    description = sealed({**description, "crc32": checksums(arrays)})
    # NumPy arrays, because with several processes Orbax takes a JAX array for a shard of a larger one.
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(whole), description=ocp.args.JsonSave(description))
    with replacing(path, last=str(DESCRIPTION)) as temporary, _checkpointer() as checkpointer:
        checkpointer.save(temporary.absolute(), args)


def _checkpointer() -> Any:
    """Return an Orbax checkpointer for this process alone: every process holds whole arrays, and one of them writes."""
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


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is a directory written by `write_arrays`."""
    if is_remote(path) and not (path / DESCRIPTION).is_file():  # uploaded last
        return False
    return (path / "description").is_dir() and (path / ARRAYS).is_dir()


def _is_cut_off(path: Path) -> bool:
    """Return whether `path` in a bucket holds the beginning of what `write_arrays` uploads."""
    return is_remote(path) and (path / FIRST).is_file()


UNREADABLE = re.compile(r"\\|[\ud800-\udfff]")
"""What no checkpoint can be read from: backslashes and bytes that are not UTF-8."""
UNWRITABLE = re.compile(rf"{UNREADABLE.pattern}|\[[^/]*\]")
"""What none can be written to. Orbax takes [a] for a pattern, finds no arrays, and leaves them out without an error."""


def refuse_path(path: Path, odd: re.Pattern[str] = UNWRITABLE) -> None:
    """Raise UserError for a path to which Orbax and TensorStore would not write, or from which they would not read."""
    if found := odd.search(str(path.absolute())):
        raise UserError(
            f"{path.absolute()} cannot hold a checkpoint because of {found[0]!r} in it: rename it, or give another"
        )


def read_description(path: Path) -> dict[str, Any]:
    """Return the JSON description of a directory written by `write_arrays`; UserError if it is not whole."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    refuse_path(path, UNREADABLE)
    if not is_checkpoint(path):
        raise UserError(f"{path} is not a checkpoint of this project (a directory with 'arrays' and 'description')")
    try:
        refuse_irregular_tree(path)  # Orbax would wait for a pipe
        description = read_json(path / DESCRIPTION)
    except ValueError as error:
        raise UserError(f"{path}: its description cannot be read ({one_line(error)})") from error
    fault = seal_fault(description)
    if not isinstance(description.get("crc32", {}), dict):
        fault = "its checksums are not valid"
    if fault:
        raise UserError(f"{path} is damaged ({fault}): take another copy, or write it again")
    return description


def read_arrays(
    path: Path, targets: Mapping[str, jax.ShapeDtypeStruct], expected_checksums: Mapping[str, int]
) -> dict[str, jax.Array]:
    """Return the arrays; UserError unless they match the targets' names, shapes and dtypes, and the checksums."""
    try:
        arrays = read_stored(path / ARRAYS, targets)
    except ValueError as error:
        raise UserError(
            f"{path}: its arrays are damaged or do not fit its description ({error}): take another copy, or write it "
            f"again"
        ) from error
    actual = checksums(arrays)
    if damaged := [name for name in arrays if actual[name] != expected_checksums.get(name)]:
        raise UserError(
            f"{path} is damaged (the checksums of {shorten(damaged)} differ): take another copy, or write it again"
        )
    return jax.device_put(arrays)  # without compiling, unlike jnp.array
