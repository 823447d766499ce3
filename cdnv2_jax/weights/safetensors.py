"""One network as a safetensors file, in our layout or the official one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save as serialise

from cdnv2_jax.bounded_reading import parse_object
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.layers.condensed import check_indices, share_norms
from cdnv2_jax.networks.network import Network
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.pretrained import pretrained_file
from cdnv2_jax.versions import written_by
from cdnv2_jax.weights.checkpoint import (
    USAGE_KEY,
    describe_network,
    described_network,
    fill_state,
    flat_arrays,
    stored_arrays,
    stored_usage,
)
from cdnv2_jax.weights.checksums import checksums, is_unsealed, seal_fault, sealed
from cdnv2_jax.weights.torch_file import mismatches, model_from_state_dict, to_torch_state_dict

Layout = Literal["ours", "official"]
Read = TypeVar("Read")
SUFFIX = ".safetensors"
KEY = "cdnv2_jax"
"""Key of the network's metadata, stored as JSON text."""

MARK = f"{KEY}.written_by"
"""Second key of our files: with one of the two damaged, a file does not pass for one of another program."""


def save_safetensors(path: Path, network: Network, metadata: Mapping[str, Any], layout: Layout) -> None:
    """Write a network to the file `path`, replacing any existing file.

    Args:
      network: any classifier; its usage is stored, too.
      metadata: JSON values to store in the header, beside the network's description.
      layout: names and shapes of the tensors: "ours" ("blocks/0/0/lgc/kernel", channels last), or "official", as in
        `to_torch_state_dict`.

    Raises:
      UserError: the official code has no such form of the network.
    """
    if layout == "official":
        tensors = to_torch_state_dict(network)
    else:
        tensors = {name: np.asarray(array) for name, array in stored_arrays(network).items()}
    # The package writes an array's memory in order and ignores its strides.
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    about = {"layout": layout, "network": describe_network(network), "crc32": checksums(contiguous)}
    if network.usage is not None:
        about[USAGE_KEY] = network.usage.to_json()
    header = {KEY: json.dumps(sealed({**metadata, **about})), MARK: written_by()}
    if layout == "official":
        header["format"] = "pt"  # tells other readers that these are PyTorch tensors
    path.write_bytes(serialise(contiguous, header))  # its own `save_file` makes the file unreadable for others


def load_safetensors(path: str | Path) -> Network:
    """Load a network written by `save_safetensors`, in either layout, with its usage, in evaluation mode.

    Raises:
      UserError: the file does not exist, is not in this format, has no description or does not match it, or holds
        NaN or indices out of range.
    """
    path = as_path(path)
    values, tensors = read_metadata(path), read_tensors(path)
    actual = {} if is_unsealed(values) else checksums(tensors)
    try:
        network = described_network(values["network"], dtype=None)
        stored = dict(values["crc32"]) if actual else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its metadata does not describe a network ({one_line(error)})") from error
    if damaged := [name for name in actual | stored if actual.get(name) != stored.get(name)]:
        raise UserError(f"{path} is damaged (the checksums of {shorten(damaged)} differ): download it again")
    if values.get("layout") == "official":
        network = model_from_state_dict(tensors, network.architecture, name=network.name, source=str(path))
    else:
        _fill(path, network, tensors)
    network.usage = stored_usage(values, network.architecture.num_classes, str(path))
    return network


def load_pretrained(name: str) -> Network:
    """Load a trained network that comes with the package.

    Args:
      name: one of `list_pretrained()`; what it was trained on and its accuracy are in `weights/NAME.md`.

    Returns:
      The masked network, in evaluation mode, with preprocessing and class names as its `usage`; `condense` makes the
      small and fast form.

    Raises:
      UserError: there is no such network.
    """
    return load_safetensors(pretrained_file(name))


def read_metadata(path: Path) -> dict[str, Any]:
    """Return our metadata in the header; empty in files of other programs. UserError as for `load_safetensors`."""

    def metadata(file: Any) -> tuple[dict[str, Any], str]:
        header = file.metadata() or {}
        if KEY not in header and MARK in header:
            return {}, f"it lacks the key {KEY}"
        values = parse_object(header.get(KEY, "{}"))
        return values, seal_fault(values)

    values, fault = _read(path, metadata)
    if fault:
        raise UserError(f"{path} is damaged ({fault}): download it again")
    return values


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return all tensors by name; UserError as for `load_safetensors`."""

    def tensors(file: Any) -> dict[str, np.ndarray]:
        names = file.keys()  # `file` is not a mapping
        return {name: file.get_tensor(name) for name in names}

    return _read(path, tensors)


def _read(path: Path, part: Callable[[Any], Read]) -> Read:
    """Apply `part` to the opened file. The package checks sizes and offsets against the file's length."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if is_remote(path):
        with path.downloaded() as copy:
            return _read(copy, part)
    try:
        with safe_open(path, framework="numpy") as file:
            return part(file)
    except Exception as error:  # SafetensorError, TypeError for dtypes that NumPy lacks, RecursionError, …
        raise UserError(f"{path} is not a complete safetensors file ({one_line(error)}): download it again") from error


def _fill(path: Path, network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    """Fill a network of matching structure with tensors in our layout."""
    state = nnx.state(network)
    expected = flat_arrays(state)
    if complaints := mismatches(tensors, {name: array.shape for name, array in expected.items()}):
        raise UserError(f"{path} is not the {network.name} that it describes: {complaints}")
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            raise UserError(f"{path}: {name} is {tensor.dtype}, not {expected[name].dtype}")
        if jnp.issubdtype(tensor.dtype, jnp.floating) and not np.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    fill_state(state, jax.device_put({name: np.array(tensor) for name, tensor in tensors.items()}))
    nnx.update(network, state)
    check_indices(network, str(path))
    share_norms(network)
