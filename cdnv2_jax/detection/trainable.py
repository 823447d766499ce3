"""Which of a detector's parameters train, and which of its BatchNorms follow the batches."""

from flax import nnx

from cdnv2_jax.detection.pyramid_detector import PyramidDetector
from cdnv2_jax.detection.stages import Path, stage_paths


def trainable_parameters(detector: PyramidDetector) -> nnx.State:
    """The tree of `nnx.state(detector, nnx.Param)` with a bool for each array: whether it trains; a mask for optax.

    The pyramid and the heads train, and of the backbone what leads to its maps, without its first
    `settings.frozen_stages` stages: a classifier that comes with a backbone stays as it is.
    """
    stages = stage_paths(detector.backbone)[detector.settings.frozen_stages :]
    trained = [path for stage in stages for path in stage]
    return nnx.map_state(
        lambda path, parameter: parameter.replace(path[0] != "backbone" or _within(path[1:], trained)),
        nnx.state(detector, nnx.Param),
    )


def set_training_mode(detector: PyramidDetector) -> None:
    """As `detector.train()`, but BatchNorms keep their statistics: all with `norm` "frozen", else in frozen stages.

    `detector.eval()` is its opposite.
    """
    detector.train()
    if detector.settings.norm == "frozen":
        detector.backbone.eval()
        return
    frozen = [path for stage in stage_paths(detector.backbone)[: detector.settings.frozen_stages] for path in stage]
    for path, module in nnx.iter_modules(detector.backbone):
        if _within(path, frozen):
            module.eval()


def _within(path: Path, prefixes: list[Path]) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in prefixes)
