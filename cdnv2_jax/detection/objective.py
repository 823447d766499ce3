"""What training a detector minimises, and what it is given for it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.detection.detector import Targets
from cdnv2_jax.training.step import Batch, Metrics


@dataclasses.dataclass(frozen=True)
class DetectionObjective:
    """The sum of a detector's losses, each measured by its name and all of them together as "loss"."""

    ema_decay: float = 0.0
    accumulate: int = 1

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        """What to minimise, and what to show, for a batch as `DetectionPreprocessing` makes it."""
        targets = Targets(batch["boxes"], batch["labels"], batch["valid"])
        losses = model.losses(batch["image"], batch["size"], targets, batch["key"][0])
        loss = jnp.stack(list(losses.values())).sum()
        return loss, {"loss": loss, **losses}


@dataclasses.dataclass(frozen=True)
class DetectionPreprocessing:
    """A batch as the host made it → what a train step takes; a pure function of seed, step and batch."""

    normalisation: Normalisation
    seed: int

    def __call__(self, batch: Batch, step: jax.Array) -> Batch:
        """{"image", "size", …} → the same with images as float32, zero beyond their size, and random keys, "key"."""
        # One for each image, so that a batch can be worked through in parts; the first of a part's is used.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), step), len(batch["image"]))
        return {**batch, "image": canvas_images(batch["image"], batch["size"], self.normalisation), "key": keys}


def canvas_images(images: jax.Array, sizes: jax.Array, normalisation: Normalisation) -> jax.Array:
    """uint8 [b, h, w, 3] → float32, normalised, then zero beyond each image's `sizes`, int [b, 2]: height, width."""
    rows = jnp.arange(images.shape[1])[None, :, None, None] < sizes[:, 0, None, None, None]
    columns = jnp.arange(images.shape[2])[None, None, :, None] < sizes[:, 1, None, None, None]
    return jnp.where(rows & columns, normalisation(images), 0)
