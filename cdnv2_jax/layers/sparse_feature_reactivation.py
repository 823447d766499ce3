"""Sparse feature reactivation (SFR): new features update the old ones that profit from it. Paper, section 3.2."""

import jax
import jax.numpy as jnp

from cdnv2_jax.layers.masked_conv import MaskedConv, check_divisible


class SparseFeatureReactivation(MaskedConv):
    """Masked 1×1 convolution whose input channel j belongs to group j mod G; its mask is [G, out]."""

    def check_channels(self, in_channels: int, out_channels: int) -> int:
        divisors = {"groups": self.groups, "condensation_factor": self.condensation_factor}
        check_divisible("sparse feature reactivation, outputs", out_channels, **divisors)
        check_divisible("sparse feature reactivation, inputs", in_channels, groups=self.groups)
        return out_channels

    def kernel_mask(self) -> jax.Array:
        return jnp.tile(self.mask[...], (self.kernel.shape[0] // self.groups, 1))

    def connection_weights(self) -> jax.Array:
        """[G, out, in / G]: what group g adds to output i."""
        inputs, outputs = self.kernel.shape
        return self.kernel.reshape(inputs // self.groups, self.groups, outputs).transpose(1, 2, 0)
