"""The family of CondenseNet and CondenseNetV2: costs, PyTorch state_dicts, ONNX."""

from collections.abc import Mapping
from typing import Any

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers import onnx_layers as onnx
from cdnv2_jax.layers import torch_layout as torch
from cdnv2_jax.layers.cost import (
    Cost,
    convolution_cost,
    elementwise_cost,
    learned_cost,
    linear_cost,
    norm_act_cost,
    squeeze_excite_cost,
)
from cdnv2_jax.layers.onnx_graph import Graph, Map, norm_of, window_kernel
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet, DenseLayer
from cdnv2_jax.networks.family import Family, OnnxWriter, TorchFormat
from cdnv2_jax.networks.network import Form


def condensenet_cost(a: CondenseNetArchitecture, form: Form, height: int, width: int) -> tuple[Cost, Cost]:
    """Return the costs, by the official rules, of the body, which computes the feature maps, and of the head."""
    areas = [a.map_side(block, height) * a.map_side(block, width) for block in range(len(a.stages))]
    body = convolution_cost(a.in_channels, a.stem_channels, areas[0], kernel_area=9)
    for block, _, channels, growth in a.dense_layers():
        body += _dense_layer_cost(a, form, block, channels, growth, areas[block])
    channels = a.stem_channels
    for layers, growth, area in zip(a.stages[:-1], a.growth[:-1], areas[1:], strict=True):
        channels += layers * growth
        body += elementwise_cost(4 * channels * area)  # the 2×2 average pool between blocks
    return body + norm_act_cost(a.out_channels, areas[-1]), _head_cost(a, form, areas[-1])


def _dense_layer_cost(
    a: CondenseNetArchitecture, form: Form, block: int, channels: int, growth: int, area: int
) -> Cost:
    wide = a.bottleneck * growth
    gathered = a.lgc_groups * channels // a.lgc_factor if form.condensed else channels
    cost = norm_act_cost(gathered, area)
    cost += learned_cost(channels, wide, a.lgc_factor, area, condensed=form.condensed)
    cost += norm_act_cost(wide, area)
    cost += convolution_cost(wide, growth, area, kernel_area=9, groups=a.conv_groups)
    if a.has_squeeze_excite(block):
        cost += squeeze_excite_cost(growth, growth, area)
    if a.sfr_factor is not None:
        cost += norm_act_cost(growth, area)
        cost += learned_cost(growth, channels, a.sfr_factor, area, condensed=form.condensed)
    return cost


