"""Evaluation preprocessing against figures worked out by hand, and reading image folders."""

import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.image_folder import MEAN, STD, evaluation_batches, evaluation_image, find_images
from tests.data.image_files import colour, write_images

Interpolation = Literal["bilinear", "bicubic"]

SIZE = 7
"""Side of the crop in most tests here: the shorter side before it is 8, small enough to write down."""


def _levels(prepared: np.ndarray) -> np.ndarray:
    """Normalised pixels → grey levels 0 … 255."""
    return np.rint((prepared * STD + MEAN) * 255).astype(int)


def _gradient(width: int, height: int, *, along_rows: bool) -> Image.Image:
    """A grey image whose level is the number of the row (or of the column)."""
    rows, columns = np.indices((height, width))
    return Image.fromarray((rows if along_rows else columns).astype(np.uint8))


def test_normalisation() -> None:
    prepared = evaluation_image(Image.new("RGB", (300, 400), (0, 51, 255)), 224, "bicubic")
    assert (prepared.shape, prepared.dtype) == ((224, 224, 3), np.float32)
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(prepared, np.broadcast_to(expected, prepared.shape), rtol=1e-6)


@pytest.mark.parametrize(
    ("longer", "first"),
    [(8, 0), (9, 1), (10, 2), (11, 2), (12, 2), (13, 3), (14, 4), (15, 4)],
)
@pytest.mark.parametrize("upright", [True, False])
def test_corner_of_the_crop_rounds_to_even(longer: int, first: int, upright: bool) -> None:
    """(longer − 7) / 2 of 0.5, 1, 1.5, 2, 2.5, …; an image whose shorter side is 8 is not resized."""
    image = _gradient(8, longer, along_rows=True) if upright else _gradient(longer, 8, along_rows=False)
    levels = _levels(evaluation_image(image, SIZE, "bilinear"))
    expected = np.arange(first, first + 7)
    shown = levels[:, :, 0] if upright else levels[:, :, 0].T
    np.testing.assert_array_equal(shown, np.broadcast_to(expected[:, None], (7, 7)))


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((16, 21), (8, 10)),  # 8 · 21 / 16 = 10.5
        ((21, 16), (10, 8)),
        ((17, 40), (8, 18)),  # 18.82…
        ((40, 17), (18, 8)),
        ((5, 9), (8, 14)),  # 14.4, enlarged
        ((30, 30), (8, 8)),
    ],
)
def test_longer_side_is_cut_to_whole_pixels(
    size: tuple[int, int], scaled: tuple[int, int], method: Interpolation
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    resized = np.asarray(image.resize(scaled, Image.Resampling[method.upper()]))
    left, top = round((scaled[0] - SIZE) / 2), round((scaled[1] - SIZE) / 2)
    levels = _levels(evaluation_image(image, SIZE, method))
    np.testing.assert_array_equal(levels, resized[top : top + SIZE, left : left + SIZE])


def test_bilinear_halving_is_antialiased() -> None:
    """Half the size: every pixel weighs its four nearest by 1, 3, 3 and 1 eighths, where plain bilinear takes two."""
    columns = np.array([0, 64, 8, 248, 16, 40, 240, 0, 96, 32, 0, 128, 200, 8, 16, 64], np.uint8)
    levels = _levels(evaluation_image(Image.fromarray(np.tile(columns, (16, 1))), SIZE, "bilinear"))
    wide = columns.astype(int)
    expected = [(wide[2 * x - 1] + 3 * wide[2 * x] + 3 * wide[2 * x + 1] + wide[2 * x + 2]) / 8 for x in range(1, 7)]
    assert expected[0] == (64 + 3 * 8 + 3 * 248 + 16) / 8 == 106
    np.testing.assert_array_equal(levels[:, 1:, 0], np.broadcast_to(expected, (7, 6)))


def test_bicubic_differs_from_bilinear() -> None:
    """At a step, bicubic overshoots: darker than dark is cut to 0, so the light side shows it."""
    step = Image.fromarray(np.repeat([[100] * 8 + [200] * 8], 16, axis=0).astype(np.uint8))
    cubic = _levels(evaluation_image(step, SIZE, "bicubic"))
    linear = _levels(evaluation_image(step, SIZE, "bilinear"))
    assert cubic.max() > 200 and cubic.min() < 100
    assert (linear.max(), linear.min()) == (200, 100)


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (7, 8), (112, 128), (32, 37), (300, 343)])
def test_shorter_side_before_the_crop(size: int, shorter: int) -> None:
    """256 / 224 of the crop: an image that has this size already comes through unresampled."""
    noise = np.random.default_rng(0).integers(0, 256, (shorter, shorter, 3), np.uint8)
    corner = round((shorter - size) / 2)
    levels = _levels(evaluation_image(Image.fromarray(noise), size, "bicubic"))
    np.testing.assert_array_equal(levels, noise[corner : corner + size, corner : corner + size])


