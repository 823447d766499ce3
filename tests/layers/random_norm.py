"""Normalisations that leave nothing as it is: after initialisation they would hide their own mistakes."""

import jax
import numpy as np

from cdnv2_jax.layers.norm import BatchNorm


def draw_norm(norm: BatchNorm, random: np.random.Generator) -> None:
    """Set scale, bias and running statistics to random values, in this order."""
    for name, low, high in (("scale", 0.5, 1.5), ("bias", -0.5, 0.5), ("mean", -0.5, 0.5), ("var", 0.5, 1.5)):
        variable = getattr(norm, name)
        variable.set_value(jax.device_put(random.uniform(low, high, norm.features).astype(variable.dtype)))
