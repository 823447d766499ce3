"""A dense layer in training as one differentiable function on arrays, computed by the CPU kernels.

Taken as a whole, since its parts share work on the way back: the features' gradient is the sum of what comes past the
layer, through LGC and through SFR, and here it is written once instead of three times. Reverse mode, first order.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.kernels.training_ops import (
    Map,
    NormConv,
    Statistics,
    conv_backward,
    conv_forward,
    pointwise_backward,
    pointwise_forward,
)


class Excitation(NamedTuple):
    """The kernels of SE: [k, hidden] and [hidden, k]."""

    squeeze: jax.Array
    excite: jax.Array


class Parameters(NamedTuple):
    """Of a dense layer with n inputs and growth rate k, float32; kernels of LGC and SFR already masked."""

    lgc: NormConv
    conv: NormConv
    se: Excitation | None = None
    sfr: NormConv | None = None


class Masks(NamedTuple):
    """Boolean [groups, n] each: which connections there are."""

    lgc: jax.Array
    sfr: jax.Array | None = None


class LayerStatistics(NamedTuple):
    """What each BatchNorm saw of the batch."""

    lgc: Statistics
    conv: Statistics
    sfr: Statistics | None


def dense_layer(
    map: Map, conv_groups: int, x: jax.Array, parameters: Parameters, masks: Masks
) -> tuple[jax.Array, LayerStatistics]:
    """Features [N, n, P] → those after the layer, [N, n + k, P], and the statistics (which have no gradient)."""
    return _dense_layer(map, conv_groups, x, parameters, masks)


def _result(*arguments: Any) -> tuple[jax.Array, LayerStatistics]:
    return _forward(*arguments)[0]


def _forward(map: Map, conv_groups: int, x: jax.Array, parameters: Parameters, masks: Masks):
    hidden, lgc = pointwise_forward(map, x, parameters.lgc, masks.lgc, outputs_grouped=True)
    raw, conv = conv_forward(map, hidden, parameters.conv, groups=conv_groups)
    new = raw if parameters.se is None else _excited(map, raw, parameters.se)
    if parameters.sfr is None or masks.sfr is None:
        features, sfr = jnp.concatenate([x, new], axis=1), None
    else:
        features, sfr = pointwise_forward(map, new, parameters.sfr, masks.sfr, outputs_grouped=False, residual=x)
    statistics = LayerStatistics(lgc, conv, sfr)
    return (features, statistics), (x, hidden, raw, new, parameters, masks, statistics)


def _backward(map: Map, conv_groups: int, saved: Any, cotangents: tuple[jax.Array, Any]):
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
_dense_layer.defvjp(_forward, _backward)


def _excited(map: Map, x: jax.Array, se: Excitation) -> jax.Array:
    mean = x.sum(2) / (map.height * map.width)
    gate = jax.nn.sigmoid(jax.nn.relu(mean @ se.squeeze) @ se.excite)
    return x * gate[:, :, None]
