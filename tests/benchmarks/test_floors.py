"""The least work, counted by hand for a small network."""

import dataclasses

import pytest

from benchmarks.floors import Floor, floor_milliseconds, inference_floor, map_values, training_floor
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import network_cost
from cdnv2_jax.networks.network import Form

ONE_LAYER = CondenseNetArchitecture(
    stages=(1,), growth=(4,), num_classes=2, lgc_groups=4, lgc_factor=4, conv_groups=4, stem_stride=1
)
PIXELS = 8 * 8


def test_maps_of_one_layer() -> None:
    """The image is read; the stem writes 8 channels, the layer reads those and writes 12, the head reads 12."""
    assert map_values(ONE_LAYER, 8) == (3 + 8 + (8 + 12) + 12) * PIXELS


def test_a_pool_reads_all_and_writes_a_quarter() -> None:
    """Of 12 channels; the second layer reads those and writes 16, which the head reads."""
    two = dataclasses.replace(ONE_LAYER, stages=(1, 1), growth=(4, 4))
    assert map_values(two, 8) == (3 + 8 + (8 + 12) + 12) * PIXELS + (12 + (12 + 16) + 16) * PIXELS // 4


def test_floors_of_a_batch() -> None:
    condensed, masked = (network_cost(ONE_LAYER, Form(condensed=form), 8, 8) for form in (True, False))
    maps = map_values(ONE_LAYER, 8)
    assert inference_floor(ONE_LAYER, 5, 8) == (5 * condensed.multiply_adds, 4 * (5 * maps + condensed.params))
    assert inference_floor(ONE_LAYER, 5, 8, itemsize=2).bytes == 2 * (5 * maps + condensed.params)
    assert training_floor(ONE_LAYER, 5, 8) == (15 * masked.multiply_adds, 4 * (15 * maps + 4 * masked.params))


def test_the_published_network() -> None:
    """Some 90 MB of maps and weights for one image."""
    from cdnv2_jax.networks.family import MODELS

    assert inference_floor(MODELS["cdnv2_c"].architecture, 1, 224).bytes == pytest.approx(91.5e6, rel=1e-3)


def test_milliseconds_at_measured_rates() -> None:
    rates = {"gemm_multiply_adds_per_second": 2e9, "copied_bytes_per_second": 1e9}
    assert floor_milliseconds(Floor(multiply_adds=4_000_000, bytes=5_000_000), rates) == (2.0, 5.0)
