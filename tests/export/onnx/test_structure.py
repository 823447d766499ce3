"""What models are made of: normalisations folded, channels never transposed, weights stored once."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cdnv2_jax.export.onnx_file import classifier_to_onnx
from cdnv2_jax.networks.condensenet.network import CondenseNet
from tests.export.onnx.networks import NETWORKS, operations, small_network
from tests.tables import table


@table("what", NETWORKS)
def test_checked_and_without_transposes(what: str) -> None:
    """Everything has a shape, of any batch."""
    network = small_network(what)
    model = classifier_to_onnx(network, image_size=64)
    onnx.checker.check_model(model, full_check=True)
    assert not {"Transpose", "Identity", "Cast"} & set(operations(model))
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, shape_of(images)) == ("images", ["batch", 3, 64, 64])
    assert (logits.name, shape_of(logits)) == ("logits", ["batch", network.architecture.num_classes])
    shaped = {value.name: shape_of(value) for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} == set(shaped)
    assert {shape[0] for shape in shaped.values()} == {"batch"}
    assert (model.producer_name, model.opset_import[0].version) == ("cdnv2_jax", 17)
    assert model.producer_version


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]


@table("what", ["mobilenet", "shufflenet, megvii", "shufflenet, torchvision"])
def test_plain_networks_have_no_normalisations_left(what: str) -> None:
    assert not operations(classifier_to_onnx(small_network(what), image_size=32))["BatchNormalization"]


@table("what", ["cdnv2_c condensed", "cdnv2_a masked", "condensenet_86 condensed"])
def test_normalisations_that_are_left(what: str) -> None:
    """Those of the features, which come before an activation: one for each LGC and SFR, and the last."""
    network = small_network(what)
    assert isinstance(network, CondenseNet)
    layers = list(network.dense_layers())
    left = len(layers) + sum(layer.sfr is not None for layer in layers) + 1
    assert operations(classifier_to_onnx(network, image_size=64))["BatchNormalization"] == left


def test_convolutions_of_a_condensed_network() -> None:
    """By block of cdnv2_c: depthwise with sums up to two outputs per group, then four groups merged, two, none.

    LGC gathers where its groups have 16 outputs or more.
    """
    model = classifier_to_onnx(small_network("cdnv2_c condensed"), image_size=64)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    groups: dict[str, list[tuple[int, ...]]] = {}
    for node in model.graph.node:
        block, *_, part, _ = ["", "", *node.name.split("/")]
        if node.op_type == "Conv" and part in ("lgc", "conv") and "layer_1" in node.name:
            block = node.name.split("/")[0]
            groups.setdefault(f"{block} {part}", []).append((group_of(node), *kernels[node.input[1]]))
    sums = [(1, k, 4 * k, 1, 1) for k in (8, 16)]
    depthwise = [(4 * k, 4 * k, 1, 3, 3) for k in (8, 16)]
    assert groups == {
        "block_1 lgc": [(1, 32, 16, 1, 1)],
        "block_1 conv": [depthwise[0], sums[0]],
        "block_2 lgc": [(1, 64, 32, 1, 1)],
        "block_2 conv": 2 * [depthwise[1], sums[1]],
        "block_3 lgc": [(8, 128, 6, 1, 1)],
        "block_3 conv": [(2, 32, 64, 3, 3)],
        "block_4 lgc": [(8, 256, 10, 1, 1)],
        "block_4 conv": [(4, 64, 64, 3, 3)],
        "block_5 lgc": [(8, 512, 18, 1, 1)],
        "block_5 conv": [(8, 128, 64, 3, 3)],
    }


def group_of(node: onnx.NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "group")


def test_constants_are_stored_once() -> None:
    """Kernels that only add up channels are the same in every layer of a block."""
    model = classifier_to_onnx(small_network("cdnv2_c condensed"), image_size=64)
    stored = [(tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in model.graph.initializer]
    assert len(set(stored)) == len(stored)
    assert {tensor.name for tensor in model.graph.initializer} <= {name for n in model.graph.node for name in n.input}


def test_removed_connections_are_zero() -> None:
    """A masked network's kernels hold weights of connections that were removed; its model's do not."""
    network = small_network("cdnv2_a masked")
    model = classifier_to_onnx(network, image_size=64)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (kernel,) = (
        constants[node.input[1]]
        for node in model.graph.node
        if node.op_type == "Conv" and node.name.startswith("block_1/layer_1/lgc")
    )
    layer = next(iter(network.masked_convs()))
    np.testing.assert_array_equal(kernel[:, :, 0, 0].T != 0, np.asarray(layer.kernel_mask()))
    assert (np.asarray(layer.kernel[...]) != 0).all()
    assert all(tensor.data_type in (TensorProto.FLOAT, TensorProto.INT64) for tensor in model.graph.initializer)
