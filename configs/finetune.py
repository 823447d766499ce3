"""Fine-tuning a trained network on images of your own.

    cdnv2 train --config finetune:cdnv2_a --workdir runs/flowers \
        --config.data.directory=/data/flowers --config.model.num_classes=102 \
        --config.model.checkpoint=cdnv2_a.pth.tar

Data: `train` and `val` under `config.data.directory`, a folder per class in each; or only a folder per class, of which
a tenth is held out (`config.data.held_out_fraction`); or another source of docs/data.md.
Checkpoint: ours or official, masked or condensed; a condensed one stays condensed. Its classifier is replaced when the
number of classes differs. A masked network that is not fully pruned is pruned further in the first half of the run.
Expected: nothing is published; the figures depend on your data.
Cost: on 2 CPU cores about 25 ms per training image with cdnv2_a at 224 pixels.

`:cdnv2_a,smoke` is a single step from random initialisation, with one layer per block, on eight generated images;
`:mobilenet_v2_x1_0,smoke` does the same with the whole network.
"""

from typing import Any

from ml_collections import ConfigDict

MODELS = (
    *("cdnv2_a", "cdnv2_b", "cdnv2_c", "condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "mobilenet_v2_x1_0"),
)
VARIANTS = tuple(f"{model}{smoke}" for model in MODELS for smoke in ("", ",smoke"))


def get_config(variant: str = "cdnv2_a") -> ConfigDict:
    """Return the config to fine-tune one of `MODELS`; `MODEL,smoke` for a single step."""
    model, _, smoke = variant.partition(",")
    if variant not in VARIANTS:
        raise ValueError(f"finetune has {', '.join(MODELS)}, each also as MODEL,smoke, not {variant!r}")
    config = ConfigDict()
    config.seed = 0
    config.epochs = 30
    config.model = ConfigDict({"name": model, "num_classes": 10, "dtype": "float32", "overrides": {}})
    config.model.checkpoint = ""

    config.data = ConfigDict()
    config.data.source = "image_folder"
    config.data.directory = "images"
    config.data.held_out_fraction = 0.1
    config.data.image_size = 224
    config.data.batch_size = 64
    config.data.eval_batch_size = 64
    config.data.crop = "random_resized"
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.01
    config.optimizer.reference_batch = 64
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_vectors = False

    config.label_smoothing = 0.1
    config.ema_decay = 0.99
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 2
    config.log_every_steps = 10
    if smoke:
        _shrink(config)
    return config


def _shrink(config: Any) -> None:
    if "condensenet" in config.model.name or "cdnv2" in config.model.name:
        config.model.overrides = ConfigDict({"stages": (1,) * 5})
    config.model.num_classes = 8
    config.data.source = "synthetic"
    config.data.synthetic_images = 8
    config.data.image_size = 64
    config.data.batch_size = config.data.eval_batch_size = 8
    config.epochs = 1
    config.log_every_steps = 1
