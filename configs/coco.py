"""Detection on COCO 2017: Faster R-CNN and RetinaNet on the backbones of the CondenseNetV2 paper's table.

    cdnv2 train --config coco:retinanet,cdnv2_c --workdir runs/retinanet_c \
        --config.data.directory=/data/coco --config.model.checkpoint=cdnv2_c.pth.tar
    cdnv2 eval  --config coco:retinanet,cdnv2_c --checkpoint runs/retinanet_c/condensed \
        --config.data.directory=/data/coco

Data: `annotations/instances_{train,val}2017.json`, `train2017/*.jpg` and `val2017/*.jpg` under
`config.data.directory`; or, with `--config.data.source=tfds`, TensorFlow Datasets' coco/2017: see docs/data.md.
Checkpoint: a classifier trained on ImageNet, ours or official (for ShuffleNetV2 and MobileNetV2: torchvision's or
Megvii's). A masked CondenseNetV2 that is not fully pruned is pruned further in the first half of the run.
Expected mAP in per cent (published in the CondenseNetV2 paper's table of detection results, not reproduced here):

    Faster R-CNN  shufflenet_v2_x0_5 22.1, cdnv2_a 23.5, shufflenet_v2_x1_0 27.4, cdnv2_b 27.9,
                  mobilenet_v2_x1_0 30.6, shufflenet_v2_x1_5 30.2, cdnv2_c 31.4
    RetinaNet     mobilenet_v2_x1_0 29.7, shufflenet_v2_x1_5 29.1, cdnv2_c 31.7

Recipe: 12 epochs, batch 16, SGD 0.02 (Faster R-CNN) or 0.01 (RetinaNet), divided by 10 after 8 and 11 epochs, 500 steps
of warm-up; BatchNorm statistics, stem and first block frozen. This is mmdetection 2.11's "1x" schedule, because the
paper says only that it used that code.
Cost: 87,960 updates (1.4 million images of up to 1333 × 800 pixels); meant for GPUs or TPUs.

`:retinanet,cdnv2_c,smoke` is a single step from random initialisation on a few drawn shapes, with a narrow detector.
"""

from typing import Any

from ml_collections import ConfigDict

BACKBONES = {
    "faster_rcnn": (
        *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "mobilenet_v2_x1_0"),
        *("cdnv2_a", "cdnv2_b", "cdnv2_c"),
    ),
    "retinanet": ("mobilenet_v2_x1_0", "shufflenet_v2_x1_5", "cdnv2_c"),
}
"""The combinations of which the paper gives results."""
VARIANTS = tuple(
    f"{detector},{backbone}{smoke}"
    for detector, backbones in BACKBONES.items()
    for backbone in backbones
    for smoke in ("", ",smoke")
)


def get_config(variant: str = "retinanet,cdnv2_c") -> ConfigDict:
    """Return the config of DETECTOR,BACKBONE from `BACKBONES`; DETECTOR,BACKBONE,smoke for a single step."""
    detector, _, rest = variant.partition(",")
    backbone, _, smoke = rest.partition(",")
    if variant not in VARIANTS:
        there = "; ".join(f"{name} with {', '.join(backbones)}" for name, backbones in BACKBONES.items())
        raise ValueError(f"coco has DETECTOR,BACKBONE and DETECTOR,BACKBONE,smoke: {there}; not {variant!r}")
    config = ConfigDict()
    config.task = "detection"
    config.seed = 0
    config.epochs = 12
    config.model = ConfigDict({"detector": detector, "backbone": backbone, "num_classes": 80, "dtype": "bfloat16"})
    config.model.checkpoint = ""
    config.model.settings = ConfigDict({"norm": "frozen", "frozen_stages": 1})
    config.model.overrides = ConfigDict()

    config.data = ConfigDict()
    config.data.source = "coco"
    config.data.directory = "coco"
    config.data.short_side = 800
    config.data.long_side = 1333
    config.data.batch_size = 16
    config.data.eval_batch_size = 16
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.workers = 8

    rate = {"faster_rcnn": 0.02, "retinanet": 0.01}[detector]
    config.optimizer = ConfigDict({"learning_rate": rate, "warmup_from": rate / 1000, "warmup_steps": 500})
    config.optimizer.reference_batch = 16
    config.optimizer.decay_epochs = (8, 11)
    config.optimizer.decay_factor = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_vectors = True

    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 2
    config.log_every_steps = 50
    if smoke:
        _shrink(config)
    return config


def _shrink(config: Any) -> None:
    config.model.num_classes = 5
    config.model.dtype = "float32"
    config.model.settings = ConfigDict({"fpn_channels": 8, "hidden": 16, "head_convs": 1, "norm": "trained"})
    config.model.overrides = ConfigDict({"stages": (1,) * 5}) if "cdnv2" in config.model.backbone else ConfigDict()
    config.data.source = "shapes"
    config.data.directory = ""
    config.data.shapes_images = 8
    config.data.batch_size = config.data.eval_batch_size = 4
    config.data.workers = 0
    config.epochs = 1
    config.log_every_steps = 1
