"""The detector that training starts from: random, on a classifier's backbone, or a trained one for other classes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.detection.config import DetectorConfig
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.detectors.settings import Kind
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import share_norms, with_gathered_norms
from cdnv2_jax.networks.family import build_network
from cdnv2_jax.networks.image_channels import refuse_other_than_rgb
from cdnv2_jax.networks.zoo import create_model
from cdnv2_jax.paths import as_path
from cdnv2_jax.weights.checkpoint import flat_arrays
from cdnv2_jax.weights.open import OpenedDetector, open_weights
from cdnv2_jax.weights.starting_point import FIELD, matching_outputs, remark_on_choice

TRAINED_WITH: Mapping[Kind, Sequence[str]] = {
    "retinanet": ("fpn_channels", "anchor_scale", "anchor_ratios", "head_convs", "octave_scales"),
    "faster_rcnn": ("fpn_channels", "anchor_scale", "anchor_ratios", "hidden", "roi_size", "roi_deviations"),
}
"""Settings that give the weights of each kind their shapes and their meaning; training can change the others."""
SHAPELESS = ("anchor_scale", "roi_deviations")
"""Those that give them their meaning alone."""


class StartingDetector(NamedTuple):
    """A detector to train, and where its weights come from.

    Attributes:
      detector: the detector.
      remark: what was taken from the checkpoint; "" if there is nothing to say.
    """

    detector: PyramidDetector
    remark: str


def starting_detector(model: DetectorConfig, class_names: Sequence[str], seed: int) -> StartingDetector:
    """Build the detector that training starts from.

    A classifier in `model.checkpoint` provides the backbone, as does a detector of another kind. A detector of the same
    kind provides everything except for the outputs of its classes: they are kept if it knows all the names, otherwise
    re-initialised (see `matching_outputs`).

    Args:
      model: settings of the detector.
      class_names: names of the classes, in the order of their labels.
      seed: seed of all that is random.

    Raises:
      UserError: there is no such checkpoint, or it holds another backbone, one for other images than RGB, or a detector
        whose weights have other shapes.
    """
    dtype, rngs = jnp.dtype(model.dtype), nnx.Rngs(seed)
    if not model.checkpoint:
        # The classifier is not used; a single class makes it as small as possible.
        backbone = create_model(model.backbone, num_classes=1, rngs=rngs, dtype=dtype, **model.overrides)
        return StartingDetector(build_detector(model.detector_settings, backbone, dtype=dtype, rngs=rngs), "")
    path = as_path(model.checkpoint)
    opened = open_weights(path, model=model.backbone, overrides=model.overrides, classifier_required=False)
    is_detector = isinstance(opened, OpenedDetector)
    found = opened.detector.backbone if is_detector else opened.network
    if found.name != model.backbone:
        raise UserError(f"{FIELD} {path} holds a {found.name}, but config.model.backbone is {model.backbone}")
    refuse_other_than_rgb(found, f"{FIELD} {path}")
    backbone = build_network(found.architecture, found.form, name=found.name, dtype=dtype, rngs=nnx.Rngs(seed))
    nnx.update(backbone, nnx.state(with_gathered_norms(found)))
    share_norms(backbone)
    detector = build_detector(model.detector_settings, backbone, dtype=dtype, rngs=rngs)
    if not is_detector:
        return StartingDetector(detector, remark_on_choice(opened) or f"{FIELD} {path}: the backbone is taken")
    kind = opened.detector.settings.kind
    if kind != model.detector:
        return StartingDetector(detector, f"{FIELD} {path} holds a {kind}: only its backbone is taken")
    _refuse_other_shapes(detector, opened)
    names = opened.classes.names
    outputs, remark = matching_outputs(class_names, names, len(names), layer="class head")
    _take_over(detector, opened.detector, outputs)
    return StartingDetector(
        detector, "; ".join(filter(None, [f"{FIELD} {path}: backbone, pyramid and heads are taken", remark]))
    )


def _refuse_other_shapes(detector: PyramidDetector, opened: OpenedDetector) -> None:
    """Raise UserError unless all arrays but those of the classes have the checkpoint's shapes."""
    ours, theirs = (
        {
            name: array.shape
            for name, array in flat_arrays(nnx.state(each)).items()
            if tuple(name.split("/")[:-1]) not in each.class_columns(())
        }
        for each in (detector, opened.detector)
    )
    if ours == theirs:
        return
    wanted, own = detector.settings, opened.detector.settings
    different = ", ".join(
        f"config.model.settings.{key} {getattr(wanted, key)} instead of {getattr(own, key)}"
        for key in TRAINED_WITH[own.kind]
        if key not in SHAPELESS and getattr(wanted, key) != getattr(own, key)
    )
    raise UserError(
        f"the weights of {FIELD} {opened.path} do not fit {different}: leave these settings to the checkpoint, or "
        "start from a classifier"
    )


def _take_over(detector: PyramidDetector, found: PyramidDetector, outputs: Sequence[int] | None) -> None:
    """Copy all arrays of a detector of the same shapes, and of its classes' those of the given outputs, if any."""
    columns = found.class_columns(outputs or ())
    taken = []
    for place, variable in nnx.to_flat_state(nnx.state(found)):
        if place[:-1] not in columns:
            taken.append((place, variable))
        elif outputs is not None:
            values = np.asarray(variable.get_value())[..., columns[place[:-1]]]
            taken.append((place, variable.replace(jax.device_put(values))))
    nnx.update(detector, nnx.from_flat_state(taken))
