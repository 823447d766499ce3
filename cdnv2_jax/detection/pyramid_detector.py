"""What both detectors have in common: a backbone, a feature pyramid on it, and what goes in and comes out."""

from collections.abc import Iterable
from typing import Any, Protocol

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detection.fpn import FPN
from cdnv2_jax.detection.levels import Maps, level_masks
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.detection.stages import stage_paths
from cdnv2_jax.detection.types import Detections, Targets
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.masked_conv import MaskedConv
from cdnv2_jax.layers.valid_region import MULTIPLE
from cdnv2_jax.models.network import NetworkArchitecture


class Backbone(Protocol):
    """What a detector asks of its backbone, which is an `nnx.Module`.

    Attributes:
      feature_channels: {stride: channels} of its maps.

    For one's own also `stage_paths`, see `stages.stage_paths`.
    """

    @property
    def feature_channels(self) -> dict[int, int]: ...

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Images [b, h, w, 3] → {stride: [b, h / stride, w / stride, c]}.

        With `sizes`, int [b, 2], the height and width of each image on its canvas, the maps are zero beyond the
        image, padded to 32 pixels, and do not depend on what the canvas is beyond it.
        """
        ...


class PyramidDetector(nnx.Module):
    """A detector of one of the two kinds; `RetinaNet` and `FasterRCNN` say what follows the pyramid.

    Attributes:
      settings: what it is made of. backbone, fpn: its parts.
      canvases_filled: whether whoever calls promises that all images cover their canvases, but for what pads them to 32
        pixels. The results are the same; the backbone then needs no masks, and a CondenseNet may use its CPU kernels.
    """

    def __init__(self, settings: DetectorSettings, backbone: Any, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
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

    @property
    def architecture(self) -> NetworkArchitecture:
        """The backbone's."""
        return self.backbone.architecture

    def masked_convs(self) -> Iterable[MaskedConv]:
        """The backbone's learned convolutions, which may be pruned while the detector trains."""
        return self.backbone.masked_convs()

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


def _check_backbone(settings: DetectorSettings, backbone: Backbone) -> None:
    given, read = sorted(backbone.feature_channels), settings.feature_strides
    if not set(read) <= set(given):
        raise UserError(f"{settings.kind} needs a backbone with maps of strides {list(read)}, this one gives {given}")
    stages = len(stage_paths(backbone))
    if settings.frozen_stages > stages:
        raise UserError(f"frozen_stages must be {stages} or less for this backbone, got {settings.frozen_stages}")
