"""Settings: what follows from them by kind, and what is refused."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError


def test_retinanet() -> None:
    settings = DetectorSettings(kind="retinanet", num_classes=80)
    assert settings.assignment == {"positive": 0.5, "negative": 0.4, "min_positive": 0}
    np.testing.assert_allclose(settings.anchor_scales, [4, 5.0396842, 6.3496042])
    assert (settings.anchors_per_cell, settings.strides) == (9, (8, 16, 32, 64, 128))


def test_faster_rcnn() -> None:
    settings = DetectorSettings(kind="faster_rcnn", num_classes=80)
    assert settings.assignment == {"positive": 0.7, "negative": 0.3, "min_positive": 0.3}
    assert settings.anchor_scales == (8,)
    assert (settings.anchors_per_cell, settings.strides) == (3, (4, 8, 16, 32, 64))


def test_what_is_given_stands() -> None:
    settings = DetectorSettings(kind="retinanet", num_classes=80, anchor_scale=2.0, octave_scales=1, positive_iou=0.6)
    assert settings.anchor_scales == (2,)
    assert settings.assignment == {"positive": 0.6, "negative": 0.4, "min_positive": 0}
    assert dataclasses.replace(settings, kind="faster_rcnn").assignment["negative"] == 0.3


def test_lists_become_tuples() -> None:
    """A config file gives lists, and settings are hashable."""
    ratios: Any = [1, 2]
    assert DetectorSettings(kind="retinanet", num_classes=3, anchor_ratios=ratios).anchor_ratios == (1, 2)
    hash(DetectorSettings(kind="retinanet", num_classes=3, anchor_ratios=ratios))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "yolo"}, "kind must be one of retinanet, faster_rcnn, got 'yolo'"),
        ({"norm": None}, "norm must be one of frozen, trained, got None"),
        ({"exact_roi_align": 1}, "exact_roi_align must be one of False, True, got 1"),
        ({"num_classes": 0}, r"num_classes must be an integer in \[1, 100000\], got 0"),
        ({"num_classes": True}, r"num_classes must be an integer in \[1, 100000\], got True"),
        ({"roi_size": 7.0}, r"roi_size must be an integer in \[1, 64\], got 7\.0"),
        ({"frozen_stages": -1}, r"frozen_stages must be an integer in \[0, 64\], got -1"),
        ({"nms_threshold": 1.5}, r"nms_threshold must be a number in \[0, 1\], got 1\.5"),
        ({"score_threshold": None}, r"score_threshold must be a number in \[0, 1\], got None"),
        ({"score_threshold": float("nan")}, r"score_threshold must be a number in \[0, 1\], got nan"),
        ({"focal_gamma": -1}, r"focal_gamma must be a number in \[0, 100\], got -1"),
        ({"anchor_scale": 0}, "anchor_scale must be a number > 0 and <= 1024, got 0"),
        ({"anchor_ratios": ()}, r"anchor_ratios must hold one or more numbers, got \(\)"),
        ({"anchor_ratios": 1}, "anchor_ratios must be a sequence of numbers, got 1"),
        ({"anchor_ratios": (1, -2)}, "anchor_ratios must be a number > 0 and <= 1000, got -2"),
        ({"roi_deviations": (1, 1)}, r"roi_deviations must hold 4 numbers, got \(1, 1\)"),
        ({"positive_iou": 0.3}, r"negative_iou must not be above positive_iou, got 0\.4 and 0\.3"),
        ({"nms_candidates": 99}, "nms_candidates must be most_detections or more, got 99 and 100"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DetectorSettings(**({"kind": "retinanet", "num_classes": 80} | changes))
