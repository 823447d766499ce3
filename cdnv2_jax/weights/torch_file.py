"""PyTorch checkpoints: read safely, strict in both directions."""

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
from cdnv2_jax.layers.torch_layout import COUNTER, Slot
from cdnv2_jax.networks.family import TorchFormat, blank_network, family_of
from cdnv2_jax.networks.network import Architecture, Network
from cdnv2_jax.networks.zoo import architecture_of

Weights = Literal["auto", "ema", "model"]
LARGEST_FILE = 4 * 2**30  # bytes; the largest official checkpoint, cdnv2_c with EMA and optimizer, has 80 MB


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict that `torch.save` wrote, tensors on the CPU.

    Nothing in the file is executed: `weights_only=True`, and of all classes only `argparse.Namespace`, which the
    official training script stores its arguments in, may be constructed.

    Raises:
      UserError: no such file, not a PyTorch file, truncated, or one that would run code.
    """
    path = Path(path)
    torch = import_torch()
    _check_file(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_explain_refusal(path, str(error))) from error
    except Exception as error:  # torch.load raises whatever a damaged file happens to trip
        raise UserError(f"{path} is not a whole PyTorch checkpoint ({one_line(error)}): fetch it again") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint dict with a state_dict")
    return dict(checkpoint)


def select_state_dict(checkpoint: Mapping[str, Any], weights: Weights, source: str) -> Mapping[str, Any]:
    """The state_dict to take: `ema` state_dict_ema, `model` state_dict, `auto` the first of the two there is.

    A file that is a bare state_dict counts as `model`.
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
    """PyTorch, or a UserError that says how to get it: only files of PyTorch's need it."""
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
    except Exception as error:  # zipfile raises whatever a damaged directory happens to trip
        raise UserError(f"{path} is not a whole PyTorch checkpoint ({one_line(error)}): fetch it again") from error
    # torch.save stores, it never compresses: what is compressed could unpack to any size.
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
    """The model's official state_dict: official keys, order, layouts and dtypes, as NumPy arrays.

    A convolution's kernel is [out, in / groups, h, w] there, a Linear's [out, in], a mask [out, in, 1, 1].
    The official classes load it (after `torch.from_numpy`) with strict=True. `_stage` and `_count` follow the masks.
    MobileNetV2 has torchvision's layout, ShuffleNetV2 that of its variant.

    Raises:
      UserError: a condensed CondenseNet (v1) with its whole classifier, a form the official code does not have.
    """
    torch_format(model.architecture).check(model)
    return {key: slot.read() for key, slot in state_dict_slots(model).items()}


def state_dict_slots(model: Network) -> dict[str, Slot]:
    """Every key of the model's official state_dict, in the official order, with the variable that holds its tensor."""
    return dict(torch_format(model.architecture).slots(model))


def torch_format(architecture: Architecture) -> TorchFormat:
    """How networks of that architecture lie in PyTorch's files; UserError for a family that has no such layout."""
    family = family_of(architecture)
    if family.torch is None:
        raise UserError(f"the family {family.name!r} has no PyTorch layout: give Family(…, torch=…)")
    return family.torch


def without_module_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict without the `module.` that DataParallel puts before every key."""
    return {re.sub(r"^module\.", "", key): tensor for key, tensor in tensors.items()}


def model_from_state_dict(
    tensors: Mapping[str, TensorLike],
    architecture: Architecture,
    *,
    name: str,
    source: str = "state_dict",
    **dtypes: Any,
) -> Network:
    """Builds the network that an official state_dict holds, masked, condensed or plain, in evaluation mode.

    Args:
      tensors: official keys, with or without `module.`, → tensors.
      architecture: of the network it must be; where the original code has several layouts, the keys tell which.
      name: of the network.
      source: what to call it in errors, usually the file.
      **dtypes: `dtype` and `param_dtype` as for `create_model`.

    Raises:
      UserError: missing, unexpected or misshapen keys (all are listed), NaN, masks that are not the same within a
        group, indices out of range.
    """
    tensors = without_module_prefix(tensors)
    official = torch_format(architecture)
    architecture = official.adapt(architecture, tensors)
    model = blank_network(architecture, official.form(tensors), name=name, **dtypes)
    slots = state_dict_slots(model)
    if not any(key.endswith(COUNTER) for key in tensors):
        # PyTorch wrote no counters before 0.4.1, and reads such files as having counted nothing.
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
    """One line on everything that keys and shapes have wrong; empty when they agree."""
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
    """The shape as a list, or the type of what is no tensor."""
    shape = getattr(tensor, "shape", None)
    return type(tensor).__name__ if shape is None else [int(side) for side in shape]


def to_numpy(tensor: Any) -> np.ndarray:
    """A PyTorch tensor or anything array-like as a NumPy array; call it once the shape is known to be right."""
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
    """Loads an official checkpoint file; masked or condensed, as the file is, in evaluation mode.

    Of ShuffleNetV2 files of its authors and of torchvision are read, of MobileNetV2 those of torchvision.

    Args:
      path: what the official code saved: `state_dict` and perhaps `state_dict_ema`; keys with `module.` or without;
        dense, partly or fully pruned, or converted.
      name: the model it holds, one of `list_models()`.
      weights: "ema" or "model"; "auto" takes the EMA weights where there are any, as the official evaluation does.
      num_classes: classes it was trained for; None for the model's usual number.
      **overrides: for a network that differs from the registry's, as for `create_model`.

    Raises:
      UserError: the file cannot be read safely or does not hold exactly that network (everything wrong is listed).
      ValueError: unknown name or override.
    """
    architecture = architecture_of(name, num_classes, overrides)
    tensors = select_state_dict(read_checkpoint(path), weights, str(path))
    return model_from_state_dict(tensors, architecture, name=name, source=str(path))


def save_torch_checkpoint(path: str | Path, model: Network) -> None:
    """Writes `{"state_dict", "arch"}` in the official layout; the official classes load it with strict=True."""
    torch = import_torch()
    tensors = {key: torch.from_numpy(array.copy()) for key, array in to_torch_state_dict(model).items()}
    with replacing(Path(path)) as temporary:
        torch.save({"state_dict": tensors, "arch": model.name}, temporary)
