"""Export of classifiers: the file is written, run, and compared with the network."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cdnv2_jax.errors import UserError, import_optional
from cdnv2_jax.export.onnx_file import save_onnx
from cdnv2_jax.export.stablehlo import classifier_to_stablehlo, write_program
from cdnv2_jax.export.verify import Agreement, agreement, prepared_photographs, refuse_difference, refuse_not_finite
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.metadata import classifier_metadata, usage_of
from cdnv2_jax.weights.programs import (
    Forward,
    compiled_forward,
    metadata_file,
    onnx_forward,
    stablehlo_forward,
)
from cdnv2_jax.weights.safetensors import SUFFIX, load_safetensors, save_safetensors

Write = Callable[[Path, Network, int, Mapping[str, Any]], None]
"""Function of (path, network, side of the images, metadata) that writes the file."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format of exported classifiers, one of FORMATS.

    Attributes:
      title: name in messages.
      suffix: suffix of its files, by which they are recognised when they are opened.
      packages: modules that it needs and the rest of the project does not.
      write: writes a classifier to a file.
      run: loads the classifier in a file as a function.
      metadata_beside: whether the metadata is in a second file, FILE.json.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    write: Write
    run: Callable[[Path], Forward]
    metadata_beside: bool = False


def _write_stablehlo(path: Path, network: Network, image_size: int, metadata: Mapping[str, Any]) -> None:
    write_program(path, classifier_to_stablehlo(network, image_size), metadata)


def _write_onnx(path: Path, network: Network, image_size: int, metadata: Mapping[str, Any]) -> None:
    from cdnv2_jax.export.onnx_file import classifier_to_onnx

    save_onnx(path, classifier_to_onnx(network, image_size=image_size), metadata)


def _write_ours(path: Path, network: Network, image_size: int, metadata: Mapping[str, Any]) -> None:
    save_safetensors(path, network, metadata, "ours")


def _write_official(path: Path, network: Network, image_size: int, metadata: Mapping[str, Any]) -> None:
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
"""Formats by their name in `cdnv2 export --format`."""


Verified = TypeVar("Verified")
"""Result of a successful verification."""


def export_classifier(network: Network, output: Path, *, format: str, overwrite: bool = False) -> Agreement:
    """Write a classifier to the file `output` and return how closely the file's own results match the network's.

    Args:
      network: in evaluation mode, masked, condensed or plain; its preprocessing sets the image size.
      output: path of the file; for StableHLO, FILE.json with the metadata is written beside it.
      format: a key of FORMATS.
      overwrite: replace an existing file.

    Raises:
      UserError: no such format, a package is missing, the path exists or cannot be written, images of that size are too
        small, the format does not support the network, or the results differ. Nothing is written then.
    """
    kind = check_target(output, format, overwrite)
    preparation, metadata = usage_of(network).preparation, classifier_metadata(network)

    def verify(path: Path) -> Agreement:
        images = prepared_photographs(preparation)
        expected = np.asarray(compiled_forward(network)(images))
        refuse_not_finite(expected, network.name)
        found = agreement(np.asarray(kind.run(path)(images)), expected)
        refuse_difference(found, f"{output} ({kind.title})")
        return found

    return write_verified(output, kind, lambda path: kind.write(path, network, preparation.size, metadata), verify)


def check_target(output: Path, format: str, overwrite: bool) -> Format:
    """Return the format, after checking its name, the suffix, the packages it needs and existing files."""
    if format not in FORMATS:
        raise UserError(f"no format is called {format!r}: choose one of {', '.join(FORMATS)}")
    kind = FORMATS[format]
    if output.suffix != kind.suffix:
        raise UserError(f"{output} has the wrong suffix for {kind.title}: call it {output.stem}{kind.suffix}")
    for package in kind.packages:
        import_optional(package, "export")
    for path in (output, metadata_file(output)) if kind.metadata_beside else (output,):
        refuse_existing(path, overwrite, file=True)
    return kind


def write_verified(
    output: Path,
    kind: Format,
    write: Callable[[Path], None],
    verify: Callable[[Path], Verified],
) -> Verified:
    """Write to a temporary path, verify the file there, and only then move it to `output`."""
    with contextlib.ExitStack() as stack:
        beside = stack.enter_context(replacing(metadata_file(output))) if kind.metadata_beside else None
        temporary = stack.enter_context(replacing(output))
        write(temporary)
        found = verify(temporary)
        if beside:
            metadata_file(temporary).replace(beside)
        return found
