"""Common parts of ShuffleNetV2 and MobileNetV2, whose connections are fixed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
from flax import nnx

from cdnv2_jax.layers.convolutions import ConvNorm
from cdnv2_jax.layers.cost import Cost, conv_norm_cost, linear_cost
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.layers.onnx_layers import conv_norm, linear
from cdnv2_jax.layers.valid_region import at_stride, inside, region_of
from cdnv2_jax.networks.network import Architecture, ModulePath, Network
from cdnv2_jax.schema import settings


@settings
class PlainArchitecture(Architecture):
    """Base class of the architectures; all strides round up, so images of any size are valid."""

    @property
    def unit_strides(self) -> tuple[int, ...]:
        """The stride of each unit's output relative to the image."""
        raise NotImplementedError


class PlainNetwork(Network):
    """Base class of the networks: stem → units → 1×1 convolution → mean over the map → Linear.

    Attributes:
      stem: convolution with BatchNorm.
      units: modules called with a map and its mask.
      last: convolution with BatchNorm.
      classifier: the Linear.
    """

    # A narrower type than in the base class is safe, because it is never reassigned.
    architecture: PlainArchitecture  # pyright: ignore[reportIncompatibleVariableOverride]
    stem: ConvNorm
    units: nnx.List
    last: ConvNorm

    def __call__(self, images: jax.Array) -> jax.Array:
        """Compute logits [batch, classes] of normalised images [batch, height, width, channels], any size."""
        self.check_images(images)
        *_, (_, x) = self._maps(images, None)
        return self.classifier(self.last(x).mean((1, 2)))

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Compute the last map of each stride, before the last convolution; see `Network.features`."""
        self.check_images(images)
        region = region_of(images, sizes, self.architecture.unit_strides[-1])
        last_of_each = dict(self._maps(images, region))
        return {stride: inside(x, at_stride(region, stride)) for stride, x in last_of_each.items() if stride >= 4}

    def _maps(self, images: jax.Array, region: jax.Array | None) -> Iterator[tuple[int, jax.Array]]:
        """Yield (stride, map) before the first unit and after each unit."""
        stride, x = self._first_map(images, region)
        yield stride, x
        run = nnx.remat(_run) if self.remat else _run
        for unit, after in zip(self.units, self.architecture.unit_strides, strict=True):
            x = run(unit, x, at_stride(region, stride))
            stride = after
            yield stride, x

    def _first_map(self, images: jax.Array, region: jax.Array | None) -> tuple[int, jax.Array]:
        """Return stride and value of the map that the first unit reads."""
        return 2, self.stem(images, region)

    def stage_modules(self) -> list[list[ModulePath]]:
        """Return one stage for the units of each stride; the stem belongs to the first."""
        strides = self.architecture.unit_strides
        stages: list[list[ModulePath]] = [
            [("units", n) for n, s in enumerate(strides) if s == stride] for stride in sorted(set(strides))
        ]
        stages[0].insert(0, ("stem",))
        return stages


def _run(unit: nnx.Module, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return cast(Callable[..., jax.Array], unit)(x, mask)


def plain_head_cost(outputs: int, head_channels: int, num_classes: int, area: int, *, bias: bool = True) -> Cost:
    """Return the cost of the last convolution, on a map of `area` cells, and of the classifier."""
    return conv_norm_cost(outputs, head_channels, area) + linear_cost(head_channels, num_classes, bias=bias)


def plain_maps(
    graph: Graph,
    network: PlainNetwork,
    images: Map,
    unit_nodes: Callable[[Graph, Any, Map], Map],
    after_stem: Callable[[Graph, Map], Map] | None = None,
) -> dict[int, Map]:
    """Add the network's body to an ONNX graph; return {stride: output of the last unit with that stride}.

    Args:
      unit_nodes: function that adds the nodes of a unit.
      after_stem: function that adds a node that halves the stem's output, if there is one.
    """
    with graph.scope("stem"):
        x, stride = conv_norm(graph, network.stem, images), 2
        if after_stem is not None:
            x, stride = after_stem(graph, x), 4
    maps = {stride: x}
    for number, (unit, stride) in enumerate(zip(network.units, network.architecture.unit_strides, strict=True), 1):
        with graph.scope(f"unit_{number}"):
            x = unit_nodes(graph, unit, x)
        maps[stride] = x
    return maps


def plain_head(graph: Graph, network: PlainNetwork, last: Map) -> Map:
    """Add the last convolution, the mean over its map and the classifier to an ONNX graph; return the logits."""
    with graph.scope("head"):
        mean = graph.apply("GlobalAveragePool", conv_norm(graph, network.last, last))
        return linear(graph, network.classifier, graph.apply("Flatten", mean, axis=1), output="logits")


def in_turn(graph: Graph, convs: Iterable[ConvNorm], x: Map) -> Map:
    """Add convolutions to an ONNX graph, one after the other."""
    for conv in convs:
        x = conv_norm(graph, conv, x)
    return x
