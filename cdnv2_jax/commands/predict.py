"""The verb `predict`: print the top classes of images."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from cdnv2_jax.classification.predict import Prediction, image_files, predict
from cdnv2_jax.commands.arguments import print_taken, read_class_names
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.weights.open import open_classifier
from cdnv2_jax.weights.state_dicts import Weights

STANDARD_INPUT = "-"


def predict_images(
    checkpoint: Path,
    images: Sequence[str],
    *,
    model: str | None,
    weights: Weights,
    class_names: Path | None,
    as_json: bool,
    top: int,
    batch_size: int,
) -> None:
    """Print the top classes of every image; which weights were taken goes to standard error.

    Raises:
      ExceptionGroup: a BrokenImage for each unreadable image, raised after all others have been printed.
    """
    names = read_class_names(class_names)
    classifier = open_classifier(checkpoint, model=model, weights=weights, class_names=names)
    print_taken(classifier.taken, sys.stderr)
    paths = image_files(_given(images, sys.stdin))
    broken: list[BrokenImage] = []
    for result in predict(classifier, paths, top=top, batch_size=batch_size):
        if isinstance(result, Prediction):
            print(json.dumps(result.to_json(), ensure_ascii=False) if as_json else _as_text(result), flush=True)
        else:
            broken.append(result)
    if broken:
        raise ExceptionGroup("unreadable images", broken)


def _given(images: Iterable[str], listed: TextIO) -> Iterator[Path]:
    """Yield the paths, with "-" replaced by the paths in `listed`, one per line."""
    for image in images:
        if image == STANDARD_INPUT:
            yield from (Path(line.strip()) for line in listed if line.strip())
        else:
            yield Path(image)


def _as_text(prediction: Prediction) -> str:
    lines = [f"{one.probability:8.2%}  {one.name}" for one in prediction.classes]
    return "\n".join([str(prediction.path), *lines])
