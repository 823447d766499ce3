"""Training by kernel against training by layers, in float32 and, as the truth, in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.kernels.training import (
    Excitation,
    Map,
    Masks,
    NormConv,
    Parameters,
    average_pool,
    conv_forward,
    dense_layer,
    from_flat,
    pointwise_forward,
    positions,
    to_flat,
)
from cdnv2_jax.layers.lowering import override
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.prune import prune
from tests.kernels.networks import V2, random_architecture, random_images
from tests.tables import table
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("kernels")

REFUSED = (ValueError, jax.errors.JaxRuntimeError)


class Step(NamedTuple):
    """What a step of training computes."""

    logits: Any
    gradients: Any
    statistics: Any


def network(architecture: CondenseNetArchitecture, stage: int, seed: int = 0) -> CondenseNet:
    model = CondenseNet(architecture, name="small", rngs=nnx.Rngs(seed))
    prune(model, min(stage, architecture.condensation_stages))
    model.train()
    return model


def step(model: Network, images: Any, lowering: str) -> Step:
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters: nnx.State, images: jax.Array):
        merged = nnx.merge(graph, parameters, rest, copy=True)
        logits = merged(images)
        return jnp.square(logits - 1).sum(), (logits, nnx.state(merged, nnx.BatchStat))

    with override(training_block=lowering):
        run = jax.jit(jax.grad(loss, has_aux=True))
        gradients, (logits, statistics) = run(parameters, images)
    return Step(logits, nnx.to_pure_dict(gradients), nnx.to_pure_dict(statistics))


def wide(model: Network) -> Network:
    """The same network in float64."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state))


def assert_as_exact(ours: Any, theirs: Any, truth: Any) -> None:
    """Nothing in ours is further from the truth than ten times what rounding costs theirs."""
    ours, theirs, truth = (jax.tree_util.tree_leaves_with_path(found) for found in (ours, theirs, truth))
    assert len(ours) == len(theirs) == len(truth)
    for (path, one), (_, other), (_, exact) in zip(ours, theirs, truth, strict=True):
        one, other, exact = (np.asarray(a, np.float64) for a in (one, other, exact))
        scale = np.abs(exact).max() + 1e-6
        error, allowed = (np.abs(a - exact).max() / scale for a in (one, other))
        assert error <= 10 * allowed + 2e-5, (jax.tree_util.keystr(path), error, allowed)


def assert_as_exact_as_layers(model: Network, images: jax.Array) -> None:
    kernel, layers = (step(model, images, lowering) for lowering in ("kernel", "layers"))
    with jax.enable_x64(True):
        truth = step(wide(model), images.astype(jnp.float64), "layers")
    assert_as_exact(kernel, layers, truth)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 12))])
def test_random_networks(seed: int) -> None:
    architecture = random_architecture(100 + seed)
    model = network(architecture, stage=seed % 4, seed=seed)
    assert_as_exact_as_layers(model, random_images(3, 16, 12, seed=seed))


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.soak), 3])
def test_all_parts_at_every_stage(stage: int) -> None:
    """Dense kernels, and kernels of which blocks are left."""
    assert_as_exact_as_layers(network(V2, stage), random_images(5, 20, 24))


def test_without_reactivation() -> None:
    v1 = V2.override({"sfr_groups": None, "sfr_factor": None, "head_width": None, "squeeze_excite_from": None})
    assert_as_exact_as_layers(network(v1, 1), random_images(2, 9, 8))


def test_odd_images() -> None:
    """Of five channels, too."""
    odd = V2.override({"stages": (1, 1, 1), "stem_stride": 2, "in_channels": 5})
    images = random_images(4, 19, 27)
    assert_as_exact_as_layers(network(odd, 1), jnp.concatenate([images, images[..., :2] ** 2], axis=-1))


