"""Base of both detectors: backbone, pyramid, inputs and outputs, and which parameters train."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.fpn import FPN
from cdnv2_jax.detectors.ops.anchors import Maps, level_masks
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.valid_region import MULTIPLE
from cdnv2_jax.networks.network import RGB, ModulePath, Network


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a detector, in the order of its labels.

    Attributes:
      names: names of the classes.
      category_ids: ids of the classes in the data set's files, numbers or text.
    """

    names: Sequence[str]
    category_ids: Sequence[int | str]

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        ids = (one if isinstance(one, str) else int(one) for one in self.category_ids)
        object.__setattr__(self, "category_ids", tuple(ids))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """Ground truth of a batch of images, padded to the same number m of objects.

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
    """Detections in a batch of images, best first, padded to the same number n.

    Attributes:
      boxes: float32 [b, n, 4], x1, y1, x2, y2 in pixels of the canvas, within the image.
      scores: float32 [b, n], in [0, 1].
      labels: int32 [b, n], from 0.
      valid: bool [b, n].
      truncated: bool [b], whether a limit on candidates could have changed the result.
      finite: bool [b], whether all numbers that the network computed from are finite; others lose detections.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    truncated: jax.Array
    finite: jax.Array


def all_finite(*outputs: jax.Array) -> jax.Array:
    """Return for each image of a batch whether the outputs [b, …] of a network are finite: bool [b]."""
    return jnp.stack([jnp.isfinite(x).all(tuple(range(1, x.ndim))) for x in outputs]).all(0)


def with_area(targets: Targets) -> Targets:
    """Mark objects without area as not valid, because no box could be trained towards them."""
    width, height = (targets.boxes[..., 2 + axis] - targets.boxes[..., axis] for axis in (0, 1))
    return dataclasses.replace(targets, valid=targets.valid & (width > 0) & (height > 0))


class PyramidDetector(nnx.Module):
    """Base class of detectors; `RetinaNet` and `FasterRCNN` add what follows the pyramid.

    Attributes:
      settings: settings of the detector.
      backbone: any network with feature maps of the strides that the pyramid reads.
      fpn: the feature pyramid on the backbone.
      canvases_filled: whether the caller promises that all images cover their canvases, except for padding to 32
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
        """Return the losses of a batch, scalars by name, to be added up; finite whatever the targets are.

        They are computed over the whole batch, not averaged over images, so sharding does not change them. Objects
        without area are ignored.

        Args:
          images: [b, h, w, 3], normalised, each at the top left of its canvas, zeros beyond it.
          sizes: int32 [b, 2], height and width of each image.
          targets: ground truth of each image.
          key: random key for sampling.
        """
        raise NotImplementedError

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections:
        """Detect objects in a batch of images; arguments as in `losses`."""
        raise NotImplementedError

    def class_columns(self, labels: Sequence[int]) -> dict[ModulePath, list[int]]:
        """Return the layers with outputs per class, by path, each with those of the given labels.

        A layer of a detector of these classes alone would have these outputs in this order.
        """
        raise NotImplementedError

    def levels(self, images: jax.Array, sizes: jax.Array) -> tuple[Maps, Maps]:
        """Return the pyramid's (maps [b, h, w, c], masks bool [b, h, w, 1]) by stride; ignore cells outside the masks.

        Raises UserError for a canvas that is not a multiple of 32 pixels.
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
    if (channels := backbone.architecture.in_channels) != RGB:
        raise UserError(
            f"detectors read RGB images, this backbone images of {channels} channels: use its features in a detector "
            f"of your own, see docs/backbone.md"
        )
    given, read = sorted(backbone.feature_channels), settings.feature_strides
    if not set(read) <= set(given):
        raise UserError(f"{settings.kind} needs a backbone with maps of strides {list(read)}, this one gives {given}")
    stages = len(backbone.stage_modules())
    if settings.frozen_stages > stages:
        raise UserError(f"frozen_stages must be {stages} or less for this backbone, got {settings.frozen_stages}")


def trainable_parameters(detector: PyramidDetector) -> nnx.State:
    """Return the tree of `nnx.state(detector, nnx.Param)` with a bool per array: whether it trains; a mask for optax.

    The pyramid and the heads train, as do the backbone's stages after the first `settings.frozen_stages`. A classifier
    that comes with the backbone does not.
    """
    stages = detector.backbone.stage_modules()[detector.settings.frozen_stages :]
    trained = [path for stage in stages for path in stage]
    return nnx.map_state(
        lambda path, parameter: parameter.replace(path[0] != "backbone" or _within(path[1:], trained)),
        nnx.state(detector, nnx.Param),
    )


def set_training_mode(detector: PyramidDetector) -> None:
    """Call `detector.train()`, but keep BatchNorm statistics: of all with `norm` "frozen", else of frozen stages.

    `detector.eval()` undoes it.
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
