"""Reading of PyTorch files, and of plain pickles of NumPy arrays, without running anything in them."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.inert_pickle import STAND_INS, read_plain_pickle
from cdnv2_jax.weights.file_kinds import AGAIN, SAVE, kind_of


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dict that `torch.save` wrote, with tensors on the CPU, or a pickle of NumPy arrays.

    Nothing in the file is executed: `weights_only=True`, and inert stand-ins for the classes that training scripts
    store beside the weights.

    Raises:
      UserError: the file does not exist, is not a PyTorch file, is truncated, or would run code.
    """
    path = Path(path)
    torch = import_torch() if kind_of(path) == "torch" else None
    try:
        checkpoint = read_plain_pickle(path.read_bytes()) if torch is None else _load(torch, path)
    except pickle.UnpicklingError as error:
        raise UserError(_explain_refusal(path, str(error))) from error
    except Exception as error:  # torch.load raises errors of many types for damaged files
        raise UserError(f"{path} is not a complete PyTorch file ({one_line(error, 120)}): {AGAIN}") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a dict of weights: {SAVE}")
    return dict(checkpoint)


def import_torch():
    """Import PyTorch, which only PyTorch files need; UserError with the install command if it is missing."""
    try:
        import torch
    except ImportError as error:
        raise UserError("reading and writing PyTorch files needs PyTorch: pip install 'cdnv2-jax[torch]'") from error
    return torch


def _load(torch: Any, path: Path) -> Any:
    stand_ins = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols and storages; what matters becomes an error
        return torch.load(path, map_location="cpu", weights_only=True)


def _explain_refusal(path: Path, message: str) -> str:
    if re.search(r"Unsupported operand (?:140|147|148|149)", message):
        return f"{path} was written with pickle protocol 4 or later, which cannot be read safely: {SAVE}"
    found = re.search(r"GLOBAL ([\w.]+)|[Cc]lass(?:es)? ([\w.]+)|function ([\w.]+)", message)
    if found is None:
        return f"{path} is not a PyTorch checkpoint, it cannot be read as tensors: {AGAIN}, or {SAVE}"
    name = next(group for group in found.groups() if group)[-80:]
    return f"{path} was refused: it asks for {name}, and loading it would run code; {SAVE}"