def _palette_image() -> Image.Image:
    image = Image.new("P", (20, 20), 3)
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 10, 20, 30])
    return image


MODES = {
    "grey": (Image.new("L", (20, 20), 77), (77, 77, 77)),
    "grey with alpha": (Image.new("LA", (20, 20), (77, 0)), (77, 77, 77)),
    "black and white": (Image.new("1", (20, 20), 1), (255, 255, 255)),
    "palette": (_palette_image(), (10, 20, 30)),
    "RGBA, opaque": (Image.new("RGBA", (20, 20), (10, 20, 30, 255)), (10, 20, 30)),
    "RGBA, transparent": (Image.new("RGBA", (20, 20), (10, 20, 30, 0)), (10, 20, 30)),
    "CMYK": (Image.new("CMYK", (20, 20), (245, 235, 225, 0)), (10, 20, 30)),
}


@pytest.mark.parametrize(("image", "expected"), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    """As the official loader's `convert("RGB")`: alpha is dropped, not blended."""
    levels = _levels(evaluation_image(image, SIZE, "bilinear"))
    np.testing.assert_array_equal(levels, np.broadcast_to(expected, (7, 7, 3)))


def test_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    write_images(tmp_path, {"zebra": ["b.png", "a.JPEG"], "10": ["x.webp"], "9": ["y.bmp", "z.jpg"], "empty": []})
    (tmp_path / "zebra" / "notes.txt").write_text("no image")
    (tmp_path / "stray.png").write_bytes(b"")
    (tmp_path / "9" / "deeper").mkdir()
    folder = find_images(tmp_path)
    assert folder.classes == ["10", "9", "empty", "zebra"]
    assert [path.name for path in folder.paths] == ["x.webp", "y.bmp", "z.jpg", "a.JPEG", "b.png"]
    np.testing.assert_array_equal(folder.labels, np.array([0, 1, 1, 3, 3], np.int32))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no directory: put a folder per class"):
        find_images(tmp_path / "missing")


def test_folder_without_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": [], "b": []})
    with pytest.raises(UserError, match="holds no images"):
        find_images(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_every_image_once_and_in_order(batch_size: int, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(5)]
    write_images(tmp_path, {"a": names[:2], "b": names[2:]})
    folder = find_images(tmp_path)
    images, labels = [], []
    for (batch, batch_labels), real in evaluation_batches(folder, SIZE, "bicubic", batch_size):
        assert batch.shape == (batch_size, SIZE, SIZE, 3)
        images.append(batch[real])
        labels.append(batch_labels[real])
    np.testing.assert_array_equal(np.concatenate(labels), [0, 0, 1, 1, 1])
    expected = [np.broadcast_to(colour(name), (SIZE, SIZE, 3)) for name in names]
    np.testing.assert_array_equal(_levels(np.concatenate(images)), expected)


def test_broken_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": ["good.png", "text.png"]})
    broken = tmp_path / "a" / "text.png"
    broken.write_text("this is no image")
    with pytest.raises(UserError, match=r"text.png cannot be read as an image .*: mend or remove it"):
        list(evaluation_batches(find_images(tmp_path), SIZE, "bicubic", 2))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.webp"])
def test_damaged_image_is_read_or_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the damage trips inside Pillow."""
    # A header whose size is damaged would make it reserve gigabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    write_images(tmp_path, {"a": [name]})
    path = tmp_path / "a" / name
    whole, chance = path.read_bytes(), random.Random(0)
    folder = find_images(tmp_path)
    for attempt in range(80):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if attempt % 2 else whole)
        for _ in range(min(len(damaged), chance.choice((1, 4, 20)))):
            damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            list(evaluation_batches(folder, SIZE, "bicubic", 1))
        except UserError as error:
            assert str(path) in str(error)
