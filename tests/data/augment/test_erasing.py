"""Random erasing: the rectangle's distribution against closed forms, and the noise in it."""

import numpy as np
import pytest

from cdnv2_jax.data.augment.training_image import NOTHING, Rectangle, draw_rectangle, erase


def _rectangles(height: int, width: int, probability: float, draws: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_rectangle(height, width, probability, rng) for _ in range(draws)])


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_probability(probability: float) -> None:
    """All but nothing of what is drawn fits within ten times."""
    erased = _rectangles(224, 224, probability)[:, 2] > 0
    assert erased.mean() == pytest.approx(probability, abs=0.015)


def test_areas_and_ratios() -> None:
    """Where every ratio fits (areas below 0.3), both are as drawn."""
    _, _, tall, wide = _rectangles(1000, 1000, 1.0).T
    area, ratio = tall * wide / 1e6, np.log(tall / wide) / np.log(1 / 0.3)
    always_fits = area < 0.29
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(area[always_fits], quantiles), 0.02 + 0.27 * quantiles, atol=0.01)
    np.testing.assert_allclose(np.quantile(ratio[always_fits], quantiles), 2 * quantiles - 1, atol=0.05)
    assert area.max() == pytest.approx(1 / 3, abs=0.002)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (20, 300), (3, 3), (2, 2), (1, 1), (1, 50)])
def test_inside(height: int, width: int) -> None:
    drawn = _rectangles(height, width, 1.0, 5_000)
    top, left, tall, wide = drawn.T
    assert drawn.min() >= 0
    assert (top + tall).max() <= height and (left + wide).max() <= width
    assert ((tall > 0) == (wide > 0)).all()


def test_one_pixel_is_never_erased() -> None:
    assert {tuple(row) for row in _rectangles(1, 1, 1.0, 100)} == {NOTHING}


def test_noise() -> None:
    """Standard normal, every channel its own; the rest and the original as they were."""
    image = np.full((224, 224, 3), 7, np.float32)
    rectangle = Rectangle(10, 20, 100, 120)
    found = erase(image, rectangle, np.random.default_rng(0))
    assert found.dtype == np.float32
    noise = found[10:110, 20:140].reshape(-1, 3)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.05)
    found[10:110, 20:140] = 7
    np.testing.assert_array_equal(found, 7)
    np.testing.assert_array_equal(image, 7)


def test_nothing_to_erase() -> None:
    image = np.ones((4, 4, 3), np.float32)
    np.testing.assert_array_equal(erase(image, NOTHING, np.random.default_rng(0)), image)
