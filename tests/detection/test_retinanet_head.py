"""RetinaNet's head against PyTorch and its losses against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax.detectors.ops.anchors import level_anchors, level_masks
from cdnv2_jax.detectors.retinanet import RetinaNetHead, retinanet_losses
from tests.detection import reference
from tests.detection.test_losses import focal_by_torch
from tests.detection.tiny import make_targets, random_boxes, tiny_settings
from tests.detection.torch_layers import conv, nchw, pyramid_shapes, random_maps, randomise
from tests.twin_models import assert_near, forward

STRIDES = (8, 16, 32)


def make_head() -> RetinaNetHead:
    head = RetinaNetHead(6, 2, 3, 5, rngs=nnx.Rngs(0))
    randomise(head)
    return head


def test_head_against_torch() -> None:
    """In the order of the anchors: row, column, anchor of the cell; then the class."""
    head, maps = make_head(), random_maps(pyramid_shapes(STRIDES, 64, 96, channels=6))
    logits, deltas = forward(head, maps, level_masks(jnp.asarray([[64, 96]] * 2), 64, 96, STRIDES))
    for number, x in enumerate(nchw(maps).values()):
        expected = conv(head.classes, conv(head.class_branch[1], conv(head.class_branch[0], x).relu()).relu())
        assert_near(logits[number], expected.permute(0, 2, 3, 1).reshape(2, -1, 5).numpy(), 1e-5)
        expected = conv(head.boxes, conv(head.box_branch[1], conv(head.box_branch[0], x).relu()).relu())
        assert_near(deltas[number], expected.permute(0, 2, 3, 1).reshape(2, -1, 4).numpy(), 1e-5)


def test_what_lies_beyond_the_image_changes_nothing() -> None:
    head, canvas = make_head(), random_maps({8: (1, 12, 16, 6)})
    expected = forward(head, {8: canvas[8][:, :8, :12]}, level_masks(jnp.asarray([[60, 90]]), 64, 96, (8,)))
    found = forward(head, canvas, level_masks(jnp.asarray([[60, 90]]), 96, 128, (8,)))
    for ours, alone in zip(found, expected, strict=True):
        assert_near(ours[0].reshape(12, 16, 3, -1)[:8, :12], alone[0].reshape(8, 12, 3, -1), 1e-5)


def test_initial_values() -> None:
    """Every class starts at a probability of 1 %; a quarter of the usual channels, weights twice as large."""
    head = RetinaNetHead(64, 4, 9, 2, rngs=nnx.Rngs(0))
    assert len(head.class_branch) == len(head.box_branch) == 4
    for layer in (*head.class_branch, *head.box_branch, head.boxes):
        assert layer.bias is not None and not layer.bias[...].any()
    for layer in (*head.class_branch, *head.box_branch, head.boxes, head.classes):
        assert np.std(layer.kernel[...]) == pytest.approx(0.02, rel=0.1)
    assert head.classes.bias is not None
    np.testing.assert_allclose(jax.nn.sigmoid(head.classes.bias[...]), 0.01, rtol=1e-5)


def test_losses_against_loops() -> None:
    """Three images: with two objects, with one, with none; a fifth of the anchors does not count."""
    random = np.random.default_rng(4)
    shapes = pyramid_shapes((8, 16), 64, 96, channels=1)
    anchors = np.concatenate(level_anchors({s: jnp.zeros(x) for s, x in shapes.items()}, (3,), (0.5, 1, 2)))
    logits = random.normal(0, 2, (3, len(anchors), 3)).astype(np.float32)
    deltas = random.normal(0, 0.5, (3, len(anchors), 4)).astype(np.float32)
    counted = random.random((3, len(anchors))) < 0.8
    boxes = random_boxes(random, 3, 64, 96)
    targets = make_targets([[(boxes[0], 0), (boxes[1], 1)], [(boxes[2], 2)], []], most=4)
    found = jax.jit(retinanet_losses, static_argnames="settings")(
        logits, deltas, anchors, counted, targets, settings=tiny_settings("retinanet")
    )
    class_sum, box_sum, positives, ignored = 0.0, 0.0, [], 0
    for image in range(3):
        objects = np.array(targets.boxes[image])[np.array(targets.valid[image])]
        assigned = reference.assignment(
            objects, anchors, counted[image], positive=0.5, negative=0.4, min_positive=0, low_quality=True
        )
        used = assigned != reference.IGNORED
        wanted = np.zeros((len(anchors), 3), np.float32)
        for n in np.flatnonzero(assigned >= 0):
            wanted[n, targets.labels[image, assigned[n]]] = 1
            box_sum += np.abs(deltas[image, n] - reference.code(anchors[n], objects[assigned[n]])).sum()
        focal = focal_by_torch(torch.from_numpy(logits[image][used]), torch.from_numpy(wanted[used]), 0.25, 2)
        class_sum += focal.sum().item()
        positives.append((assigned >= 0).sum())
        ignored += (counted[image] & ~used).sum()
    assert positives[0] > 1 and positives[1] > 0 and positives[2] == 0 and ignored > 0
    assert found["class_loss"] == pytest.approx(class_sum / (sum(positives) + 1), rel=1e-4)
    assert found["box_loss"] == pytest.approx(box_sum / (sum(positives) + 1), rel=1e-4)
