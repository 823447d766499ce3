"""One network as a safetensors file, in our layout or the official one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError, import_optional, one_line
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checkpoint import describe_network, described_network, fill_state, flat_arrays
from cdnv2_jax.weights.torch_file import mismatches, model_from_state_dict, to_torch_state_dict

Layout = Literal["ours", "official"]
Read = TypeVar("Read")
SUFFIX = ".safetensors"
KEY = "cdnv2_jax"
"""Of the header's metadata: what we say about the network, JSON as text."""


def save_safetensors(path: Path, network: Network, metadata: Mapping[str, Any], layout: Layout) -> None:
    """Writes the file `path`, over what may be there.

    Args:
      network: any classifier.
      metadata: JSON values to keep in the header, beside what the network is made of.
      layout: names and shapes of the tensors, "ours" ("blocks/0/0/lgc/kernel", channels last) or "official", those of
        `to_torch_state_dict`.

    Raises:
      UserError: the official code has no such form, or the package is missing.
    """
    files = import_optional("safetensors.numpy", "export")
    if layout == "official":
        tensors = to_torch_state_dict(network)
    else:
        tensors = {name: np.asarray(array) for name, array in flat_arrays(nnx.state(network)).items()}
    header = {KEY: json.dumps({**metadata, "layout": layout, "network": describe_network(network)})}
    if layout == "official":
        header["format"] = "pt"  # by which others tell that these are tensors of PyTorch's
    # The package writes an array's memory as it lies, whatever its strides say.
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    path.write_bytes(files.save(contiguous, header))  # its own `save_file` keeps others from reading the file


def load_safetensors(path: str | Path) -> Network:
    """The network of a file that `save_safetensors` wrote, of either layout, in evaluation mode.

    Raises:
      UserError: no such file, no safetensors, without a description, or not what its description says; NaN, indices
        out of range.
    """
    path = Path(path)
    values, tensors = read_metadata(path), read_tensors(path)
    try:
        network = described_network(values["network"], dtype=None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its metadata describes no network ({one_line(error)})") from error
    if values.get("layout") == "official":
        return model_from_state_dict(tensors, network.architecture, name=network.name, source=str(path))
    _fill(path, network, tensors)
    return network


def read_metadata(path: Path) -> dict[str, Any]:
    """What the header says about the network; nothing in a file that others wrote. UserError as `load_safetensors`."""

    def metadata(file: Any) -> dict[str, Any]:
        values = json.loads((file.metadata() or {}).get(KEY, "{}"))
        if not isinstance(values, dict):
            raise ValueError(f"metadata {values!r}")
        return values

    return _read(path, metadata)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors by name; UserError as `load_safetensors`."""

    def tensors(file: Any) -> dict[str, np.ndarray]:
        names = file.keys()  # it is no mapping
        return {name: file.get_tensor(name) for name in names}

    return _read(path, tensors)


def _read(path: Path, part: Callable[[Any], Read]) -> Read:
    """`part` of the opened file. The package checks sizes and offsets against the file's length."""
    safetensors = import_optional("safetensors", "export")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return part(file)
    except Exception as error:  # an error class of its own, TypeError for types that NumPy lacks, RecursionError, …
        raise UserError(f"{path} is no whole safetensors file ({one_line(error)}): fetch it again") from error


def _fill(path: Path, network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts tensors of our layout into a network of the right structure."""
    state = nnx.state(network)
    expected = flat_arrays(state)
    if complaints := mismatches(tensors, {name: array.shape for name, array in expected.items()}):
        raise UserError(f"{path} is not the {network.name} that it says: {complaints}")
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            raise UserError(f"{path}: {name} is {tensor.dtype}, not {expected[name].dtype}")
        if jnp.issubdtype(tensor.dtype, jnp.floating) and not np.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    fill_state(state, {name: jnp.array(tensor) for name, tensor in tensors.items()})
    nnx.update(network, state)
    _check_indices(path, network)


def _check_indices(path: Path, network: Network) -> None:
    """UserError for a connection to a channel that there is not: kernels read memory by these numbers."""
    for where, module in nnx.iter_modules(network):
        if isinstance(module, CondensedGroupConv):
            channels = module.in_channels
        elif isinstance(module, CondensedReactivation):
            channels = module.out_channels
        elif isinstance(module, CondensedLinear):
            channels = module.in_features
        else:
            continue
        index = np.asarray(module.index[...])
        if index.size and not (index.min() >= 0 and index.max() < channels):
            raise UserError(f"{path}: {'/'.join(map(str, where))}/index must be in [0, {channels})")
