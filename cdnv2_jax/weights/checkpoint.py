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

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.dense_layer import Form
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import FAMILIES, AnyNetwork, blank_network, family_of
from cdnv2_jax.weights import arrays

FORMAT = 1


def save(
    path: str | Path, model: AnyNetwork, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
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


def load(path: str | Path, *, dtype: DTypeLike | None = None) -> AnyNetwork:
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


def describe_network(model: AnyNetwork) -> dict[str, Any]:
    """JSON values from which `described_network` makes a network of the same structure."""
    return {
        "name": model.name,
        "family": family_of(model.architecture),
        "architecture": dataclasses.asdict(model.architecture),
        "form": dataclasses.asdict(model.form) if isinstance(model, CondenseNet) else {},
        "param_dtype": str(np.dtype(model.param_dtype)),
    }


def described_network(description: Mapping[str, Any], *, dtype: DTypeLike | None) -> AnyNetwork:
    """A network in evaluation mode whose variables have shapes but no values yet.

    Raises KeyError, TypeError, ValueError or AttributeError for a description that is none.
    """
    param_dtype = np.dtype(description["param_dtype"])
    if not jnp.issubdtype(param_dtype, jnp.floating):
        raise ValueError(f"parameters of type {param_dtype}")
    # Checkpoints from before there were others do not say that they hold a CondenseNet.
    architecture = FAMILIES[description.get("family", "condensenet")]
    return blank_network(
        architecture(**description["architecture"]),
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
