"""The verb `predict`: print the top classes of images."""

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from cdnv2_jax.classification.predict import Prediction, counts, image_files, predict
from cdnv2_jax.commands.arguments import print_taken, read_class_names
from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.terminal import say
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
    max_megapixels: float,
) -> None:
    """Print the top classes of every image, and on standard error what was done.

    Raises:
      ExceptionGroup: a BrokenImage for each unreadable image, raised after all others have been printed.
    """
    names = read_class_names(class_names)
    classifier = open_classifier(checkpoint, model=model, weights=weights, class_names=names)
    print_taken(classifier.taken, sys.stderr)
    skipped: Counter[str] = Counter()
    paths = image_files(_given(images, sys.stdin), skipped)
    broken: list[BrokenImage] = []
    read = 0
    for result in predict(classifier, paths, top=top, batch_size=batch_size, max_megapixels=max_megapixels):
        if isinstance(result, Prediction):
            say(*([_as_json(result)] if as_json else _as_text(result)))
            read += 1
        else:
            broken.append(result)
    if read:
        skipped["unreadable"] = len(broken)
        usage = classifier.described.usage
        origin = "ImageNet" if usage.class_names == tuple(imagenet_classes().values()) else str(checkpoint)
        origin = str(class_names or origin) if usage.class_names else ""
        say(_summary(read, +skipped, origin, usage.preparation), file=sys.stderr)
    if broken:
        raise ExceptionGroup("unreadable images", broken)


def _given(images: Iterable[str], listed: TextIO) -> Iterator[Path]:
    """Yield the paths, with "-" replaced by those in `listed`, one per line or, as from `find -print0`, per zero."""
    for image in images:
        if not image:
            raise UserError("the path of an image is empty: give a file, a folder, or - for standard input")
        if image != STANDARD_INPUT:
            yield Path(os.path.expanduser(image))
            continue
        if isinstance(listed, io.TextIOWrapper):
            listed.reconfigure(errors="surrogateescape")  # names of files are any bytes
        for line in listed:
            yield from (Path(os.path.expanduser(name)) for name in line.strip("\r\n\ufeff").split("\0") if name.strip())


def _summary(read: int, skipped: Counter[str], names: str, preparation: ImagePreparation) -> str:
    """Return one line: images, what was skipped, origin of the class names, preprocessing."""
    images = f"{read:,} image{'s' if read > 1 else ''}"
    missed = f", {skipped.total():,} skipped ({counts(skipped)})" if skipped else ""
    classes = f"class names from {names}" if names else "no class names (give --class-names FILE)"
    crop = "centre crop" if preparation.resize == "centre" else "whole image"
    return f"{images}{missed}; {classes}; {preparation.size} px, {crop}, {preparation.interpolation}"


def _as_json(prediction: Prediction) -> str:
    # What a terminal would obey, and bytes of a name that are not UTF-8, become JSON's own escapes.
    line = json.dumps(prediction.to_json(), ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _as_text(prediction: Prediction) -> list[str]:
    return [str(prediction.path), *(f"{one.probability:8.2%}  {one.name}" for one in prediction.classes)]
