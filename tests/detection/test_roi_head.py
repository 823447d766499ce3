"""The second stage: its head against PyTorch, what it samples, its losses against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.detectors.faster_rcnn import RoIHead, RoISamples, roi_losses, sample_rois
from cdnv2_jax.detectors.rpn import Proposals
from tests.detection import reference
from tests.detection.ops.oracles import iou
from tests.detection.tiny import make_targets, random_boxes, tiny_settings
from tests.detection.torch_layers import linear, randomise
from tests.twin_models import assert_near, forward


def test_head_against_torch() -> None:
    head = RoIHead(3 * 3 * 5, 16, 4, rngs=nnx.Rngs(0))
    randomise(head)
    pooled = np.random.default_rng(0).normal(size=(2, 6, 3, 3, 5)).astype(np.float32)
    logits, deltas = forward(head, jnp.asarray(pooled))
    hidden = linear(head.fc2, linear(head.fc1, torch.from_numpy(pooled).reshape(2, 6, -1)).relu()).relu()
    assert_near(logits, linear(head.classes, hidden).numpy(), 1e-5)
    assert_near(deltas, linear(head.boxes, hidden).reshape(2, 6, 4, 4).numpy(), 1e-5)


def test_initial_values() -> None:
    head = RoIHead(200, 100, 30, rngs=nnx.Rngs(0))
    for layer in (head.fc1, head.fc2):
        bound = np.sqrt(6 / sum(layer.kernel.shape))
        assert 0.95 * bound < np.abs(layer.kernel[...]).max() <= bound
    for layer, deviation in ((head.classes, 0.01), (head.boxes, 0.001)):
        assert np.std(layer.kernel[...]) == pytest.approx(deviation, rel=0.1)
    for layer in (head.fc1, head.fc2, head.classes, head.boxes):
        assert layer.bias is not None and not layer.bias[...].any()


draw = jax.jit(sample_rois, static_argnames="settings")


def test_samples() -> None:
    """60 proposals, the last ten of them not there: at IoU .5 they are an object's, else background."""
    random = np.random.default_rng(0)
    objects = random_boxes(random, 3, 64, 96)
    near = np.repeat(objects, 10, axis=0) + random.uniform(-6, 6, (30, 4)).astype(np.float32)
    boxes = np.concatenate([near, random_boxes(random, 20, 64, 96), np.repeat(objects, 4, axis=0)[:10]])
    targets = make_targets([[(box, label) for box, label in zip(objects, (2, 0, 1), strict=True)], []], most=5)
    proposals = Proposals(jnp.asarray(np.stack([boxes, boxes])), jnp.asarray([[True] * 50 + [False] * 10] * 2))
    keys = jax.random.split(jax.random.key(0), 2)

    everything = draw(
        proposals, targets, keys, settings=tiny_settings("faster_rcnn", roi_samples=80, roi_positive_share=1)
    )
    everything = jax.tree.map(np.asarray, everything)
    assert everything.valid.sum(1).tolist() == [53, 50]  # three objects come before the proposals
    drawn = [tuple(box) for box in everything.boxes[0][everything.valid[0]].tolist()]
    assert sorted(drawn) == sorted(map(tuple, [*objects.tolist(), *boxes[:50].tolist()]))
    labels = {0: 2, 1: 0, 2: 1}
    matched = 0
    for box, label, wanted in zip(everything.boxes[0, :53], everything.labels[0], everything.wanted[0], strict=False):
        overlaps = [iou(one.tolist(), box.tolist()) for one in objects]
        if max(overlaps) >= 0.5:
            best = int(np.argmax(overlaps))
            assert label == labels[best]
            np.testing.assert_array_equal(wanted, objects[best])
            matched += 1
        else:
            assert label == 3
    assert 10 < matched < 45
    assert (everything.labels[1] == 3).all()

    few = draw(proposals, targets, keys, settings=tiny_settings("faster_rcnn", roi_samples=16))
    assert few.valid.all()
    assert (few.labels < 3).sum(1).tolist() == [4, 0]


def test_an_object_is_its_own_even_beside_its_twin() -> None:
    """Two objects in one place: each of the prepended boxes has its own label."""
    box = [10, 10, 40, 40]
    targets = make_targets([[(box, 0), (box, 2)]], most=3)
    proposals = Proposals(jnp.zeros((1, 4, 4)), jnp.zeros((1, 4), bool))
    settings = tiny_settings("faster_rcnn", roi_positive_share=1)
    samples = draw(proposals, targets, jax.random.split(jax.random.key(0), 1), settings=settings)
    assert sorted(samples.labels[samples.valid].tolist()) == [0, 2]


def test_losses_against_loops() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (2, 6, 4)).astype(np.float32)
    deltas = random.normal(0, 2, (2, 6, 3, 4)).astype(np.float32)
    boxes, wanted = (random_boxes(random, 12, 50, 50).reshape(2, 6, 4) for _ in range(2))
    labels = np.array([[0, 1, 2, 3, 3, 3], [3, 2, 1, 3, 0, 0]])
    valid = np.array([[True] * 5 + [False], [True] * 4 + [False] * 2])
    samples = RoISamples(*(jnp.asarray(x) for x in (boxes, valid, labels, wanted)))
    settings = tiny_settings("faster_rcnn")
    found = jax.jit(roi_losses, static_argnums=3)(jnp.asarray(logits), jnp.asarray(deltas), samples, settings)
    entropy = F.cross_entropy(torch.from_numpy(logits[valid]), torch.from_numpy(labels[valid]), reduction="sum")
    distance, deviations = 0.0, (0.1, 0.1, 0.2, 0.2)
    for at in np.argwhere(valid & (labels < 3)):
        b, n = at
        code = reference.code(boxes[b, n], wanted[b, n], deviations)
        distance += np.abs(deltas[b, n, labels[b, n]] - code).sum()
    assert found["class_loss"] == pytest.approx(entropy.item() / 9, rel=1e-5)
    assert found["box_loss"] == pytest.approx(distance / 9, rel=1e-5)


def test_losses_without_any_sample() -> None:
    zeros = jnp.zeros((1, 3, 4))
    samples = RoISamples(zeros, jnp.zeros((1, 3), bool), jnp.full((1, 3), 3), zeros)

    def total(logits: jax.Array) -> jax.Array:
        losses = roi_losses(logits, jnp.ones((1, 3, 3, 4)), samples, tiny_settings("faster_rcnn"))
        return losses["class_loss"] + losses["box_loss"]

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.ones((1, 3, 4)))
    assert value == 0 and not gradient.any()
