"""Condensed counterparts of LGC and SFR, which store and multiply only the kept connections."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.convolutions import OneKey, grouped_pointwise, half_size, kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv
from cdnv2_jax.layers.lowering import choose, shape_of, traced_platform
from cdnv2_jax.layers.norm import ActivationName, BatchNorm, activation_function, constant

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class ConnectionIndex(nnx.Variable):
    """int32 channel numbers, [G, kept] those that each group kept, ascending. Fixed once the network is condensed."""


class CondensedGroupConv(nnx.Module):
    """Condensed LGC: BatchNorm → activation → grouped 1×1 convolution of the kept inputs → channel shuffle.

    Maps [b, h, w, in] to [b, h, w, out]; output o = k · G + g is the k-th of group g. One of the two normalisations is
    None: a new layer, like every file, has `norm`, and `share_norms` replaces it by `input_norm` if all groups agree.

    Attributes:
      index: [G, kept], the inputs that each group reads.
      input_norm: over the inputs, the same for all groups, as in the masked layer.
      norm: over the G · kept gathered channels: a channel read by two groups is normalised twice, as in the official
        code, where training a condensed network makes the groups differ.
      kernel: [G, kept, out / G].
    """

    input_norm: BatchNorm | None
    norm: BatchNorm | None

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
        self.input_norm = nnx.data(None)
        self.norm = BatchNorm(groups * kept, param_dtype=param_dtype)
        init = kaiming_normal_fan_out(out_channels)
        self.kernel = nnx.Param(init(rngs.params(), (groups, kept, out_channels // groups), param_dtype))
        self.index = ConnectionIndex(constant(0, (groups, kept), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = activation_function(self.activation)
        if self.norm is not None:
            h = activation(self.norm(jnp.take(x, self.index.reshape(-1), axis=-1)))
            h, kernel = promote_dtype((h, self.kernel[...]), dtype=self.dtype)
            return grouped_pointwise(h, kernel, training=not self.norm.use_running_average)
        assert self.input_norm is not None
        h, kernel, training = activation(self.input_norm(x)), self.kernel[...], not self.input_norm.use_running_average
        return condensed_pointwise(h, kernel, self.index[...], dtype=self.dtype, training=training)


def condensed_pointwise(
    x: jax.Array,
    kernel: jax.Array,
    index: jax.Array,
    *,
    dtype: DTypeLike | None = None,
    training: bool = False,
    lowering: str | None = None,
) -> jax.Array:
    """Compute a grouped 1×1 convolution of kept inputs with shuffled outputs: output k · G + g is the k-th of group g.

    Args:
      x: [batch, height, width, in].
      kernel: [G, kept, k].
      index: int32 [G, kept], the inputs that each group reads.
      dtype: dtype of the computation; None for that of x and kernel.
      training: whether to choose a lowering that is fast including the gradient.
      lowering: "scattered", one product with a dense kernel, zero where there is no connection, or "gathered", one for
        each group with the inputs that it reads; None to choose from the table. Both give the same result.

    Returns:
      [batch, height, width, k · G].
    """
    groups, _, outputs = kernel.shape
    if lowering is None:
        shape = shape_of(x, groups * outputs, groups)
        lowering = choose("condensed_pointwise", shape, "gradient" if training else "forward")
    if lowering == "scattered":
        dense = spread(kernel, index, x.shape[-1]).transpose(1, 2, 0).reshape(x.shape[-1], outputs * groups)
        x, dense = promote_dtype((x, dense), dtype=dtype)
        return x @ dense
    x, kernel = promote_dtype((jnp.take(x, index.reshape(-1), axis=-1), kernel), dtype=dtype)
    return grouped_pointwise(x, kernel, training=training)


def spread(kernel: jax.Array, index: jax.Array, channels: int) -> jax.Array:
    """Spread weights [G, kept, m] over all channels: [G, channels, m], zero for a channel that a group did not keep."""
    if traced_platform() == "tpu":  # whose matrix units do this in less time than a scatter takes
        chosen = (index[..., None] == jnp.arange(channels)).astype(kernel.dtype)
        return jnp.einsum("gkn,gkm->gnm", chosen, kernel, precision="highest")
    group = jnp.arange(len(index))[:, None]
    return jnp.zeros((len(index), channels, kernel.shape[-1]), kernel.dtype).at[group, index].add(kernel)


class CondensedReactivation(nnx.Module):
    """Condensed SFR: BatchNorm → activation → grouped 1×1 convolution, each result added to its output channel.

    Maps [b, h, w, in] to [b, h, w, out]; input j belongs to group j mod G, and several groups may update one output.
    The official code computes G · kept intermediate channels and multiplies them by a 0/1 matrix; here that matrix
    is folded into the kernel, so that a single product does both. With `halved`, the input is averaged over 2×2 before
    the product.

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

    def __call__(self, x: jax.Array, halved: bool = False) -> jax.Array:
        h = activation_function(self.activation)(self.norm(x))
        h = half_size(h) if halved else h
        h, kernel = promote_dtype((h, self.folded_kernel()), dtype=self.dtype)
        return h @ kernel

    def folded_kernel(self) -> jax.Array:
        """Return the grouped kernel scattered into a dense one, [in, out], zero where there is no connection."""
        groups, members, _ = self.kernel.shape
        folded = spread(self.kernel.transpose(0, 2, 1), self.index[...], self.out_channels)
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


