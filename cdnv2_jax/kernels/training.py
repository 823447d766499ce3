"""CPU kernels for training: a dense layer as one differentiable function, and its operations.

Feature maps are flat: [N, C, positions], also written [N, C, P]. Each row is followed by one zero column, and the
number of positions is rounded up to a multiple of GRAIN.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GRAIN = 8


def positions(height: int, width: int) -> int:
    """Return the number of values per channel of a flat map."""
    return -(-height * (width + 1) // GRAIN) * GRAIN


def to_flat(x: jax.Array) -> jax.Array:
    """Flatten maps: [N, C, H, W] → [N, C, positions]."""
    batch, channels, height, width = x.shape
    rows = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)))
    flat = rows.reshape(batch, channels, height * (width + 1))
    return jnp.pad(flat, ((0, 0), (0, 0), (0, positions(height, width) - flat.shape[2])))


def from_flat(x: jax.Array, height: int, width: int) -> jax.Array:
    """Undo `to_flat`, channels last: [N, C, positions] → [N, H, W, C]."""
    batch, channels, _ = x.shape
    rows = x[:, :, : height * (width + 1)].reshape(batch, channels, height, width + 1)
    return rows[..., :width].transpose(0, 2, 3, 1)


def average_pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Apply a 2×2 average pool of stride 2 to flat float32 maps; an odd last row or column is dropped."""
    return _average_pool(x, height, width)


