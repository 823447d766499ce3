"""One network as a safetensors file, in our layout or the official one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError, import_optional, one_line
from cdnv2_jax.layers.condensed import check_indices
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checkpoint import describe_network, described_network, fill_state, flat_arrays
from cdnv2_jax.weights.torch_file import mismatches, model_from_state_dict, to_torch_state_dict

Layout = Literal["ours", "official"]
Read = TypeVar("Read")
SUFFIX = ".safetensors"
KEY = "cdnv2_jax"
"""Key of the network's metadata, stored as JSON text."""


def save_safetensors(path: Path, network: Network, metadata: Mapping[str, Any], layout: Layout) -> None:
    """Write a network to the file `path`, replacing any existing file.

    Args:
      network: any classifier.
      metadata: JSON values to store in the header, beside the network's description.
      layout: names and shapes of the tensors: "ours" ("blocks/0/0/lgc/kernel", channels last), or "official", as in
        `to_torch_state_dict`.

    Raises:
      UserError: the official code has no such form of the network, or the safetensors package is missing.
    """
    files = import_optional("safetensors.numpy", "export")
    if layout == "official":
        tensors = to_torch_state_dict(network)
    else:
        tensors = {name: np.asarray(array) for name, array in flat_arrays(nnx.state(network)).items()}
    header = {KEY: json.dumps({**metadata, "layout": layout, "network": describe_network(network)})}
    if layout == "official":
        header["format"] = "pt"  # tells other readers that these are PyTorch tensors
    # The package writes an array's memory in order and ignores its strides.
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    path.write_bytes(files.save(contiguous, header))  # its own `save_file` makes the file unreadable for others


def load_safetensors(path: str | Path) -> Network:
    """Load a network written by `save_safetensors`, in either layout, in evaluation mode.

    Raises:
      UserError: the file does not exist, is not in this format, has no description or does not match it, or holds
        NaN or indices out of range.
    """
    path = Path(path)
    values, tensors = read_metadata(path), read_tensors(path)
    try:
        network = described_network(values["network"], dtype=None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its metadata does not describe a network ({one_line(error)})") from error
    if values.get("layout") == "official":
        return model_from_state_dict(tensors, network.architecture, name=network.name, source=str(path))
    _fill(path, network, tensors)
    return network


def read_metadata(path: Path) -> dict[str, Any]:
    """Return our metadata in the header; empty in files of other programs. UserError as for `load_safetensors`."""

    def metadata(file: Any) -> dict[str, Any]:
        values = json.loads((file.metadata() or {}).get(KEY, "{}"))
        if not isinstance(values, dict):
            raise ValueError(f"metadata {values!r}")
        return values

    return _read(path, metadata)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return all tensors by name; UserError as for `load_safetensors`."""

    def tensors(file: Any) -> dict[str, np.ndarray]:
        names = file.keys()  # `file` is not a mapping
        return {name: file.get_tensor(name) for name in names}

    return _read(path, tensors)


def _read(path: Path, part: Callable[[Any], Read]) -> Read:
    """Apply `part` to the opened file. The package checks sizes and offsets against the file's length."""
    safetensors = import_optional("safetensors", "export")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
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
