"""What a classifier needs to be used: the preprocessing of images and the names of classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cdnv2_jax.data.class_names import listed, readable
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.errors import UserError


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

    def __repr__(self) -> str:  # printing a network prints its usage, too
        return f"Usage({self.preparation}, {len(self.class_names)} class names: {listed(self.class_names)})"

    def name_of(self, label: int) -> str:
        """Return the name of a class, in words for a WordNet id of ImageNet; "class 7" if the names are unknown."""
        return readable(self.class_names[label]) if self.class_names else f"class {label}"

    def with_names(self, class_names: Sequence[str], num_classes: int) -> "Usage":
        """Return a copy with other class names; UserError unless there is one for each class."""
        if len(class_names) != num_classes:
            raise UserError(f"{len(class_names)} names for {num_classes} classes: give one for each, in label order")
        return dataclasses.replace(self, class_names=class_names)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` builds an equal one."""
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
