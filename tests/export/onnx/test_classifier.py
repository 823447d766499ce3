"""Models of classifiers give the logits of our own networks, whatever the family, form and batch."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx

from cdnv2_jax import condense, prune
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx_file import classifier_to_onnx
from cdnv2_jax.layers.condensed import CondensedGroupConv, with_gathered_norms
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import FAMILIES, Family, build_network
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2, MobileNetV2Architecture
from tests.export.onnx.networks import NETWORKS, PLAIN, V2, logits_of, run, small_network
from tests.plain_models import SMALL_MOBILENET
from tests.twin_models import assert_near

TOLERANCE = 1e-5


def images_of(batch: int, size: int) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("what", NETWORKS)
def test_same_logits(what: str) -> None:
    """One model for one image and for three; 37 pixels, so that strides have to round."""
    network = small_network(what)
    model = classifier_to_onnx(network, image_size=37)
    images = images_of(3, 37)
    expected = logits_of(network, images)
    assert_near(run(model, images)[0], expected, TOLERANCE)
    assert_near(run(model, images[:1])[0], expected[:1], TOLERANCE)


WHOLE = [*(f"{name} {form}" for name in V2 for form in ("masked", "condensed")), "condensenet_86 condensed", *PLAIN]


@pytest.mark.soak  # up to 37 layers each are compiled here, a quarter of a minute
@pytest.mark.parametrize("what", WHOLE)
def test_same_logits_at_full_size(what: str) -> None:
    network = small_network(what, whole=True)
    size = 32 if what.startswith("condensenet") else 224
    model = classifier_to_onnx(network, image_size=size)
    for batch in (1, 32):
        images = images_of(batch, size)
        assert_near(run(model, images)[0], logits_of(network, images), TOLERANCE)


def test_groups_that_normalise_a_shared_channel_differently() -> None:
    """As after fine-tuning a condensed network: what they read is no longer one map."""
    network = with_gathered_norms(small_network("cdnv2_a condensed"))
    assert isinstance(network, CondenseNet)
    random = np.random.default_rng(1)
    for layer in network.dense_layers():
        assert isinstance(layer.lgc, CondensedGroupConv) and layer.lgc.norm is not None
        layer.lgc.norm.scale[...] = random.uniform(0.5, 1.5, layer.lgc.norm.features).astype(np.float32)
    images = images_of(2, 32)
    model = classifier_to_onnx(network, image_size=32)
    assert_near(run(model, images)[0], logits_of(network, images), TOLERANCE)


def test_a_network_that_is_half_pruned() -> None:
    network = small_network("cdnv2_a masked")
    removed = int(np.sum([np.size(conv.mask[...]) for conv in network.masked_convs()]))
    for conv in network.masked_convs():
        conv.mask[...] = jnp.asarray(np.random.default_rng(2).random(conv.mask.shape) < 0.6)
    assert 0 < sum(int(conv.mask[...].sum()) for conv in network.masked_convs()) < removed
    images = images_of(1, 32)
    model = classifier_to_onnx(network, image_size=32)
    assert_near(run(model, images)[0], logits_of(network, images), TOLERANCE)


def test_bfloat16_is_cast() -> None:
    """The model computes in float32 what the same weights give there."""
    network = small_network("cdnv2_a condensed")
    assert isinstance(network, CondenseNet)
    graph, state = nnx.split(network)
    narrow = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, state)
    wide = nnx.merge(graph, jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x, narrow))
    nnx.update(network, jax.tree.map(jnp.asarray, narrow))
    assert network.param_dtype == jnp.bfloat16
    images = images_of(1, 32)
    model = classifier_to_onnx(network, image_size=32)
    assert {tensor.data_type for tensor in model.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert_near(run(model, images)[0], logits_of(wide, images), TOLERANCE)


def test_training_mode_makes_no_difference() -> None:
    network = small_network("cdnv2_a condensed")
    assert isinstance(network, CondenseNet)
    before = classifier_to_onnx(network, image_size=32)
    network.train()
    assert classifier_to_onnx(network, image_size=32) == before


def test_images_that_are_too_small() -> None:
    with pytest.raises(UserError, match="a 8×8 image is too small"):
        classifier_to_onnx(small_network("cdnv2_a condensed"), image_size=8)


def test_networks_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnArchitecture(MobileNetV2Architecture):
        """Of a family that says nothing about ONNX."""

    monkeypatch.setitem(FAMILIES, "own", Family("own", OwnArchitecture, MobileNetV2))
    network = build_network(OwnArchitecture(**vars(SMALL_MOBILENET)), name="small", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="own"):
        classifier_to_onnx(network, image_size=32)


def test_pruning_and_condensing_give_the_same_model_twice() -> None:
    """The bytes depend on the network alone."""
    network = small_network("cdnv2_a masked")
    prune(network, network.condensation_stages)
    first, second = (classifier_to_onnx(condense(network), image_size=32).SerializeToString() for _ in range(2))
    assert first == second