def _head_cost(a: CondenseNetArchitecture, form: Form, area: int) -> Cost:
    if form.halved_classifier and a.head_width is not None:
        raise UserError("only CondenseNet (v1) has a halved classifier")
    features = a.out_channels
    cost = elementwise_cost(features * area)  # the last pool reads every value once
    if a.head_width is None:
        inputs = features // 2 if form.halved_classifier else features
        # Only the official code of v1 counts the bias as operations.
        return cost + linear_cost(inputs, a.num_classes) + elementwise_cost(a.num_classes)
    cost += squeeze_excite_cost(features, features // a.head_reduction, area=1)
    cost += linear_cost(features, a.head_width) + elementwise_cost(a.head_width)
    return cost + linear_cost(a.head_width, a.num_classes)


def condensenet_slots(model: CondenseNet) -> torch.NamedSlots:
    """Yield the slots of every tensor in the official state_dict, masked or converted."""
    yield "features.init_conv.weight", torch.spatial_kernel(model.stem.kernel)
    for number, block in enumerate(model.blocks, start=1):
        for position, layer in enumerate(block, start=1):
            yield from torch.prefixed(f"features.denseblock_{number}.denselayer_{position}", _layer_slots(layer))
    yield from torch.prefixed("features.norm_last", torch.batch_norm(model.norm_last))
    if model.se_last is not None:
        yield from torch.prefixed("features.se_last", torch.squeeze_excite(model.se_last))
    if model.fc is not None:
        yield from torch.prefixed("fc", torch.linear(model.fc))
    yield from torch.prefixed("classifier", torch.classifier(model.classifier))


def _layer_slots(layer: DenseLayer) -> torch.NamedSlots:
    yield from torch.prefixed("conv_1", torch.learned(layer.lgc))
    yield from torch.prefixed("conv_2.norm", torch.batch_norm(layer.conv.norm))
    yield "conv_2.conv.weight", torch.spatial_kernel(layer.conv.kernel)
    if layer.sfr is not None:
        yield from torch.prefixed("sfr", torch.learned(layer.sfr))
    if layer.se is not None:
        yield from torch.prefixed("se", torch.squeeze_excite(layer.se))


def condensenet_form(keys: Mapping[str, Any]) -> Form:
    """Return the form of a state_dict, masked or converted, judging by its keys."""
    condensed = any(key.endswith("conv_1.index") for key in keys)
    return Form(condensed=condensed, halved_classifier="classifier.linear.weight" in keys)


def check_official_form(model: CondenseNet) -> None:
    """Raise UserError for a condensed CondenseNet (v1) with a full classifier, which the official code lacks."""
    if model.form.condensed and model.classifier_can_be_halved and not model.form.halved_classifier:
        raise UserError(
            "the official converted CondenseNet reads half of its classifier's inputs: "
            "use condense(model, halve_classifier=True) for a network that it can load"
        )


def _dense_layer_nodes(graph: Graph, layer: DenseLayer, x: Map) -> Map:
    """Add a dense layer: [b, n, h, w] → [b, n + k, h, w]."""
    with graph.scope("lgc"):
        h, order = onnx.learned_group_conv(graph, layer.lgc, layer.conv.norm, x)
    with graph.scope("conv"):
        h = onnx.activate(graph, h, layer.conv.activation)
        h = onnx.grouped_conv(graph, window_kernel(layer.conv.kernel), layer.conv.groups, h, order)
    if layer.se is not None:
        h = onnx.squeeze_excite(graph, layer.se, h)
    if layer.sfr is not None:
        with graph.scope("sfr"):
            x = onnx.reactivated(graph, layer.sfr, x, h)
    return graph.concatenate(x, h)


def condensenet_maps(graph: Graph, network: CondenseNet, images: Map) -> dict[int, Map]:
    """Add the body; return {stride: output of the dense block}, the last one after its normalisation and ReLU."""
    strides = network.architecture.block_strides
    with graph.scope("stem"):
        x = graph.conv(images, window_kernel(network.stem.kernel), stride=strides[0])
    maps = {}
    for number, (stride, block) in enumerate(zip(strides, network.blocks, strict=True), 1):
        with graph.scope(f"block_{number}"):
            if number > 1:
                x = graph.apply("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            for place, layer in enumerate(block, 1):
                with graph.scope(f"layer_{place}"):
                    x = _dense_layer_nodes(graph, layer, x)
        maps[stride] = x
    with graph.scope("last"):
        maps[strides[-1]] = graph.apply("Relu", graph.norm(x, norm_of(network.norm_last)))
    return maps


def condensenet_head(graph: Graph, network: CondenseNet, last: Map) -> Map:
    """Add the head and return the logits."""
    with graph.scope("head"):
        x = graph.apply("GlobalAveragePool", last)
        if network.se_last is not None:
            x = onnx.gated(graph, network.se_last, x, mean=x)
        x = graph.apply("Flatten", x, axis=1)
        if network.fc is not None:
            x = graph.apply("HardSwish", onnx.linear(graph, network.fc, x))
        return onnx.linear(graph, network.classifier, x, output="logits")


FAMILY = Family(
    "condensenet",
    CondenseNetArchitecture,
    CondenseNet,
    cost=condensenet_cost,
    torch=TorchFormat(
        condensenet_slots,
        classifier=("classifier.bias", "classifier.linear.bias"),  # the latter in converted CondenseNets (v1)
        stem=("features.init_conv.weight",),
        form=condensenet_form,
        check=check_official_form,
    ),
    onnx=OnnxWriter(condensenet_maps, condensenet_head),
)
