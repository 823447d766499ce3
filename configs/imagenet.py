"""ImageNet classification: CondenseNetV2 A/B/C and CondenseNet-74, the official recipe.

    python main.py eval --config configs/imagenet.py:cdnv2_a --checkpoint PATH --config.data.directory=imagenet/val

Data: a folder per class with its images (`val/n01440764/*.JPEG` …), named so that sorting gives the usual labels.
Expected, as published in the official README, top-1 error: A 35.6, B 28.1, C 24.1; CondenseNet-74 26.2 (C = G = 4)
and 29.0 (C = G = 8). None of them has been reproduced here.
Cost: evaluation of 50,000 images takes minutes on an accelerator; the recipe is 350 epochs on 8 GPUs.

The training fields state the official recipe; `main.py train` does not read image folders yet.
"""

from ml_collections import ConfigDict

MODELS = ("cdnv2_a", "cdnv2_b", "cdnv2_c", "condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8")


def get_config(model: str = "cdnv2_a") -> ConfigDict:
    """The recipe for one of `MODELS`."""
    if model not in MODELS:
        raise ValueError(f"configs/imagenet.py has no {model!r}, only {', '.join(MODELS)}")
    config = ConfigDict()
    config.seed = 0
    config.epochs = 350

    config.model = ConfigDict({"name": model, "num_classes": 1000, "dtype": "float32", "overrides": {}})

    config.data = ConfigDict()
    config.data.source = "image_folder"
    config.data.directory = "imagenet/val"
    config.data.image_size = 224
    config.data.batch_size = 1024
    config.data.eval_batch_size = 64
    config.data.max_shift = 0

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.4
    config.optimizer.warmup_from = 0.1
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_vectors = False

    config.label_smoothing = 0.1
    config.ema_decay = 0.9998
    config.group_lasso = 0.0

    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 3
    config.log_every_steps = 100
    return config
