"""Every constant of a detector, with the value that mmdetection 2.11 gives it."""

import dataclasses
import math
from typing import Any, Literal, TypeGuard

from cdnv2_jax.errors import UserError

Kind = Literal["retinanet", "faster_rcnn"]
Norm = Literal["frozen", "trained"]

KINDS: tuple[Kind, ...] = ("retinanet", "faster_rcnn")
NORMS: tuple[Norm, ...] = ("frozen", "trained")

_COUNTS = (
    "num_classes",
    "fpn_channels",
    "head_convs",
    "hidden",
    "octave_scales",
    "rpn_samples",
    "proposals_per_level_training",
    "proposals_per_level",
    "proposals",
    "roi_samples",
    "roi_size",
    "sampling_ratio",
    "candidates_per_level",
    "nms_candidates",
    "most_detections",
)
_SHARES = (
    "positive_iou",
    "negative_iou",
    "min_positive_iou",
    "focal_alpha",
    "rpn_positive_share",
    "proposal_nms_threshold",
    "roi_positive_iou",
    "roi_positive_share",
    "score_threshold",
    "nms_threshold",
)


@dataclasses.dataclass(frozen=True)
class DetectorSettings:
    """What a detector is made of, how it is trained and how it picks its detections.

    None stands for a value that depends on the kind: for RetinaNet the first of the two given, for the RPN of
    Faster R-CNN the second.

    Attributes:
      kind: "retinanet" or "faster_rcnn".
      num_classes: classes of objects, background not among them.
      fpn_channels: of every pyramid level and of the convolutions of the heads.
      head_convs: 3×3 convolutions in each of RetinaNet's two branches.
      hidden: width of the two Linears of Faster R-CNN's RoI head.
      frozen_stages: how many stages of the backbone do not train: 0 for none, 1 for its stem and first stage.
      norm: the backbone's BatchNorm statistics in training: "frozen", as they are, or "trained", of the batch. Scale
        and bias train in either case.
      anchor_scale: side of the smallest square anchor in strides; 4 or 8.
      octave_scales: RetinaNet's anchor sizes within a factor of two.
      anchor_ratios: height / width.
      positive_iou, negative_iou: an anchor is positive from this IoU on (.5 or .7), negative below that (.4 or .3).
      min_positive_iou: least IoU of an object's best anchors for the object to claim them; 0 or .3.
      focal_alpha, focal_gamma: of RetinaNet's focal loss.
      rpn_samples, rpn_positive_share: anchors per image in the RPN's losses, and at most that share positive.
      proposals_per_level_training, proposals_per_level: best anchors of each level that become proposals.
      proposals: best of them per image, after suppression at IoU `proposal_nms_threshold` within each level.
      roi_positive_iou: a proposal belongs to an object from this IoU on, and is background below.
      roi_samples, roi_positive_share: proposals per image in the RoI head's losses, and at most that share positive.
      roi_deviations: by which the RoI head's box deltas are divided: centre x and y, width and height.
      roi_size: side of the pooled map of a proposal.
      sampling_ratio: points per side of a bin of RoIAlign.
      exact_roi_align: as many points as fill each bin at the map's resolution, as mmdetection has it, not
        `sampling_ratio`; slower.
      candidates_per_level: RetinaNet's best anchors of each level that may become detections.
      nms_candidates: best pairs of box and class that enter the last suppression; mmdetection has no such limit.
      score_threshold: detections score above it.
      nms_threshold: of two boxes of one class with an IoU above it, the better is detected.
      most_detections: per image.
    """

    kind: Kind
    num_classes: int
    fpn_channels: int = 256
    head_convs: int = 4
    hidden: int = 1024
    frozen_stages: int = 1
    norm: Norm = "frozen"
    anchor_scale: float | None = None
    octave_scales: int = 3
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float | None = None
    negative_iou: float | None = None
    min_positive_iou: float | None = None
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    rpn_samples: int = 256
    rpn_positive_share: float = 0.5
    proposals_per_level_training: int = 2000
    proposals_per_level: int = 1000
    proposals: int = 1000
    proposal_nms_threshold: float = 0.7
    roi_positive_iou: float = 0.5
    roi_samples: int = 512
    roi_positive_share: float = 0.25
    roi_deviations: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    roi_size: int = 7
    sampling_ratio: int = 2
    exact_roi_align: bool = False
    candidates_per_level: int = 1000
    nms_candidates: int = 2000
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    most_detections: int = 100

    def __post_init__(self):
        self._check_choice("kind", KINDS)
        self._check_choice("norm", NORMS)
        self._check_choice("exact_roi_align", (False, True))
        for name in (*_COUNTS, "frozen_stages"):
            self._check_count(name, 0 if name == "frozen_stages" else 1)
        for name in _SHARES:
            self._check_number(name, getattr(self, name), 0, 1)
        self._check_number("focal_gamma", self.focal_gamma, 0, math.inf)
        self._check_number("anchor_scale", self.anchor_scale, 0, math.inf, above=True)
        self._check_sequence("anchor_ratios", None)
        self._check_sequence("roi_deviations", 4)
        positive, negative = self.assignment["positive"], self.assignment["negative"]
        if negative > positive:
            raise UserError(f"negative_iou must not be above positive_iou, got {negative} and {positive}")
        if self.nms_candidates < self.most_detections:
            raise UserError(
                f"nms_candidates must be most_detections or more, got {self.nms_candidates} and {self.most_detections}"
            )

    def _check_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
            raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name} must be {least} or more and whole, got {value!r}")

    def _check_number(self, name: str, value: Any, least: float, most: float, *, above: bool = False) -> None:
        if value is None and getattr(type(self), name, 0) is None:
            return
        if not _is_number(value) or not least <= value <= most or (above and value == least):
            limits = f"above {least}" if above else f"{least} or more" if most == math.inf else f"in [{least}, {most}]"
            raise UserError(f"{name} must be a number {limits}, got {value!r}")

    def _check_sequence(self, name: str, length: int | None) -> None:
        try:
            values = tuple(getattr(self, name))
        except TypeError:
            raise UserError(f"{name} must be a sequence of numbers, got {getattr(self, name)!r}") from None
        object.__setattr__(self, name, values)
        if not values or (length is not None and len(values) != length):
            raise UserError(f"{name} must hold {length or 'one or more'} numbers, got {values!r}")
        for value in values:
            self._check_number(name, value, 0, math.inf, above=True)

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


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
