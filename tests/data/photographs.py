"""Two photographs that scikit-learn ships, and images hard to get right, as pixels and as files."""

import functools
import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@functools.cache
def photographs(width: int = 500, height: int = 375) -> tuple[np.ndarray, ...]:
    """uint8 [height, width, 3] of a temple and of a flower; not to be written to."""
    images = [Image.fromarray(image).resize((width, height)) for image in load_sample_images().images]
    return tuple(np.array(image) for image in images)


@functools.cache
def assorted() -> dict[str, np.ndarray]:
    """Photographs, also grey and of few levels; one colour; noise of odd and tiny sizes."""
    temple, flower = photographs(224, 224)
    grey = np.asarray(Image.fromarray(temple).convert("L").convert("RGB"))
    images = {"temple": temple, "flower": flower, "grey": grey, "faint": (flower // 8 + 100).astype(np.uint8)}
    images["flat"] = np.full((30, 40, 3), (0, 77, 255), np.uint8)
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 7), (7, 1), (5, 4), (13, 31)):
        images[f"{height}x{width}"] = random.integers(0, 256, (height, width, 3), np.uint8)
    return images


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The image as a file; `options` go to Pillow's `save`."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()
