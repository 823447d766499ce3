"""Opening of weight files of any format: the only module that knows all formats and their contents.

Formats: our own checkpoints (directories) of classifiers and detectors, PyTorch files, safetensors in either layout,
and exported programs (ONNX and StableHLO).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.devices import start_devices
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.networks.family import MODELS
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights import programs, safetensors
from cdnv2_jax.weights.checkpoint import DETECTOR, load, load_detector, read_description
from cdnv2_jax.weights.detector_programs import Detect, compiled_detector, onnx_detector, stablehlo_detector
from cdnv2_jax.weights.metadata import (
    USAGE_KEY,
    Described,
    DescribedDetector,
    Usage,
    described,
    described_detector,
    usual_usage,
)
from cdnv2_jax.weights.programs import Forward, compiled_forward
from cdnv2_jax.weights.state_dicts import Weights, official_tensors, select_state_dict
from cdnv2_jax.weights.torch_file import classes_in, model_from_state_dict, torch_format
from cdnv2_jax.weights.torch_reading import read_checkpoint

PROGRAMS = {
    ".onnx": (programs.read_onnx_metadata, programs.onnx_forward, onnx_detector),
    ".stablehlo": (programs.read_stablehlo_metadata, programs.stablehlo_forward, stablehlo_detector),
}
"""Suffix of an exported program → functions that read its metadata, and that load it as `Forward` or `Detect`."""


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedNetwork:
    """A classifier as a network, from a checkpoint, a PyTorch file or safetensors.

    Attributes:
      path: the file or directory it was read from.
      network: the network, in evaluation mode.
      metadata: the metadata stored with it.
      taken: which of the file's weights these are, for the user; "" if there was no choice.
      has_classifier: False for a backbone alone, whose classifier holds zeros.
    """

    path: Path
    network: Network
    metadata: Mapping[str, Any]
    taken: str = ""
    has_classifier: bool = True

    @cached_property
    def stored_usage(self) -> Usage | None:
        """Preprocessing and class names that our own runs store with a network; None if there are none.

        Raises:
          UserError: the stored values are invalid.
        """
        if USAGE_KEY not in self.metadata:
            return None
        try:
            return Usage.from_json(self.metadata[USAGE_KEY], self.network.architecture.num_classes)
        except ValueError as error:
            raise UserError(f"{self.path}: its preprocessing metadata is damaged ({error})") from error

    @property
    def usage(self) -> Usage:
        """The stored usage, else the official code's: preprocessing of the registry entry, and ImageNet's class names.

        Raises:
          UserError: the stored values are invalid, or there are none and the network is not in the registry.
        """
        if self.stored_usage is not None:
            return self.stored_usage
        if self.network.name not in MODELS:
            raise UserError(f"{self.path}: no preprocessing metadata, and {self.network.name!r} is not in the registry")
        return usual_usage(self.network)

    @property
    def class_names(self) -> Sequence[str]:
        """One name for each logit; empty if unknown."""
        return self.usage.class_names if self.stored_usage or self.network.name in MODELS else ()


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedDetector:
    """A detector from one of our checkpoints.

    Attributes:
      path: the directory it was read from.
      detector: the detector, in evaluation mode.
      classes: what its labels stand for.
      metadata: the metadata stored with it.
    """

    path: Path
    detector: PyramidDetector
    classes: Classes
    metadata: Mapping[str, Any]

    @property
    def preparation(self) -> CanvasPreparation:
        """Preprocessing of images; the COCO recipe's if the checkpoint stores none.

        Raises:
          UserError: the stored values are invalid.
        """
        try:
            return CanvasPreparation(**self.metadata.get(USAGE_KEY, {}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: its preprocessing metadata is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Anything that classifies images: a network or an exported program.

    Attributes:
      described: its name, form, number of classes and usage.
      forward: normalised images → logits.
      taken: as for `OpenedNetwork`.
    """

    described: Described
    forward: Forward
    taken: str = ""


@dataclasses.dataclass(frozen=True)
class DetectorProgram:
    """Anything that detects objects in images: a detector or an exported program.

    Attributes:
      described: its kind, backbone, classes and preprocessing.
      detect: normalised images on canvases and their sizes → detections.
    """

    described: DescribedDetector
    detect: Detect


