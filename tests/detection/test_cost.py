"""Costs of detectors: published figures, and PyTorch-free counts of the arrays themselves."""

from collections.abc import Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cdnv2_jax.detectors.cost import PartCost, detector_cost
from cdnv2_jax.detectors.settings import DetectorSettings, Kind
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import cost_parts, model_entry, network_cost
from cdnv2_jax.networks.network import Form
from tests.detection.tiny import tiny_detector

CDNV2_C = {4: 144, 8: 400, 16: 1040, 32: 2064}


def test_heads_at_800_by_1344() -> None:
    """RetinaNet's head 144.7 and the RPN 53.1 billion multiply-adds."""
    retinanet = detector_cost(DetectorSettings(kind="retinanet", num_classes=80), CDNV2_C, 800, 1344, PartCost())
    faster = detector_cost(DetectorSettings(kind="faster_rcnn", num_classes=80), CDNV2_C, 800, 1344, PartCost())
    assert round(retinanet["head"].multiply_adds / 1e9, 1) == 144.7
    assert round(faster["rpn"].multiply_adds / 1e9, 1) == 53.1
    assert faster["roi_head"].params == 12544 * 1024 + 1024**2 + 1024 * (81 + 320) + 2 * 1024 + 81 + 320
    assert faster["roi_head"].multiply_adds == 1000 * (12544 * 1024 + 1024**2 + 1024 * (81 + 320))


def test_body_of_condensenetv2_c() -> None:
    """6.3 billion multiply-adds at 800×1344; the rest of the network is its head."""
    architecture = model_entry("cdnv2_c").architecture
    body, _ = cost_parts(architecture, Form(condensed=True), 800, 1344)
    assert round(body.multiply_adds / 1e9, 1) == 6.3
    whole = network_cost(architecture, Form(condensed=True), 800, 1344)
    assert isinstance(architecture, CondenseNetArchitecture)
    width = architecture.head_width
    assert width is not None
    squeeze = 2 * 2064 * (2064 // 16)
    assert whole.multiply_adds - body.multiply_adds == squeeze + 2064 * width + width * 1000


def dot_operations(jaxpr: Any) -> int:
    """Multiply-adds of convolutions and matrix products in a traced function, padding included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, output = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            dimensions = equation.params["dimension_numbers"]
            total += _product(output) * _product(kernel) // kernel[dimensions.rhs_spec[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, output = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += _product(output) * _product(left[axis] for axis in contracted)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                total += dot_operations(inner)
    return total


def _product(numbers: Iterable[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


@pytest.mark.parametrize("kind", get_args(Kind))
def test_against_the_traced_program(kind: Kind) -> None:
    """On 160×96, where levels have odd sides: what `detect` multiplies beyond what the backbone does."""
    detector = tiny_detector(kind)
    images, sizes = jnp.zeros((1, 160, 96, 3)), jnp.asarray([[150, 90]])
    body = dot_operations(jax.make_jaxpr(detector.backbone.features)(images, sizes).jaxpr)
    traced = dot_operations(jax.make_jaxpr(detector.detect)(images, sizes).jaxpr)
    backbone = PartCost(body, _parameters(detector.backbone))
    cost = detector_cost(detector.settings, detector.backbone.feature_channels, 160, 96, backbone)
    assert cost["total"].multiply_adds == traced
    assert cost["total"].params == _parameters(detector)
    assert sum(part.params for name, part in cost.items() if name != "total") == cost["total"].params


def _parameters(module: nnx.Module) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))
