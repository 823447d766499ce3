"""Lower bounds for any implementation: multiply-adds, and memory traffic in bytes.

Compute: the condensed network's multiply-adds, whichever form is timed, as zeros need no multiplication; in training
the masked network's, three times: forward, and backward for inputs and for weights.
Memory: every map between dense layers is written once and read once; what is inside a layer stays in caches. A dense
layer of n input channels and growth k reads n and writes n + k maps; a pool reads all and writes a quarter. Every
parameter is read once per call. In training the maps count three times: forward, again for the backward pass, and their
gradients.
"""

from typing import NamedTuple

from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import network_cost
from cdnv2_jax.networks.network import Architecture, Form

TRAINING_PASSES = 3


class Floor(NamedTuple):
    """The lower bounds of one call on a whole batch.

    Attributes:
      multiply_adds: of convolutions and Linears.
      bytes: read from and written to memory.
    """

    multiply_adds: int
    bytes: int


def inference_floor(a: Architecture, batch: int, size: int, itemsize: int = 4) -> Floor:
    """Of one prediction for images of `size` pixels' side, values of `itemsize` bytes."""
    assert isinstance(a, CondenseNetArchitecture)
    cost = network_cost(a, Form(condensed=True), size, size)
    return Floor(batch * cost.multiply_adds, itemsize * (batch * map_values(a, size) + cost.params))


def training_floor(a: Architecture, batch: int, size: int, itemsize: int = 4) -> Floor:
    """Of one step of a masked network; parameters and momentum are float32, each read and written."""
    assert isinstance(a, CondenseNetArchitecture)
    cost = network_cost(a, Form(condensed=False), size, size)
    maps = itemsize * TRAINING_PASSES * batch * map_values(a, size)
    return Floor(TRAINING_PASSES * batch * cost.multiply_adds, maps + 4 * 4 * cost.params)


def map_values(a: CondenseNetArchitecture, size: int) -> int:
    """Values of one image's feature maps that are read and written, the image included."""
    areas = [a.map_side(block, size) ** 2 for block in range(len(a.stages))]
    values = 3 * size * size + a.stem_channels * areas[0]
    for block, _, channels, growth in a.dense_layers():
        values += (2 * channels + growth) * areas[block]
    channels = a.stem_channels
    for layers, growth, before, after in zip(a.stages[:-1], a.growth[:-1], areas[:-1], areas[1:], strict=True):
        channels += layers * growth
        values += channels * (before + after)
    return values + a.out_channels * areas[-1]


def floor_milliseconds(floor: Floor, rates: dict[str, float]) -> tuple[float, float]:
    """Return (compute, memory) in milliseconds at the rates of `machine.measured_rates`."""
    compute = floor.multiply_adds / rates["gemm_multiply_adds_per_second"]
    return 1e3 * compute, 1e3 * floor.bytes / rates["copied_bytes_per_second"]
