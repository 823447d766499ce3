"""The official training preprocessing in Pillow and NumPy, driven by our random numbers: the peer of our pipeline.

Operations are those of the official code's workers: torchvision's crop, timm's RandAugment with ImageOps, ImageEnhance
and Image.transform.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cdnv2_jax.data.preparation import Interpolation
from cdnv2_jax.data.rand_augment import Operation
from cdnv2_jax.data.random_crop import Rectangle

FILL = (124, 116, 104)
METHODS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(encoded: bytes) -> Image.Image:
    """Decode an image file."""
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def crop_and_resize(image: Image.Image, box: Rectangle, size: int, resample: Interpolation) -> Image.Image:
    """Crop and resize as torchvision's resized_crop."""
    part = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return part.resize((size, size), METHODS[resample])


def flip(image: Image.Image) -> Image.Image:
    """Flip horizontally."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def apply_operation(image: Image.Image, operation: Operation) -> Image.Image:
    """Apply one operation of RandAugment."""
    return OPERATIONS[operation.name](image, operation.argument, METHODS[operation.resample])


def normalise(image: Image.Image, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Convert to normalised float32 [h, w, 3] in three passes, as torchvision's ToTensor and Normalize."""
    pixels = np.asarray(image).astype(np.float32).reshape(image.height, -1)
    pixels /= 255
    pixels -= np.tile(mean, image.width)
    pixels /= np.tile(std, image.width)
    return pixels.reshape(image.height, image.width, 3)


def erase(image: np.ndarray, rectangle: Rectangle, rng: np.random.Generator) -> None:
    """Erase a rectangle in place."""
    top, left, height, width = rectangle
    image[top : top + height, left : left + width] = rng.standard_normal((height, width, 3), np.float32)


def _affine(image: Image.Image, matrix: tuple[float, ...], method: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=method, fillcolor=FILL)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def _solarize_add(image: Image.Image, addend: int) -> Image.Image:
    return image.point([min(255, level + addend) if level < 128 else level for level in range(256)] * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float, Image.Resampling], Image.Image]] = {
    "AutoContrast": lambda image, argument, method: ImageOps.autocontrast(image),
    "Equalize": lambda image, argument, method: ImageOps.equalize(image),
    "Invert": lambda image, argument, method: ImageOps.invert(image),
    "Rotate": lambda image, argument, method: image.rotate(argument, method, fillcolor=FILL),
    "Posterize": lambda image, argument, method: _posterize(image, int(argument)),
    "Solarize": lambda image, argument, method: ImageOps.solarize(image, int(argument)),
    "SolarizeAdd": lambda image, argument, method: _solarize_add(image, int(argument)),
    "Color": lambda image, argument, method: ImageEnhance.Color(image).enhance(argument),
    "Contrast": lambda image, argument, method: ImageEnhance.Contrast(image).enhance(argument),
    "Brightness": lambda image, argument, method: ImageEnhance.Brightness(image).enhance(argument),
    "Sharpness": lambda image, argument, method: ImageEnhance.Sharpness(image).enhance(argument),
    "ShearX": lambda image, argument, method: _affine(image, (1, argument, 0, 0, 1, 0), method),
    "ShearY": lambda image, argument, method: _affine(image, (1, 0, 0, argument, 1, 0), method),
    "TranslateXRel": lambda image, argument, method: _affine(image, (1, 0, argument * image.width, 0, 1, 0), method),
    "TranslateYRel": lambda image, argument, method: _affine(image, (1, 0, 0, 0, 1, argument * image.height), method),
}
