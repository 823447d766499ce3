"""The training kernels one by one: normalise by the batch, activate, convolve; and the way back.

Feature maps are float32 [N, C, positions] (`flat_maps`). All need `library.available()`, and none is differentiable by
itself: `dense_layer` puts them together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Map(NamedTuple):
    """Sides of the maps in pixels, and whether the activation is the hard-swish (or ReLU)."""

    height: int
    width: int
    hard_swish: bool

    @property
    def attributes(self) -> dict[str, np.int64 | bool]:
        return {"height": np.int64(self.height), "width": np.int64(self.width), "hard_swish": self.hard_swish}


class Statistics(NamedTuple):
    """Mean and biased variance of every channel over the batch, [C] each."""

    mean: jax.Array
    var: jax.Array


class NormConv(NamedTuple):
    """BatchNorm's scale and bias [in], and the kernel behind it: [in, out] of a 1×1, [3, 3, in / groups, out]."""

    scale: jax.Array
    bias: jax.Array
    kernel: jax.Array


def pointwise_forward(
    map: Map, x: jax.Array, conv: NormConv, mask: jax.Array, *, outputs_grouped: bool, residual: jax.Array | None = None
) -> tuple[jax.Array, Statistics]:
    """x [N, in, P] → kernel · activation(norm(x)) [N, out, P], and x's statistics.

    Args:
      mask: boolean [groups, n], the connections there are; the kernel is zero elsewhere.
      outputs_grouped: the outputs are divided into groups and n = in (LGC); otherwise the inputs, and n = out (SFR).
      residual: [N, out, P]: the result is then [N, out + in, P], residual + the above, and x behind it.
    """
    batch, inputs, size = x.shape
    outputs = conv.kernel.shape[1]
    result = _floats(batch, outputs + (0 if residual is None else inputs), size)
    call = _call("PointwiseForward", (result, _floats(inputs), _floats(inputs)))
    optional = () if residual is None else (residual,)
    y, mean, var = call(x, *conv, mask, *optional, **map.attributes, outputs_grouped=outputs_grouped)
    return y, Statistics(mean, var)


def pointwise_backward(
    map: Map,
    dy: jax.Array,
    x: jax.Array,
    statistics: Statistics,
    conv: NormConv,
    mask: jax.Array,
    *,
    outputs_grouped: bool,
    direct: jax.Array | None,
    direct_from: int = 0,
) -> tuple[jax.Array, NormConv]:
    """The gradients of x and of the parameters; where there is no connection, the kernel's is zero.

    Args:
      dy: [N, ≥ out, P], of which the first `out` channels are the gradient of the result.
      direct: [N, ≥ direct_from + in, P] or None: what reaches x on another way, added to its gradient.
    """
    inputs = x.shape[1]
    results = (_floats(*x.shape), _floats(inputs), _floats(inputs), _floats(*conv.kernel.shape))
    optional = () if direct is None else (direct,)
    call = _call("PointwiseBackward", results)
    attributes = {**map.attributes, "outputs_grouped": outputs_grouped, "direct_from": np.int64(direct_from)}
    dx, *gradients = call(dy, x, *statistics, *conv, mask, *optional, **attributes)
    return dx, NormConv(*gradients)


def conv_forward(map: Map, x: jax.Array, conv: NormConv, *, groups: int) -> tuple[jax.Array, Statistics]:
    """x [N, in, P] → grouped 3×3 convolution of activation(norm(x)) [N, out, P], and x's statistics."""
    batch, inputs, size = x.shape
    results = (_floats(batch, conv.kernel.shape[3], size), _floats(inputs), _floats(inputs))
    y, mean, var = _call("ConvForward", results)(x, *conv, **map.attributes, groups=np.int64(groups))
    return y, Statistics(mean, var)


def conv_backward(
    map: Map, dy: jax.Array, x: jax.Array, statistics: Statistics, conv: NormConv, *, groups: int
) -> tuple[jax.Array, NormConv]:
    """The gradients of x and of the parameters, for dy [N, out, P]."""
    inputs = x.shape[1]
    results = (_floats(*x.shape), _floats(inputs), _floats(inputs), _floats(*conv.kernel.shape))
    call = _call("ConvBackward", results)
    dx, *gradients = call(dy, x, *statistics, *conv, **map.attributes, groups=np.int64(groups))
    return dx, NormConv(*gradients)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _call(target: str, results: tuple[jax.ShapeDtypeStruct, ...]):
    return jax.ffi.ffi_call(f"cdnv2.{target}", results, vmap_method="sequential")
