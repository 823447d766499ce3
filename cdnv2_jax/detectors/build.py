"""Construction of a detector from its settings."""

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.faster_rcnn import FasterRCNN
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.networks.network import Network


def build_detector(
    settings: DetectorSettings, backbone: Network, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> RetinaNet | FasterRCNN:
    """Build a detector with randomly initialised pyramid and heads on `backbone`, which becomes part of it.

    Args:
      backbone: its weights, statistics and masks are kept.
      dtype: computation dtype of pyramid and heads, None for that of images; parameters, boxes and losses are float32.
      rngs: its stream `params` gives the initial values.

    Raises:
      UserError: the backbone lacks maps or stages that the settings ask for.
    """
    kind = RetinaNet if settings.kind == "retinanet" else FasterRCNN
    return kind(settings, backbone, dtype=dtype, rngs=rngs)
