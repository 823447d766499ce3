"""The metadata of exported files, and how a network is used for which nothing is stored."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cdnv2_jax.bounded_reading import parse_json
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.data.preparation import CIFAR10, CIFAR100, IMAGENET, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.detectors.cost import PartCost
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.networks.family import MODELS, count_flops
from cdnv2_jax.networks.network import MOST_CLASSES, Network
from cdnv2_jax.versions import written_by
from cdnv2_jax.weights.checkpoint import USAGE_KEY
from cdnv2_jax.weights.checksums import is_unsealed, seal_fault


@dataclasses.dataclass(frozen=True)
class Described:
    """Name, form, classes and usage of a classifier.

    Attributes:
      name: the network's name.
      form: "masked", "condensed" or "plain".
      num_classes: number of logits.
      usage: preprocessing and class names.
      flops: of one image, official count; None where it is not stored.
      params: likewise.
    """

    name: str
    form: str
    num_classes: int
    usage: Usage
    flops: int | None = None
    params: int | None = None


@dataclasses.dataclass(frozen=True)
class DescribedDetector:
    """Kind, backbone, classes and preprocessing of a detector.

    Attributes:
      kind: "retinanet" or "faster_rcnn".
      name: the backbone's name.
      form: the backbone's form: "masked", "condensed" or "plain".
      classes: what its labels stand for.
      preparation: preprocessing of images.
      score_threshold: least score of its detections.
      canvas: height and width of the only canvas that it takes; None for one of each orientation.
    """

    kind: str
    name: str
    form: str
    classes: Classes
    preparation: CanvasPreparation
    score_threshold: float
    canvas: tuple[int, int] | None = None

    def canvas_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the canvas for an image of that size."""
        return self.canvas or self.preparation.canvas_of(height, width)


def classifier_metadata(network: Network) -> dict[str, Any]:
    """Return JSON values: name, form, number of classes, cost for one image (official count), usage, writer."""
    usage = usage_of(network)
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
    """Return JSON values: kind, backbone, classes, canvas (height, width), least score, cost for one image, usage,
    writer."""
    return {
        "kind": "detector",
        "detector": detector.settings.kind,
        "name": detector.backbone.name,
        "form": detector.backbone.form_name,
        "num_classes": detector.settings.num_classes,
        "canvas": list(canvas),
        "score_threshold": detector.settings.score_threshold,
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
        cost = [values[key] for key in ("flops", "params")]
        if not all(type(count) is int and count >= 0 for count in cost):
            raise ValueError("flops or params")
        return Described(name, form, classes, Usage.from_json(values[USAGE_KEY], classes), *cost)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its metadata is invalid ({one_line(error)})") from error


def usage_of(network: Network, source: str = "") -> Usage:
    """Return what is stored with a network, else the official code's usage of its registry entry.

    Args:
      network: any classifier.
      source: where it comes from, for messages.

    Raises:
      UserError: nothing is stored and the network is not in the registry, or images have other channels.
    """
    where, channels = f"{source}: " if source else "", network.architecture.in_channels
    if network.usage is None and network.name not in MODELS:
        raise UserError(f"{where}no preprocessing metadata, and {network.name!r} is not in the registry: set its usage")
    usage = network.usage or usual_usage(network)
    if (known := len(usage.preparation.mean)) != channels:
        raise UserError(
            f"{where}its preprocessing is for images of {known} channels, the network is for {channels}: set its "
            f"usage, with {channels} means and standard deviations"
        )
    return usage


def described_detector(values: Mapping[str, Any], source: str) -> DescribedDetector:
    """Return an exported detector's metadata, checked; UserError, naming `source`, if it is invalid."""
    try:
        kind, name, form, classes = (values[key] for key in ("detector", "name", "form", "num_classes"))
        canvas, threshold, usage = tuple(values["canvas"]), values["score_threshold"], values[USAGE_KEY]
        names, ids = usage["class_names"], usage["category_ids"]
        if not (isinstance(name, str) and isinstance(form, str) and kind in ("retinanet", "faster_rcnn")):
            raise ValueError("detector, name or form")
        if not (type(classes) is int and len(names) == len(ids) == classes > 0):
            raise ValueError(f"{len(names)} names and {len(ids)} ids for {classes} classes")
        if not all(type(one) in (int, str) for one in ids):
            raise ValueError("category_ids must be numbers or text")
        if not (len(canvas) == 2 and all(type(side) is int and side in range(32, 8193, 32) for side in canvas)):
            raise ValueError(f"canvas {canvas}")
        if not (type(threshold) in (int, float) and 0 <= threshold <= 1):
            raise ValueError(f"score_threshold {threshold}")
        preparation = CanvasPreparation(**usage["preparation"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its metadata is invalid ({one_line(error)}): export it again") from error
    return DescribedDetector(kind, name, form, Classes(names, ids), preparation, threshold, canvas)


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
