"""Reading a PyTorch checkpoint that nobody vouches for."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cdnv2_jax.errors import UserError, one_line

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
