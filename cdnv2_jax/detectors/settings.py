"""Settings of a detector, with the defaults of mmdetection 2.11 unless stated otherwise."""

from typing import Literal

from cdnv2_jax.errors import UserError
from cdnv2_jax.schema import check, setting, settings

Kind = Literal["retinanet", "faster_rcnn"]
Norm = Literal["frozen", "trained"]
MOST_BOXES = 20_000
"""Largest number of boxes of any kind: suppression compares all pairs, 1.6 GB for so many."""


@settings
class DetectorSettings:
    """Architecture, training and inference settings of a detector.

    None stands for a value that depends on the kind.
    """

    kind: Kind = setting("kind of detector")
    num_classes: int = setting("classes of objects, without the background", least=1, most=100_000)
    fpn_channels: int = setting(
        "channels of every pyramid level and of the heads' convolutions", default=256, least=1, most=4096
    )
    head_convs: int = setting("3×3 convolutions in each branch of RetinaNet's head", default=4, least=1, most=64)
    hidden: int = setting("width of the two Linears in Faster R-CNN's RoI head", default=1024, least=1, most=65_536)
    frozen_stages: int = setting(
        "stages of the backbone that do not train; 1: its stem and first stage", default=1, least=0, most=64
    )
    norm: Norm = setting(
        "statistics of the backbone's BatchNorm in training: frozen, or those of the batch; scale and bias train",
        default="frozen",
    )
    anchor_scale: float | None = setting(
        "side of the smallest square anchor in strides; None: 4 (RetinaNet) or 8 (RPN)",
        default=None,
        above=0,
        most=1024,
    )
    octave_scales: int = setting("RetinaNet's anchor sizes within a factor of two", default=3, least=1, most=64)
    anchor_ratios: tuple[float, ...] = setting(
        "height / width of the anchors", default=(0.5, 1.0, 2.0), above=0, filled=True, most=1000
    )
    positive_iou: float | None = setting(
        "least IoU of a positive anchor; None: 0.5 (RetinaNet) or 0.7 (RPN)", default=None, least=0, most=1
    )
    negative_iou: float | None = setting(
        "anchors below this IoU are negative; None: 0.4 (RetinaNet) or 0.3 (RPN)", default=None, least=0, most=1
    )
    min_positive_iou: float | None = setting(
        "least IoU at which an object claims its best anchors; None: 0 (RetinaNet) or 0.3 (RPN)",
        default=None,
        least=0,
        most=1,
    )
    focal_alpha: float = setting("α of RetinaNet's focal loss", default=0.25, least=0, most=1)
    focal_gamma: float = setting("γ of RetinaNet's focal loss", default=2.0, least=0, most=100)
    rpn_samples: int = setting("anchors per image in the RPN's losses", default=256, least=1, most=MOST_BOXES)
    rpn_positive_share: float = setting("largest fraction of positive anchors", default=0.5, least=0, most=1)
    proposals_per_level_training: int = setting(
        "best anchors of each level that become proposals, in training", default=2000, least=1, most=MOST_BOXES
    )
    proposals_per_level: int = setting("likewise, in evaluation", default=1000, least=1, most=MOST_BOXES)
    proposals: int = setting("proposals per image, after suppression", default=1000, least=1, most=MOST_BOXES)
    proposal_nms_threshold: float = setting("IoU of the suppression within each level", default=0.7, least=0, most=1)
    roi_positive_iou: float = setting(
        "least IoU of a positive proposal; those below are background", default=0.5, least=0, most=1
    )
    roi_samples: int = setting("proposals per image in the RoI head's losses", default=512, least=1, most=MOST_BOXES)
    roi_positive_share: float = setting("largest fraction of positive proposals", default=0.25, least=0, most=1)
    roi_deviations: tuple[float, float, float, float] = setting(
        "divisors of the RoI head's box deltas: centre x and y, width, height",
        default=(0.1, 0.1, 0.2, 0.2),
        above=0,
        most=1000,
    )
    roi_size: int = setting("side of the pooled map of a proposal", default=7, least=1, most=64)
    sampling_ratio: int = setting("points per side of a bin of RoIAlign", default=2, least=1, most=64)
    exact_roi_align: bool = setting(
        "adapt the number of points to each bin's size, as in mmdetection; slower than sampling_ratio", default=False
    )
    candidates_per_level: int = setting(
        "RetinaNet's best anchors of each level that may become detections", default=1000, least=1, most=MOST_BOXES
    )
    nms_candidates: int = setting(
        "best pairs of box and class that enter the last suppression; mmdetection has no such limit",
        default=2000,
        least=1,
        most=MOST_BOXES,
    )
    score_threshold: float = setting("detections must score above this", default=0.05, least=0, most=1)
    nms_threshold: float = setting(
        "IoU above which the better of two boxes of one class suppresses the other", default=0.5, least=0, most=1
    )
    most_detections: int = setting("detections per image", default=100, least=1, most=MOST_BOXES)

    def __post_init__(self):
        check(self)
        positive, negative = self.assignment["positive"], self.assignment["negative"]
        if negative > positive:
            raise UserError(f"negative_iou must not be above positive_iou, got {negative} and {positive}")
        if self.nms_candidates < self.most_detections:
            raise UserError(
                f"nms_candidates must be most_detections or more, got {self.nms_candidates} and {self.most_detections}"
            )

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Strides of the backbone's maps that the pyramid reads."""
        return (8, 16, 32) if self.kind == "retinanet" else (4, 8, 16, 32)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid's levels."""
        return (8, 16, 32, 64, 128) if self.kind == "retinanet" else (4, 8, 16, 32, 64)

    @property
    def anchor_scales(self) -> tuple[float, ...]:
        """Sides of the square anchors of one cell, in strides."""
        if self.kind == "retinanet":
            scale = 4.0 if self.anchor_scale is None else self.anchor_scale
            return tuple(scale * 2 ** (octave / self.octave_scales) for octave in range(self.octave_scales))
        return (8.0 if self.anchor_scale is None else self.anchor_scale,)

    @property
    def anchors_per_cell(self) -> int:
        return len(self.anchor_scales) * len(self.anchor_ratios)

    @property
    def assignment(self) -> dict[str, float]:
        """Thresholds for anchors, as `ops.assignment.assign` takes them."""
        defaults = (0.5, 0.4, 0.0) if self.kind == "retinanet" else (0.7, 0.3, 0.3)
        given = (self.positive_iou, self.negative_iou, self.min_positive_iou)
        names = ("positive", "negative", "min_positive")
        return {n: d if g is None else g for n, g, d in zip(names, given, defaults, strict=True)}
