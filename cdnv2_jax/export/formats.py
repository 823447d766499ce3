"""The formats of exported classifiers: how each is written, and run by its own runtime."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdnv2_jax.checkpoint.safetensors import SUFFIX, load_safetensors, save_safetensors
from cdnv2_jax.evaluation import compiled_forward
from cdnv2_jax.export.onnx_file import onnx_forward, save_onnx
from cdnv2_jax.export.stablehlo import classifier_to_stablehlo, stablehlo_forward
from cdnv2_jax.export.verify import Forward
from cdnv2_jax.models.families import AnyNetwork

Write = Callable[[Path, AnyNetwork, int, Mapping[str, Any]], None]
"""Writes (path, network, side of the images, metadata)."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One of FORMATS.

    Attributes:
      title: what it is called. suffix: how its files end, by which they are told apart when they are opened.
      packages: modules that it needs and the rest of the project does not.
      write: writes a classifier. run: the classifier of a file, as a function.
      metadata_beside: whether metadata is in a second file, FILE.json.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    write: Write
    run: Callable[[Path], Forward]
    metadata_beside: bool = False


def _write_stablehlo(path: Path, network: AnyNetwork, image_size: int, metadata: Mapping[str, Any]) -> None:
    path.write_bytes(classifier_to_stablehlo(network, image_size))


def _write_onnx(path: Path, network: AnyNetwork, image_size: int, metadata: Mapping[str, Any]) -> None:
    from cdnv2_jax.export.onnx import classifier_to_onnx  # needs the package onnx

    save_onnx(path, classifier_to_onnx(network, image_size=image_size), metadata)


def _write_ours(path: Path, network: AnyNetwork, image_size: int, metadata: Mapping[str, Any]) -> None:
    save_safetensors(path, network, metadata, "ours")


def _write_official(path: Path, network: AnyNetwork, image_size: int, metadata: Mapping[str, Any]) -> None:
    save_safetensors(path, network, metadata, "official")


def _run_safetensors(path: Path) -> Forward:
    return compiled_forward(load_safetensors(path))


_SAFETENSORS = (SUFFIX, ("safetensors",))

FORMATS: dict[str, Format] = {
    "stablehlo": Format(
        "StableHLO", ".stablehlo", ("flatbuffers",), _write_stablehlo, stablehlo_forward, metadata_beside=True
    ),
    "onnx": Format("ONNX", ".onnx", ("onnx", "onnxruntime"), _write_onnx, onnx_forward),
    "safetensors": Format("safetensors", *_SAFETENSORS, _write_ours, _run_safetensors),
    "safetensors-official": Format("safetensors, official layout", *_SAFETENSORS, _write_official, _run_safetensors),
}
"""By the name that `main.py export --format` knows."""
