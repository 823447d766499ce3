"""Detection of drawn shapes: a detector trained from random initialisation in a quarter of an hour on a laptop.

    cdnv2 train --config shapes:retinanet,cdnv2_a --workdir runs/shapes
    cdnv2 train --config shapes:faster_rcnn,cdnv2_a --workdir runs/shapes_rcnn

Data: images with circles, squares, triangles, stars and crosses, drawn at first use into COCO's own format (JSON and
image files), landscape and portrait, with overlaps, crowds and images without objects (`detection/data/shapes.py`).
Expected: AP50 0.86 (RetinaNet) and 0.87 (Faster R-CNN) on held-out images with cdnv2_a, masked and condensed alike (own
measurement, see docs/detection.md).
Cost: 13 to 14 minutes on 2 CPU cores.

`:retinanet,cdnv2_a,smoke` is a single step on a few images, with one layer per block.
"""

from typing import Any

from ml_collections import ConfigDict

DETECTORS = ("retinanet", "faster_rcnn")
BACKBONES = (
    *("cdnv2_a", "cdnv2_b", "cdnv2_c", "mobilenet_v2_x1_0"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"),
)
VARIANTS = tuple(
    f"{detector},{backbone}{smoke}" for detector in DETECTORS for backbone in BACKBONES for smoke in ("", ",smoke")
)


def get_config(variant: str = "retinanet,cdnv2_a") -> ConfigDict:
    """Return the config of DETECTOR,BACKBONE from `DETECTORS` and `BACKBONES`; DETECTOR,BACKBONE,smoke for one step."""
    detector, _, rest = variant.partition(",")
    backbone, _, smoke = rest.partition(",")
    if variant not in VARIANTS:
        raise ValueError(
            f"shapes has DETECTOR,BACKBONE of {', '.join(DETECTORS)} and {', '.join(BACKBONES)}, each also "
            f"as DETECTOR,BACKBONE,smoke, not {variant!r}"
        )
    config = ConfigDict()
    config.task = "detection"
    config.seed = 0
    # RetinaNet trains on every anchor, most of them background, and takes longer.
    config.epochs = 7 if detector == "retinanet" else 5

    config.model = ConfigDict({"detector": detector, "backbone": backbone, "num_classes": 5, "dtype": "float32"})
    config.model.checkpoint = ""
    # Random initial weights are not worth freezing. Images and objects are small, so the detector can be small too.
    config.model.settings = ConfigDict({"norm": "trained", "frozen_stages": 0, "fpn_channels": 64})
    if detector == "retinanet":
        config.model.settings.update({"head_convs": 2, "anchor_scale": 2.0})
    else:
        config.model.settings.update({"hidden": 256, "anchor_scale": 4.0, "rpn_samples": 64, "roi_samples": 64})
        config.model.settings.update({"proposals_per_level_training": 200, "proposals_per_level": 100})
        config.model.settings.proposals = 100
    config.model.overrides = ConfigDict()

    config.data = ConfigDict()
    config.data.source = "shapes"
    config.data.directory = ""
    config.data.short_side = 128
    config.data.long_side = 192
    config.data.batch_size = 8
    config.data.eval_batch_size = 16
    config.data.flip = True

    # From random initialisation, AdamW gets as far as SGD in half the steps.
    rate = 0.003 if detector == "retinanet" else 0.002
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": rate, "warmup_from": 0.00002})
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 5.0
    config.optimizer.weight_decay = 0.02
    config.optimizer.decay_vectors = False

    config.ema_decay = 0.99
    config.eval_every_epochs = 4
    config.checkpoint_every_epochs = 4
    config.keep_checkpoints = 2
    config.log_every_steps = 20
    if smoke:
        _shrink(config)
    return config


def _shrink(config: Any) -> None:
    if config.model.backbone.startswith("cdnv2"):
        config.model.overrides = ConfigDict({"stages": (1,) * 5})
    config.model.settings.update({"fpn_channels": 8, "hidden": 16, "head_convs": 1})
    config.data.shapes_images = 8
    config.data.batch_size = config.data.eval_batch_size = 8
    config.epochs = 1
    config.log_every_steps = 1
