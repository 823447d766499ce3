"""Preprocessing of batches on the device: normalisation, the noise of random erasing, and mixup."""

import dataclasses
import math

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Normalisation of images.

    Attributes:
      mean: mean of each channel, for pixels in [0, 1].
      std: standard deviation of each channel, for pixels in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalise uint8 [b, h, w, c] to float32, (pixel / 255 − mean) / std; floating-point images are unchanged."""
        if jnp.issubdtype(images.dtype, jnp.floating):
            return images
        return (images.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)


@dataclasses.dataclass(frozen=True)
class TrainingPreprocessing:
    """Preprocessing of a batch from the host for a training step; a pure function of seed, step and batch.

    Attributes:
      normalisation: normalisation of the images.
      seed: seed of noise and mixup.
      mixup: α of Beta(α, α), 0 for none: x ← λ x + (1 − λ) x', and y likewise, where x' is the batch in reverse
        order and λ is the same for the whole batch (Zhang et al. 2018, with timm's pairing).
    """

    normalisation: Normalisation
    seed: int
    mixup: float = 0.0

    def __call__(self, batch: Batch, step: jax.Array) -> Batch:
        """{"image", "label", optional "erase"} → {"image": float32, "label", with mixup "other_label" and "share"}."""
        noise_key, mixup_key = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), step))
        images = self.normalisation(batch["image"])
        if "erase" in batch:
            images = erased(images, batch["erase"], noise_key)
        made = {"image": images, "label": batch["label"]}
        if self.mixup:
            made |= mixed(images, batch["label"], jax.random.beta(mixup_key, self.mixup, self.mixup))
        return made


def erased(images: jax.Array, rectangles: jax.Array, key: jax.Array) -> jax.Array:
    """Fill `rectangles`, int [b, 4] (top, left, height, width), of images [b, h, w, 3] with standard normal noise."""
    top, left, height, width = (rectangles[:, i, None, None, None] for i in range(4))
    rows = jnp.arange(images.shape[1])[None, :, None, None]
    columns = jnp.arange(images.shape[2])[None, None, :, None]
    in_rows, in_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    # Selected twice, because a TPU's compiler would write a map of both conditions first.
    return jnp.where(in_rows, jnp.where(in_columns, noise(images, key), images), images)


NOISE_BITS = 10


def noise(like: jax.Array, key: jax.Array) -> jax.Array:
    """Return standard normal noise in 1,024 steps of equal probability, of the shape and dtype of images [b, h, w, 3].

    The channels of a pixel share one random word, because a hash for each took 5 % of cdnv2_a's training step on a TPU.
    """
    words = jax.random.bits(key, (*like.shape[:-1], 1), jnp.uint32)
    ranks = words >> (NOISE_BITS * jnp.arange(like.shape[-1], dtype=jnp.uint32)) & (2**NOISE_BITS - 1)
    probability = (ranks.astype(jnp.int32).astype(like.dtype) + 0.5) / 2**NOISE_BITS
    return math.sqrt(2) * jax.lax.erf_inv(2 * probability - 1)


def mixed(images: jax.Array, labels: jax.Array, share: jax.Array) -> Batch:
    """Mix each image with its counterpart in the reversed batch; `share`, a scalar in [0, 1], is its own weight."""
    return {
        "image": share * images + (1 - share) * images[::-1],
        "other_label": labels[::-1],
        "share": jnp.broadcast_to(share, labels.shape),
    }
