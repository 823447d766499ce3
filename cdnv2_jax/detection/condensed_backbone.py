"""A detector whose backbone is condensed: the same detections, in less time."""

from flax import nnx

from cdnv2_jax.condensation.condense import condense
from cdnv2_jax.detection.detector import PyramidDetector


def condense_backbone(detector: PyramidDetector) -> PyramidDetector:
    """The detector on the condensed form of its masked backbone; pyramid and heads are shared with `detector`.

    Raises:
      UserError: the backbone is condensed already, has nothing to condense, or is not fully pruned.
    """
    condensed = nnx.clone(detector)
    condensed.backbone = condense(detector.backbone)
    condensed.eval()
    return condensed
