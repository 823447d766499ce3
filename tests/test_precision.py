"""Whatever is promised of logits must hold where products of float32 are rounded: on GPUs and on TPUs."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cdnv2_jax.classification.evaluation import _classified
from cdnv2_jax.classification.experiment import classification_loss
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.preparation import IMAGENET
from cdnv2_jax.detection.evaluation import _detected
from cdnv2_jax.devices import Devices
from cdnv2_jax.export.stablehlo import classifier_to_stablehlo
from cdnv2_jax.layers.lowering import Precision, multiplying, override, tracing_for
from cdnv2_jax.layers.norm import MOMENTUM, BatchNorm
from cdnv2_jax.networks.network import Network
from cdnv2_jax.training.step import create_state, make_train_step
from cdnv2_jax.weights.detector_programs import _detect
from cdnv2_jax.weights.programs import compiled_forward
from tests.detection.tiny import tiny_detector
from tests.layers.random_norm import draw_norm
from tests.rounded_products import BackEnd, as_on
from tests.weights.networks import network

SIDE = 24
NORMALISATION = Normalisation(*IMAGENET)
EVERYWHERE = Devices.first_of_this_process().everywhere
PIXELS = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.uint8)
IMAGES = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.float32)
CANVASES = jax.ShapeDtypeStruct((2, 32, 64, 3), jnp.float32)
PAIRS = jax.ShapeDtypeStruct((2, 2), jnp.int32)
NUMBERS = jax.ShapeDtypeStruct((2,), jnp.int32)


small = functools.partial(network, stages=(1,), growth=(8,))


def precisions(program: str) -> set[str]:
    """The precisions of all products in a StableHLO program, of which there are some."""
    products = re.findall(r"^.*stablehlo\.(?:dot|dot_general|convolution)[ (].*$", program, re.MULTILINE)
    return {" ".join(re.findall(r"\b(?:DEFAULT|HIGH|HIGHEST)\b", line)) for line in products}


@pytest.fixture(autouse=True)
def as_users_have_it() -> Iterator[None]:
    """The other tests multiply with all bits."""
    with jax.default_matmul_precision(None):
        yield


def classify(form: str) -> Any:
    """As `predict` and every check of an export."""
    return jax.jit(compiled_forward(small(form))).trace(IMAGES)


def evaluate_classifier() -> Any:
    graph, state = nnx.split(small())
    batch = {"image": PIXELS, "label": NUMBERS, "real": NUMBERS}
    return _classified.trace(graph, NORMALISATION, EVERYWHERE, state, batch)


def detect() -> Any:
    graph, state = nnx.split(tiny_detector("retinanet"))
    arrays, structure = jax.tree.flatten(state)
    return jax.jit(_detect(graph, structure)).trace(arrays, CANVASES, PAIRS)


def evaluate_detector() -> Any:
    graph, state = nnx.split(tiny_detector("faster_rcnn"))
    batch = {"image": jax.ShapeDtypeStruct(CANVASES.shape, jnp.uint8), "size": PAIRS, "scale": PAIRS}
    return _detected.trace(graph, NORMALISATION, EVERYWHERE, state, batch | {"index": NUMBERS, "real": NUMBERS})


PROGRAMS: dict[str, Callable[[], Any]] = {
    "classify, masked": functools.partial(classify, "pruned"),
    "classify, condensed": functools.partial(classify, "condensed"),
    "evaluate a classifier": evaluate_classifier,
    "detect": detect,
    "evaluate a detector": evaluate_detector,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_inference_keeps_all_bits(name: str) -> None:
    """Whatever JAX is set to."""
    with tracing_for("tpu"), jax.default_matmul_precision("bfloat16"):
        program = PROGRAMS[name]().lower(lowering_platforms=("tpu", "cuda")).as_text()
    assert precisions(program) == {"HIGHEST HIGHEST"}


def test_bfloat16_is_left_alone() -> None:
    """It has all its bits anyway, and some programs of TPUs would be slower."""
    program = jax.jit(compiled_forward(small(dtype=jnp.bfloat16))).trace(IMAGES).lower(lowering_platforms=("tpu",))
    assert precisions(program.as_text()) == {"DEFAULT DEFAULT"}


def test_exported_programs_keep_all_bits() -> None:
    """On all platforms, because they contain their precision."""
    program = jax.export.deserialize(bytearray(classifier_to_stablehlo(small("condensed"), SIDE)))
    assert precisions(program.mlir_module()) == {"HIGHEST HIGHEST"}


@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_training_multiplies_as_told(precision: Precision) -> None:
    """Gradients too."""
    optimizer = optax.sgd(0.1)
    graph, state = create_state(nnx.clone(small()), optimizer)
    step: Any = make_train_step(graph, optimizer, classification_loss, precision=precision)
    program = step.trace(state, {"image": IMAGES, "label": NUMBERS}).lower(lowering_platforms=("tpu",)).as_text()
    assert precisions(program) == {f"{precision} {precision}".upper()}


def calibrated(model: Network, images: np.ndarray) -> Network:
    """A copy whose normalisations are scaled at random, with the statistics of these images, as after training."""
    model, random = nnx.clone(model), np.random.default_rng(0)
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            draw_norm(norm, random)
            norm.mean[...], norm.var[...] = jnp.zeros(norm.features), jnp.zeros(norm.features)
    model.train()
    graph, state = nnx.split(model)

    @jax.jit
    def statistics(state: nnx.State, images: jax.Array) -> nnx.State:
        trained = nnx.merge(graph, state, copy=True)
        trained(images)
        return jax.tree.map(lambda x: x / MOMENTUM, nnx.state(trained, nnx.BatchStat))

    nnx.update(model, statistics(state, images))
    model.eval()
    return model


PROMISED: dict[tuple[BackEnd, Precision], tuple[float, float]] = {
    ("gpu", "default"): (1e-4, 1e-3),
    ("tpu", "default"): (1e-3, 1e-2),
    ("tpu", "high"): (1e-6, 3e-5),
    ("tpu", "highest"): (0, 1e-6),
}
"""Between which bounds logits differ from those of float32, relative to the largest: docs/speed.md has the figures."""


@pytest.mark.parametrize(("back_end", "precision"), PROMISED)
def test_errors_are_as_documented(back_end: BackEnd, precision: Precision) -> None:
    least, most = PROMISED[back_end, precision]
    images = np.random.default_rng(0).standard_normal((16, SIDE, SIDE, 3), np.float32)
    graph, state = nnx.split(calibrated(small("pruned"), images))

    @multiplying(precision)
    def logits(state: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(images)

    with override(masked_block="layers"):
        expected, found = (np.asarray(run(state, images)) for run in (jax.jit(logits), as_on(back_end, logits)))
    assert least <= np.abs(found - expected).max() / np.abs(expected).max() <= most
