"""A small CondenseNetV2 on handwritten digits: trained, pruned and condensed in a few minutes on a laptop.

    cdnv2 train --config digits --workdir runs/digits

Data: 1,797 real 8×8 digits that come with the package, those of scikit-learn, shown at 16×16; 360 of them are held out.
Expected: ≥ 98 % top-1 on the held-out digits, masked and condensed alike (own measurement, see README).
Cost: about two minutes on 2 CPU cores.

`digits:smoke` is the same, shortened to a few steps.
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")


def get_config(variant: str = "full") -> ConfigDict:
    """Return the config `full`, or `smoke` for a run of a few steps."""
    if variant not in VARIANTS:
        raise ValueError(f"digits has the variants 'full' and 'smoke', not {variant!r}")
    config = ConfigDict()
    config.seed = 0
    config.epochs = 30

    config.model = ConfigDict()
    config.model.name = "cdnv2_cifar_110"
    config.model.num_classes = 10
    config.model.dtype = "float32"
    config.model.overrides = ConfigDict(
        {"stages": (2, 2, 2), "growth": (8, 16, 32), "groups": 4, "condensation_factor": 4, "squeeze_excite_from": 2}
    )

    config.data = ConfigDict()
    config.data.source = "digits"
    config.data.directory = ""
    config.data.image_size = 16
    config.data.batch_size = 64
    config.data.eval_batch_size = 120
    config.data.crop = "shift"
    config.data.shift = 2

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_from = 0.01
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_vectors = False

    config.label_smoothing = 0.1
    config.ema_decay = 0.9
    config.group_lasso = 0.0

    config.eval_every_epochs = 2
    config.checkpoint_every_epochs = 10
    config.keep_checkpoints = 2
    config.log_every_steps = 11

    if variant == "smoke":
        config.epochs = 1
        config.data.batch_size = 480
        config.log_every_steps = 1
    return config
