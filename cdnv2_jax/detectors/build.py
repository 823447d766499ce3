"""A detector by its settings."""

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.faster_rcnn import FasterRCNN
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.networks.network import Network


def build_detector(
    settings: DetectorSettings, backbone: Network, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> RetinaNet | FasterRCNN:
    """A detector with a fresh pyramid and fresh heads on `backbone`, which it takes over.

    Args:
      backbone: weights, statistics and masks are kept as they are.
      dtype: in which pyramid and heads compute, None for that of images; parameters, boxes and losses are float32.
      rngs: `params` gives the initial values.

    Raises:
      UserError: the backbone has not the maps or not the stages that the settings ask for.
    """
    kind = RetinaNet if settings.kind == "retinanet" else FasterRCNN
    return kind(settings, backbone, dtype=dtype, rngs=rngs)
