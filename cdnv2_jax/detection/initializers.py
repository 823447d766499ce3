"""Initial values of the heads' convolutions."""

from flax import nnx

from cdnv2_jax.layers.initializers import normal

USUAL_CHANNELS = 256


def head_kernel(channels: int) -> nnx.Initializer:
    """N(0, 0.01), as mmdetection 2.11 has it, for the usual 256 input channels.

    Narrower heads get √(256 / channels) times as much: with 0.01 they would let hardly anything through at first, and
    learn nothing for thousands of steps.
    """
    return normal(0.01 * (USUAL_CHANNELS / channels) ** 0.5)
