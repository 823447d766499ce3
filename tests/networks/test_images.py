"""Which images a network takes: any size that leaves something of its last map, channels last."""

import jax.numpy as jnp
import pytest
import torch
import torch.nn.functional as F

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from tests.tables import table
from tests.twin_models import (
    SMALL_V1,
    SMALL_V2,
    assert_near,
    forward,
    jax_model,
    nhwc,
    random_images,
    random_twin,
)

pytestmark = pytest.mark.usefixtures("x64")


@table(
    "architecture, height, width",
    {
        "stem stride 1": (SMALL_V1, 33, 47),
        "stem stride 2": (SMALL_V2, 97, 65),
        "smallest": (SMALL_V2, 7, 8),
        "smallest of v1": (SMALL_V1, 2, 3),
    },
)
def test_odd_sizes(architecture: CondenseNetArchitecture, height: int, width: int) -> None:
    twin = random_twin(architecture)
    images = random_images(2, height, width)
    with torch.no_grad():
        expected = twin(torch.from_numpy(images)).numpy()
    assert_near(forward(jax_model(twin, architecture), nhwc(images)), expected, 1e-12)


@table("architecture, height, width", [(SMALL_V2, 6, 40), (SMALL_V2, 40, 6), (SMALL_V1, 1, 9), (SMALL_V1, 9, 1)])
def test_too_small_images_are_refused(architecture: CondenseNetArchitecture, height: int, width: int) -> None:
    twin = random_twin(architecture)
    images = random_images(1, height, width)
    with pytest.raises(RuntimeError, match="too small"):
        twin(torch.from_numpy(images))
    with pytest.raises(UserError, match=f"a {height}×{width} image is too small"):
        jax_model(twin, architecture)(jnp.asarray(nhwc(images)))


@table("shape", [(2, 3, 32, 32), (32, 32, 3), (2, 32, 32, 1), (2, 32, 32, 4), (1, 2, 32, 32, 3)])
def test_other_ranks_and_layouts_are_refused(shape: tuple[int, ...]) -> None:
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    with pytest.raises(ValueError, match=r"images must be \[batch, height, width, 3\], got \[") as error:
        model(jnp.zeros(shape))
    assert str(list(shape)) in str(error.value)


@table("stem_stride", [1, 2])
def test_map_sides_are_those_of_the_convolution_and_the_pools(stem_stride: int) -> None:
    architecture = SMALL_V2.override({"stem_stride": stem_stride})
    for side in range(1, 70):
        x = F.conv2d(torch.zeros(1, 1, side, side), torch.zeros(1, 1, 3, 3), stride=stem_stride, padding=1)
        for block in range(3):
            if block:
                x = F.avg_pool2d(x, 2) if x.shape[-1] > 1 else torch.zeros(1, 1, 0, 0)
            assert architecture.map_side(block, side) == x.shape[-1], (side, block)
        if architecture.map_side(2, side):
            architecture.check_image(side, side)
        else:
            with pytest.raises(UserError, match="too small"):
                architecture.check_image(side, side)
