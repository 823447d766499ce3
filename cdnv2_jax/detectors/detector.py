"""What both detectors have in common: backbone, pyramid, inputs and outputs, what trains."""

import dataclasses
from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.fpn import FPN
from cdnv2_jax.detectors.ops.anchors import Maps, level_masks
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.valid_region import MULTIPLE
from cdnv2_jax.networks.network import ModulePath, Network


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a detector's labels stand for.

    Attributes:
      names: of the classes.
      category_ids: of the same in COCO's files.
    """

    names: Sequence[str]
    category_ids: Sequence[int]

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "category_ids", tuple(int(number) for number in self.category_ids))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """The true objects of a batch of images, padded to the same number m.

    Attributes:
      boxes: float32 [b, m, 4], x1, y1, x2, y2 in pixels of the canvas; zeros where not valid.
      labels: int32 [b, m], from 0.
      valid: bool [b, m].
    """

    boxes: jax.Array
    labels: jax.Array
    valid: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in a batch of images, best first, padded to the same number n.

    Attributes:
      boxes: float32 [b, n, 4], x1, y1, x2, y2 in pixels of the canvas, within the image.
      scores: float32 [b, n], in [0, 1].
      labels: int32 [b, n], from 0.
      valid: bool [b, n].
      truncated: bool [b], whether a limit on candidates could have changed the result.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    truncated: jax.Array


def with_area(targets: Targets) -> Targets:
    """The same without the objects of no area, which no box could be trained towards."""
    width, height = (targets.boxes[..., 2 + axis] - targets.boxes[..., axis] for axis in (0, 1))
    return dataclasses.replace(targets, valid=targets.valid & (width > 0) & (height > 0))


class PyramidDetector(nnx.Module):
    """A detector of one of the two kinds; `RetinaNet` and `FasterRCNN` say what follows the pyramid.

    Attributes:
      settings: what it is made of.
      backbone: any network with feature maps of the strides that the pyramid reads.
      fpn: the feature pyramid on it.
      canvases_filled: whether the caller promises that all images cover their canvases, but for what pads them to 32
        pixels. The results are the same; the backbone then needs no masks, and a CondenseNet may use its CPU kernels.
    """

    def __init__(
        self, settings: DetectorSettings, backbone: Network, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        _check_backbone(settings, backbone)
        self.settings = settings
        self.backbone = backbone
        self.canvases_filled = False
        self.fpn = FPN(
            backbone.feature_channels,
            settings.fpn_channels,
            strides=settings.feature_strides,
            top="convolved" if settings.kind == "retinanet" else "subsampled",
            dtype=dtype,
            rngs=rngs,
        )

    def losses(self, images: jax.Array, sizes: jax.Array, targets: Targets, key: jax.Array) -> dict[str, jax.Array]:
        """The losses of a batch, scalars by name, to be added up; finite whatever the targets are.

        They are of the whole batch, not means over images: on a batch that is split over devices the same as on one.
        Objects of no area are left out.

        Args:
          images: [b, h, w, 3], normalised, each at the top left of its canvas, zeros beyond it.
          sizes: int32 [b, 2], height and width of each image.
          targets: of each image.
          key: from which samples are drawn.
        """
        raise NotImplementedError

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections:
        """What is in a batch of images, given as `losses` takes them."""
        raise NotImplementedError

    def levels(self, images: jax.Array, sizes: jax.Array) -> tuple[Maps, Maps]:
        """(maps [b, h, w, c], masks bool [b, h, w, 1]) of the pyramid by stride; cells outside of masks mean nothing.

        Raises UserError for a canvas that does not divide by 32.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or sizes.shape != (images.shape[0], 2):
            raise ValueError(
                f"images must be [b, h, w, 3] and sizes [b, 2], got {list(images.shape)} and {list(sizes.shape)}"
            )
        height, width = images.shape[1:3]
        if height % MULTIPLE or width % MULTIPLE or not height * width:
            raise UserError(f"a canvas must be a multiple of {MULTIPLE} pixels on each side, got {height}×{width}")
        masks = level_masks(sizes, height, width, sorted({*self.settings.feature_strides, *self.settings.strides}))
        return self.fpn(self.backbone.features(images, None if self.canvases_filled else sizes), masks), masks


def _check_backbone(settings: DetectorSettings, backbone: Network) -> None:
    given, read = sorted(backbone.feature_channels), settings.feature_strides
    if not set(read) <= set(given):
        raise UserError(f"{settings.kind} needs a backbone with maps of strides {list(read)}, this one gives {given}")
    stages = len(backbone.stage_modules())
    if settings.frozen_stages > stages:
        raise UserError(f"frozen_stages must be {stages} or less for this backbone, got {settings.frozen_stages}")


def trainable_parameters(detector: PyramidDetector) -> nnx.State:
    """The tree of `nnx.state(detector, nnx.Param)` with a bool for each array: whether it trains; a mask for optax.

    The pyramid and the heads train, and of the backbone what leads to its maps, without its first
    `settings.frozen_stages` stages: a classifier that comes with a backbone stays as it is.
    """
    stages = detector.backbone.stage_modules()[detector.settings.frozen_stages :]
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
    frozen = [path for stage in detector.backbone.stage_modules()[: detector.settings.frozen_stages] for path in stage]
    for path, module in nnx.iter_modules(detector.backbone):
        if _within(path, frozen):
            module.eval()


def _within(path: ModulePath, prefixes: list[ModulePath]) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in prefixes)
