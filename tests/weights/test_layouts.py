"""Every layout: small arrays with each entry written down on both sides, and random ones there and back."""

from typing import Any

import numpy as np
import pytest

from cdnv2_jax.layers import torch_layout as layouts
from cdnv2_jax.layers.torch_layout import Layout
from tests.tables import table


def _column(rows: list) -> np.ndarray:
    """A matrix as a 1×1 kernel [out, in, 1, 1]."""
    return np.array(rows, np.float32)[:, :, None, None]


HAND_WRITTEN: dict[str, tuple[Layout, Any, Any]] = {
    "unchanged": (layouts.unchanged((3,)), np.array([1, 2, 3], np.float32), np.array([1, 2, 3], np.float32)),
    "batch counter": (layouts.batch_counter(), np.array(7, np.int32), np.array(7, np.int64)),
    "3×3 kernel": (
        layouts.spatial_kernel_layout((1, 3, 2, 2)),  # one row of three pixels, two inputs, two outputs
        np.array([[[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]]], np.float32),
        np.array([[[[1, 5, 9]], [[3, 7, 11]]], [[[2, 6, 10]], [[4, 8, 12]]]], np.float32),
    ),
    "1×1 kernel": (
        layouts.pointwise_kernel((2, 3)),
        np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        _column([[1, 4], [2, 5], [3, 6]]),
    ),
    "linear kernel": (
        layouts.linear_kernel((2, 3)),
        np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        np.array([[1, 4], [2, 5], [3, 6]], np.float32),
    ),
    "LGC mask": (  # outputs 0 and 2 are group 0, outputs 1 and 3 group 1
        layouts.lgc_mask(2, inputs=3, outputs=4),
        np.array([[1, 0, 1], [0, 1, 1]], bool),
        _column([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1]]),
    ),
    "SFR mask": (  # inputs 0 and 2 are group 0, inputs 1 and 3 group 1
        layouts.sfr_mask(2, inputs=4, outputs=3),
        np.array([[1, 0, 1], [0, 1, 1]], bool),
        _column([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]]),
    ),
    "condensed LGC kernel": (  # [group, kept input, member of the group]
        layouts.condensed_lgc_kernel((2, 3, 2)),
        np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]], np.float32),
        _column([[1, 3, 5], [2, 4, 6], [7, 9, 11], [8, 10, 12]]),
    ),
    "condensed SFR kernel": (  # [group, member of the group, kept output]
        layouts.condensed_sfr_kernel((2, 2, 3)),
        np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.float32),
        _column([[1, 4], [2, 5], [3, 6], [7, 10], [8, 11], [9, 12]]),
    ),
    "input index": (
        layouts.input_index((2, 2), channels=5),
        np.array([[0, 4], [2, 3]], np.int32),
        np.array([0, 4, 2, 3], np.int64),
    ),
    "output index": (  # output 2 receives from both groups
        layouts.output_index((2, 2), outputs=4),
        np.array([[0, 2], [1, 2]], np.int32),
        np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32),
    ),
}


def _assert_identical(actual: np.ndarray, expected: Any) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(actual, expected)


@table("layout, ours, theirs", HAND_WRITTEN)
def test_entry_by_entry(layout: Layout, ours: Any, theirs: Any) -> None:
    assert layout.shape == theirs.shape
    _assert_identical(layout.to_torch(ours), theirs)
    _assert_identical(layout.from_torch(theirs), ours)


def _random_pairs() -> dict[str, tuple[Layout, np.ndarray]]:
    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return {
        "3×3 kernel": (layouts.spatial_kernel_layout((3, 3, 5, 7)), floats(3, 3, 5, 7)),
        "1×1 kernel": (layouts.pointwise_kernel((5, 7)), floats(5, 7)),
        "linear kernel": (layouts.linear_kernel((5, 7)), floats(5, 7)),
        "LGC mask": (layouts.lgc_mask(4, inputs=6, outputs=12), random.random((4, 6)) < 0.5),
        "SFR mask": (layouts.sfr_mask(4, inputs=12, outputs=6), random.random((4, 6)) < 0.5),
        "condensed LGC kernel": (layouts.condensed_lgc_kernel((4, 3, 5)), floats(4, 3, 5)),
        "condensed SFR kernel": (layouts.condensed_sfr_kernel((4, 3, 5)), floats(4, 3, 5)),
        "input index": (layouts.input_index((4, 3), 11), random.integers(0, 11, (4, 3), np.int32)),
        "output index": (layouts.output_index((4, 3), 11), random.integers(0, 11, (4, 3), np.int32)),
    }


RANDOM = _random_pairs()


@table("layout, ours", RANDOM)
def test_there_and_back(layout: Layout, ours: np.ndarray) -> None:
    theirs = layout.to_torch(ours)
    assert theirs.shape == layout.shape
    _assert_identical(layout.from_torch(theirs), ours)
    _assert_identical(layout.to_torch(layout.from_torch(theirs)), theirs)


REFUSED = {
    "a mask between 0 and 1": (layouts.lgc_mask(2, 2, 2), _column([[1, 0.5], [1, 1]]), "zeros and ones"),
    "an LGC mask that differs within a group": (
        layouts.lgc_mask(2, inputs=2, outputs=4),
        _column([[1, 0], [1, 1], [0, 1], [1, 1]]),
        "modulo 2",
    ),
    "an SFR mask that differs within a group": (
        layouts.sfr_mask(2, inputs=4, outputs=2),
        _column([[1, 1, 0, 1], [1, 1, 1, 1]]),
        "modulo 2",
    ),
    "an LGC mask whose groups are neighbours": (
        layouts.lgc_mask(2, inputs=2, outputs=4),
        _column([[1, 0], [1, 0], [0, 1], [0, 1]]),
        "modulo 2",
    ),
    "an input that does not exist": (layouts.input_index((2,), 5), np.array([0, 5], np.int64), r"\[0, 5\)"),
    "a negative input": (layouts.input_index((2,), 5), np.array([-1, 2], np.int64), "-1"),
    "inputs that are no integers": (layouts.input_index((2,), 5), np.array([0, 1.5], np.float32), "float32"),
    "inputs that may have been rounded": (layouts.input_index((2,), 5), np.array([0, 1], np.float16), "float16"),
    "a result that lands twice": (layouts.output_index((1, 2), 2), np.array([[1, 1], [0, 1]], np.float32), "single 1"),
    "a result that lands nowhere": (
        layouts.output_index((1, 2), 2),
        np.array([[0, 0], [0, 1]], np.float32),
        "single 1",
    ),
    "a result that counts twice": (layouts.output_index((1, 2), 2), np.array([[2, 0], [0, 1]], np.float32), "single 1"),
    "signs that cancel out": (layouts.output_index((1, 1), 3), np.array([[1, 1, -1]], np.float32), "single 1"),
    "a negative number of batches": (layouts.batch_counter(), np.array(-1, np.int64), "batches"),
    "more batches than fit": (layouts.batch_counter(), np.array(2**31, np.int64), "batches"),
}


@table("layout, tensor, complaint", REFUSED)
def test_refuses_what_cannot_be(layout: Layout, tensor: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        layout.from_torch(tensor)
