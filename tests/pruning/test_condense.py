"""Condensing: the same logits from the kept connections alone, tensor for tensor what the PyTorch twin converts to."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.learned import SparseFeatureReactivation
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.condense import condense, halved
from cdnv2_jax.pruning.prune import prune
from tests.tables import table
from tests.torch_twin import CondenseNetTwin, converted, prune_to_stage
from tests.twin_models import (
    SMALL_V1,
    SMALL_V2,
    assert_near,
    forward,
    jax_model,
    nhwc,
    random_images,
    random_twin,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("x64")

IMAGES = random_images(2, 9, 12)


def random_architecture(seed: int) -> CondenseNetArchitecture:
    """One or two blocks of everything that can vary; all groups and factors divide 8 and so every channel number."""
    draw = random.Random(seed)
    blocks = draw.choice([1, 2])
    with_sfr, with_head = draw.random() < 0.8, draw.random() < 0.6
    divisors = [1, 2, 4, 8]
    return CondenseNetArchitecture(
        stages=tuple(draw.choice([1, 2] if blocks == 1 else [1]) for _ in range(blocks)),
        growth=tuple(draw.choice([8, 16]) for _ in range(blocks)),
        num_classes=5,
        lgc_groups=draw.choice(divisors),
        lgc_factor=draw.choice(divisors),
        conv_groups=draw.choice(divisors),
        sfr_groups=draw.choice(divisors) if with_sfr else None,
        sfr_factor=draw.choice(divisors) if with_sfr else None,
        bottleneck=draw.choice([1, 2]),
        hard_swish_from=draw.choice([None, 0, 1]),
        squeeze_excite_from=draw.choice([None, 0, 1]),
        head_width=12 if with_head else None,
        stem_stride=draw.choice([1, 2]),
    )


ARCHITECTURES = {
    "v1": SMALL_V1,
    "LGC 8/4, SFR 2/4": SMALL_V2,
    "SFR 8/2": SMALL_V2.override({"stages": (1,), "growth": (8,), "groups": 2, "sfr_factor": 8}),
    **{f"random {seed}": random_architecture(seed) for seed in range(6)},
}
"""By what they are called, the first ones by C / G."""


def pruned(architecture: CondenseNetArchitecture) -> tuple[CondenseNet, CondenseNetTwin]:
    """The same random network at its last stage in JAX and PyTorch."""
    twin = random_twin(architecture)
    prune_to_stage(twin, 100)
    return jax_model(twin, architecture), twin


def assert_same_tensors(model: Network, twin: CondenseNetTwin) -> None:
    ours, theirs = tensors_of(model), twin.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value.numpy(), key)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_same_logits_and_tensors(architecture: CondenseNetArchitecture) -> None:
    model, twin = pruned(architecture)
    condensed = condense(model)
    with torch.no_grad():
        expected = twin(torch.from_numpy(IMAGES)).numpy()
    assert_near(forward(condensed, nhwc(IMAGES)), expected, 1e-12)
    assert_near(forward(model, nhwc(IMAGES)), expected, 1e-12)
    assert_same_tensors(condensed, converted(twin, halve_classifier=False))


def test_random_architectures_are_of_all_kinds() -> None:
    """Guards the test above."""
    drawn = ARCHITECTURES.values()
    assert {a.lgc_groups < a.lgc_factor for a in drawn} == {a.lgc_groups > a.lgc_factor for a in drawn} == {True, False}
    with_sfr = [(a.sfr_groups, a.sfr_factor) for a in drawn if a.sfr_groups and a.sfr_factor]
    assert {groups < factor for groups, factor in with_sfr} == {True, False}
    assert {groups > factor for groups, factor in with_sfr} == {True, False}
    assert len(with_sfr) < len(drawn)


@table(
    "architecture",
    {
        "v1": SMALL_V1,
        "v2": SMALL_V2,
    },
)
def test_float32(architecture: CondenseNetArchitecture) -> None:
    twin = random_twin(architecture)
    prune_to_stage(twin, 100)
    model = jax_model(twin, architecture, param_dtype=jnp.float32)
    images = nhwc(IMAGES).astype(np.float32)
    # Accelerators multiply float32 numbers with fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        logits, expected = forward(condense(model), images), forward(model, images)
    assert logits.dtype == jnp.float32
    assert_near(logits, expected, 1e-5)


def test_dtypes_and_name_are_kept() -> None:
    twin = random_twin(SMALL_V2)
    prune_to_stage(twin, 100)
    model = jax_model(twin, SMALL_V2, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    condensed = condense(model)
    assert (condensed.name, condensed.architecture) == (model.name, model.architecture)
    assert condensed.form.condensed and not condensed.form.halved_classifier
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(condensed, nnx.Param))} == {jnp.dtype(jnp.float32)}
    outputs = [
        nnx.eval_shape(network, jax.ShapeDtypeStruct((1, 9, 9, 3), jnp.float32)) for network in (model, condensed)
    ]
    assert {output.dtype for output in outputs} == {jnp.dtype(jnp.bfloat16)}


def test_the_original_is_left_alone() -> None:
    """Nor do the two share a variable: emptying the condensed network changes nothing either."""
    model, _ = pruned(SMALL_V2)
    model.train()
    before = tensors_of(model)
    condensed = condense(model)
    assert all(norm.use_running_average for _, norm in nnx.iter_modules(condensed) if isinstance(norm, BatchNorm))
    assert not any(norm.use_running_average for _, norm in nnx.iter_modules(model) if isinstance(norm, BatchNorm))
    nnx.update(condensed, jax.tree.map(jnp.zeros_like, nnx.state(condensed)))
    after = tensors_of(model)
    assert not model.form.condensed
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, key)


@table(
    "stage, message",
    [
        (0, "blocks/0/0/lgc: group 0 has 16 connections instead of 4"),
        (2, "blocks/0/0/lgc: group 0 has 8 connections instead of 4"),
    ],
)
def test_unfinished_pruning_is_refused(stage: int, message: str) -> None:
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    prune(model, stage)
    with pytest.raises(UserError, match=message):
        condense(model)


def test_one_unfinished_group_is_refused() -> None:
    """Too many connections, in an SFR of a later layer, and too few."""
    model, _ = pruned(SMALL_V2)
    layer = list(model.dense_layers())[1]
    assert isinstance(layer.sfr, SparseFeatureReactivation)
    mask = layer.sfr.mask[...]
    layer.sfr.mask.set_value(mask.at[2].set(True))
    with pytest.raises(UserError, match="blocks/1/0/sfr: group 2 has 24 connections instead of 12"):
        condense(model)
    layer.sfr.mask.set_value(mask.at[3].set(False))
    with pytest.raises(UserError, match="group 3 has 0 connections instead of 12: prune the network to its last"):
        condense(model)


def test_condensing_twice_is_refused() -> None:
    model, _ = pruned(SMALL_V1)
    with pytest.raises(UserError, match="twin is condensed already"):
        condense(condense(model))


def test_halved_classifier() -> None:
    """Of v1, where the official conversion halves it: other logits than before, the same as the twin's."""
    model, twin = pruned(SMALL_V1)
    halved, expected = condense(model, halve_classifier=True), converted(twin, halve_classifier=True)
    assert_same_tensors(halved, expected)
    with torch.no_grad():
        logits = expected(torch.from_numpy(IMAGES)).numpy()
    assert_near(forward(halved, nhwc(IMAGES)), logits, 1e-12)
    assert np.abs(forward(model, nhwc(IMAGES)) - logits).max() > 1e-3


def test_halving_a_classifier_by_hand() -> None:
    """L1 norms 2, 1, 3, 2, 2: of five inputs two stay, the largest last, of equals the later."""
    linear = nnx.Linear(5, 2, rngs=nnx.Rngs(0))
    linear.kernel.set_value(jnp.asarray([[1.0, -1], [1, 0], [-2, 1], [0, 2], [2, 0]]))
    assert linear.bias is not None
    linear.bias.set_value(jnp.asarray([5.0, 6]))
    small = halved(linear)
    np.testing.assert_array_equal(small.index[...], [4, 2])
    np.testing.assert_array_equal(small.kernel[...], [[2, 0], [-2, 1]])
    np.testing.assert_array_equal(small.bias[...], [5, 6])


def test_only_v1_classifiers_are_small() -> None:
    model, _ = pruned(SMALL_V2)
    with pytest.raises(UserError, match="only the classifier of a CondenseNet"):
        condense(model, halve_classifier=True)
