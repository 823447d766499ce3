"""Cost of a detector on one image: multiply-adds and parameters of each part, from its settings alone."""

import dataclasses
from collections.abc import Mapping

from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.networks.family import cost_parts
from cdnv2_jax.networks.network import Form


@dataclasses.dataclass(frozen=True)
class PartCost:
    """Multiply-adds of convolutions and Linears for one image (not of biases and RoIAlign), and parameters."""

    multiply_adds: int = 0
    params: int = 0

    def __add__(self, other: "PartCost") -> "PartCost":
        return PartCost(self.multiply_adds + other.multiply_adds, self.params + other.params)


def cost_of(detector: PyramidDetector, height: int, width: int, form: Form | None = None) -> dict[str, PartCost]:
    """Return the `detector_cost` of a detector, its backbone counted in the form that it has, or in another one."""
    backbone = detector.backbone
    body, _ = cost_parts(backbone.architecture, form or backbone.form, height, width)
    return detector_cost(
        detector.settings,
        backbone.feature_channels,
        height,
        width,
        PartCost(body.multiply_adds, body.params),
    )


def detector_cost(
    settings: DetectorSettings, feature_channels: Mapping[int, int], height: int, width: int, body: PartCost
) -> dict[str, PartCost]:
    """Return {part: cost} of one image on a canvas of this size; "total" is the sum.

    Parts are "body", "fpn" and "head" or, for Faster R-CNN, "rpn" and "roi_head", with `settings.proposals` proposals.

    Args:
      feature_channels: {stride: channels} of the backbone's maps.
      height, width: pixels, a multiple of 32.
      body: cost of the backbone without its classifier, for this size; see `networks.family.cost_parts`.
    """
    areas = {stride: -(-height // stride) * -(-width // stride) for stride in settings.strides}
    cells = sum(areas.values())
    parts = {"body": body, "fpn": _fpn(settings, feature_channels, areas)}
    if settings.kind == "retinanet":
        parts["head"] = _retinanet_head(settings, cells)
    else:
        parts["rpn"] = _rpn(settings, cells)
        parts["roi_head"] = _roi_head(settings)
    return parts | {"total": sum(parts.values(), start=PartCost())}


def _fpn(s: DetectorSettings, channels: Mapping[int, int], areas: Mapping[int, int]) -> PartCost:
    cost = PartCost()
    for stride in s.feature_strides:
        cost += _convolution(channels[stride], s.fpn_channels, 1, areas[stride])
        cost += _convolution(s.fpn_channels, s.fpn_channels, 3, areas[stride])
    if s.kind == "retinanet":
        cost += _convolution(channels[32], s.fpn_channels, 3, areas[64])
        cost += _convolution(s.fpn_channels, s.fpn_channels, 3, areas[128])
    return cost


def _retinanet_head(s: DetectorSettings, cells: int) -> PartCost:
    cost = PartCost()
    for _ in range(2 * s.head_convs):
        cost += _convolution(s.fpn_channels, s.fpn_channels, 3, cells)
    cost += _convolution(s.fpn_channels, s.anchors_per_cell * s.num_classes, 3, cells)
    return cost + _convolution(s.fpn_channels, s.anchors_per_cell * 4, 3, cells)


def _rpn(s: DetectorSettings, cells: int) -> PartCost:
    cost = _convolution(s.fpn_channels, s.fpn_channels, 3, cells)
    cost += _convolution(s.fpn_channels, s.anchors_per_cell, 1, cells)
    return cost + _convolution(s.fpn_channels, 4 * s.anchors_per_cell, 1, cells)


def _roi_head(s: DetectorSettings) -> PartCost:
    # A Linear on every proposal costs the same as a 1×1 convolution on that number of cells.
    cost = _convolution(s.roi_size**2 * s.fpn_channels, s.hidden, 1, s.proposals)
    cost += _convolution(s.hidden, s.hidden, 1, s.proposals)
    cost += _convolution(s.hidden, s.num_classes + 1, 1, s.proposals)
    return cost + _convolution(s.hidden, 4 * s.num_classes, 1, s.proposals)


def _convolution(inputs: int, outputs: int, kernel: int, cells: int) -> PartCost:
    weights = inputs * outputs * kernel**2
    return PartCost(weights * cells, weights + outputs)
