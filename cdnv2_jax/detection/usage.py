"""How images are prepared for a trained detector, as one value that is kept beside it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.checkpoint.arrays import read_description
from cdnv2_jax.data.image_preparation import IMAGENET
from cdnv2_jax.data.normalise import normalise
from cdnv2_jax.detection.config import DetectionData
from cdnv2_jax.detection.data.canvas import LONG_SIDE, SHORT_SIDE, canvas_size, resize, resized_size
from cdnv2_jax.errors import UserError

KEY = "usage"
LARGEST_SIDE = 8192


@dataclasses.dataclass(frozen=True)
class CanvasPreparation:
    """What evaluation does to an image: resized, normalised, put at the top left of a canvas of zeros.

    Attributes:
      short_side, long_side: an image is scaled until one of them is reached, pixels.
      mean, std: of each channel, for pixels in [0, 1].
    """

    short_side: int = SHORT_SIDE
    long_side: int = LONG_SIDE
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def __post_init__(self):
        sides = (self.short_side, self.long_side)
        if not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"sides {sides}")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                raise ValueError(f"{name} {values}")
            object.__setattr__(self, name, values)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of what landscape images are put on."""
        return canvas_size(True, self.short_side, self.long_side)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for metadata: {"usage": preparation.to_json()} is what `preparation_of` looks for."""
        return dataclasses.asdict(self)

    def __call__(self, image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [h, w, 3] → (float32 [*canvas, 3], int32 [2]: height and width of the image on it).

        An image that would be larger than the canvas, such as a portrait on a landscape one, is made to fit.
        """
        height, width = resized_size(image.shape[0], image.shape[1], self.short_side, self.long_side)
        shrink = min(1.0, canvas[0] / height, canvas[1] / width)
        size = (max(int(height * shrink), 1), max(int(width * shrink), 1))
        resized, _ = resize(image, size)
        placed = np.zeros((*canvas, 3), np.float32)
        placed[: size[0], : size[1]] = normalise(resized, self.mean, self.std)
        return placed, np.array(size, np.int32)


def usage_in(data: DetectionData) -> CanvasPreparation:
    """What a config says."""
    return CanvasPreparation(data.short_side, data.long_side, data.mean, data.std)


def preparation_of(path: Path) -> CanvasPreparation:
    """That of the detector at `path`, a checkpoint; where it does not say, that of COCO's recipe.

    Raises:
      UserError: it says something that cannot be.
    """
    said: Mapping[str, Any] = read_description(path).get("metadata", {}).get(KEY, {})
    try:
        return CanvasPreparation(**said)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: how to use the detector is not said as it should be ({error})") from error
