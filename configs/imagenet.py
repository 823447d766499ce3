"""ImageNet classification: CondenseNetV2 A/B/C and CondenseNet-74 with their official recipes.

    cdnv2 train --config imagenet:cdnv2_a --workdir runs/a --config.data.directory=/data/imagenet
    cdnv2 eval  --config imagenet:cdnv2_a --checkpoint runs/a/condensed \
        --config.data.directory=/data/imagenet

Data: `train` and `val` under `config.data.directory`, a folder per class in each. `--config.data.source=imagenet_tars`
reads the original tars, `tfds` an array_record data set: see docs/data.md.
Expected top-1 error in per cent (published, not reproduced here): A 35.6, B 28.1, C 24.1 (README of the official
CondenseNetV2); CondenseNet-74 26.2 with C = G = 4, 29.0 with 8 (README of the official CondenseNet).
Recipes: cdnv2_*: 350 epochs, batch 1024, SGD 0.4, cosine, label smoothing, EMA, RandAugment, random erasing, as in the
official README's command. CondenseNet-74: 120 epochs, batch 256, SGD 0.1, cosine, group lasso 1e-5, as in the official
script. BatchNorm statistics are those of each device's part of the batch, as in the official runs. Learning rates are
for the batch size given here and scale with it.
Cost: the official runs took 8 GPUs for days; 350 epochs are 437,850 updates (448 million images).

`:cdnv2_a,smoke` is the same with one layer per block, on eight generated images, for a single step.
"""

from typing import Any

from ml_collections import ConfigDict

V2 = ("cdnv2_a", "cdnv2_b", "cdnv2_c")
V1 = ("condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8")
VARIANTS = tuple(f"{model}{smoke}" for model in V2 + V1 for smoke in ("", ",smoke"))


def get_config(variant: str = "cdnv2_a") -> ConfigDict:
    """Return the recipe of a model in `V2` or `V1`; `MODEL,smoke` for a single step of it."""
    model, _, smoke = variant.partition(",")
    if variant not in VARIANTS:
        raise ValueError(f"imagenet has {', '.join(V2 + V1)}, each also as MODEL,smoke, not {variant!r}")
    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict({"name": model, "num_classes": 1000, "dtype": "bfloat16", "overrides": {}})
    config.batch_norm = "replica"

    config.data = ConfigDict()
    config.data.source = "image_folder"
    config.data.directory = "imagenet"
    config.data.image_size = 224
    config.data.eval_batch_size = 256
    config.data.exif_orientation = False
    config.data.crop = "random_resized"
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.workers = 8

    config.optimizer = ConfigDict({"momentum": 0.9, "nesterov": True})
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 3
    config.log_every_steps = 100

    (_v2 if model in V2 else _v1)(config)
    if smoke:
        _shrink(config, blocks=5)
    return config


def _v2(config: Any) -> None:
    config.epochs = 350
    config.label_smoothing = 0.1
    config.ema_decay = 0.9998
    config.data.batch_size = 1024
    config.data.rand_augment = "rand-m9-mstd0.5"
    config.data.erase_probability = 0.2
    config.optimizer.learning_rate = 0.4
    config.optimizer.warmup_from = 0.1
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.reference_batch = 1024
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_vectors = False


def _v1(config: Any) -> None:
    config.epochs = 120
    config.group_lasso = 1e-5
    config.data.interpolation = "bilinear"
    config.data.batch_size = 256
    config.optimizer.learning_rate = 0.1
    config.optimizer.reference_batch = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_vectors = True


def _shrink(config: Any, blocks: int) -> None:
    config.model.overrides = ConfigDict({"stages": (1,) * blocks})
    config.model.num_classes = 8
    config.data.source = "synthetic"
    config.data.synthetic_images = 8
    config.data.image_size = 64
    config.data.batch_size = config.data.eval_batch_size = 8
    config.data.workers = 0
    config.epochs = 1
    config.log_every_steps = 1
