"""A small CondenseNetV2 on Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28×28.

    sudo apt install dataset-fashion-mnist
    cdnv2 train --config fashion_mnist --workdir runs/fashion

Data: the four files of Fashion-MNIST, from Debian's package or, with --config.data.directory=DIR, from elsewhere; see
docs/data.md. They are 30 MB, and their licence is MIT.
Expected: 93.3 % top-1 on the 10,000 test pictures, masked and condensed alike (own measurement, see docs/results.md).
Cost: three quarters of an hour on 2 CPU cores that had other work, too.

`fashion_mnist:smoke` is the same with one layer per block, for a few steps on generated images.
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")


def get_config(variant: str = "full") -> ConfigDict:
    """Return the config `full`, or `smoke` for a run of a few steps on generated images."""
    if variant not in VARIANTS:
        raise ValueError(f"fashion_mnist has the variants 'full' and 'smoke', not {variant!r}")
    config = ConfigDict()
    config.seed = 0
    config.epochs = 12

    config.model = ConfigDict()
    config.model.name = "cdnv2_cifar_110"
    config.model.num_classes = 10
    config.model.dtype = "float32"
    config.model.overrides = ConfigDict(
        {"stages": (2, 4, 4), "growth": (8, 16, 32), "groups": 4, "condensation_factor": 4, "squeeze_excite_from": 1}
    )

    config.data = ConfigDict()
    config.data.source = "fashion_mnist"
    config.data.directory = "/usr/share/datasets/fashion-mnist"
    config.data.image_size = 28
    config.data.batch_size = 64
    config.data.eval_batch_size = 250
    config.data.crop = "shift"
    config.data.shift = 2
    config.data.mean = (0.286, 0.286, 0.286)
    config.data.std = (0.353, 0.353, 0.353)

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.reference_batch = 64
    config.optimizer.warmup_from = 0.01
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_vectors = False

    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.group_lasso = 0.0

    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 2
    config.log_every_steps = 50
    if variant == "smoke":
        config.model.overrides.stages = (1, 1, 1)
        config.data.source = "synthetic"
        config.data.synthetic_images = 256
        config.epochs = 1
        config.log_every_steps = 1
    return config
