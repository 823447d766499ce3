"""Opening a file of weights of any kind: the one place that knows which kinds there are and what is in them.

Kinds: our own checkpoints (directories) of classifiers and detectors, PyTorch files, safetensors in either layout, and
the exported programs, ONNX and StableHLO.
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
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import MODELS, build_network
from cdnv2_jax.networks.network import Architecture, Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights import programs, safetensors
from cdnv2_jax.weights.checkpoint import DETECTOR, load, load_detector, read_description
from cdnv2_jax.weights.metadata import USAGE_KEY, Described, Usage, described, parse_metadata, usual_preparation
from cdnv2_jax.weights.programs import Forward, compiled_forward
from cdnv2_jax.weights.torch_file import (
    Weights,
    model_from_state_dict,
    read_checkpoint,
    select_state_dict,
    torch_format,
    without_module_prefix,
)

PROGRAMS = {
    ".onnx": (programs.read_onnx_metadata, programs.onnx_forward),
    ".stablehlo": (programs.read_stablehlo_metadata, programs.stablehlo_forward),
}
"""Ending of an exported program → how its metadata is read, as text, and how it is run."""


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedNetwork:
    """A classifier as a network, from a checkpoint, a PyTorch file or safetensors.

    Attributes:
      path: where it comes from.
      network: in evaluation mode.
      metadata: what the file says beside it.
    """

    path: Path
    network: Network
    metadata: Mapping[str, Any]

    @cached_property
    def usage(self) -> Usage:
        """How images are prepared and what the classes are called.

        Networks of our own runs say it themselves; others are used as their registry entry says and the official code
        does.

        Raises:
          UserError: the file says something impossible, or nothing while the network is not in the registry.
        """
        if USAGE_KEY in self.metadata:
            try:
                return Usage.from_json(self.metadata[USAGE_KEY], self.network.architecture.num_classes)
            except ValueError as error:
                raise UserError(f"{self.path}: its preprocessing metadata is damaged ({error})") from error
        if self.network.name not in MODELS:
            raise UserError(f"{self.path}: nothing says how images are prepared for {self.network.name!r}")
        return Usage(usual_preparation(self.network))


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedDetector:
    """A detector from one of our checkpoints.

    Attributes:
      path: where it comes from.
      detector: in evaluation mode.
      classes: what its labels stand for.
      metadata: what the checkpoint says beside it.
    """

    path: Path
    detector: PyramidDetector
    classes: Classes
    metadata: Mapping[str, Any]

    @property
    def preparation(self) -> CanvasPreparation:
        """How images are prepared; that of COCO's recipe where the checkpoint does not say.

        Raises:
          UserError: the checkpoint says something impossible.
        """
        try:
            return CanvasPreparation(**self.metadata.get(USAGE_KEY, {}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: its preprocessing metadata is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Anything that classifies, a network or an exported program.

    Attributes:
      described: its name, form, number of classes, and how it is used.
      forward: normalised images → logits.
    """

    described: Described
    forward: Forward


def open_weights(
    path: Path,
    *,
    model: str | None = None,
    weights: Weights = "auto",
    num_classes: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> OpenedNetwork | OpenedDetector:
    """Opens a network or a detector of any kind of file.

    Args:
      path: a checkpoint directory, a PyTorch file or a safetensors file.
      model: what an official file holds; None to go by the name that the file itself gives.
      weights: which of a PyTorch file's, see `load_torch_checkpoint`.
      num_classes: of an official file; None for as many as its classifier has.
      overrides: of the architecture of an official file.

    Raises:
      UserError: nothing there, not such a file, damaged, or not what it is said to be.
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
        raise UserError(f"{path} is an exported program: only predict runs it; give the checkpoint it was made from")
    said: Mapping[str, Any] = {}
    if path.suffix == safetensors.SUFFIX:
        if said := safetensors.read_metadata(path):
            return OpenedNetwork(path, safetensors.load_safetensors(path), said)
        name = model or _name_in({}, path)
        tensors: Mapping[str, Any] = safetensors.read_tensors(path)
    else:
        checkpoint = read_checkpoint(path)
        name = model or _name_in(checkpoint, path)
        tensors = select_state_dict(checkpoint, weights, str(path))
    if num_classes is None:
        num_classes = _classes_in(tensors, architecture_of(name))
    architecture = architecture_of(name, num_classes, overrides)
    return OpenedNetwork(path, model_from_state_dict(tensors, architecture, name=name, source=str(path)), said)


def _classes_in(tensors: Mapping[str, Any], architecture: Architecture) -> int | None:
    """As many as the classifier has outputs; None without a plausible one, which is then complained about elsewhere."""
    for key in torch_format(architecture).classifier:
        shape: Any = getattr(without_module_prefix(tensors).get(key), "shape", ())
        if len(shape) in (1, 2) and shape[0]:
            return int(shape[0])
    return None


def _name_in(checkpoint: Mapping[str, Any], path: Path) -> str:
    # The official scripts write "cdnv2_a", "converted_cdnv2_a" or "condensenetv2.cdnv2_a".
    name = str(checkpoint.get("arch", "")).rsplit(".", 1)[-1].removeprefix("converted_")
    if name not in MODELS:
        raise UserError(f"{path} does not say which model it holds: add --model, one of {', '.join(MODELS)}")
    return name


def open_network(path: Path, **official: Any) -> OpenedNetwork:
    """`open_weights` of a classifier; UserError for a detector."""
    opened = open_weights(path, **official)
    if isinstance(opened, OpenedDetector):
        raise UserError(f"{path} holds a detector, not a classifier")
    return opened


def open_detector(path: Path) -> OpenedDetector:
    """`open_weights` of a detector; UserError for a classifier."""
    opened = open_weights(path)
    if isinstance(opened, OpenedNetwork):
        raise UserError(f"{path} holds a classifier, not a detector")
    return opened


def open_classifier(path: Path, *, model: str | None = None, class_names: Sequence[str] = ()) -> Classifier:
    """Opens whatever classifies images: a network of any kind, or a program that `main.py export` wrote.

    Args:
      path: of the file or directory.
      model: what an official file holds that does not say it.
      class_names: in the place of those that it knows itself.

    Raises:
      UserError: nothing there, damaged, of a detector, or another number of names than of classes.
    """
    if path.suffix in PROGRAMS and not path.is_dir():
        found = _open_program(path)
    else:
        opened = open_network(path, model=model)
        network = opened.network
        about = Described(network.name, network.form_name, network.architecture.num_classes, opened.usage)
        found = Classifier(about, compiled_forward(network))
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
    """The network at `path` as a starting point of training, with `num_classes` logits.

    Its classifier is re-initialised where the file's has another number of classes.

    Args:
      path: checkpoint, ours (of any architecture that goes by `name`) or official, masked or condensed.
      name: what an official file holds; one of ours must go by that name.
      num_classes: None for as many as it has.
      overrides: of an official file; one of ours knows its architecture.
      dtype: of the computation.
      seed: of a new classifier.
      fields: what messages call `path` and `name`.

    Raises:
      UserError: no such checkpoint, one of another model, or one whose classifier cannot be replaced.
    """
    found = open_network(path, model=name, overrides=overrides).network
    where, called = fields
    if found.name != name:
        raise UserError(f"{where} {path} holds a {found.name}, {called} is {name}")
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
    if a.num_classes != num_classes:
        kept = [(place, variable) for place, variable in kept if place[0] != "classifier"]
    nnx.update(model, nnx.from_flat_state(kept))
    return model
