"""PyTorch checkpoints, read safely and converted strictly in both directions."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import replacing
from cdnv2_jax.layers.learned import on_host
from cdnv2_jax.layers.torch_layout import COUNTER, Slot
from cdnv2_jax.networks.family import TorchFormat, blank_network, family_of
from cdnv2_jax.networks.network import Architecture, Network
from cdnv2_jax.networks.zoo import architecture_of

Weights = Literal["auto", "ema", "model"]
LARGEST_FILE = 4 * 2**30  # bytes; the largest official checkpoint, cdnv2_c with EMA and optimizer, is 80 MB


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dict that `torch.save` wrote, with tensors on the CPU.

    Nothing in the file is executed: `weights_only=True`, and the only class that may be constructed is
    `argparse.Namespace`, in which the official training script stores its arguments.

    Raises:
      UserError: the file does not exist, is not a PyTorch file, is truncated, or would run code.
    """
    path = Path(path)
    torch = import_torch()
    _check_file(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_explain_refusal(path, str(error))) from error
    except Exception as error:  # torch.load raises errors of many types for damaged files
        raise UserError(f"{path} is not a complete PyTorch file ({one_line(error)}): download it again") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint dict with a state_dict")
    return dict(checkpoint)


def select_state_dict(checkpoint: Mapping[str, Any], weights: Weights, source: str) -> Mapping[str, Any]:
    """Return state_dict_ema for "ema", state_dict for "model", or the first of the two that exists for "auto".

    A file that is itself a state_dict counts as "model".
    """
    found = {"ema": checkpoint.get("state_dict_ema"), "model": checkpoint.get("state_dict")}
    if found["ema"] is None and found["model"] is None and all(hasattr(t, "shape") for t in checkpoint.values()):
        found["model"] = dict(checkpoint)
    chosen = found["ema"] if weights == "auto" and found["ema"] is not None else found[weights.replace("auto", "model")]
    if not isinstance(chosen, Mapping) or not chosen or not all(isinstance(key, str) for key in chosen):
        there = ", ".join(repr(str(key)) for key in checkpoint) or "nothing"
        raise UserError(f"{source} has no {'EMA ' if weights == 'ema' else ''}state_dict; it holds {there}")
    return chosen


def import_torch():
    """Import PyTorch, which only PyTorch files need; UserError with the install command if it is missing."""
    try:
        import torch
    except ImportError as error:
        raise UserError("reading and writing PyTorch files needs PyTorch: pip install 'cdnv2-jax[torch]'") from error
    return torch


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is a directory, not a PyTorch file")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than any checkpoint of these networks")
    try:
        entries = []
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
    except Exception as error:  # zipfile raises errors of many types for a damaged directory
        raise UserError(f"{path} is not a complete PyTorch file ({one_line(error)}): download it again") from error
    # torch.save never compresses, and a compressed archive could unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path} is a compressed archive, not a file that torch.save wrote")


def _explain_refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|[Cc]lass(?:es)? ([\w.]+)|function ([\w.]+)", message)
    if found is None:
        return f"{path} is not a PyTorch checkpoint: it cannot be read as tensors"
    name = next(group for group in found.groups() if group)
    return f"{path} was refused: it asks for {name}, and loading it would run code; only tensors are read"


class TensorLike(Protocol):
    """What a state_dict may hold: PyTorch tensors or NumPy arrays."""

    @property
    def shape(self) -> Any: ...


def to_torch_state_dict(model: Network) -> dict[str, np.ndarray]:
    """Return the model's official state_dict: official keys, order, layouts and dtypes, as NumPy arrays.

    A convolution's kernel becomes [out, in / groups, h, w], a Linear's [out, in], a mask [out, in, 1, 1]. The official
    classes load it (after `torch.from_numpy`) with strict=True. `_stage` and `_count` are derived from the masks.
    MobileNetV2 uses torchvision's layout, ShuffleNetV2 the layout of its variant.

    Raises:
      UserError: the official code has no such form, such as a condensed CondenseNet (v1) with its whole classifier.
    """
    torch_format(model.architecture).check(model)
    return {key: slot.read() for key, slot in state_dict_slots(on_host(model)).items()}


def state_dict_slots(model: Network) -> dict[str, Slot]:
    """Return every key of the model's official state_dict, in order, with the variable that holds its tensor."""
    return dict(torch_format(model.architecture).slots(model))


