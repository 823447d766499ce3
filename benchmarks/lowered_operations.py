"""The operations that `cdnv2_jax/layers/lowering.py` selects lowerings for, ready to be timed with each lowering."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.inference import our_call
from benchmarks.networks import example_images, example_labels, pruned_pair
from benchmarks.timing import Call
from benchmarks.training import first_losses, our_step
from cdnv2_jax import condense, create_model
from cdnv2_jax.layers.condensed import condensed_pointwise
from cdnv2_jax.layers.convolutions import grouped_conv, grouped_pointwise, possible_lowerings
from cdnv2_jax.layers.lowering import KINDS, Direction, Shape, override
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.kernels import network_shape
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Architecture

BOTH: tuple[Direction, ...] = ("forward", "gradient")


def _no_function(way: str, direction: Direction) -> Callable[..., Any]:
    raise NotImplementedError("a whole network is not compiled apart")


class Operation(NamedTuple):
    """One kind of operation for one shape.

    Attributes:
      kind: as in the lowering table.
      shape: as in the lowering table.
      ways: its lowerings.
      directions: which it is used in.
      prepare: (way, direction) → a call.
      probe: a call → results that must agree across lowerings.
      function: (way, direction) → function of the arguments, to compile; only of a single layer.
      arguments: its arguments.
    """

    kind: str
    shape: Shape
    ways: Sequence[str]
    directions: Sequence[Direction]
    prepare: Callable[[str, Direction], Call]
    probe: Callable[[Call], np.ndarray]
    function: Callable[[str, Direction], Callable[..., Any]] = _no_function
    arguments: tuple[jax.Array, ...] = ()


def convolutions(a: Architecture, size: int, batch: int, dtype: str) -> Iterator[Operation]:
    """The grouped convolutions of each block's last layer, for `batch` images of `size` pixels' side."""
    assert isinstance(a, CondenseNetArchitecture)
    last = {block: (channels, growth) for block, _, channels, growth in a.dense_layers()}
    for block, (channels, growth) in last.items():
        side, wide = a.map_side(block, size), a.bottleneck * growth
        kept = channels // a.lgc_factor  # inputs of each group
        shape = Shape(batch, side, a.lgc_groups * kept, wide, a.lgc_groups)
        kernel = (a.lgc_groups, kept, wide // a.lgc_groups)
        ways = KINDS["grouped_pointwise"]
        yield _convolution("grouped_pointwise", shape, kernel, ways, dtype, grouped_pointwise)
        index = np.sort(
            np.random.default_rng(0).permuted(np.tile(np.arange(channels), (a.lgc_groups, 1)), axis=1)[:, :kept]
        )
        shape, function = (
            Shape(batch, side, channels, wide, a.lgc_groups),
            partial(condensed_pointwise, index=jnp.asarray(index)),
        )
        yield _convolution("condensed_pointwise", shape, kernel, KINDS["condensed_pointwise"], dtype, function)
        shape = Shape(batch, side, wide, growth, a.conv_groups)
        kernel = (3, 3, wide // a.conv_groups, growth)
        ways = list(possible_lowerings(a.conv_groups))
        yield _convolution("grouped_conv", shape, kernel, ways, dtype, partial(grouped_conv, groups=a.conv_groups))


def _convolution(
    kind: str,
    shape: Shape,
    kernel_shape: tuple[int, ...],
    ways: Sequence[str],
    dtype: str,
    function: Callable[..., Any],
) -> Operation:
    random = np.random.default_rng(0)
    x_shape = (shape.batch, int(shape.side), int(shape.side), shape.inputs)
    x, kernel = (jnp.asarray(random.normal(size=size), dtype) for size in (x_shape, kernel_shape))

    def chosen(way: str, direction: Direction) -> Callable[..., Any]:
        def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return function(x, kernel, lowering=way)

        def gradient(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            # A cotangent of ones would let the compiler drop multiplications.
            output, pull_back = jax.vjp(forward, x, kernel)
            return pull_back(output)

        return forward if direction == "forward" else gradient

    def prepare(way: str, direction: Direction) -> Call:
        compiled = jax.jit(chosen(way, direction))
        return lambda: compiled(x, kernel)

    return Operation(kind, shape, ways, BOTH, prepare, _last_result, chosen, (x, kernel))


def _last_result(call: Call) -> np.ndarray:
    """Return the result or, of gradients, the kernel's, which sums over all positions."""
    return np.asarray(jax.tree.leaves(call())[-1], np.float32)


def networks(name: str, batch: int) -> Iterator[Operation]:
    """Yield a model's forward pass, condensed and masked, and its training step as a whole; float32."""
    entry = model_entry(name)
    images = example_images(batch, entry.image_size)
    labels = example_labels(batch, entry.architecture.num_classes)
    assert isinstance(entry.architecture, CondenseNetArchitecture)
    shape = network_shape(entry.architecture, jnp.asarray(images))

    def predict_condensed(way: str, _: Direction) -> Call:
        return _within({"condensed_block": way}, our_call(condense(pruned_pair(name)[0]), images))

    def predict_masked(way: str, _: Direction) -> Call:
        return _within({"masked_block": way}, our_call(pruned_pair(name)[0], images))

    def train(way: str, _: Direction) -> Call:
        return _within({"training_block": way}, our_step(create_model(name, rngs=nnx.Rngs(0)), images, labels))

    def logits(call: Call) -> np.ndarray:
        return np.asarray(call())

    for kind, predict in (("condensed_block", predict_condensed), ("masked_block", predict_masked)):
        yield Operation(kind, shape, KINDS[kind], ["forward"], predict, logits)
    yield Operation("training_block", shape, KINDS["training_block"], ["gradient"], train, first_losses)


def _within(lowerings: dict[str, str], call: Call) -> Call:
    def overridden() -> Any:
        with override(**lowerings):
            return call()

    return overridden
