"""What every experiment is made of, whatever it trains; the schema of the files in `configs/` builds on it."""

import dataclasses
from typing import Any, Literal

Dtype = Literal["float32", "bfloat16", "float64"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where images come from; docs/data.md describes every source.

    Attributes:
      source: its name. directory: where its files lie ("" for those that need none).
      batch_size: images per update, over all devices. eval_batch_size: the same for evaluation, no effect on results.
      flip: mirror half of the training images.
      mean, std: of each channel, for pixels in [0, 1].
      workers: processes per host that read and augment; 0 to do it in threads of the training process.
      max_broken_images: how many unreadable images may be replaced by others before the run stops.
    """

    source: str
    directory: str = ""
    batch_size: int
    eval_batch_size: int
    flip: bool = False
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    workers: int = 0
    max_broken_images: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum, or AdamW; the rate warms up linearly, then falls by half a cosine to zero, or by steps.

    Attributes:
      name: "sgd" or "adamw" (β 0.9 and 0.999; `momentum` and `nesterov` have no meaning then).
      learning_rate: after the warm-up. warmup_from: at step 0. warmup_epochs: 0 for none; warmup_steps adds to them.
      decay_epochs: after which the rate is multiplied by `decay_factor`; none for the cosine.
      reference_batch: the batch that the two rates are meant for: with another batch both are scaled in proportion;
        0 to take them as they are.
      clip_norm: gradients of a larger norm, over all parameters, are shortened to it; 0 for none.
      weight_decay: added to the gradient (as PyTorch does), with AdamW to the update; decay_vectors: of biases and
        BatchNorm too.
    """

    learning_rate: float
    name: Literal["sgd", "adamw"] = "sgd"
    warmup_from: float = 0.0
    warmup_epochs: float = 0
    warmup_steps: int = 0
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    reference_batch: int = 0
    momentum: float = 0.9
    nesterov: bool = True
    clip_norm: float = 0.0
    weight_decay: float = 0.0
    decay_vectors: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The fields of every experiment.

    Attributes:
      task: what is trained; it decides what else a config holds. model, data: as that task has them.
      epochs: length of the run; the first half of it prunes what is not fully pruned.
      accumulate: parts that a batch is worked through in, one after the other, before the update.
      remat: compute what is inside of dense layers again in the backward pass instead of keeping it: less memory, a
        second forward pass, the same result. CPUs ignore it (XLA merges the two computations).
      ema_decay: of the moving average of weights and BN statistics that evaluation uses; 0 for none.
      eval_every_epochs, checkpoint_every_epochs, keep_checkpoints, log_every_steps: bookkeeping.
      seed: of weights, data order and augmentation.
    """

    task: str
    model: Any
    data: SourceConfig
    optimizer: OptimizerConfig
    epochs: int
    seed: int = 0
    accumulate: int = 1
    remat: bool = False
    ema_decay: float = 0.0
    eval_every_epochs: int = 1
    checkpoint_every_epochs: int = 1
    keep_checkpoints: int = 2
    log_every_steps: int = 10

    def check(self) -> None:
        """UserError when fields that are right by themselves do not fit together."""