def torch_format(architecture: Architecture) -> TorchFormat:
    """Return the PyTorch layout of an architecture's family; UserError if it has none."""
    family = family_of(architecture)
    if family.torch is None:
        raise UserError(f"the family {family.name!r} has no PyTorch layout: give Family(…, torch=…)")
    return family.torch


def without_module_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state_dict without the prefix `module.` that DataParallel adds to every key."""
    return {re.sub(r"^module\.", "", key): tensor for key, tensor in tensors.items()}


def model_from_state_dict(
    tensors: Mapping[str, TensorLike],
    architecture: Architecture,
    *,
    name: str,
    source: str = "state_dict",
    **dtypes: Any,
) -> Network:
    """Build the network that an official state_dict holds, masked, condensed or plain, in evaluation mode.

    Args:
      tensors: official keys, with or without `module.`, → tensors.
      architecture: the expected architecture; if the original code has several layouts, the keys decide which.
      name: name of the network.
      source: name of the state_dict in errors, usually the file.
      **dtypes: `dtype` and `param_dtype` as for `create_model`.

    Raises:
      UserError: missing, unexpected or misshapen keys (all are listed), NaN, masks that differ within a group,
        indices out of range.
    """
    tensors = without_module_prefix(tensors)
    official = torch_format(architecture)
    architecture = official.adapt(architecture, tensors)
    model = blank_network(architecture, official.form(tensors), name=name, **dtypes)
    slots = state_dict_slots(model)
    if not any(key.endswith(COUNTER) for key in tensors):
        # PyTorch before 0.4.1 wrote no counters; later versions load such files with counters of zero.
        tensors |= {key: np.zeros((), np.int64) for key in slots if key.endswith(COUNTER)}
    expected = {key: slot.layout.shape for key, slot in slots.items()}
    if complaints := mismatches(tensors, expected):
        raise UserError(f"{source} is not a {name} with {architecture.num_classes} classes: {complaints}")
    for key, slot in slots.items():
        try:
            slot.write(to_numpy(tensors[key]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{source}: {key}: {one_line(error)}") from error
    return model


def mismatches(tensors: Mapping[str, TensorLike], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Describe all mismatches of keys and shapes in one line; empty if there are none."""
    missing = [key for key in expected if key not in tensors]
    unexpected = [str(key) for key in tensors if key not in expected]
    misshapen = [
        f"{key} {shape_of(tensors[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in tensors and shape_of(tensors[key]) != list(shape)
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in found.items() if keys)


def shape_of(tensor: Any) -> list[int] | str:
    """Return the shape as a list, or the type's name for anything but a tensor."""
    shape = getattr(tensor, "shape", None)
    return type(tensor).__name__ if shape is None else [int(side) for side in shape]


def to_numpy(tensor: Any) -> np.ndarray:
    """Convert a PyTorch tensor or anything array-like, of a shape already checked, to a NumPy array."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        return tensor.numpy()
    return np.asarray(tensor)


def load_torch_checkpoint(
    path: str | Path,
    name: str,
    *,
    weights: Weights = "auto",
    num_classes: int | None = None,
    **overrides: Any,
) -> Network:
    """Load an official checkpoint, masked or condensed as in the file, in evaluation mode.

    ShuffleNetV2 is read from files of its authors or of torchvision, MobileNetV2 from files of torchvision.

    Args:
      path: file saved by the official code, with `state_dict` and perhaps `state_dict_ema`; keys with or without
        `module.`; dense, partly or fully pruned, or converted.
      name: the model it holds, one of `list_models()`.
      weights: "ema" or "model"; "auto" takes the EMA weights if there are any, as the official evaluation does.
      num_classes: classes it was trained for; None for the model's usual number.
      **overrides: changes to the registry's architecture, as for `create_model`.

    Raises:
      UserError: the file cannot be read safely or does not hold exactly that network (all mismatches are listed).
      ValueError: unknown name or override.
    """
    architecture = architecture_of(name, num_classes, overrides)
    tensors = select_state_dict(read_checkpoint(path), weights, str(path))
    return model_from_state_dict(tensors, architecture, name=name, source=str(path))


def save_torch_checkpoint(path: str | Path, model: Network) -> None:
    """Write `{"state_dict", "arch"}` in the official layout; the official classes load it with strict=True."""
    torch = import_torch()
    tensors = {key: torch.from_numpy(array.copy()) for key, array in to_torch_state_dict(model).items()}
    with replacing(Path(path)) as temporary:
        torch.save({"state_dict": tensors, "arch": model.name}, temporary)
