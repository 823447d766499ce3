"""What a file of weights says about its network: how images are prepared, what classes are called, who wrote it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.preparation import CIFAR10, CIFAR100, IMAGENET, ImagePreparation
from cdnv2_jax.detectors.cost import PartCost
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.networks.family import MODELS, count_flops
from cdnv2_jax.networks.network import Network

USAGE_KEY = "usage"
"""Key of the usage in a checkpoint's metadata and in an exported file's."""

FORMAT = 1
PACKAGE = "cdnv2-jax"


@dataclasses.dataclass(frozen=True)
class Usage:
    """How a classifier is used.

    Attributes:
      preparation: of images.
      class_names: one for each logit, or none where they are unknown.
    """

    preparation: ImagePreparation
    class_names: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))

    def name_of(self, label: int) -> str:
        """The class's name, or "class 7"."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def with_names(self, class_names: Sequence[str], num_classes: int) -> "Usage":
        """The same with other names of classes; UserError when there are not as many as classes."""
        if len(class_names) != num_classes:
            raise UserError(f"{len(class_names)} names for {num_classes} classes: give one for each, in their order")
        return dataclasses.replace(self, class_names=class_names)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for metadata: {"usage": usage.to_json()} is what `usage_of` looks for."""
        return {"preparation": dataclasses.asdict(self.preparation), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], num_classes: int) -> "Usage":
        """The reverse; ValueError when it is none for so many classes."""
        try:
            usage = cls(ImagePreparation(**values["preparation"]), values["class_names"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no preparation of images and names of classes: {error}") from error
        if usage.class_names and len(usage.class_names) != num_classes:
            raise ValueError(f"{len(usage.class_names)} names for {num_classes} classes")
        return usage


@dataclasses.dataclass(frozen=True)
class Described:
    """What is read of the metadata of a classifier that nobody vouches for.

    Attributes:
      name: of the network, in the registry.
      form: "masked", "condensed" or "plain".
      num_classes: logits.
      usage: how images are prepared, and what the classes are called.
    """

    name: str
    form: str
    num_classes: int
    usage: Usage


def classifier_metadata(network: Network, usage: Usage) -> dict[str, Any]:
    """JSON values: name, form, classes, cost for one image (official count), usage, who wrote it."""
    cost = count_flops(network, usage.preparation.size)
    return {
        "format": FORMAT,
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
    """JSON values: kind, backbone, classes, canvas (height, width), cost for one image on it, usage, who wrote it."""
    return {
        "format": FORMAT,
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


def written_by() -> str:
    """ "cdnv2-jax 0.1.0"; without the number where the code was not installed."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE


def parse_metadata(text: str, source: str) -> dict[str, Any]:
    """JSON → the values of a file of this project; UserError, which names `source`, when it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: its metadata is no JSON ({one_line(error)})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{source}: its metadata is not that of a file which `main.py export` wrote")
    return values


def described(values: Mapping[str, Any], source: str) -> Described:
    """A classifier's metadata, checked.

    Raises:
      UserError: it names `source`; of a detector, or something that cannot be.
    """
    if values.get("kind") != "classifier":
        raise UserError(f"{source} holds a {values.get('kind')}, not a classifier")
    try:
        name, form, classes = values["name"], values["form"], values["num_classes"]
        if not (isinstance(name, str) and isinstance(form, str) and isinstance(classes, int) and classes > 0):
            raise ValueError("name, form and number of classes")
        return Described(name, form, classes, Usage.from_json(values[USAGE_KEY], classes))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its metadata is not as it should be ({one_line(error)})") from error


def usual_preparation(network: Network) -> ImagePreparation:
    """What the official code does to images for such a network: of ImageNet, or else of CIFAR-10 or CIFAR-100."""
    entry = MODELS[network.name]
    if entry.image_size > 32:
        return ImagePreparation(entry.image_size, "centre", entry.interpolation, *IMAGENET)
    statistics = CIFAR10 if network.architecture.num_classes == 10 else CIFAR100
    return ImagePreparation(entry.image_size, "whole", entry.interpolation, *statistics)
