"""What detectors take and give."""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """The true objects of a batch of images, padded to the same number m.

    Attributes:
      boxes: float32 [b, m, 4], x1, y1, x2, y2 in pixels of the canvas; zeros where not valid.
      labels: int32 [b, m], from 0.
      valid: bool [b, m].
    """

    boxes: jax.Array
    labels: jax.Array
    valid: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in a batch of images, best first, padded to the same number n.

    Attributes:
      boxes: float32 [b, n, 4], x1, y1, x2, y2 in pixels of the canvas, within the image.
      scores: float32 [b, n], in [0, 1]. labels: int32 [b, n], from 0.
      valid: bool [b, n].
      truncated: bool [b], whether a limit on candidates could have changed the result.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    truncated: jax.Array


def with_area(targets: Targets) -> Targets:
    """The same without the objects of no area, which no box could be trained towards."""
    width, height = (targets.boxes[..., 2 + axis] - targets.boxes[..., axis] for axis in (0, 1))
    return dataclasses.replace(targets, valid=targets.valid & (width > 0) & (height > 0))
