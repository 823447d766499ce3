"""Figures published for COCO are shown with COCO's own held-out images alone."""

import dataclasses
from typing import Any

import numpy as np

from cdnv2_jax.commands import evaluate
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.commands.report import detector_published
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data import coco_2017
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource
from tests.commands.shell import REPOSITORY


class _Named(DetectionSource):
    def encoded(self, index: int) -> tuple[bytes, str]:
        raise NotImplementedError


def _images(count: int, names: Any = coco_2017.NAMES, ids: Any = coco_2017.IDS) -> DetectionSource:
    none, flags = np.zeros((0, 4)), np.zeros(0, bool)
    sizes, ends = np.full((count, 2), 64, np.int32), np.zeros(count + 1, np.int64)
    arrays = AnnotationArrays(np.arange(count), sizes, ends, flags, flags, none, flags, flags, flags)
    return _Named(arrays, names, ids)


def test_only_coco_is_coco() -> None:
    """Categories by hand, here and there in the list of 80; then 5,000 images."""
    by_id = dict(zip(coco_2017.IDS, coco_2017.NAMES, strict=True))
    some = {1: "person", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 27: "backpack", 31: "handbag"}
    some |= {44: "bottle", 46: "wine glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv", 82: "refrigerator"}
    assert len(by_id) == len(set(by_id.values())) == 80
    assert {number: by_id[number] for number in some | {84: "", 90: ""}} == some | {84: "book", 90: "toothbrush"}

    assert coco_2017.is_coco_val2017(_images(5000))
    assert not coco_2017.is_coco_val2017(_images(4999))
    assert not coco_2017.is_coco_val2017(_images(5000, [*coco_2017.NAMES[:-1], "brush"]))
    assert not coco_2017.is_coco_val2017(_images(5000, ids=range(80)))


def test_published_figures_are_about_coco() -> None:
    """31.4 is the paper's mAP of Faster R-CNN on CondenseNetV2-C, printed and in the report; nothing for other data."""
    config = read_config(f"{REPOSITORY}/configs/coco.py:faster_rcnn,cdnv2_c", [])
    assert isinstance(config, DetectionConfig)
    (section,) = detector_published(config, _images(5000), 12.5)
    assert section.title == "Compared with published networks on COCO (faster_rcnn)" and "12.50" in section.text[0]
    assert evaluate._published_lines(config, _images(5000)) == ["published COCO mAP: 31.4% (CondenseNetV2 paper)"]
    for other in (_images(20), None):
        assert detector_published(config, other, 12.5) == []
    assert evaluate._published_lines(config, _images(20)) == []
    assert evaluate._name_of(config.data, _images(5000)) == "COCO val2017"
    assert evaluate._name_of(dataclasses.replace(config.data, directory="own"), _images(20)) == "own"
