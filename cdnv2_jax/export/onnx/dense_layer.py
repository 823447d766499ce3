"""A dense layer of a CondenseNet: LGC 1×1 → grouped 3×3 → SE → SFR."""

import numpy as np

from cdnv2_jax.export.onnx.fold import norm_of, pointwise_kernel, spread, values, window_kernel
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.grouped_conv import grouped_conv
from cdnv2_jax.export.onnx.layers import activate, squeeze_excite
from cdnv2_jax.export.onnx.learned_group_conv import learned_group_conv
from cdnv2_jax.layers.condensed import CondensedReactivation
from cdnv2_jax.layers.sparse_feature_reactivation import SparseFeatureReactivation
from cdnv2_jax.models.dense_layer import DenseLayer


def dense_layer(graph: Graph, layer: DenseLayer, x: Map) -> Map:
    """[b, n, h, w] → [b, n + k, h, w]."""
    with graph.scope("lgc"):
        h, order = learned_group_conv(graph, layer.lgc, layer.conv.norm, x)
    with graph.scope("conv"):
        h = activate(graph, h, layer.conv.activation)
        h = grouped_conv(graph, window_kernel(layer.conv.kernel), layer.conv.groups, h, order)
    if layer.se is not None:
        h = squeeze_excite(graph, layer.se, h)
    if layer.sfr is not None:
        with graph.scope("sfr"):
            x = reactivated(graph, layer.sfr, x, h)
    return graph.concatenate(x, h)


def reactivated(graph: Graph, layer: SparseFeatureReactivation | CondensedReactivation, x: Map, h: Map) -> Map:
    """x plus what the new features h add to it; condensed or not, one product puts all results where they belong."""
    if isinstance(layer, CondensedReactivation):
        by_input = spread(values(layer.kernel), np.asarray(layer.index[...]), layer.out_channels)
        kernel = by_input.T[:, :, None, None]
    else:
        kernel = pointwise_kernel(layer.kernel[...] * layer.kernel_mask())
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    return graph.apply("Add", x, graph.conv(h, kernel))
