"""RetinaNet's way from the head's outputs to detections, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit

from cdnv2_jax.detectors.ops.anchors import level_anchors
from cdnv2_jax.detectors.retinanet import RetinaNet
from tests.detection import reference
from tests.detection.test_candidates import found_in
from tests.detection.tiny import compiled, tiny_detector

SIZE = (50, 60)


@pytest.mark.parametrize(("per_level", "pairs"), [(20, 200), (2000, 2000), (20, 60)])
def test_detections_against_loops(per_level: int, pairs: int) -> None:
    """On 64×64: 20 of a level's anchors at most, all anchors, and too few pairs of box and class."""
    detector = tiny_detector(
        "retinanet",
        gain=20,
        candidates_per_level=per_level,
        nms_candidates=pairs,
        score_threshold=0.02,
        nms_threshold=0.4,
        most_detections=50,
    )
    assert isinstance(detector, RetinaNet)
    images = np.zeros((1, 64, 64, 3), np.float32)
    images[0, : SIZE[0], : SIZE[1]] = np.random.default_rng(0).normal(size=(*SIZE, 3))
    inputs = jnp.asarray(images), jnp.asarray([SIZE])
    graph, state = nnx.split(detector)

    @jax.jit
    def outputs(state, *inputs):
        merged = nnx.merge(graph, state)
        maps, masks = merged.levels(*inputs)
        return maps, merged.head(maps, masks)

    maps, (logits, deltas) = outputs(state, *inputs)
    scores, boxes, left_out = [], [], 0.0
    for level, anchors in enumerate(level_anchors(maps, (4,), (0.5, 1, 2))):
        probabilities = expit(np.asarray(logits[level][0]))
        order = np.argsort(-probabilities.max(1), kind="stable")
        left_out = max([left_out, *probabilities[order[per_level:]].max(1).tolist()])
        for n in order[:per_level]:
            scores.append(probabilities[n])
            boxes.append(reference.decoded(anchors[n], np.asarray(deltas[level][0, n]), SIZE))
    table = np.repeat(np.array(boxes)[:, None], 3, axis=1)
    flat = np.sort(np.array(scores).ravel())[::-1]
    cut = np.array(scores) >= flat[min(pairs, len(flat)) - 1]
    expected = reference.class_wise(table, np.where(cut, scores, 0), score_threshold=0.02, nms_threshold=0.4, most=50)
    detections = compiled(detector, "detect")(*inputs)
    found = found_in(jax.tree.map(lambda x: x[0], detections))
    assert [label for _, label, _ in found] == [label for _, label, _ in expected]
    np.testing.assert_allclose([score for score, *_ in found], [score for score, *_ in expected], rtol=1e-4)
    np.testing.assert_allclose([box for *_, box in found], [box for *_, box in expected], atol=1e-3)
    assert len(expected) > 10
    last = expected[-1][0] if len(expected) == 50 else 0
    rest = max(left_out, flat[pairs] if len(flat) > pairs else 0)
    assert detections.truncated[0] == (rest > 0.02 and rest > last)
