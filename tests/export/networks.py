"""Small networks to export, and images for them."""

import functools

import jax
import numpy as np
from flax import nnx

from cdnv2_jax.data.preparation import IMAGENET, ImagePreparation
from cdnv2_jax.data.usage import Usage
from tests.weights.networks import network

SIZE = 24
USAGE = Usage(ImagePreparation(SIZE, "centre", "bicubic", *IMAGENET), ("temple", "flower", "neither"))
"""Of the networks of `tests.weights.networks`, which tell three classes apart."""


def images(count: int) -> np.ndarray:
    """float32 [count, 24, 24, 3], noise."""
    return np.random.default_rng(count).standard_normal((count, SIZE, SIZE, 3), np.float32)


@functools.cache
def logits(form: str, count: int) -> np.ndarray:
    """What the network gives for `images(count)`."""
    graph, state = nnx.split(network(form))
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images(count)))
