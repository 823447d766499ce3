"""Detectors small enough to compile in seconds: a backbone of five convolutions, eight channels in the pyramid."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Targets
from cdnv2_jax.detectors.faster_rcnn import FasterRCNN
from cdnv2_jax.detectors.losses import USUAL_CHANNELS
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import DetectorSettings, Kind
from cdnv2_jax.layers.convolutions import normal
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.layers.valid_region import halved, inside, valid_mask
from cdnv2_jax.networks.network import Architecture, ModulePath, Network

WIDTHS = (4, 4, 6, 6, 8)
"""Channels at strides 2, 4, 8, 16 and 32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyArchitecture(Architecture):
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @property
    def feature_channels(self) -> dict[int, int]:
        return {stride: WIDTHS[stride.bit_length() - 2] for stride in self.strides}


class TinyBackbone(Network):
    """At each stride a 3×3 convolution, BatchNorm and ReLU; and a classifier, which a detector has no use for."""

    def __init__(self, *, strides: tuple[int, ...] = (4, 8, 16, 32), rngs: nnx.Rngs):
        super().__init__(TinyArchitecture(num_classes=3, strides=strides), name="tiny")
        inputs = (3, *WIDTHS[:-1])
        self.convs = nnx.List(
            [
                nnx.Conv(i, o, (3, 3), strides=2, padding=1, kernel_init=normal((2 / (9 * i)) ** 0.5), rngs=rngs)
                for i, o in zip(inputs, WIDTHS, strict=True)
            ]
        )
        self.norms = nnx.List([BatchNorm(width) for width in WIDTHS])
        self.classifier = nnx.Linear(WIDTHS[-1], 3, kernel_init=normal(0.3), rngs=rngs)

    def stage_modules(self) -> list[list[ModulePath]]:
        stages = ((0, 1), (2,), (3,), (4,))
        return [[(part, number) for part in ("convs", "norms") for number in stage] for stage in stages]

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        mask = None if sizes is None else valid_mask(sizes, *images.shape[1:3])
        x, stride, maps = inside(images, mask), 1, {}
        for conv, norm in zip(self.convs, self.norms, strict=True):
            stride *= 2
            mask = None if mask is None else halved(mask)
            x = inside(jax.nn.relu(norm(conv(x))), mask)
            maps[stride] = x
        return {stride: x for stride, x in maps.items() if stride >= 4}


def tiny_settings(kind: Kind, **changes: Any) -> DetectorSettings:
    small: dict[str, Any] = {
        "num_classes": 3,
        "fpn_channels": 8,
        "head_convs": 1,
        "hidden": 16,
        "octave_scales": 1,
        "rpn_samples": 32,
        "proposals_per_level_training": 60,
        "proposals_per_level": 50,
        "proposals": 40,
        "roi_samples": 24,
        "candidates_per_level": 60,
        "nms_candidates": 80,
        "most_detections": 20,
    }
    return DetectorSettings(kind=kind, **(small | changes))


def tiny_detector(
    kind: Kind, *, seed: int = 0, gain: float = 1.0, dtype: Any = jnp.float32, **changes: Any
) -> RetinaNet | FasterRCNN:
    """In evaluation mode; the kernels that lead to scores and deltas are `gain` times as large as with N(0, 0.01)."""
    rngs = nnx.Rngs(seed)
    detector = build_detector(tiny_settings(kind, **changes), TinyBackbone(rngs=rngs), dtype=dtype, rngs=rngs)
    narrow = gain * (detector.settings.fpn_channels / USUAL_CHANNELS) ** 0.5
    if isinstance(detector, RetinaNet):
        parts: list[tuple[nnx.Module, float]] = [(detector.head, narrow)]
    else:
        parts = [(detector.rpn, narrow), (detector.roi_head.classes, gain), (detector.roi_head.boxes, gain)]
    for part, factor in parts:
        kernels = jax.tree.map(lambda x, factor=factor: factor * x if x.ndim > 1 else x, nnx.state(part, nnx.Param))
        nnx.update(part, kernels)
    detector.eval()
    return detector


def compiled(detector: nnx.Module, method: str) -> Callable[..., Any]:
    """The detector's method under jit; with `of`, that of another one that differs in its weights alone."""
    graph, state = nnx.split(detector)
    run = jax.jit(lambda state, *inputs: getattr(nnx.merge(graph, state), method)(*inputs))
    return lambda *inputs, of=None: run(state if of is None else nnx.state(of), *inputs)


def make_targets(images: Sequence[Sequence[tuple[Sequence[float], int]]], most: int) -> Targets:
    """From a list of (box, label) for each image, padded to `most`; padding is NaN-free rubbish, but not valid."""
    boxes = np.full((len(images), most, 4), 7.0, np.float32)
    labels = np.full((len(images), most), 1, np.int32)
    valid = np.zeros((len(images), most), bool)
    boxes[..., 2:] = 40
    for number, objects in enumerate(images):
        for place, (box, label) in enumerate(objects):
            boxes[number, place], labels[number, place], valid[number, place] = box, label, True
    return Targets(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(valid))


def random_boxes(random: np.random.Generator, count: int, height: float, width: float) -> np.ndarray:
    """float32 [count, 4], at least 2 pixels on each side, within height × width."""
    sides = random.uniform(2, 0.7 * min(height, width), (count, 2))
    low = random.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides)
    return np.concatenate([low, low + sides], -1).astype(np.float32)
