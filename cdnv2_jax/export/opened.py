"""Opening an exported program to classify with it."""

import dataclasses
from pathlib import Path

from cdnv2_jax.errors import UserError
from cdnv2_jax.export.metadata import Described, described, parse_metadata
from cdnv2_jax.export.onnx_file import onnx_forward, read_onnx_metadata
from cdnv2_jax.export.stablehlo import read_metadata, stablehlo_forward
from cdnv2_jax.export.verify import Forward

PROGRAMS = {".onnx": (read_onnx_metadata, onnx_forward), ".stablehlo": (read_metadata, stablehlo_forward)}
"""Ending → how metadata is read, as text, and how the program is run."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network ready to classify, wherever it comes from.

    Attributes:
      described: its name, form, number of classes, and how it is used. forward: normalised images → logits.
    """

    described: Described
    forward: Forward


def open_exported(path: Path) -> Classifier:
    """The classifier in a StableHLO or ONNX file that `main.py export` wrote; its ending is one of PROGRAMS.

    Raises:
      UserError: no such file, damaged, without its metadata, or of a detector.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    read, run = PROGRAMS[path.suffix]
    return Classifier(described(parse_metadata(read(path), str(path)), str(path)), run(path))
