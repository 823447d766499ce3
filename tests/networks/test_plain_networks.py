"""ShuffleNetV2 and MobileNetV2 against their PyTorch twins: the same function, the same derivatives."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax import UserError, condense, create_model, prune
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import blank_network, build_network
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2, interleaved
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.torch_file import model_from_state_dict, state_dict_slots
from tests.plain_models import SMALL, SMALL_MOBILENET, SMALL_SHUFFLENET, plain_twin, random_twin
from tests.tables import table
from tests.twin_models import assert_near, call, derivatives, forward, nhwc, random_images

EVERY = pytest.mark.parametrize("architecture", SMALL.values(), ids=SMALL)


def ours(twin: Any, architecture: Any, **dtypes: Any) -> Any:
    return model_from_state_dict(twin.state_dict(), architecture, name="small", **dtypes)


@pytest.mark.usefixtures("x64")
@EVERY
def test_logits_and_features(architecture: Any) -> None:
    """Of images with odd sides; of even ones: the next test."""
    height, width = 33, 47
    twin = random_twin(architecture).double()
    images = random_images(2, height, width)
    with torch.no_grad():
        logits, maps = twin(torch.from_numpy(images)), twin.feature_maps(torch.from_numpy(images))
    model = ours(twin, architecture, param_dtype=jnp.float64)
    assert np.abs(logits.numpy()).max() > 1e-3
    assert_near(forward(model, nhwc(images)), logits, 1e-12)
    found = call(model, lambda model, images: model.features(images), nhwc(images))
    assert list(found) == [4, 8, 16, 32]
    for x, expected in zip(found.values(), maps, strict=True):
        assert_near(x, nhwc(expected), 1e-12)
    assert {stride: x.shape[-1] for stride, x in found.items()} == architecture.feature_channels
    assert found[32].shape[1:3] == architecture.smallest_map(height, width)


@EVERY
def test_logits_in_float32(architecture: Any) -> None:
    twin, images = random_twin(architecture), random_images(2, 64, 64).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(images))
    assert_near(forward(ours(twin, architecture), nhwc(images)), expected, 1e-5)


@pytest.mark.usefixtures("x64")
@EVERY
def test_training_mode_gradients_and_statistics(architecture: Any) -> None:
    twin = random_twin(architecture).double().train()
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    images, weights = random_images(3, 32, 64), np.random.default_rng(0).normal(size=(3, 5))
    model = ours(twin, architecture, param_dtype=jnp.float64)
    x = torch.from_numpy(images).requires_grad_()
    logits = twin(x)
    (logits * torch.from_numpy(weights)).sum().backward()
    model.train()
    found = derivatives(model, nhwc(images), weights)
    assert_near(found.output, logits.detach(), 1e-10)
    assert x.grad is not None
    assert_near(found.inputs, nhwc(x.grad), 1e-8)
    gradients = {key: parameter.grad.numpy() for key, parameter in twin.named_parameters()}
    # Biases before another batch normalisation have none but rounding errors.
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    slots = state_dict_slots(found.parameters)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(slots[key].read(), gradient, rtol=1e-8, atol=1e-12 * largest, err_msg=key)
    slots = state_dict_slots(found.stepped)
    for key, buffer in twin.named_buffers():
        assert_near(slots[key].read(), buffer, 1e-10, key)


@EVERY
def test_units_are_computed_again_if_asked(architecture: Any) -> None:
    graph, state = nnx.split(build_network(architecture, name="small", rngs=nnx.Rngs(0)))

    def units_again(remat: bool) -> int:
        def total(state: nnx.State) -> jax.Array:
            model = nnx.merge(graph, state, copy=True)
            model.remat = remat
            return model(jnp.zeros((2, 64, 64, 3))).sum()

        # JAX has called it "remat", "checkpoint" and "remat2".
        names = [equation.primitive.name for equation in jax.make_jaxpr(total)(state).eqns]
        return sum(name.startswith(("remat", "checkpoint")) for name in names)

    assert units_again(remat=True) == len(architecture.unit_strides)
    assert units_again(remat=False) == 0


def test_the_variants_are_different_functions() -> None:
    """With the same shapes, as at 0.5×: only the order of the channels tells them apart."""
    a = SMALL_SHUFFLENET.override({"stage_channels": (12, 24, 48)})
    twin = random_twin(a.override({"variant": "torchvision"}))
    model = ours(twin, a)
    other: Any = build_network(a, name="small", rngs=nnx.Rngs(0))
    other.eval()
    nnx.update(other.stem, nnx.state(model.stem))
    nnx.update(other.units, nnx.state(model.units))
    images = nhwc(random_images(1, 64, 64).astype(np.float32))
    maps = [call(m, lambda m, x: m.features(x), images) for m in (model, other)]
    assert_near(maps[0][4], maps[1][4], 1e-6)
    assert np.abs(maps[0][32] - maps[1][32]).max() > 1e-2 * np.abs(maps[0][32]).max()


def test_interleaved() -> None:
    np.testing.assert_array_equal(interleaved(jnp.arange(8)[None, None, None]), [[[[0, 4, 1, 5, 2, 6, 3, 7]]]])


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("shufflenet_v2_x0_5", [24, 48, 96, 192]),
        ("shufflenet_v2_x1_0", [24, 116, 232, 464]),
        ("shufflenet_v2_x1_5", [24, 176, 352, 704]),
        ("mobilenet_v2_x1_0", [24, 32, 96, 320]),
    ],
)
def test_networks_of_the_registry(name: str, channels: list[int]) -> None:
    """Shapes of the maps and, against the twin, of every variable."""
    model = blank_network(architecture_of(name), Form(), name=name)
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    maps = jax.eval_shape(lambda state, images: nnx.merge(graph, state).features(images), state, images)
    expected = {s: (2, 96 // s, 160 // s, count) for s, count in zip((4, 8, 16, 32), channels, strict=True)}
    assert {stride: x.shape for stride, x in maps.items()} == expected
    assert model.feature_channels == dict(zip((4, 8, 16, 32), channels, strict=True))
    with torch.device("meta"):
        twin = plain_twin(architecture_of(name))
    shapes = {key: slot.layout.shape for key, slot in state_dict_slots(model).items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in twin.state_dict().items()}


@EVERY
def test_what_training_and_detection_ask_of_a_network(architecture: Any) -> None:
    """As of a CondenseNet that has nothing to prune."""
    model: Network = build_network(architecture, name="small", rngs=nnx.Rngs(0))
    assert (model.form_name, model.condensation_stages, list(model.masked_convs())) == ("plain", 0, [])
    assert (model.name, model.dtype, model.param_dtype, model.remat) == ("small", None, jnp.float32, False)
    assert nnx.state(model.classifier, nnx.Param)["kernel"][...].shape[1] == 5
    assert model.architecture.override({"num_classes": 9}).num_classes == 9
    with pytest.raises(UserError, match="a 0×4 image is too small"):
        model.architecture.check_image(0, 4)


def networks(shuffle: ShuffleNetV2, mobile: MobileNetV2, condense: CondenseNet) -> list[Network]:
    """For the type checker: all families are what training and detection ask for."""
    return [shuffle, mobile, condense]


@EVERY
def test_nothing_to_prune_or_condense(architecture: Any) -> None:
    model = build_network(architecture, name="small", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="small has nothing to prune"):
        prune(model, 0)
    with pytest.raises(UserError, match="small has nothing to condense"):
        condense(model)
    with pytest.raises(ValueError, match="small has no form"):
        build_network(architecture, Form(condensed=True), name="small", rngs=nnx.Rngs(0))


@EVERY
def test_computation_in_bfloat16(architecture: Any) -> None:
    model = build_network(architecture, name="small", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    model.eval()
    assert nnx.eval_shape(model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)).dtype == jnp.bfloat16
    floats = [leaf for leaf in jax.tree.leaves(nnx.state(model)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}


@EVERY
def test_other_ranks_and_layouts_are_refused(architecture: Any) -> None:
    model = build_network(architecture, name="small", rngs=nnx.Rngs(0))
    for function in (model, model.features):
        with pytest.raises(ValueError, match=r"images must be \[batch, height, width, 3\], got \[2, 3, 32, 32\]"):
            function(jnp.zeros((2, 3, 32, 32)))


def test_create_model_follows_overrides() -> None:
    model: Any = create_model("shufflenet_v2_x0_5", num_classes=3, rngs=nnx.Rngs(0), stage_units=[1, 1, 1])
    assert model.architecture == architecture_of("shufflenet_v2_x0_5", 3, {"stage_units": (1, 1, 1)})
    assert (model.name, len(model.units), model.classifier.kernel.shape) == ("shufflenet_v2_x0_5", 3, (1024, 3))


@table(
    "base, changes, message",
    [
        (SMALL_SHUFFLENET, {"num_classes": 0}, "num_classes must be an integer in [1, 1000000], got 0"),
        (SMALL_SHUFFLENET, {"stage_units": (1, 0, 1)}, "stage_units must be an integer in [1, 256], got 0"),
        (SMALL_SHUFFLENET, {"stage_units": (100, 100, 57)}, "stage_units must add up to 256 or fewer, got 257"),
        (SMALL_SHUFFLENET, {"stage_units": 3}, "stage_units must be a sequence of numbers, got 3"),
        (SMALL_SHUFFLENET, {"stage_channels": (16, 20)}, "stage_channels must hold 3 numbers"),
        (SMALL_SHUFFLENET, {"stage_channels": (16, 21, 36)}, "even number of channels"),
        (SMALL_SHUFFLENET, {"stage_channels": (16, 16, 36)}, "and more than the 16 it reads"),
        (SMALL_SHUFFLENET, {"variant": "keras"}, "variant must be one of megvii, torchvision, got 'keras'"),
        (SMALL_SHUFFLENET, {"head_channel": 4}, "a network has no 'head_channel', did you mean 'head_channels'?"),
        (SMALL_SHUFFLENET, {"zzz": 4}, "a network has no 'zzz'; there are head_channels, in_channels, num_classes"),
        (SMALL_MOBILENET, {"num_classes": True}, "num_classes must be an integer in [1, 1000000], got True"),
        (SMALL_MOBILENET, {"channels": (8, 6)}, "need one number per stage each"),
        (SMALL_MOBILENET, dict.fromkeys(("channels", "expansions", "repeats", "strides"), ()), "one number per stage"),
        (SMALL_MOBILENET, {"strides": (1, 2, 2, 3, 2)}, "strides must be an integer in [1, 2], got 3"),
        (SMALL_MOBILENET, {"widths": (8, 6)}, "a network has no 'widths'"),
    ],
)
def test_refused_architectures(base: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        base.override(changes)


@EVERY
def test_lists_become_tuples(architecture: Any) -> None:
    """As JSON has them."""
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(architecture).items()}
    again = type(architecture)(**fields)
    assert again == architecture and hash(again) == hash(architecture)


def constants_and_spreads(model: Any) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of every tensor under its PyTorch key."""
    return {key: (slot.read().mean(), slot.read().std()) for key, slot in state_dict_slots(model).items()}


