"""What the CondenseNetV2 paper reports for detectors on COCO 2017; quoted, not reproduced here."""

SOURCE = "CondenseNetV2 paper, table of detection results"

PUBLISHED: dict[str, dict[str, float]] = {
    "faster_rcnn": {
        "shufflenet_v2_x0_5": 22.1,
        "cdnv2_a": 23.5,
        "shufflenet_v2_x1_0": 27.4,
        "cdnv2_b": 27.9,
        "mobilenet_v2_x1_0": 30.6,
        "shufflenet_v2_x1_5": 30.2,
        "cdnv2_c": 31.4,
    },
    "retinanet": {"mobilenet_v2_x1_0": 29.7, "shufflenet_v2_x1_5": 29.1, "cdnv2_c": 31.7},
}
"""Detector → backbone → mAP in per cent. "MobileNet 1.0x, 300M" of the paper can only be MobileNetV2 1.0."""


def published_map(detector: str, backbone: str) -> float | None:
    """mAP in per cent; None where the paper has none."""
    return PUBLISHED.get(detector, {}).get(backbone)
