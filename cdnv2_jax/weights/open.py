"""Opening of weight files of any format: the only module that knows all formats and their contents.

Formats: our own checkpoints (directories) of classifiers and detectors, PyTorch files, safetensors in either layout,
and exported programs (ONNX and StableHLO).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.devices import start_devices
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.networks.family import MODELS
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights import programs, safetensors
from cdnv2_jax.weights.checkpoint import DETECTOR, USAGE_KEY, load, load_detector, read_description
from cdnv2_jax.weights.metadata import Described, described, usage_of
from cdnv2_jax.weights.programs import Forward, compiled_forward
from cdnv2_jax.weights.state_dicts import Weights, official_tensors, select_state_dict
from cdnv2_jax.weights.torch_file import channels_in, classes_in, model_from_state_dict, torch_format
from cdnv2_jax.weights.torch_reading import read_checkpoint

PROGRAMS = {
    ".onnx": (programs.read_onnx_metadata, programs.onnx_forward),
    ".stablehlo": (programs.read_stablehlo_metadata, programs.stablehlo_forward),
}
"""Suffix of an exported program → functions that read its metadata and load it as a `Forward`."""


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

    @property
    def usage(self) -> Usage:
        """Preprocessing and class names; UserError if they are unknown, see `usage_of`."""
        return usage_of(self.network, str(self.path))

    @property
    def class_names(self) -> Sequence[str]:
        """One name for each logit; empty if unknown."""
        return self.usage.class_names if self.network.usage or self.network.name in MODELS else ()


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
    overrides = {"in_channels": channels_in(tensors, usual), **(overrides or {})}
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
    """Open anything that classifies images: a network in any format, or a program written by `main.py export`.

    Args:
      path: the file or directory.
      model: name of the model in an official file that does not store it.
      weights: which weights of a PyTorch file to load, see `load_torch_checkpoint`.
      class_names: names that replace those stored in the file.

    Raises:
      UserError: `path` does not exist, is damaged or holds a detector, or `class_names` has the wrong length.
    """
    if path.suffix in PROGRAMS and not path.is_dir():
        found = _open_program(path)
    else:
        opened = open_network(path, model=model, weights=weights)
        found = classifier_of(opened.network, str(path), opened.taken)
    if not class_names:
        return found
    usage = found.described.usage.with_names(class_names, found.described.num_classes)
    return dataclasses.replace(found, described=dataclasses.replace(found.described, usage=usage))


def classifier_of(network: Network, source: str = "", taken: str = "") -> Classifier:
    """Return a network in evaluation mode as a `Classifier`; UserError if its usage is unknown, see `usage_of`."""
    classes, usage = network.architecture.num_classes, usage_of(network, source)
    return Classifier(Described(network.name, network.form_name, classes, usage), compiled_forward(network), taken)


def _open_program(path: Path) -> Classifier:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".stablehlo":
        start_devices()
    read, run = PROGRAMS[path.suffix]
    return Classifier(described(read(path), str(path)), run(path))
