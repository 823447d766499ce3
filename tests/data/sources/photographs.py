"""Real photographs, JPEG and PNG, that come with scikit-image and scikit-learn."""

import importlib.util
import shutil
from pathlib import Path

CLASSES = ["animal", "person", "place", "thing"]
TRAIN = {
    "animal": ["skimage/data/chelsea.png"],
    "person": ["skimage/data/astronaut.png"],
    "place": ["sklearn/datasets/images/china.jpg"],
    "thing": ["skimage/data/coffee.png", "skimage/data/rocket.jpg"],
}
VAL = {"place": ["sklearn/datasets/images/flower.jpg"], "thing": ["skimage/data/rocket.jpg"]}
"""Fewer classes than in training, at other positions in their order."""


def photograph(path: str) -> Path:
    """Where a package's file is: "skimage/data/coffee.png"."""
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / rest


def write_photographs(directory: Path) -> Path:
    """DIRECTORY/{train,val}/CLASS/IMAGE."""
    for split, classes in {"train": TRAIN, "val": VAL}.items():
        for name, paths in classes.items():
            (directory / split / name).mkdir(parents=True)
            for path in paths:
                shutil.copy(photograph(path), directory / split / name)
    return directory
