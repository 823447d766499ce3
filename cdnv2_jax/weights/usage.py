"""What one has to know to use a trained classifier: how images are prepared and what its classes are called."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdnv2_jax.data.preparation import CIFAR10, CIFAR100, IMAGENET, ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.networks.zoo import MODELS
from cdnv2_jax.weights import safetensors
from cdnv2_jax.weights.checkpoint import load_metadata

KEY = "usage"


@dataclasses.dataclass(frozen=True)
class Usage:
    """Attributes: preparation of images; class_names, one for each logit, or none where nobody knows them."""

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


def usage_of(path: Path, network: AnyNetwork) -> Usage:
    """How to use the network that was loaded from `path`.

    Networks of our own runs say it themselves; others are used as their registry entry says and the official code does.

    Raises:
      UserError: it says something that cannot be, or nothing and is not in the registry.
    """
    said = _said(path)
    if KEY in said:
        try:
            return Usage.from_json(said[KEY], network.architecture.num_classes)
        except ValueError as error:
            raise UserError(f"{path}: how to use the network is not said as it should be ({error})") from error
    if network.name not in MODELS:
        raise UserError(f"{path}: nothing says how images are prepared for {network.name!r}")
    return Usage(usual_preparation(network))


def _said(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        return load_metadata(path).get("metadata", {})
    return safetensors.read_metadata(path) if path.suffix == safetensors.SUFFIX else {}


def usual_preparation(network: AnyNetwork) -> ImagePreparation:
    """What the official code does to images for such a network: of ImageNet, or else of CIFAR-10 or CIFAR-100."""
    entry = MODELS[network.name]
    if entry.image_size > 32:
        return ImagePreparation(entry.image_size, "centre", entry.interpolation, *IMAGENET)
    statistics = CIFAR10 if network.architecture.num_classes == 10 else CIFAR100
    return ImagePreparation(entry.image_size, "whole", entry.interpolation, *statistics)
