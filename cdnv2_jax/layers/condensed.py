"""Condensed counterparts of LGC and SFR, which store and multiply only the kept connections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.convolutions import OneKey, grouped_pointwise, kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv
from cdnv2_jax.layers.norm import ActivationName, BatchNorm, activation_function, constant


class ConnectionIndex(nnx.Variable):
    """int32 channel numbers, [G, kept] those that each group kept, ascending. Fixed once the network is condensed."""


class CondensedGroupConv(nnx.Module):
    """Condensed LGC: gather → BatchNorm → activation → grouped 1×1 convolution → channel shuffle.

    Maps [b, h, w, in] to [b, h, w, out]; output o = k · G + g is the k-th of group g.

    Attributes:
      index: [G, kept], the inputs that each group reads.
      norm: over the G · kept gathered channels (a channel read by two groups is normalised twice).
      kernel: [G, kept, out / G].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        kept: int,
        activation: ActivationName,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_channels = in_channels
        self.activation: ActivationName = activation
        self.dtype = dtype
        self.norm = BatchNorm(groups * kept, param_dtype=param_dtype)
        init = kaiming_normal_fan_out(out_channels)
        self.kernel = nnx.Param(init(rngs.params(), (groups, kept, out_channels // groups), param_dtype))
        self.index = ConnectionIndex(constant(0, (groups, kept), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        gathered = jnp.take(x, self.index.reshape(-1), axis=-1)
        h = activation_function(self.activation)(self.norm(gathered))
        h, kernel = promote_dtype((h, self.kernel[...]), dtype=self.dtype)
        return grouped_pointwise(h, kernel, training=not self.norm.use_running_average)


class CondensedReactivation(nnx.Module):
    """Condensed SFR: BatchNorm → activation → grouped 1×1 convolution, each result added to its output channel.

    Maps [b, h, w, in] to [b, h, w, out]; input j belongs to group j mod G, and several groups may update one output.
    The official code computes G · kept intermediate channels and multiplies them by a 0/1 matrix; here that matrix
    is folded into the kernel, so that a single product does both.

    Attributes:
      index: [G, kept], the outputs that each group updates.
      norm: over the inputs.
      kernel: [G, in / G, kept].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        kept: int,
        activation: ActivationName,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.out_channels = out_channels
        self.activation: ActivationName = activation
        self.dtype = dtype
        self.norm = BatchNorm(in_channels, param_dtype=param_dtype)
        init = kaiming_normal_fan_out(groups * kept)
        self.kernel = nnx.Param(init(rngs.params(), (groups, in_channels // groups, kept), param_dtype))
        self.index = ConnectionIndex(constant(0, (groups, kept), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        h = activation_function(self.activation)(self.norm(x))
        h, kernel = promote_dtype((h, self.folded_kernel()), dtype=self.dtype)
        return h @ kernel

    def folded_kernel(self) -> jax.Array:
        """Return the grouped kernel scattered into a dense one, [in, out], zero where there is no connection."""
        groups, members, _ = self.kernel.shape
        group = jnp.arange(groups)[:, None]
        folded = jnp.zeros((groups, self.out_channels, members), self.kernel.dtype)
        folded = folded.at[group, self.index[...]].add(self.kernel.transpose(0, 2, 1))
        return folded.transpose(2, 0, 1).reshape(members * groups, self.out_channels)


class CondensedLinear(nnx.Module):
    """The classifier of a converted CondenseNet (v1): a Linear that reads only half of its inputs.

    Attributes:
      index: int32 [in / 2], the features it reads.
      kernel: [in / 2, out].
      bias: [out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kept = in_features // 2
        self.in_features = in_features
        self.dtype = dtype
        self.kernel = nnx.Param(torch_linear(kept)(rngs.params(), (kept, out_features), param_dtype))
        self.bias = nnx.Param(constant(0.0, out_features, param_dtype))
        self.index = ConnectionIndex(constant(0, kept, jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        read = jnp.take(x, self.index[...], axis=-1)
        read, kernel, bias = promote_dtype((read, self.kernel[...], self.bias[...]), dtype=self.dtype)
        return read @ kernel + bias


def check_indices(module: nnx.Module, source: str) -> None:
    """Check the channel numbers of all condensed layers of a module: the CPU kernels address memory with them.

    Raises:
      UserError: a number out of range, in the file `source`.
    """
    for where, part in nnx.iter_modules(module):
        if isinstance(part, CondensedReactivation):
            channels = part.out_channels
        elif isinstance(part, CondensedGroupConv):
            channels = part.in_channels
        elif isinstance(part, CondensedLinear):
            channels = part.in_features
        else:
            continue
        index = np.asarray(part.index[...])
        if index.size and not (index.min() >= 0 and index.max() < channels):
            raise UserError(f"{source}: {'/'.join(map(str, where))}/index must be in [0, {channels}): write it again")


CondensedLayer = CondensedGroupConv | CondensedReactivation


def condensed_layers(module: nnx.Module) -> list[CondensedLayer]:
    """Return all condensed learned convolutions in a module, at any depth, in the order of their paths."""
    return [part for _, part in nnx.iter_modules(module) if isinstance(part, CondensedLayer)]


def replace_masked_convs(module: nnx.Module, twin: Callable[[MaskedConv, str], CondensedLayer]) -> None:
    """Replace every learned convolution of a module, in place, with `twin(conv, path)`.

    Args:
      module: any module except a learned convolution itself.
      twin: function of the convolution and its path as text, such as "blocks/0/1/lgc".
    """
    places = [(path, conv) for path, conv in nnx.iter_modules(module) if isinstance(conv, MaskedConv)]
    modules = {path: part for path, part in nnx.iter_modules(module)}
    for path, conv in places:
        parent: Any = modules[path[:-1]]
        made = twin(conv, "/".join(map(str, path)))
        place: Any = path[-1]
        if isinstance(parent, nnx.List):
            parent[place] = made
        else:
            setattr(parent, place, made)


def empty_twin(conv: MaskedConv) -> CondensedLayer:
    """Return the condensed counterpart of a learned convolution, with arbitrary values."""
    inputs, outputs = conv.kernel.shape
    kind = CondensedGroupConv if isinstance(conv, LearnedGroupConv) else CondensedReactivation
    return kind(
        inputs,
        outputs,
        groups=conv.groups,
        kept=conv.kept,
        activation=conv.activation,
        dtype=conv.dtype,
        param_dtype=conv.kernel.dtype,
        rngs=OneKey(0),
    )
