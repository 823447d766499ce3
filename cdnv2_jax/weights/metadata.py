"""The metadata stored with weights: preprocessing, class names and the version of this package that wrote them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cdnv2_jax.bounded_reading import parse_json
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.class_names import imagenet_classes, readable
from cdnv2_jax.data.preparation import CIFAR10, CIFAR100, IMAGENET, ImagePreparation
from cdnv2_jax.detectors.cost import PartCost
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.networks.family import MODELS, count_flops
from cdnv2_jax.networks.network import MOST_CLASSES, Network
from cdnv2_jax.versions import written_by
from cdnv2_jax.weights.checksums import is_unsealed, seal_fault

USAGE_KEY = "usage"
"""Key of the `Usage` in the metadata of checkpoints and of exported files."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Preprocessing and class names of a classifier.

    Attributes:
      preparation: preprocessing of images.
      class_names: one for each logit; empty if unknown.
    """

    preparation: ImagePreparation
    class_names: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))

    def name_of(self, label: int) -> str:
        """Return the name of a class, in words for a WordNet id of ImageNet; "class 7" if the names are unknown."""
        return readable(self.class_names[label]) if self.class_names else f"class {label}"

    def with_names(self, class_names: Sequence[str], num_classes: int) -> "Usage":
        """Return a copy with other class names; UserError unless there is one for each class."""
        if len(class_names) != num_classes:
            raise UserError(f"{len(class_names)} names for {num_classes} classes: give one for each, in label order")
        return dataclasses.replace(self, class_names=class_names)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, to be stored in metadata under `USAGE_KEY`."""
        return {"preparation": dataclasses.asdict(self.preparation), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], num_classes: int) -> "Usage":
        """Build a `Usage` from JSON values; ValueError if they are invalid or do not fit the number of classes."""
        try:
            usage = cls(ImagePreparation(**values["preparation"]), values["class_names"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"invalid preprocessing or class names: {error}") from error
        if usage.class_names and len(usage.class_names) != num_classes:
            raise ValueError(f"{len(usage.class_names)} names for {num_classes} classes")
        return usage


@dataclasses.dataclass(frozen=True)
class Described:
    """Name, form, classes and usage of a classifier.

    Attributes:
      name: the network's name.
      form: "masked", "condensed" or "plain".
      num_classes: number of logits.
      usage: preprocessing and class names.
    """

    name: str
    form: str
    num_classes: int
    usage: Usage


def classifier_metadata(network: Network, usage: Usage) -> dict[str, Any]:
    """Return JSON values: name, form, number of classes, cost for one image (official count), usage, writer."""
    cost = count_flops(network, usage.preparation.size)
    return {
        "kind": "classifier",
        "name": network.name,
        "form": network.form_name,
        "num_classes": network.architecture.num_classes,
        "flops": cost.flops,
        "params": cost.params,
        USAGE_KEY: usage.to_json(),
        "written_by": written_by(),
    }


def detector_metadata(
    detector: PyramidDetector,
    classes: Classes,
    preparation: CanvasPreparation,
    canvas: tuple[int, int],
    cost: PartCost,
) -> dict[str, Any]:
    """Return JSON values: kind, backbone, classes, canvas (height, width), cost for one image, usage, writer."""
    return {
        "kind": "detector",
        "detector": detector.settings.kind,
        "name": detector.backbone.name,
        "form": detector.backbone.form_name,
        "num_classes": detector.settings.num_classes,
        "canvas": list(canvas),
        **dataclasses.asdict(cost),
        USAGE_KEY: {"preparation": dataclasses.asdict(preparation), **_class_lists(classes)},
        "written_by": written_by(),
    }


def _class_lists(classes: Classes) -> dict[str, Any]:
    return {"class_names": list(classes.names), "category_ids": list(classes.category_ids)}


def parse_metadata(text: str, source: str) -> dict[str, Any]:
    """Parse the sealed JSON metadata of an exported program; UserError, naming `source`, if it is damaged."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise UserError(f"{source}: its metadata is not valid JSON ({one_line(error)})") from error
    if not isinstance(values, dict) or is_unsealed(values):
        raise UserError(f"{source}: its metadata was not written by this `cdnv2 export`: export it again")
    if fault := seal_fault(values):
        raise UserError(f"{source} is damaged ({fault}): export it again")
    return values


def described(values: Mapping[str, Any], source: str) -> Described:
    """Return a classifier's metadata, checked; UserError, naming `source`, if it is a detector's or is invalid."""
    if values.get("kind") != "classifier":
        raise UserError(f"{source} holds a {values.get('kind')}, not a classifier")
    try:
        name, form, classes = values["name"], values["form"], values["num_classes"]
        if not (
            isinstance(name, str) and isinstance(form, str) and type(classes) is int and 0 < classes <= MOST_CLASSES
        ):
            raise ValueError("name, form or num_classes")
        return Described(name, form, classes, Usage.from_json(values[USAGE_KEY], classes))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its metadata is invalid ({one_line(error)})") from error


def usual_usage(network: Network) -> Usage:
    """Return the official code's usage of a network in the registry: class names are known for ImageNet's 1,000."""
    of_imagenet = MODELS[network.name].image_size > 32 and network.architecture.num_classes == len(imagenet_classes())
    return Usage(usual_preparation(network), tuple(imagenet_classes().values()) if of_imagenet else ())


def usual_preparation(network: Network) -> ImagePreparation:
    """Return the official code's preprocessing for a network: ImageNet's, CIFAR-10's or CIFAR-100's."""
    entry = MODELS[network.name]
    if entry.image_size > 32:
        return ImagePreparation(entry.image_size, "centre", entry.interpolation, *IMAGENET)
    statistics = CIFAR10 if network.architecture.num_classes == 10 else CIFAR100
    return ImagePreparation(entry.image_size, "whole", entry.interpolation, *statistics)