def layer_inputs(batch: int, height: int, width: int) -> tuple[Any, Parameters, Masks]:
    random = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return random.normal(size=shape)

    inputs, wide, growth = 12, 24, 6
    lgc_mask, sfr_mask = random.random((3, inputs)) < 0.4, random.random((2, inputs)) < 0.4
    lgc = floats(inputs, wide) * np.tile(lgc_mask.T, (1, wide // 3))
    sfr = floats(growth, inputs) * np.tile(sfr_mask, (growth // 2, 1))
    parameters = Parameters(
        NormConv(floats(inputs), floats(inputs), lgc),
        NormConv(floats(wide), floats(wide), floats(3, 3, wide // 3, growth)),
        Excitation(floats(growth, 4), floats(4, growth)),
        NormConv(floats(growth), floats(growth), sfr),
    )
    return floats(batch, height, width, inputs), parameters, Masks(jnp.asarray(lgc_mask), jnp.asarray(sfr_mask))


def plain_layer(x: jax.Array, p: Parameters) -> jax.Array:
    """The dense layer written out, [N, H, W, C]."""

    def normalised(x: jax.Array, conv: NormConv) -> jax.Array:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return jax.nn.hard_swish((x - mean) / jnp.sqrt(var + 1e-5) * conv.scale + conv.bias)

    assert p.se is not None and p.sfr is not None
    hidden = normalised(x, p.lgc) @ p.lgc.kernel
    dimensions = ("NHWC", "HWIO", "NHWC")
    new = jax.lax.conv_general_dilated(
        normalised(hidden, p.conv), p.conv.kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=3
    )
    new *= jax.nn.sigmoid(jax.nn.relu(new.mean((1, 2)) @ p.se.squeeze) @ p.se.excite)[:, None, None]
    return jnp.concatenate([x + normalised(new, p.sfr) @ p.sfr.kernel, new], -1)


def derivatives(function: Any, *arguments: Any) -> Any:
    """function(*arguments[:-1]), and its derivatives with arguments[-1] as the cotangent, in one program."""

    def both(*arguments: Any) -> Any:
        result, pull = jax.vjp(function, *arguments[:-1])
        return result, pull(arguments[-1])

    return jax.tree.map(np.asarray, jax.jit(both)(*arguments))


@table("batch, height, width", [(3, 1, 1), (2, 1, 7), (2, 2, 3), (3, 7, 1), (1, 7, 7), (3, 10, 33), (40, 3, 3)])
def test_odd_maps(batch: int, height: int, width: int) -> None:
    x, parameters, masks = layer_inputs(batch, height, width)
    cotangent = np.random.default_rng(1).normal(size=(batch, height, width, 18))
    narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (x, parameters, cotangent))

    def by_kernel(x: jax.Array, parameters: Parameters) -> jax.Array:
        flat = to_flat(x.transpose(0, 3, 1, 2))
        features, _ = dense_layer(Map(height, width, True), 3, flat, parameters, masks)
        return from_flat(features, height, width)

    def kept(layer: Any, x: Any, p: Any, cotangent: Any) -> Any:
        """The result and the gradients, but for those of connections that are left out."""
        result, (dx, d) = derivatives(layer, x, p, cotangent)
        lgc = d.lgc._replace(kernel=d.lgc.kernel * (parameters.lgc.kernel != 0))
        assert parameters.sfr is not None
        sfr = d.sfr._replace(kernel=d.sfr.kernel * (parameters.sfr.kernel != 0))
        return result, dx, d._replace(lgc=lgc, sfr=sfr)

    ours, theirs = (kept(layer, *narrow) for layer in (by_kernel, plain_layer))
    with jax.enable_x64(True):
        truth = kept(plain_layer, x, parameters, cotangent)
    assert_as_exact(ours, theirs, truth)


@table("height, width", [(2, 2), (5, 7), (8, 6), (33, 3)])
def test_average_pool(height: int, width: int) -> None:
    x = random_images(2, height, width)
    cotangent = random_images(2, height // 2, width // 2, seed=1)

    def by_kernel(x: jax.Array) -> jax.Array:
        return from_flat(average_pool(to_flat(x.transpose(0, 3, 1, 2)), height, width), height // 2, width // 2)

    def plain(x: jax.Array) -> jax.Array:
        return nnx.avg_pool(x, (2, 2), strides=(2, 2))

    (ours, (our_dx,)), (theirs, (their_dx,)) = (derivatives(pool, x, cotangent) for pool in (by_kernel, plain))
    assert_near(ours, theirs, 1e-6)
    assert_near(our_dx, their_dx, 1e-6)


def test_the_same_bits_again_and_again() -> None:
    """Whichever thread is faster."""
    model, images = network(V2, 1), random_images(7, 20, 24)
    first = jax.tree.leaves(step(model, images, "kernel"))
    for _ in range(5):
        for ours, again in zip(jax.tree.leaves(step(model, images, "kernel")), first, strict=True):
            np.testing.assert_array_equal(ours, again)


def test_what_is_not_a_number_shows() -> None:
    images = random_images(2, 8, 8).at[0, 3, 3, 1].set(jnp.nan)
    found = step(network(V2, 1), images, "kernel")
    assert np.isnan(found.logits).all()


def test_used_in_training_unless_overridden() -> None:
    model, images = network(V2, 1), random_images(2, 8, 8)
    graph, state = nnx.split(model)

    def program() -> str:
        return jax.jit(lambda state, images: nnx.merge(graph, state)(images)).lower(state, images).as_text()

    assert "cdnv2.PointwiseForward" in program()
    with override(training_block="layers"):
        assert "cdnv2." not in program()
    model.eval()
    graph, state = nnx.split(model)
    assert "cdnv2.CondensedBlock" in program()
    assert "cdnv2.Pointwise" not in program()


def test_wrong_shapes_are_refused() -> None:
    map, x = Map(3, 4, False), jnp.ones((2, 4, positions(3, 4)))
    conv = NormConv(jnp.ones(4), jnp.ones(4), jnp.ones((4, 6)))
    mask = jnp.ones((2, 4), bool)
    pointwise_forward(map, x, conv, mask, outputs_grouped=True)
    wrong: list[tuple[Any, ...]] = [
        (Map(3, 9, False), x, conv, mask),
        (map, x[:, :3], conv, mask),
        (map, x, conv._replace(scale=jnp.ones(3)), mask),
        (map, x, conv, mask[:, :3]),
        (map, x, conv, jnp.ones((4, 4), bool)),
    ]
    for arguments in wrong:
        with pytest.raises(REFUSED, match="shapes do not fit"):
            jax.block_until_ready(pointwise_forward(*arguments, outputs_grouped=True))
    grouped = NormConv(jnp.ones(4), jnp.ones(4), jnp.ones((3, 3, 2, 6)))
    conv_forward(map, x, grouped, groups=2)
    with pytest.raises(REFUSED, match="shapes do not fit"):
        jax.block_until_ready(conv_forward(map, x, grouped, groups=4))
