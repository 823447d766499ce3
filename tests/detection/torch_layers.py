"""Flax layers' weights in PyTorch's functions, on maps [b, c, h, w]."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import Tensor


def conv(layer: nnx.Conv, x: Tensor, stride: int = 1) -> Tensor:
    kernel = torch.from_numpy(np.array(layer.kernel[...])).permute(3, 2, 0, 1)
    assert layer.bias is not None
    return F.conv2d(x, kernel, torch.from_numpy(np.array(layer.bias[...])), stride, kernel.shape[-1] // 2)


def linear(layer: nnx.Linear, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return F.linear(x, torch.from_numpy(np.array(layer.kernel[...]).T), torch.from_numpy(np.array(layer.bias[...])))


def nchw(maps: Mapping[int, jax.Array]) -> dict[int, Tensor]:
    return {stride: torch.from_numpy(np.array(x)).permute(0, 3, 1, 2) for stride, x in maps.items()}


def random_maps(shapes: Mapping[int, tuple[int, ...]], seed: int = 0) -> dict[int, jax.Array]:
    random = np.random.default_rng(seed)
    return {stride: jnp.asarray(random.normal(size=shape), jnp.float32) for stride, shape in shapes.items()}


def pyramid_shapes(strides: tuple[int, ...], height: int, width: int, channels: int, batch: int = 2):
    """{stride: [b, h, w, c]} of a canvas."""
    return {stride: (batch, -(-height // stride), -(-width // stride), channels) for stride in strides}


def randomise(module: nnx.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Normal values for all parameters, biases among them."""
    random = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(random.normal(0, scale, x.shape), x.dtype), state))
