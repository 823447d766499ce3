"""Our own checkpoints: one network or detector as a directory."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import blank_network, family_of, find_family
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.weights import arrays
from cdnv2_jax.weights.metadata import Classes

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
    description = arrays.read_description(path)
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
    arrays.write(
        path, arrays.flat_arrays(nnx.state(module)), {**description, "versions": versions}, overwrite=overwrite
    )


def fill_module(path: Path, module: nnx.Module, description: Mapping[str, Any]) -> None:
    """Fills a module of the right structure with the arrays at `path`; UserError when they are damaged or hold NaN."""
    state = nnx.state(module)
    restored = arrays.read_arrays(path, arrays.flat_arrays(state), description.get("crc32", {}))
    for name, array in restored.items():
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(np.asarray(array)).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    arrays.fill_state(state, restored)
    nnx.update(module, state)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """What was saved beside the network at `path`: name, architecture, form, metadata, versions."""
    return arrays.read_description(Path(path))


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
    description = arrays.read_description(path)
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