def _pooled(x: jax.Array, height: int, width: int) -> jax.Array:
    return _pool("PoolForward", x, positions(height // 2, width // 2), height, width)


def _pool_forward(x: jax.Array, height: int, width: int) -> tuple[jax.Array, None]:
    return _pooled(x, height, width), None


def _pool_backward(height: int, width: int, _: None, dy: jax.Array) -> tuple[jax.Array]:
    return (_pool("PoolBackward", dy, positions(height, width), height, width),)


_average_pool: Any = jax.custom_vjp(_pooled, nondiff_argnums=(1, 2))
_average_pool.defvjp(_pool_forward, _pool_backward)


def _pool(target: str, x: jax.Array, size: int, height: int, width: int) -> jax.Array:
    result = jax.ShapeDtypeStruct((*x.shape[:2], size), jnp.float32)
    call = jax.ffi.ffi_call(f"cdnv2.{target}", result, vmap_method="sequential")
    return call(x, height=np.int64(height), width=np.int64(width))


class Map(NamedTuple):
    """Height and width of the maps in pixels, and whether the activation is hard-swish instead of ReLU."""

    height: int
    width: int
    hard_swish: bool

    @property
    def attributes(self) -> dict[str, np.int64 | bool]:
        return {"height": np.int64(self.height), "width": np.int64(self.width), "hard_swish": self.hard_swish}


class Statistics(NamedTuple):
    """Batch mean and biased variance, [C] each."""

    mean: jax.Array
    var: jax.Array


class NormConv(NamedTuple):
    """BatchNorm's scale and bias [in], and the following kernel: 1×1 [in, out] or 3×3 [3, 3, in / groups, out]."""

    scale: jax.Array
    bias: jax.Array
    kernel: jax.Array


def pointwise_forward(
    map: Map, x: jax.Array, conv: NormConv, mask: jax.Array, *, outputs_grouped: bool, residual: jax.Array | None = None
) -> tuple[jax.Array, Statistics]:
    """Compute kernel · activation(norm(x)), [N, in, P] → [N, out, P], and x's batch statistics.

    Args:
      mask: boolean [groups, n], the remaining connections; the kernel is zero elsewhere.
      outputs_grouped: whether the outputs are divided into groups, n = in (LGC), or the inputs, n = out (SFR).
      residual: [N, out, P]; the result is then concat(residual + the above, x), [N, out + in, P].
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
    """Compute the gradients of x and of the parameters; removed connections have zero gradients.

    Args:
      dy: [N, ≥ out, P]; the first `out` channels are the gradient of the result.
      direct: another gradient of x to add, [N, ≥ direct_from + in, P], read from channel `direct_from` on; or None.
    """
    inputs = x.shape[1]
    results = (_floats(*x.shape), _floats(inputs), _floats(inputs), _floats(*conv.kernel.shape))
    optional = () if direct is None else (direct,)
    call = _call("PointwiseBackward", results)
    attributes = {**map.attributes, "outputs_grouped": outputs_grouped, "direct_from": np.int64(direct_from)}
    dx, *gradients = call(dy, x, *statistics, *conv, mask, *optional, **attributes)
    return dx, NormConv(*gradients)


def conv_forward(map: Map, x: jax.Array, conv: NormConv, *, groups: int) -> tuple[jax.Array, Statistics]:
    """Convolve activation(norm(x)) with a grouped 3×3 kernel, [N, in, P] → [N, out, P]; also x's batch statistics."""
    batch, inputs, size = x.shape
    results = (_floats(batch, conv.kernel.shape[3], size), _floats(inputs), _floats(inputs))
    y, mean, var = _call("ConvForward", results)(x, *conv, **map.attributes, groups=np.int64(groups))
    return y, Statistics(mean, var)


def conv_backward(
    map: Map, dy: jax.Array, x: jax.Array, statistics: Statistics, conv: NormConv, *, groups: int
) -> tuple[jax.Array, NormConv]:
    """Compute the gradients of x and of the parameters for dy [N, out, P]."""
    inputs = x.shape[1]
    results = (_floats(*x.shape), _floats(inputs), _floats(inputs), _floats(*conv.kernel.shape))
    call = _call("ConvBackward", results)
    dx, *gradients = call(dy, x, *statistics, *conv, **map.attributes, groups=np.int64(groups))
    return dx, NormConv(*gradients)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _call(target: str, results: tuple[jax.ShapeDtypeStruct, ...]):
    return jax.ffi.ffi_call(f"cdnv2.{target}", results, vmap_method="sequential")


class Excitation(NamedTuple):
    """Kernels of SE: [k, hidden] and [hidden, k]."""

    squeeze: jax.Array
    excite: jax.Array


class Parameters(NamedTuple):
    """Parameters of a dense layer, float32; the kernels of LGC and SFR are already masked."""

    lgc: NormConv
    conv: NormConv
    se: Excitation | None = None
    sfr: NormConv | None = None


class Masks(NamedTuple):
    """Remaining connections, boolean [groups, n] each."""

    lgc: jax.Array
    sfr: jax.Array | None = None


class LayerStatistics(NamedTuple):
    """Batch statistics of each BatchNorm."""

    lgc: Statistics
    conv: Statistics
    sfr: Statistics | None


def dense_layer(
    map: Map, conv_groups: int, x: jax.Array, parameters: Parameters, masks: Masks
) -> tuple[jax.Array, LayerStatistics]:
    """Apply a dense layer: features [N, n, P] → [N, n + k, P], and the batch statistics (without gradient)."""
    return _dense_layer(map, conv_groups, x, parameters, masks)


def _result(*arguments: Any) -> tuple[jax.Array, LayerStatistics]:
    return _layer_forward(*arguments)[0]


def _layer_forward(map: Map, conv_groups: int, x: jax.Array, parameters: Parameters, masks: Masks):
    hidden, lgc = pointwise_forward(map, x, parameters.lgc, masks.lgc, outputs_grouped=True)
    raw, conv = conv_forward(map, hidden, parameters.conv, groups=conv_groups)
    new = raw if parameters.se is None else _excited(map, raw, parameters.se)
    if parameters.sfr is None or masks.sfr is None:
        features, sfr = jnp.concatenate([x, new], axis=1), None
    else:
        features, sfr = pointwise_forward(map, new, parameters.sfr, masks.sfr, outputs_grouped=False, residual=x)
    statistics = LayerStatistics(lgc, conv, sfr)
    return (features, statistics), (x, hidden, raw, new, parameters, masks, statistics)


def _layer_backward(map: Map, conv_groups: int, saved: Any, cotangents: tuple[jax.Array, Any]):
    x, hidden, raw, new, parameters, masks, statistics = saved
    d = cotangents[0]
    inputs = x.shape[1]
    dsfr = dse = None
    if parameters.sfr is None:
        dnew = d[:, inputs:]
    else:
        dnew, dsfr = pointwise_backward(
            map,
            d,
            new,
            statistics.sfr,
            parameters.sfr,
            masks.sfr,
            outputs_grouped=False,
            direct=d,
            direct_from=inputs,
        )
    if parameters.se is not None:
        _, through_se = jax.vjp(partial(_excited, map), raw, parameters.se)
        dnew, dse = through_se(dnew)
    dhidden, dconv = conv_backward(map, dnew, hidden, statistics.conv, parameters.conv, groups=conv_groups)
    dx, dlgc = pointwise_backward(
        map, dhidden, x, statistics.lgc, parameters.lgc, masks.lgc, outputs_grouped=True, direct=d
    )
    nothing = jax.tree.map(lambda mask: np.zeros(mask.shape, jax.dtypes.float0), masks)
    return dx, Parameters(dlgc, dconv, dse, dsfr), nothing


_dense_layer: Any = jax.custom_vjp(_result, nondiff_argnums=(0, 1))
_dense_layer.defvjp(_layer_forward, _layer_backward)


def _excited(map: Map, x: jax.Array, se: Excitation) -> jax.Array:
    mean = x.sum(2) / (map.height * map.width)
    gate = jax.nn.sigmoid(jax.nn.relu(mean @ se.squeeze) @ se.excite)
    return x * gate[:, :, None]
