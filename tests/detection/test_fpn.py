"""The pyramid against PyTorch's convolutions, and the cells beyond the image."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.detectors.fpn import FPN
from cdnv2_jax.detectors.ops.anchors import level_masks
from tests.detection.torch_layers import conv, nchw, random_maps, randomise
from tests.twin_models import assert_near, forward, nhwc

CHANNELS = {4: 3, 8: 4, 16: 5, 32: 6}
KINDS = {"subsampled": (4, 8, 16, 32), "convolved": (8, 16, 32)}
LEVELS = {"subsampled": [4, 8, 16, 32, 64], "convolved": [8, 16, 32, 64, 128]}


def make_fpn(top: str) -> FPN:
    fpn = FPN(CHANNELS, 7, strides=KINDS[top], top=top, rngs=nnx.Rngs(0))
    randomise(fpn)
    return fpn


def features(top: str, height: int, width: int, seed: int = 0):
    return random_maps({s: (2, height // s, width // s, CHANNELS[s]) for s in KINDS[top]}, seed)


def masks_of(top: str, sizes: list[list[int]], height: int, width: int):
    return level_masks(jnp.asarray(sizes), height, width, LEVELS[top])


@pytest.mark.parametrize("top", KINDS)
def test_against_torch(top: str) -> None:
    """On 160×96, where the map of stride 32 has an odd side."""
    fpn, maps = make_fpn(top), features(top, 160, 96)
    found = forward(fpn, maps, masks_of(top, [[160, 96]] * 2, 160, 96))
    x, merged, expected = nchw(maps), None, {}
    for number, stride in reversed(list(enumerate(KINDS[top]))):
        lateral = conv(fpn.laterals[number], x[stride])
        merged = lateral if merged is None else lateral + F.interpolate(merged, size=lateral.shape[2:], mode="nearest")
        expected[stride] = conv(fpn.outputs[number], merged)
    if top == "subsampled":
        expected[64] = F.max_pool2d(expected[32], 1, stride=2)
    else:
        expected[64] = conv(fpn.downs[0], x[32], stride=2)
        expected[128] = conv(fpn.downs[1], expected[64], stride=2)
    assert list(found) == LEVELS[top]
    for stride, level in expected.items():
        assert_near(found[stride], nhwc(level), 1e-5, f"stride {stride}")


@pytest.mark.parametrize("top", KINDS)
def test_what_lies_beyond_the_image_changes_nothing(top: str) -> None:
    """Two images, each of 70×90 and so of 96×96: alone, and with noise around them."""
    fpn, canvas = make_fpn(top), features(top, 160, 224)
    alone = {stride: x[:, : 96 // stride, : 96 // stride] for stride, x in canvas.items()}
    expected = forward(fpn, alone, masks_of(top, [[70, 90]] * 2, 96, 96))
    found = forward(fpn, canvas, masks_of(top, [[70, 90]] * 2, 160, 224))
    for stride, level in expected.items():
        assert_near(found[stride][:, : level.shape[1], : level.shape[2]], level, 1e-5, f"stride {stride}")


def test_initial_values() -> None:
    """Xavier's bounds √(6 / (inputs + outputs)), both counted with the kernel's area; biases 0."""
    fpn = FPN(CHANNELS, 64, strides=(8, 16, 32), top="convolved", rngs=nnx.Rngs(0))
    for layer in [*fpn.laterals, *fpn.outputs, *fpn.downs]:
        height, width, inputs, outputs = layer.kernel.shape
        bound = np.sqrt(6 / (height * width * (inputs + outputs)))
        largest = np.abs(layer.kernel[...]).max()
        assert 0.95 * bound < largest <= bound
        assert layer.bias is not None and not layer.bias[...].any()