def test_initial_values_of_shufflenet() -> None:
    """Of the authors' code: deviation 1 / (inputs of a kernel), 0.01 in the first convolution and the classifier."""
    wide = {"stage_channels": (128, 256, 512), "stage_units": (2, 1, 1), "stem_channels": 64}
    model = build_network(SMALL_SHUFFLENET.override({**wide, "variant": "torchvision"}), name="wide", rngs=nnx.Rngs(0))
    for key, (mean, deviation) in constants_and_spreads(model).items():
        shape = state_dict_slots(model)[key].layout.shape
        if len(shape) > 1:
            expected = 0.01 if key in ("conv1.0.weight", "fc.weight") else 1 / shape[1]
            assert deviation == pytest.approx(expected, rel=5 / np.sqrt(np.prod(shape))), key
            assert abs(mean) < 5 * expected / np.sqrt(np.prod(shape)), key
        else:
            tail = key.rsplit(".", 1)[1]
            constant = {"weight": 1, "bias": 1e-4, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}[tail]
            assert mean == pytest.approx(0 if key == "fc.bias" else constant), key
            assert deviation < 1e-9, key


def test_initial_values_of_mobilenet() -> None:
    """As torchvision draws them: He by fan-out, 0.01 in the classifier."""
    torch.manual_seed(0)
    twin = plain_twin(SMALL_MOBILENET.override({"channels": (64, 32, 48, 64, 80), "stem_channels": 64}))
    for module in twin.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.01)
            torch.nn.init.zeros_(module.bias)
    architecture = SMALL_MOBILENET.override({"channels": (64, 32, 48, 64, 80), "stem_channels": 64})
    found = constants_and_spreads(build_network(architecture, name="wide", rngs=nnx.Rngs(0)))
    assert list(found) == list(twin.state_dict())
    for key, expected in twin.state_dict().items():
        values = expected.numpy()
        uncertainty = 7 / np.sqrt(values.size)
        assert found[key][1] == pytest.approx(values.std(), rel=float(uncertainty)), key
        assert abs(found[key][0] - values.mean()) <= uncertainty * values.std(), key
