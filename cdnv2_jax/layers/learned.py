"""1×1 convolutions that learn which connections to keep: LGC, SFR and their common base class.

Both divide one side of the kernel into G groups, channel c belonging to group c mod G, and let every group choose
among the n channels of the other side. A connection is a pair (group, channel); it stands for the m weights between
that channel and the group's m channels. One [G, n] mask therefore describes either layer, and it cannot differ
between the channels of a group.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from cdnv2_jax.layers.convolutions import half_size, kaiming_normal_fan_out
from cdnv2_jax.layers.norm import ActivationName, BatchNorm, activation_function, constant

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class ConnectionMask(nnx.Variable):
    """Boolean [G, n]: True where the connection exists. Never trained, never averaged."""


class MaskedConv(nnx.Module):
    """BatchNorm → activation → masked 1×1 convolution; [b, h, w, in] → [b, h, w, out].

    With `halved`, the activated input is averaged over 2×2 before the product: [b, h // 2, w // 2, out].

    Base class of `LearnedGroupConv` and `SparseFeatureReactivation`, which define the side that is divided into groups.

    Attributes:
      kernel: [in, out]; removed connections keep their weights here and are masked in the forward pass.
      mask: `ConnectionMask` [groups, n], n the number of channels each group chooses from.
      groups: G.
      condensation_factor: C; after C − 1 stages every group has n / C connections left.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        condensation_factor: int,
        activation: ActivationName,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.groups = groups
        self.condensation_factor = condensation_factor
        self.activation: ActivationName = activation
        self.dtype = dtype
        choices = self.check_channels(in_channels, out_channels)
        self.norm = BatchNorm(in_channels, param_dtype=param_dtype)
        init = kaiming_normal_fan_out(out_channels)
        self.kernel = nnx.Param(init(rngs.params(), (in_channels, out_channels), param_dtype))
        self.mask = ConnectionMask(constant(True, (groups, choices), bool))

    def __call__(self, x: jax.Array, halved: bool = False) -> jax.Array:
        h = activation_function(self.activation)(self.norm(x))
        h = half_size(h) if halved else h
        h, kernel = promote_dtype((h, self.masked_kernel()), dtype=self.dtype)
        return h @ kernel

    def masked_kernel(self) -> jax.Array:
        """Return the kernel [in, out], zero where there is no connection."""
        return self.kernel * self.kernel_mask()

    @property
    def kept(self) -> int:
        """Number of connections that each group has left after the last stage: n / C."""
        return self.mask.shape[1] // self.condensation_factor

    def check_channels(self, in_channels: int, out_channels: int) -> int:
        """Return n, the number of channels to choose from; raise ValueError if channels do not divide evenly."""
        raise NotImplementedError

    def kernel_mask(self) -> jax.Array:
        """Return the mask as boolean [in, out]."""
        raise NotImplementedError

    def connection_weights(self) -> jax.Array:
        """Return the kernel as [G, n, m]: the m weights of every connection, removed ones included."""
        raise NotImplementedError


def check_divisible(what: str, channels: int, **divisors: int) -> None:
    """Raise ValueError if `channels` is not divisible by one of the named divisors."""
    for name, divisor in divisors.items():
        if divisor < 1 or channels % divisor:
            raise ValueError(f"{what}: {channels} channels are not divisible by {name.replace('_', ' ')} {divisor}")


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
        """Return [G, in, out / G]: the weights by which group g reads input j."""
        inputs, outputs = self.kernel.shape
        return self.kernel.reshape(inputs, outputs // self.groups, self.groups).transpose(2, 0, 1)


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
        """Return [G, out, in / G]: the weights by which group g updates output i."""
        inputs, outputs = self.kernel.shape
        return self.kernel.reshape(inputs // self.groups, self.groups, outputs).transpose(1, 2, 0)


def stage_of(mask: jax.Array, condensation_factor: int) -> jax.Array:
    """Return the stage of a mask [G, n], int32: how many times every group has lost n / C connections."""
    share = mask.shape[-1] // condensation_factor
    lost = (~mask).sum(-1).min()
    return (lost // share).astype(jnp.int32)


def masked_convs(module: nnx.Module) -> list[MaskedConv]:
    """Return all learned convolutions in a module, at any depth, in the order of their paths."""
    return [part for _, part in nnx.iter_modules(module) if isinstance(part, MaskedConv)]


def on_host(module: ModuleT) -> ModuleT:
    """Copy a module to NumPy arrays to read it; of JAX arrays, a program would be compiled for every shape."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(np.asarray, state))
