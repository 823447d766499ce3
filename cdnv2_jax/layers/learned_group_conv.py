"""Learned group convolution (LGC): every group of outputs learns which inputs it reads. CondenseNet, section 3."""

import jax
import jax.numpy as jnp

from cdnv2_jax.layers.masked_conv import MaskedConv, check_divisible


class LearnedGroupConv(MaskedConv):
    """Masked 1×1 convolution whose output channel o belongs to group o mod G; its mask is [G, in]."""

    def check_channels(self, in_channels: int, out_channels: int) -> int:
        divisors = {"groups": self.groups, "condensation_factor": self.condensation_factor}
        check_divisible("learned group convolution, inputs", in_channels, **divisors)
        check_divisible("learned group convolution, outputs", out_channels, groups=self.groups)
        return in_channels

    def kernel_mask(self) -> jax.Array:
        return jnp.tile(self.mask.T, (1, self.kernel.shape[1] // self.groups))

    def connection_weights(self) -> jax.Array:
        """[G, in, out / G]: what group g reads from input j."""
        inputs, outputs = self.kernel.shape
        return self.kernel.reshape(inputs, outputs // self.groups, self.groups).transpose(2, 0, 1)
