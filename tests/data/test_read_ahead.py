"""Images prepared ahead: in order, some batches and no more, and what happens to those that cannot be."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.data import read_ahead
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.read_ahead import prepared_batches
from cdnv2_jax.errors import RunFailure


@pytest.fixture
def grey(tmp_path: Path) -> list[Path]:
    """40 images, each of another grey."""
    paths = [tmp_path / f"{level}.png" for level in range(40)]
    for level, path in enumerate(paths):
        Image.new("L", (2, 2), level).save(path)
    return paths


def level_of(pixels: np.ndarray) -> int:
    return int(pixels[0, 0, 0])


def test_in_order(grey: list[Path]) -> None:
    batches = list(prepared_batches(grey, level_of, batch_size=16, max_megapixels=1))
    assert [len(batch) for batch in batches] == [16, 16, 8]
    assert [image for batch in batches for image in batch] == list(zip(grey, range(40), strict=True))
    assert not list(prepared_batches([], level_of, batch_size=16, max_megapixels=1))


@pytest.mark.parametrize(("batch_size", "most"), [(2, 8), (8, 16)])
def test_ahead_but_not_far(batch_size: int, most: int, grey: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """While the caller computes a batch, the next ones are prepared: as many as keep the threads busy, at least one."""
    monkeypatch.setattr(read_ahead, "READERS", 6)
    taken, ready = [], threading.Semaphore(0)

    def paths() -> Iterator[Path]:
        for path in grey:
            taken.append(path)
            yield path

    def prepare(pixels: np.ndarray) -> int:
        ready.release()
        return level_of(pixels)

    batches = prepared_batches(paths(), prepare, batch_size=batch_size, max_megapixels=1)
    next(batches)
    for _ in range(most):
        assert ready.acquire(timeout=10)
    assert len(taken) == most
    del batches  # ends the threads
    assert len(taken) == most and not ready.acquire(timeout=0)


def test_images_that_cannot_be_prepared(grey: list[Path], tmp_path: Path) -> None:
    """They come in their places; without memory nothing more comes."""

    def prepare(pixels: np.ndarray) -> int:
        if level_of(pixels) == 3:
            raise BrokenImage("3.png", "too grey")
        if level_of(pixels) == 6:
            raise MemoryError
        return level_of(pixels)

    paths = [grey[1], tmp_path / "missing.png", grey[3], tmp_path, grey[5], grey[6]]
    batches = prepared_batches(paths, prepare, batch_size=5, max_megapixels=1)
    _, missing, broken, folder, five = (image for _, image in next(batches))
    assert "No such file" in str(missing) and "too grey" in str(broken) and "it is a directory" in str(folder)
    assert five == 5
    with pytest.raises(RunFailure, match=r"no memory is left to prepare .*6\.png"):
        next(batches)
