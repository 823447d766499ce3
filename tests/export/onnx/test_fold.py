"""Foldings and other forms of kernels against what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.layers.condensed import dense_on_host
from cdnv2_jax.layers.onnx_graph import Norm, fold, merge_groups
from tests.tables import table

RANDOM = np.random.default_rng(0)


def convolved(x: np.ndarray, kernel: np.ndarray, groups: int = 1) -> np.ndarray:
    """x [b, c, h, w] by [out, in / groups, h, w], in float32."""
    layout = ("NCHW", "OIHW", "NCHW")
    pads = 2 * [(kernel.shape[-1] // 2,) * 2]
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    return np.asarray(
        jax.lax.conv_general_dilated(*arrays, (1, 1), pads, dimension_numbers=layout, feature_group_count=groups)
    )


def test_fold() -> None:
    x, kernel = RANDOM.normal(size=(2, 3, 5, 4)), RANDOM.normal(size=(6, 3, 3, 3))
    norm = Norm(*RANDOM.uniform(0.5, 1.5, (4, 6)))
    scale, bias, mean, var = (part[:, None, None] for part in norm)
    expected = (convolved(x, kernel) - mean) / np.sqrt(var + 1e-5) * scale + bias
    folded, offset = fold(kernel, norm)
    assert offset is not None
    np.testing.assert_allclose(convolved(x, folded) + offset[:, None, None], expected, atol=1e-5)


@table("merged", [1, 2, 3, 6])
def test_merged_groups(merged: int) -> None:
    x, kernel = RANDOM.normal(size=(1, 12, 4, 4)), RANDOM.normal(size=(18, 2, 3, 3))
    wide = merge_groups(kernel, 6, merged)
    assert wide.shape == (18, 2 * merged, 3, 3)
    np.testing.assert_allclose(convolved(x, wide, 6 // merged), convolved(x, kernel, 6), atol=1e-5)


def test_spread() -> None:
    """By hand: two groups of two; the second keeps the same channel twice."""
    weights = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    index = np.array([[0, 2], [1, 1]])
    np.testing.assert_array_equal(dense_on_host(weights, index, 3), [[1, 0, 2], [0, 11, 0], [3, 0, 4], [0, 15, 0]])
