"""Whole detectors: what pads an image, batches, losses of every kind of target, learning, precision."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Detections, Targets, set_training_mode, trainable_parameters
from cdnv2_jax.detectors.settings import Kind
from cdnv2_jax.errors import UserError
from tests.detection.ops.oracles import iou
from tests.detection.tiny import TinyBackbone, compiled, make_targets, tiny_detector, tiny_settings
from tests.twin_models import assert_near

SIZES = ((50, 90), (64, 40))
"""Of the images in all tests, which count as 64×96 and 64×64."""

ALL_SCORES: dict[str, Any] = {"score_threshold": 0.0, "nms_threshold": 0.3}
EVERYTHING: dict[str, Any] = {
    "rpn_samples": 1600,
    "rpn_positive_share": 1.0,
    "roi_samples": 140,
    "roi_positive_share": 1.0,
}
"""Samples of all anchors and proposals there are: chance, which goes by place on the canvas, has no part in them."""

LOSSES = {
    "retinanet": ["box_loss", "class_loss"],
    "faster_rcnn": ["box_loss", "class_loss", "rpn_box_loss", "rpn_class_loss"],
}


def on_canvas(height: int, width: int, *numbers: int) -> tuple[jax.Array, jax.Array]:
    """(images, sizes) of the images with those numbers; zeros beyond them."""
    images = np.zeros((len(numbers), height, width, 3), np.float32)
    for place, number in enumerate(numbers):
        h, w = SIZES[number]
        images[place, :h, :w] = np.random.default_rng(number).normal(size=(h, w, 3))
    return jnp.asarray(images), jnp.asarray([SIZES[number] for number in numbers], jnp.int32)


@pytest.fixture(scope="module", params=get_args(Kind))
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def detect(kind: Kind) -> Callable[..., Detections]:
    """Of a detector with random scores, all of which pass."""
    return compiled(tiny_detector(kind, **ALL_SCORES, gain=20, seed=5), "detect")


def image_of(detections: Detections, number: int) -> Detections:
    return jax.tree.map(lambda x: np.asarray(x)[number], detections)


def assert_same(found: Detections, expected: Detections) -> None:
    """Of one image."""
    assert expected.valid.sum() > 5
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert_near(found.scores, expected.scores, 1e-4)
    assert_near(found.boxes, expected.boxes, 1e-4)


def test_shapes_and_order(detect: Callable[..., Detections]) -> None:
    found = detect(*on_canvas(128, 160, 0, 1))
    assert [x.shape for x in (found.boxes, found.scores, found.labels, found.valid)] == [(2, 20, 4), *[(2, 20)] * 3]
    assert found.truncated.shape == (2,)
    assert [found.boxes.dtype, found.scores.dtype, found.labels.dtype] == [jnp.float32, jnp.float32, jnp.int32]
    for number, (height, width) in enumerate(SIZES):
        one = image_of(found, number)
        count = int(one.valid.sum())
        assert count > 5 and one.valid[:count].all()
        assert len(set(one.labels[:count].tolist())) > 1
        scores = np.asarray(one.scores[:count])
        assert (np.diff(scores) <= 0).all() and scores[-1] > 0 and scores[0] <= 1
        x1, y1, x2, y2 = np.asarray(one.boxes[:count]).T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x1 <= x2).all() and (y1 <= y2).all()


def test_numbers_that_are_not_finite(detect: Callable[..., Detections]) -> None:
    """They would silently be no detections."""
    images, sizes = on_canvas(128, 160, 0, 1)
    assert detect(images, sizes).finite.tolist() == [True, True]
    for value in (np.nan, np.inf):
        assert detect(images.at[1, 5, 5, 0].set(value), sizes).finite.tolist() == [True, False]


def test_an_image_alone_and_in_a_batch_on_a_larger_canvas(detect: Callable[..., Detections]) -> None:
    both = detect(*on_canvas(128, 160, 0, 1))
    for number in (0, 1):
        alone = detect(*on_canvas(64, 96, number))
        assert_same(image_of(both, number), image_of(alone, 0))


@pytest.fixture(scope="module")
def gradients(kind: Kind):
    """(graph, parameters, rest) in training mode, and `run(parameters, rest, weights, images, …)`: losses, gradient."""
    detector = tiny_detector(kind, **EVERYTHING)
    set_training_mode(detector)
    graph, parameters, rest = nnx.split(detector, nnx.Param, ...)

    @jax.jit
    def run(parameters, rest, weights, *inputs):
        def total(parameters):
            losses = nnx.merge(graph, parameters, rest).losses(*inputs)
            return sum(weights[name] * losses[name] for name in losses), losses

        return jax.grad(total, has_aux=True)(parameters)

    return detector, parameters, rest, run


def equal_weights(kind: Kind) -> dict[str, float]:
    return dict.fromkeys(LOSSES[kind], 1.0)


def hundred_boxes() -> list[tuple[list[float], int]]:
    random = np.random.default_rng(0)
    low, side = random.uniform(0, 30, (100, 2)), random.uniform(1, 20, (100, 2))
    return [([*a, *(a + s)], n % 3) for n, (a, s) in enumerate(zip(low.tolist(), side, strict=True))]


TARGETS = {
    "none at all": [[], []],
    "a hundred in one, none in the other": [hundred_boxes(), []],
    "of no area": [[([5, 5, 5, 20], 0), ([5, 5, 5, 5], 1), ([10, 10, 40, 40], 2)], [([9, 9, 4, 20], 0)]],
    "the whole image": [[([0, 0, 90, 50], 0)], [([0, 0, 40, 64], 2)]],
}


@pytest.mark.parametrize("objects", TARGETS.values(), ids=TARGETS)
def test_losses_and_gradients_are_finite(kind: Kind, gradients, objects: Any) -> None:
    _, parameters, rest, run = gradients
    inputs = (*on_canvas(64, 96, 0, 1), make_targets(objects, 100), jax.random.key(0))
    gradient, losses = run(parameters, rest, equal_weights(kind), *inputs)
    assert sorted(losses) == LOSSES[kind]
    assert all(loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss) for loss in losses.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    boxes = any(box[2] > box[0] and box[3] > box[1] for image in objects for box, _ in image)
    assert losses["class_loss"] > 0
    assert (losses["box_loss"] > 0) == boxes


def test_objects_of_no_area_are_left_out(kind: Kind, gradients) -> None:
    _, parameters, rest, run = gradients
    real: list[Any] = [([10, 10, 40, 40], 2)]
    empty: list[Any] = [([5, 5, 5, 20], 0), ([9, 9, 4, 20], 1)]
    losses = [
        run(parameters, rest, equal_weights(kind), *on_canvas(64, 96, 0, 1), targets, jax.random.key(0))[1]
        for targets in (make_targets([real, []], 100), make_targets([real + empty, empty], 100))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["faster_rcnn"], indirect=True, scope="module")
def test_the_second_stage_does_not_train_the_first(kind: Kind, gradients) -> None:
    """Its losses alone leave the RPN without gradient, and reach the pyramid."""
    _, parameters, rest, run = gradients
    weights = {"rpn_class_loss": 0.0, "rpn_box_loss": 0.0, "class_loss": 1.0, "box_loss": 1.0}
    inputs = (*on_canvas(64, 96, 0, 1), make_targets(TARGETS["the whole image"], 100), jax.random.key(0))
    gradient, _ = run(parameters, rest, weights, *inputs)
    size = {part: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient[part])) for part in ("rpn", "fpn")}
    assert size["rpn"] == 0 < size["fpn"]


def drawn_batch() -> tuple[jax.Array, jax.Array, Targets]:
    """A bright square of class 2 in a dark image, and an image without it."""
    images = np.zeros((2, 64, 96, 3), np.float32)
    images[0, 20:50, 40:70] = (2, -1, 1)
    sizes = jnp.asarray([[64, 96]] * 2, jnp.int32)
    return jnp.asarray(images), sizes, make_targets([[([40, 20, 70, 50], 2)], []], 100)


def test_a_few_steps_find_an_object(kind: Kind, gradients, detect: Callable[..., Detections]) -> None:
    """What is trained is what `trainable_parameters` says."""
    detector, parameters, rest, run = gradients
    trains = trainable_parameters(detector)
    frozen = jax.tree.map(lambda trained: not trained, trains)
    optimizer = optax.chain(optax.adam(0.02), optax.masked(optax.set_to_zero(), frozen))
    start, state = parameters, optimizer.init(parameters)

    @jax.jit
    def update(gradient, state, parameters):
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    batch = drawn_batch()
    for step in range(70):
        gradient, _ = run(parameters, rest, equal_weights(kind), *batch, jax.random.key(step))
        parameters, state = update(gradient, state, parameters)
    trained = nnx.merge(nnx.graphdef(detector), parameters, rest)
    trained.eval()
    images, sizes, _ = batch
    found = detect(jnp.pad(images, ((0, 0), (0, 64), (0, 64), (0, 0))), sizes, of=trained)
    assert found.labels[0, 0] == 2 and found.scores[0, 0] > 0.5
    assert iou(np.asarray(found.boxes[0, 0]).tolist(), [40, 20, 70, 50]) > 0.7
    assert not (found.scores[1] > 0.5).any()
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), start, parameters)
    assert not any(c and not t for c, t in zip(jax.tree.leaves(changed), jax.tree.leaves(trains), strict=True))
    assert sum(jax.tree.leaves(changed)) > 10


def test_losses_do_not_depend_on_the_canvas(kind: Kind, gradients) -> None:
    detector, parameters, rest, run = gradients
    objects: list[Any] = [[([10, 10, 60, 45], 2), ([0, 0, 90, 50], 1)], [([3, 3, 33, 50], 0)]]
    targets, key = make_targets(objects, 100), jax.random.key(0)
    _, expected = run(parameters, rest, equal_weights(kind), *on_canvas(64, 96, 0, 1), targets, key)
    found = compiled(detector, "losses")(*on_canvas(128, 160, 0, 1), targets, key)
    for name in LOSSES[kind]:
        assert expected[name] > 0
        assert found[name] == pytest.approx(float(expected[name]), rel=1e-4), name


def test_bfloat16(kind: Kind, gradients) -> None:
    """Near the losses in float32, which are what comes out; the parameters stay as they are."""
    _, parameters, rest, run = gradients
    inputs = (*on_canvas(64, 96, 0, 1), make_targets([[([10, 10, 60, 45], 2)], []], 100), jax.random.key(0))
    detector = tiny_detector(kind, dtype=jnp.bfloat16, **EVERYTHING)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(detector, nnx.Param))} == {jnp.dtype(jnp.float32)}
    found = jax.eval_shape(detector.detect, *inputs[:2])
    assert (found.boxes.dtype, found.scores.dtype) == (jnp.float32, jnp.float32)
    _, expected = run(parameters, rest, equal_weights(kind), *inputs)
    for name, loss in compiled(detector, "losses")(*inputs).items():
        assert loss.dtype == jnp.float32
        assert loss == pytest.approx(float(expected[name]), rel=0.05)
        assert loss != expected[name]


@pytest.mark.parametrize("shape", [(1, 64, 100, 3), (1, 60, 96, 3)])
def test_a_canvas_between_strides_is_refused(shape: tuple[int, ...]) -> None:
    detector = tiny_detector("retinanet")
    with pytest.raises(UserError, match=r"a canvas must be a multiple of 32 pixels on each side, got 6\d×"):
        detector.detect(jnp.zeros(shape), jnp.asarray([[60, 90]]))


def test_images_of_another_shape_are_refused() -> None:
    detector = tiny_detector("retinanet")
    for shape, sizes in (((64, 96, 3), [[60, 90]]), ((1, 64, 96, 1), [[60, 90]]), ((1, 64, 96, 3), [[6, 9], [6, 9]])):
        with pytest.raises(ValueError, match=r"images must be \[b, h, w, 3\] and sizes \[b, 2\]"):
            detector.detect(jnp.zeros(shape), jnp.asarray(sizes))


def test_a_backbone_without_the_maps_is_refused() -> None:
    with pytest.raises(UserError, match=r"retinanet needs a backbone with maps of strides \[8, 16, 32\], .* \[8, 16\]"):
        build_detector(tiny_settings("retinanet"), TinyBackbone(strides=(8, 16), rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
