"""The RPN: its head against PyTorch, its losses and proposals against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.detectors.ops.anchors import level_anchors, level_masks
from cdnv2_jax.detectors.rpn import ProposalLimits, RPNHead, propose, rpn_losses
from tests.detection import reference
from tests.detection.tiny import make_targets, random_boxes, tiny_settings
from tests.detection.torch_layers import conv, nchw, pyramid_shapes, random_maps, randomise
from tests.twin_models import assert_near, forward

STRIDES = (8, 16, 32)


def make_head() -> RPNHead:
    head = RPNHead(6, 3, rngs=nnx.Rngs(0))
    randomise(head)
    return head


def test_head_against_torch() -> None:
    """In the order of the anchors: row, column, anchor of the cell."""
    head, maps = make_head(), random_maps(pyramid_shapes(STRIDES, 64, 96, channels=6))
    objectness, deltas = forward(head, maps, level_masks(jnp.asarray([[64, 96]] * 2), 64, 96, STRIDES))
    for number, x in enumerate(nchw(maps).values()):
        hidden = conv(head.conv, x).relu()
        expected = conv(head.objectness, hidden).permute(0, 2, 3, 1).reshape(2, -1)
        assert_near(objectness[number], expected.numpy(), 1e-5)
        expected = conv(head.boxes, hidden).permute(0, 2, 3, 1).reshape(2, -1, 4)
        assert_near(deltas[number], expected.numpy(), 1e-5)


def test_what_lies_beyond_the_image_changes_nothing() -> None:
    head, canvas = make_head(), random_maps({8: (1, 12, 16, 6)})
    expected, _ = forward(head, {8: canvas[8][:, :8, :12]}, level_masks(jnp.asarray([[60, 90]]), 64, 96, (8,)))
    found, _ = forward(head, canvas, level_masks(jnp.asarray([[60, 90]]), 96, 128, (8,)))
    assert_near(found[0].reshape(12, 16, 3)[:8, :12].ravel(), expected[0][0], 1e-5)


def test_initial_values() -> None:
    """N(0, 0.01) for 256 channels, twice that for a quarter of them."""
    head = RPNHead(64, 3, rngs=nnx.Rngs(0))
    for layer in (head.conv, head.objectness, head.boxes):
        assert np.std(layer.kernel[...]) == pytest.approx(0.02, rel=0.2)
        assert layer.bias is not None and not layer.bias[...].any()


losses_of = jax.jit(rpn_losses, static_argnames="settings")


@pytest.fixture(scope="module")
def batch():
    """Random outputs for three images: with two objects, with one at the border of what counts, and with none."""
    random = np.random.default_rng(3)
    shapes = pyramid_shapes((8, 16), 64, 96, channels=1, batch=3)
    anchors = np.concatenate(level_anchors({s: jnp.zeros(x) for s, x in shapes.items()}, (3,), (0.5, 1, 2)))
    count = len(anchors)
    objectness = random.normal(0, 2, (3, count)).astype(np.float32)
    deltas = random.normal(0, 0.5, (3, count, 4)).astype(np.float32)
    counted = random.random((3, count)) < 0.8
    boxes = random_boxes(random, 3, 64, 96)
    targets = make_targets([[(boxes[0], 0), (boxes[1], 1)], [(boxes[2], 2)], []], most=4)
    return objectness, deltas, anchors, counted, targets


def test_losses_where_all_anchors_are_sampled(batch) -> None:
    objectness, deltas, anchors, counted, targets = batch
    settings = tiny_settings("faster_rcnn", rpn_samples=2000, rpn_positive_share=1.0)
    keys = jax.random.split(jax.random.key(0), 3)
    found = losses_of(objectness, deltas, anchors, counted, targets, keys, settings=settings)
    class_sum, box_sum, samples = 0.0, 0.0, 0
    positives_of_images = []
    for image in range(3):
        objects = np.array(targets.boxes[image])[np.array(targets.valid[image])]
        assigned = reference.assignment(
            objects, anchors, counted[image], positive=0.7, negative=0.3, min_positive=0.3, low_quality=True
        )
        used, positive = assigned != reference.IGNORED, assigned >= 0
        positives_of_images.append(positive.sum())
        class_sum += F.binary_cross_entropy_with_logits(
            torch.from_numpy(objectness[image][used]), torch.from_numpy(positive[used]).float(), reduction="sum"
        ).item()
        for n in np.flatnonzero(positive):
            box_sum += np.abs(deltas[image, n] - reference.code(anchors[n], objects[assigned[n]])).sum()
        samples += max(positive.sum(), 1) + max((assigned == reference.NEGATIVE).sum(), 1)
    assert positives_of_images[0] > 1 and positives_of_images[1] > 0 and positives_of_images[2] == 0
    assert found["rpn_class_loss"] == pytest.approx(class_sum / samples, rel=1e-4)
    assert found["rpn_box_loss"] == pytest.approx(box_sum / samples, rel=1e-4)


def test_losses_of_a_sample(batch) -> None:
    """With all logits at 0 and 16 anchors of each image, the class loss is log 2 · 48 / (48 + 1 for no positive)."""
    objectness, deltas, anchors, counted, targets = batch
    settings = tiny_settings("faster_rcnn", rpn_samples=16)
    keys = jax.random.split(jax.random.key(0), 3)
    found = losses_of(0 * objectness, deltas, anchors, counted, targets, keys, settings=settings)
    assert found["rpn_class_loss"] == pytest.approx(np.log(2) * 48 / 49, rel=1e-5)


def test_losses_without_anchors_that_count(batch) -> None:
    """Zero over a count that is at least one, not a division by zero."""
    objectness, deltas, anchors, counted, targets = batch
    keys = jax.random.split(jax.random.key(0), 3)
    settings = tiny_settings("faster_rcnn", rpn_samples=16)
    found = losses_of(objectness, deltas, anchors, 0 * counted > 0, targets, keys, settings=settings)
    assert found == {"rpn_class_loss": 0, "rpn_box_loss": 0}


LIMITS = {
    "all limits at work": ProposalLimits(per_level=12, nms_threshold=0.3, total=15),
    "more than there is": ProposalLimits(per_level=500, nms_threshold=0.3, total=60),
    "hardly any suppression": ProposalLimits(per_level=12, nms_threshold=0.95, total=10),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_proposals_against_loops(limits: ProposalLimits) -> None:
    """Three levels of 40, 20 and 5 anchors, a fifth of which does not count; boxes reach beyond the image."""
    random, size = np.random.default_rng(1), (50, 70)
    counts = (40, 20, 5)
    anchors = [random_boxes(random, count, 60, 80) for count in counts]
    objectness = [random.normal(size=count).astype(np.float32) for count in counts]
    deltas = [random.normal(0, 0.3, (count, 4)).astype(np.float32) for count in counts]
    counted = [random.random(count) < 0.8 for count in counts]
    merged: list[tuple[float, np.ndarray]] = []
    for level in range(3):
        order = [n for n in np.argsort(-objectness[level]) if counted[level][n]][: limits.per_level]
        boxes = np.array([reference.decoded(anchors[level][n], deltas[level][n], size) for n in order])
        scores = objectness[level][order]
        merged += [(float(scores[n]), boxes[n]) for n in reference.suppressed(boxes, scores, limits.nms_threshold)]
    merged = sorted(merged, key=lambda one: -one[0])[: limits.total]
    found = jax.jit(propose, static_argnames="limits")(
        *([jnp.asarray(x) for x in each] for each in (objectness, deltas, anchors, counted)),
        jnp.asarray(size),
        limits=limits,
    )
    assert found.valid.sum() == len(merged) > 5
    assert found.valid[: len(merged)].all()
    assert_near(found.boxes[: len(merged)], np.array([box for _, box in merged]), 1e-5)
