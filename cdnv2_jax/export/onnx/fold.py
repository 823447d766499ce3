"""Weights as ONNX has them: NumPy, outputs before inputs, batch normalisations folded into convolutions.

All in float64, rounded to float32 where the graph stores them.
"""

from typing import Any, NamedTuple

import numpy as np

from cdnv2_jax.layers.batch_norm import EPSILON, BatchNorm


class Norm(NamedTuple):
    """A batch normalisation in evaluation mode: (x − mean) / √(var + ε) · scale + bias; [c] each."""

    scale: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    var: np.ndarray

    def of(self, channels: np.ndarray) -> "Norm":
        """Of those channels, in that order."""
        return Norm(*(part[channels] for part in self))


def values(array: Any) -> np.ndarray:
    """A variable, of whatever floating type."""
    return np.asarray(array[...]).astype(np.float64)


def norm_of(module: BatchNorm) -> Norm:
    """The values of a normalisation."""
    return Norm(values(module.scale), values(module.bias), values(module.mean), values(module.var))


def fold(kernel: np.ndarray, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [out, in, h, w] and bias [out] of a convolution and the normalisation of what it gives."""
    factor = norm.scale / np.sqrt(norm.var + EPSILON)
    return kernel * factor[:, None, None, None], norm.bias - norm.mean * factor


def window_kernel(kernel: Any) -> np.ndarray:
    """[h, w, in / groups, out] → [out, in / groups, h, w]."""
    return values(kernel).transpose(3, 2, 0, 1)


def pointwise_kernel(kernel: Any) -> np.ndarray:
    """[in, out] → [out, in, 1, 1]."""
    return values(kernel).T[:, :, None, None]


def spread(weights: np.ndarray, index: np.ndarray, channels: int) -> np.ndarray:
    """[m · G, channels]: the weights of kept connections where they belong, zeros elsewhere.

    Args:
      weights: [G, m, kept]; row i · G + g of the result is weights[g, i].
      index: [G, kept], the channels that each group keeps.
      channels: from which the groups choose.
    """
    groups, members, _ = weights.shape
    wide = np.zeros((groups, members, channels))
    # Added, not put: a group may have the same channel twice.
    np.add.at(wide, (np.arange(groups)[:, None, None], np.arange(members)[:, None], index[:, None]), weights)
    return wide.transpose(1, 0, 2).reshape(members * groups, channels)


def merge_groups(kernel: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """[out, in, h, w] of so many groups → [out, merged · in, h, w] of groups / merged, zeros between those merged."""
    outputs, inputs, *window = kernel.shape
    blocks = kernel.reshape(groups // merged, merged, outputs // groups, inputs, *window)
    wide = np.zeros((groups // merged, merged, outputs // groups, merged, inputs, *window))
    for member in range(merged):
        wide[:, member, :, member] = blocks[:, member]
    return wide.reshape(outputs, merged * inputs, *window)