NORM_PARTS = ("scale", "bias", "mean", "var")


def share_norms(module: nnx.Module) -> None:
    """Give every condensed LGC of a module, in place, one normalisation of its inputs, unless its groups' differ.

    The outputs stay the same. Channels that no group reads get mean 0, variance 1, scale 1 and bias 0.
    """
    for conv in condensed_layers(module):
        if isinstance(conv, CondensedGroupConv) and conv.norm is not None:
            read = np.asarray(conv.index[...]).reshape(-1)
            gathered = _norm_arrays(conv.norm)
            whole = _norm_arrays(BatchNorm(conv.in_channels, param_dtype=conv.norm.scale.dtype))
            for part, of_read in zip(whole, gathered, strict=True):
                part[read] = of_read
            if all((part[read] == of_read).all() for part, of_read in zip(whole, gathered, strict=True)):
                conv.input_norm, conv.norm = _batch_norm(whole, conv.norm), None


def with_gathered_norms(module: ModuleT) -> ModuleT:
    """Return a module whose condensed LGCs have a normalisation for each group, as files have: itself or a copy."""
    if all(conv.norm is not None for conv in condensed_layers(module)):
        return module
    copy = nnx.clone(module)
    for conv in condensed_layers(copy):
        if isinstance(conv, CondensedGroupConv) and conv.input_norm is not None:
            read = np.asarray(conv.index[...]).reshape(-1)
            gathered = [part[read] for part in _norm_arrays(conv.input_norm)]
            conv.norm, conv.input_norm = _batch_norm(gathered, conv.input_norm), None
    return copy


def _norm_arrays(norm: BatchNorm) -> list[np.ndarray]:
    return [np.array(getattr(norm, name)[...]) for name in NORM_PARTS]


def _batch_norm(arrays: Iterable[np.ndarray], like: BatchNorm) -> BatchNorm:
    arrays = list(arrays)
    norm = BatchNorm(len(arrays[0]), param_dtype=like.scale.dtype)
    for name, array in zip(NORM_PARTS, arrays, strict=True):
        getattr(norm, name).set_value(jax.device_put(array))
    norm.batches.set_value(like.batches[...])
    norm.use_running_average = like.use_running_average
    return norm


def dense_on_host(weights: np.ndarray, index: np.ndarray, channels: int) -> np.ndarray:
    """Scatter the weights of kept connections into a dense kernel [m · G, channels], zero elsewhere.

    Args:
      weights: [G, m, kept]; row i · G + g of the result is weights[g, i].
      index: [G, kept], the channels that each group keeps.
      channels: number of channels that the groups choose from.
    """
    groups, members, _ = weights.shape
    wide = np.zeros((groups, members, channels))
    # Added rather than assigned, because a group may list a channel twice.
    np.add.at(wide, (np.arange(groups)[:, None, None], np.arange(members)[:, None], index[:, None]), weights)
    return wide.transpose(1, 0, 2).reshape(members * groups, channels)


Part = TypeVar("Part", bound=nnx.Module)


def places_of(kinds: tuple[type[Part], ...], module: nnx.Module) -> list[tuple[tuple[Any, ...], Part]]:
    """Return (path, part) of all parts of these kinds in a module, at any depth."""
    return [(path, part) for path, part in nnx.iter_modules(module) if isinstance(part, kinds)]


def put(module: nnx.Module, path: Sequence[Any], part: nnx.Module) -> None:
    """Replace the part of a module at `path`."""
    *parents, place = path
    parent: Any = module
    for name in parents:
        parent = parent[name] if isinstance(parent, nnx.List) else getattr(parent, name)
    if isinstance(parent, nnx.List):
        parent[place] = part
    else:
        setattr(parent, place, part)


def replace_masked_convs(module: nnx.Module, twin: Callable[[MaskedConv, str], CondensedLayer]) -> None:
    """Replace every learned convolution of a module, in place, with `twin(conv, path)`.

    Args:
      module: any module except a learned convolution itself.
      twin: function of the convolution and its path as text, such as "blocks/0/1/lgc".
    """
    for path, conv in places_of((MaskedConv,), module):
        put(module, path, twin(conv, "/".join(map(str, path))))


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