def open_weights(
    path: Path,
    *,
    model: str | None = None,
    weights: Weights = "auto",
    num_classes: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    classifier_required: bool = True,
) -> OpenedNetwork | OpenedDetector:
    """Open a network or a detector from a file of any format.

    Args:
      path: a checkpoint directory, a PyTorch file, a pickle of NumPy arrays or a safetensors file.
      model: name of the model in an official file; None to use the name stored in the file.
      weights: which weights of a PyTorch file to load, see `load_torch_checkpoint`.
      num_classes: number of classes of an official file; None to use the size of its classifier.
      overrides: changes to the architecture of an official file.
      classifier_required: False to accept an official file without classifier, for use as a backbone.

    Raises:
      UserError: `path` does not exist, has another format, is damaged, or does not hold the given model; or `weights`
        are to be chosen from a network of ours.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    start_devices()
    is_safetensors = path.suffix == safetensors.SUFFIX and not path.is_dir()
    said = safetensors.read_metadata(path) if is_safetensors else {}
    if weights != "auto" and (path.is_dir() or said):
        raise UserError(f"{path} holds one network, with no choice of weights: leave out --weights")
    if path.is_dir():
        description = read_description(path)
        metadata = description.get("metadata", {})
        if description.get("kind") == DETECTOR:
            return OpenedDetector(path, *load_detector(path), metadata)
        return OpenedNetwork(path, load(path), metadata)
    if path.suffix in PROGRAMS:
        raise UserError(f"{path} is an exported program, for predict only: give the checkpoint it was made from")
    if said:
        return OpenedNetwork(path, safetensors.load_safetensors(path), said)
    checkpoint = safetensors.read_tensors(path) if is_safetensors else read_checkpoint(path)
    chosen = select_state_dict(checkpoint, weights, str(path))
    name = model or _name_in(checkpoint, path)
    usual = architecture_of(name)
    tensors = official_tensors(chosen.tensors, torch_format(usual).classifier, str(path))
    stored = classes_in(tensors, usual)
    architecture = architecture_of(name, stored if num_classes is None else num_classes, overrides)
    try:
        network = model_from_state_dict(
            tensors, architecture, name=name, source=str(path), classifier_required=classifier_required
        )
    except UserError as error:
        if (there := _said_name(checkpoint)) in (None, name):
            raise
        raise UserError(f"{error}; the file says that it holds a {there}: give --model {there}") from error
    return OpenedNetwork(path, network, {}, chosen.taken, has_classifier=stored is not None)


def _said_name(checkpoint: Mapping[str, Any]) -> str | None:
    # The official scripts write "cdnv2_a", "converted_cdnv2_a" or "condensenetv2.cdnv2_a".
    arch = checkpoint.get("arch")
    name = arch.rsplit(".", 1)[-1].removeprefix("converted_") if isinstance(arch, str) else None
    return name if name in MODELS else None


def _name_in(checkpoint: Mapping[str, Any], path: Path) -> str:
    name = _said_name(checkpoint)
    if name is None:
        raise UserError(f"{path} does not say which model it holds: add --model, one of {shorten(list(MODELS))}")
    return name


def stored_metadata(path: Path) -> Mapping[str, Any]:
    """Return the metadata of a checkpoint or safetensors file of ours, without its arrays; empty for other files."""
    if path.is_dir():
        return read_description(path).get("metadata", {})
    return safetensors.read_metadata(path) if path.suffix == safetensors.SUFFIX else {}


def open_network(path: Path, **official: Any) -> OpenedNetwork:
    """Open a classifier as `open_weights` does; UserError for a detector."""
    opened = open_weights(path, **official)
    if isinstance(opened, OpenedDetector):
        raise UserError(f"{path} holds a detector, not a classifier")
    return opened


def open_detector(path: Path) -> OpenedDetector:
    """Open a detector as `open_weights` does; UserError for a classifier."""
    opened = open_weights(path)
    if isinstance(opened, OpenedNetwork):
        raise UserError(f"{path} holds a classifier, not a detector")
    return opened


def open_classifier(
    path: Path, *, model: str | None = None, weights: Weights = "auto", class_names: Sequence[str] = ()
) -> Classifier:
    """Open anything that classifies images as `open_predictor` does; UserError for a detector."""
    opened = open_predictor(path, model=model, weights=weights, class_names=class_names)
    if isinstance(opened, DetectorProgram):
        raise UserError(f"{path} holds a detector, not a classifier")
    return opened


def open_predictor(
    path: Path, *, model: str | None = None, weights: Weights = "auto", class_names: Sequence[str] = ()
) -> Classifier | DetectorProgram:
    """Open a network in any format, or a program written by `main.py export`, to classify or to detect with.

    Args:
      path: the file or directory.
      model: name of the model in an official file that does not store it.
      weights: which weights of a PyTorch file to load, see `load_torch_checkpoint`.
      class_names: names that replace those stored with a classifier.

    Raises:
      UserError: `path` does not exist or is damaged, or `class_names` has the wrong length or is for a detector.
    """
    if path.suffix in PROGRAMS and not path.is_dir():
        if weights != "auto":
            raise UserError(f"{path} holds one network, with no choice of weights: leave out --weights")
        found = _open_program(path)
    else:
        found = _as_program(open_weights(path, model=model, weights=weights))
    if not class_names:
        return found
    if isinstance(found, DetectorProgram):
        raise UserError(f"{path} holds a detector, which has class names of its own: leave out --class-names")
    usage = found.described.usage.with_names(class_names, found.described.num_classes)
    return dataclasses.replace(found, described=dataclasses.replace(found.described, usage=usage))


def _as_program(opened: OpenedNetwork | OpenedDetector) -> Classifier | DetectorProgram:
    if isinstance(opened, OpenedNetwork):
        network = opened.network
        about = Described(network.name, network.form_name, network.architecture.num_classes, opened.usage)
        return Classifier(about, compiled_forward(network), opened.taken)
    settings, backbone = opened.detector.settings, opened.detector.backbone
    described = DescribedDetector(
        settings.kind, backbone.name, backbone.form_name, opened.classes, opened.preparation, settings.score_threshold
    )
    return DetectorProgram(described, compiled_detector(opened.detector))


def _open_program(path: Path) -> Classifier | DetectorProgram:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".stablehlo":
        start_devices()
    read, forward, detect = PROGRAMS[path.suffix]
    values = read(path)
    if values.get("kind") == "detector":
        return DetectorProgram(described_detector(values, str(path)), detect(path))
    return Classifier(described(values, str(path)), forward(path))
