"""Shifts beside padding and cropping."""

import numpy as np
import pytest

from cdnv2_jax.data.augment.crops import draw_shift, shift


@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (5, 9), (1, 1)])
@pytest.mark.parametrize("down", [-9, -4, -1, 0, 2, 8])
@pytest.mark.parametrize("right", [-5, 0, 1, 4, 40])
def test_shift_is_padding_and_cropping(down: int, right: int, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), np.uint8)
    padded = np.pad(image, ((40, 40), (40, 40), (0, 0)))
    expected = padded[40 - down :, 40 - right :][: shape[0], : shape[1]]
    np.testing.assert_array_equal(shift(image, down, right), expected)


def test_drawn_shifts_are_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_shift(4, rng) for _ in range(9_000)])
    for column in drawn.T:
        values, counts = np.unique(column, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-4, 5))
        np.testing.assert_allclose(counts, 1000, atol=160)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    assert draw_shift(0, rng) == (0, 0)
