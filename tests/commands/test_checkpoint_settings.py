"""What a detector is evaluated with: the checkpoint's own values, unless a flag says otherwise, which is said."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.commands.checkpoint_settings import evaluated_detector
from cdnv2_jax.commands.read_config import read_with_origins
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.shell import REPOSITORY
from tests.tables import table

SPEC = f"{REPOSITORY}/configs/coco.py:faster_rcnn,cdnv2_a"
PREPARATION = CanvasPreparation(400, 666)


def _opened(*, usage: bool = True) -> Any:
    """A checkpoint trained with 3 classes and a few other settings than the config file's."""
    settings = DetectorSettings(kind="faster_rcnn", num_classes=3, fpn_channels=64, score_threshold=0.1, proposals=50)
    backbone = SimpleNamespace(name="cdnv2_a", architecture=architecture_of("cdnv2_a", 1), param_dtype="float32")
    return SimpleNamespace(
        path=Path("run/masked"),
        detector=SimpleNamespace(settings=settings, backbone=backbone),
        metadata={"usage": PREPARATION.to_json()} if usage else {},
        preparation=PREPARATION,
    )


def _evaluated(*flags: str, spec: str = SPEC, usage: bool = True) -> tuple[DetectionConfig, list[str]]:
    config, origins = read_with_origins(spec, [f"--config.{flag}" for flag in flags])
    assert isinstance(config, DetectionConfig)
    return evaluated_detector(config, origins, _opened(usage=usage))


def test_the_checkpoints_own_values() -> None:
    """Those of the config file do not count; where they differ, it is said."""
    config, lines = _evaluated()
    assert config.model.detector_settings == _opened().detector.settings
    assert config.data.preparation == PREPARATION and config.model.dtype == "float32"
    assert lines == [
        "short_side 400 (checkpoint) instead of 800 (config file)",
        "long_side 666 (checkpoint) instead of 1333 (config file)",
    ]


@table(
    "flags, changes, line",
    [
        (
            ["model.settings.score_threshold=0.3"],
            {"score_threshold": 0.3},
            "score_threshold 0.3 (command line) instead of 0.1 (checkpoint)",
        ),
        (["model.settings.score_threshold=0.1"], {}, ""),
        (
            ["model.settings.nms_threshold=0.7", "model.settings.proposals=10"],
            {"nms_threshold": 0.7, "proposals": 10},
            "proposals 10 (command line) instead of 50 (checkpoint)",
        ),
        (
            ["model.settings={'most_detections': 300}"],
            {"most_detections": 300},
            "most_detections 300 (command line) instead of 100 (checkpoint)",
        ),
        (["model.settings.fpn_channels=64", "model.num_classes=3"], {}, ""),  # what it has
    ],
)
def test_flags(flags: list[str], changes: dict[str, Any], line: str) -> None:
    config, lines = _evaluated(*flags)
    assert config.model.detector_settings == dataclasses.replace(_opened().detector.settings, **changes)
    assert line in lines if line else not any("command line" in one for one in lines)


def test_flags_about_preprocessing() -> None:
    config, lines = _evaluated("data.short_side=64", "data.mean=(0.5,0.5,0.5)", "model.dtype=bfloat16")
    assert config.data.preparation == dataclasses.replace(PREPARATION, short_side=64, mean=(0.5, 0.5, 0.5))
    assert config.model.dtype == "bfloat16"
    assert "short_side 64 (command line) instead of 400 (checkpoint)" in lines
    assert "mean (0.5, 0.5, 0.5) (command line) instead of (0.485, 0.456, 0.406) (checkpoint)" in lines
    assert "dtype bfloat16 (command line) instead of float32 (checkpoint)" in lines


def test_a_checkpoint_without_preprocessing() -> None:
    config, lines = _evaluated("data.short_side=64", usage=False)
    assert (config.data.short_side, config.data.long_side) == (64, 1333)
    assert lines == ["run/masked stores no preprocessing: the config's is used"]


@table(
    "flag, own",
    {
        "model.num_classes=80": "3",
        "model.settings.fpn_channels=32": "64",
        "model.settings.hidden=16": "1024",
        "model.settings.anchor_ratios=(1.0,)": r"\(0.5, 1.0, 2.0\)",
        "model.settings.roi_size=5": "7",
        "model.settings.norm=trained": "frozen",
        "model.overrides.stages=(1,1,1,1,1)": r"\(1, 1, 4, 6, 8\)",
        "model.overrides.groups=4": "8",
    }.items(),
)
def test_flags_for_another_detector(flag: str, own: str) -> None:
    name = flag.partition("=")[0]
    with pytest.raises(UserError, match=rf"^--config\.{name}=.* another detector than run/masked holds, .* {own}:"):
        _evaluated(flag)


def test_another_detector() -> None:
    with pytest.raises(UserError, match="holds a faster_rcnn on cdnv2_a, the config is for a retinanet on cdnv2_c"):
        _evaluated(spec=f"{REPOSITORY}/configs/coco.py:retinanet,cdnv2_c")
    with pytest.raises(UserError, match=r"config\.model\.settings: nms_candidates must be most_detections or more"):
        _evaluated("model.settings.most_detections=1900", "model.settings.nms_candidates=1000")
