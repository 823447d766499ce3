"""Settings that all experiments share; `classification` and `detection` extend them."""

import dataclasses
from typing import Any, Literal

from cdnv2_jax.data.decode import MAX_MEGAPIXELS
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import RGB
from cdnv2_jax.schema import Field, FieldError, check, fields_of, setting, settings

Dtype = Literal["float32", "bfloat16", "float64"]
PRECISION_HELP = (
    "of float32 products in training, on GPUs and TPUs: default rounds factors to TF32 on NVIDIA GPUs and to bfloat16 "
    "on TPUs, highest does not; evaluation and export always use highest"
)


@settings
class SourceConfig:
    """Source of the images; docs/data.md describes every source."""

    source: str = setting("name of the data source, one of those in docs/data.md")
    directory: str = setting('directory of its files; "" for a source that needs none', default="")
    batch_size: int = setting("global batch: images per update, across all devices", least=1)
    eval_batch_size: int = setting("global batch of evaluation; does not affect results", least=1)
    flip: bool = setting("mirror half of the training images", default=False)
    mean: tuple[float, float, float] = setting(
        "mean of each channel, for pixels in [0, 1]", default=(0.5, 0.5, 0.5), least=-1000, most=1000
    )
    std: tuple[float, float, float] = setting(
        "std of each channel, likewise", default=(0.5, 0.5, 0.5), least=1e-6, most=1000
    )
    workers: int = setting(
        "worker processes per host that read and augment; 0 for threads of the training process", default=0, least=0
    )
    max_megapixels: int = setting(
        "limit of an image's size, in million pixels; larger ones count as unreadable", default=MAX_MEGAPIXELS, least=1
    )
    max_broken_images: int = setting(
        "unreadable images that may be replaced by others before the run stops", default=0, least=0
    )

    def __post_init__(self):
        check(self)


@settings
class OptimizerConfig:
    """SGD with momentum, or AdamW; linear warm-up of the learning rate, then cosine decay to zero or step decay."""

    learning_rate: float = setting("learning rate after the warm-up", least=0)
    name: Literal["sgd", "adamw"] = setting("adamw: β 0.9 and 0.999; ignores momentum and nesterov", default="sgd")
    warmup_from: float = setting("learning rate at step 0", default=0.0, least=0)
    warmup_epochs: float = setting("length of the warm-up; 0 for none", default=0.0, least=0)
    warmup_steps: int = setting("further steps of warm-up, added to warmup_epochs", default=0, least=0)
    decay_epochs: tuple[int, ...] = setting(
        "epochs after which the rate is multiplied by decay_factor; () for cosine decay", default=(), least=0
    )
    decay_factor: float = setting("see decay_epochs", default=0.1, least=0, most=1)
    reference_batch: int = setting(
        "batch size that both rates are for; they scale in proportion to data.batch_size; 0 for no scaling",
        default=0,
        least=0,
    )
    momentum: float = setting("momentum of SGD", default=0.9, least=0, most=1)
    nesterov: bool = setting("Nesterov momentum", default=True)
    clip_norm: float = setting("largest norm of the whole gradient; 0 for no clipping", default=0.0, least=0)
    weight_decay: float = setting("added to the gradient (sgd) or to the update (adamw)", default=0.0, least=0)
    decay_vectors: bool = setting("apply weight decay to biases and BatchNorm too", default=False)

    def __post_init__(self):
        check(self)


@settings
class RunConfig:
    """Settings of every experiment."""

    task: str = setting("what is trained; determines which other fields exist")
    model: Any = setting("the network")
    data: SourceConfig = setting("images and their preprocessing")
    optimizer: OptimizerConfig = setting("update rule and learning rate")
    epochs: int = setting("length of the run; its first half prunes", least=1)
    seed: int = setting("seed of weights, data order and augmentation", default=0, least=0, most=2**32 - 1)
    accumulate: int = setting("micro-batches per update, computed one after the other", default=1, least=1)
    remat: bool = setting(
        "recompute the inside of dense layers in the backward pass: less memory, same result; no effect on CPUs",
        default=False,
    )
    ema_decay: float = setting(
        "decay of the moving average of weights and BatchNorm statistics, evaluated beside live weights; 0 for none",
        default=0.0,
        least=0,
        most=1,
    )
    eval_every_epochs: int = setting("evaluation interval", default=1, least=1)
    checkpoint_every_epochs: int = setting("checkpoint interval", default=1, least=1)
    keep_checkpoints: int = setting("latest checkpoints to keep", default=2, least=1)
    log_every_steps: int = setting("interval of training records", default=10, least=1)

    def __post_init__(self):
        check(self)
        if (channels := self.model.architecture.in_channels) != RGB:
            raise FieldError(
                f"model.overrides.in_channels must be {RGB}, got {channels}: image files are read as RGB; to train on "
                f"others, see docs/own-training-loop.md"
            )


def override_fields(name: str) -> dict[str, Field]:
    """Return what `overrides` of a registered model may hold: fields of its architecture and shorthands for several."""
    architecture = model_entry(name).architecture
    fields = fields_of(type(architecture))
    known = {key: dataclasses.replace(field, default=getattr(architecture, key)) for key, field in fields.items()}
    del known["num_classes"]  # the config has its own field for it
    for key, sets in architecture.SHORTHANDS.items():
        text = f"shorthand for {', '.join(sets)}, those that the network has"
        if sets[0] in fields:
            known[key] = dataclasses.replace(fields[sets[0]], name=key, help=text)
    return known
