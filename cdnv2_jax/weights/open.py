"""Opening of weight files of any format: the only module that knows all formats and their contents.

Formats: our own checkpoints (directories) of classifiers and detectors, PyTorch files, safetensors in either layout,
and exported programs (ONNX and StableHLO).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.networks.family import MODELS, build_network
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights import programs, safetensors
from cdnv2_jax.weights.checkpoint import DETECTOR, load, load_detector, read_description
from cdnv2_jax.weights.metadata import USAGE_KEY, Described, Usage, described, parse_metadata, usual_preparation
from cdnv2_jax.weights.programs import Forward, compiled_forward
from cdnv2_jax.weights.state_dicts import Weights, official_tensors, select_state_dict
from cdnv2_jax.weights.torch_file import classes_in, model_from_state_dict, torch_format
from cdnv2_jax.weights.torch_reading import read_checkpoint

PROGRAMS = {
    ".onnx": (programs.read_onnx_metadata, programs.onnx_forward),
    ".stablehlo": (programs.read_stablehlo_metadata, programs.stablehlo_forward),
}
"""Suffix of an exported program → functions that read its metadata as text and load it as a `Forward`."""


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
    def usage(self) -> Usage:
        """Preprocessing and class names.

        Networks from our own runs store them. Others use the preprocessing of their registry entry and of the official
        code, without class names.

        Raises:
          UserError: the stored values are invalid, or there are none and the network is not in the registry.
        """
        if USAGE_KEY in self.metadata:
            try:
                return Usage.from_json(self.metadata[USAGE_KEY], self.network.architecture.num_classes)
            except ValueError as error:
                raise UserError(f"{self.path}: its preprocessing metadata is damaged ({error})") from error
        if self.network.name not in MODELS:
            raise UserError(f"{self.path}: no preprocessing metadata, and {self.network.name!r} is not in the registry")
        return Usage(usual_preparation(self.network))


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
      UserError: `path` does not exist, has another format, is damaged, or does not hold the given model.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_dir():
        description = read_description(path)
        metadata = description.get("metadata", {})
        if description.get("kind") == DETECTOR:
            return OpenedDetector(path, *load_detector(path), metadata)
        return OpenedNetwork(path, load(path), metadata)
    if path.suffix in PROGRAMS:
        raise UserError(f"{path} is an exported program, for predict only: give the checkpoint it was made from")
    is_safetensors = path.suffix == safetensors.SUFFIX
    if is_safetensors and (said := safetensors.read_metadata(path)):
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
        if (said := _said_name(checkpoint)) in (None, name):
            raise
        raise UserError(f"{error}; the file says that it holds a {said}: give --model {said}") from error
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
        network = opened.network
        about = Described(network.name, network.form_name, network.architecture.num_classes, opened.usage)
        found = Classifier(about, compiled_forward(network), opened.taken)
    if not class_names:
        return found
    usage = found.described.usage.with_names(class_names, found.described.num_classes)
    return dataclasses.replace(found, described=dataclasses.replace(found.described, usage=usage))


def _open_program(path: Path) -> Classifier:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    read, run = PROGRAMS[path.suffix]
    return Classifier(described(parse_metadata(read(path), str(path)), str(path)), run(path))


def network_from(
    path: Path,
    *,
    name: str,
    num_classes: int | None,
    overrides: Mapping[str, Any],
    dtype: DTypeLike,
    seed: int,
    fields: tuple[str, str] = ("config.model.checkpoint", "config.model.name"),
) -> Network:
    """Load the network at `path` as a starting point for training, with `num_classes` logits.

    The classifier is re-initialised if the checkpoint has another number of classes, or none.

    Args:
      path: checkpoint, ours (of any architecture with that `name`) or official, masked or condensed.
      name: name of the model in an official file; our own checkpoints must store this name.
      num_classes: number of classes; None to keep the checkpoint's, or for the usual number if it has no classifier.
      overrides: changes to the architecture of an official file; our own checkpoints store theirs.
      dtype: dtype of the computation.
      seed: seed of a re-initialised classifier.
      fields: what messages call `path` and `name`.

    Raises:
      UserError: there is no such checkpoint, it holds another model, or its classifier cannot be replaced.
    """
    opened = open_network(path, model=name, overrides=overrides, classifier_required=False)
    found = opened.network
    where, called = fields
    if found.name != name:
        raise UserError(f"{where} {path} holds a {found.name}, but {called} is {name}")
    a = found.architecture
    if num_classes is None:
        num_classes = a.num_classes
    if a.num_classes != num_classes and found.form.halved_classifier:
        raise UserError(
            f"{where} {path} has a halved classifier, which cannot be replaced: "
            f"use the masked network, or config.model.num_classes {a.num_classes}"
        )
    model = build_network(
        a.override({"num_classes": num_classes}), found.form, name=name, dtype=dtype, rngs=nnx.Rngs(seed)
    )
    kept = nnx.to_flat_state(nnx.state(found))
    if a.num_classes != num_classes or not opened.has_classifier:
        kept = [(place, variable) for place, variable in kept if place[0] != "classifier"]
    nnx.update(model, nnx.from_flat_state(kept))
    return model
