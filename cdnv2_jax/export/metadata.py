"""What an exported file says about itself: the same JSON in all formats."""

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cdnv2_jax.detection.checkpoint import Classes
from cdnv2_jax.detection.cost import PartCost
from cdnv2_jax.detection.data.canvas import CanvasPreparation
from cdnv2_jax.detection.detector import PyramidDetector
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.networks.cost import count_flops
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.weights.safetensors import KEY
from cdnv2_jax.weights.usage import KEY as USAGE
from cdnv2_jax.weights.usage import Usage

__all__ = ["KEY", "Described", "classifier_metadata", "described", "detector_metadata", "parse_metadata", "written_by"]

FORMAT = 1
PACKAGE = "cdnv2-jax"


@dataclasses.dataclass(frozen=True)
class Described:
    """What is read of the metadata of a classifier that nobody vouches for.

    Attributes:
      name: of the network, in the registry. form: "masked", "condensed" or "plain". num_classes: logits.
      usage: how images are prepared, and what the classes are called.
    """

    name: str
    form: str
    num_classes: int
    usage: Usage


def classifier_metadata(network: AnyNetwork, usage: Usage) -> dict[str, Any]:
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
        USAGE: usage.to_json(),
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
        USAGE: {"preparation": dataclasses.asdict(preparation), **_class_lists(classes)},
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
        return Described(name, form, classes, Usage.from_json(values[USAGE], classes))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its metadata is not as it should be ({one_line(error)})") from error
