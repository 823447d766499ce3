"""The verb `predict`: print what a network finds in images."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from cdnv2_jax.classification.predict import Prediction, predict
from cdnv2_jax.commands.arguments import print_chosen, print_taken, read_class_names
from cdnv2_jax.commands.result_formats import FORMATS, Result
from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.image_paths import counts, image_files, listed_paths
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.detection.pictures import DrawnPictures
from cdnv2_jax.detection.predict import DetectedImage, image_ids, predict_boxes
from cdnv2_jax.errors import UserError
from cdnv2_jax.paths import as_path
from cdnv2_jax.terminal import Terminal, say
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.metadata import DescribedDetector
from cdnv2_jax.weights.open import Classifier, DetectorProgram, open_predictor
from cdnv2_jax.weights.state_dicts import Weights

STANDARD_INPUT = "-"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to predict with and how, as given by the flags.

    Attributes:
      checkpoint: anything that `open_predictor` opens, or the directory of a run.
      model: name of the network in an official file.
      weights: which weights of an official file to use.
      class_names: file of the names of a classifier's classes; None for the network's own.
      format: one of `FORMATS`.
      top: number of classes per image, of a classifier; None for 5.
      threshold: least score of a detector's objects; None for `THRESHOLD`, in COCO's format the detector's own.
      draw: directory for pictures with a detector's boxes drawn on them; None to draw none.
      overwrite: replace drawn pictures that exist.
      batch_size: number of images to compute at once; None for 32, or 4 with a detector.
      max_megapixels: limit of the images' size, in million pixels.
    """

    checkpoint: Path
    model: str | None = None
    weights: Weights = "auto"
    class_names: Path | None = None
    format: str = "text"
    top: int | None = None
    threshold: float | None = None
    draw: Path | None = None
    overwrite: bool = False
    batch_size: int | None = None
    max_megapixels: float = 89


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network that is ready to predict, of any kind.

    Attributes:
      results: paths of images → a result for each, in order, or the error if it cannot be read; UserError if that
        cannot be done for these images.
      columns: columns of the results' rows.
      about: for the user, its class names and preprocessing.
    """

    results: Callable[[Iterable[Path]], Iterator[Result | BrokenImage]]
    columns: Sequence[str]
    about: str


def predict_images(options: Options, images: Sequence[str]) -> None:
    """Print what is found in every image, and on standard error what was done.

    Args:
      options: the network and how to print.
      images: files, folders, and "-" for a list of paths on standard input.

    Raises:
      ExceptionGroup: a UserError for each image or folder that cannot be read, raised after the others were printed.
    """
    names = read_class_names(options.class_names)
    checkpoint = network_of_run(options.checkpoint, TO_USE)
    print_chosen(options.checkpoint, checkpoint, sys.stderr)
    if options.overwrite and options.draw is None:
        raise UserError("--overwrite replaces drawn pictures: add --draw DIR, or leave it out")
    opened = open_predictor(checkpoint, model=options.model, weights=options.weights, class_names=names)
    options = dataclasses.replace(options, checkpoint=checkpoint)
    predictor = _classifier(opened, options) if isinstance(opened, Classifier) else _detector(opened, options)
    skipped: Counter[str] = Counter()
    refused: list[UserError] = []
    paths: Iterable[Path] = image_files(_given(images, refused), skipped, refused)
    if STANDARD_INPUT not in images:
        paths = list(paths)  # so that the progress bar knows their number
    results, printer = predictor.results(paths), FORMATS[options.format]()
    printer.start(predictor.columns)
    read, unreadable = 0, 0
    with _progress_bar() as bar:
        task = bar.add_task("", total=len(paths) if isinstance(paths, list) else None)
        for result in results:
            bar.advance(task)
            if isinstance(result, BrokenImage):
                refused.append(result)
                unreadable += 1
            else:
                printer.result(result)
                read += 1
    printer.end()
    if read or not refused:
        skipped["unreadable"] = unreadable
        say(_summary(read, +skipped, predictor.about), file=sys.stderr)
    if refused:
        raise ExceptionGroup("unreadable images", refused)


def _progress_bar() -> Progress:
    """Return a progress bar on standard error if that is a terminal, unless the results themselves show progress."""
    return Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(compact=True),
        console=Terminal(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not sys.stderr.isatty() or sys.stdout.isatty(),
    )


def _summary(read: int, skipped: Counter[str], about: str) -> str:
    """Return one line: images, what was skipped, the network's class names and preprocessing."""
    images = f"{read:,} image{'s' if read != 1 else ''}"
    missed = f", {skipped.total():,} skipped ({counts(skipped)})" if skipped else ""
    return f"{images}{missed}; {about}"


def _given(images: Iterable[str], refused: list[UserError]) -> Iterator[Path]:
    """Yield the paths, with "-" replaced by those on standard input; what that holds instead is an error in a list."""
    for image in images:
        if not image:
            raise UserError("the path of an image is empty: give a file, a folder, or - for standard input")
        try:
            for path in listed_paths(sys.stdin.buffer) if image == STANDARD_INPUT else [image]:
                yield as_path(os.path.expanduser(path))
        except UserError as error:  # the other images are not lost
            refused.append(error)


def _classifier(classifier: Classifier, options: Options) -> Predictor:
    only_for = {"--threshold": options.threshold, "--draw": options.draw, "--format coco": options.format == "coco"}
    _refuse_flags(options, only_for, "a classifier")
    print_taken(classifier.taken, sys.stderr)
    usage = classifier.described.usage
    origin = "ImageNet" if usage.class_names == tuple(imagenet_classes().values()) else options.checkpoint
    known = f"class names from {options.class_names or origin}" if usage.class_names else NO_NAMES

    def results(paths: Iterable[Path]) -> Iterator[Result | BrokenImage]:
        return predict(
            classifier,
            paths,
            top=options.top or 5,
            batch_size=options.batch_size or 32,
            max_megapixels=options.max_megapixels,
        )

    return Predictor(results, Prediction.COLUMNS, f"{known}; {_prepared(usage.preparation)}")


def _refuse_flags(options: Options, given: Mapping[str, Any], what: str) -> None:
    """Raise UserError if any of these flags, which are for networks of the other kind, was given."""
    flags = [flag for flag, value in given.items() if value is not None and value is not False]
    if flags:
        raise UserError(f"{options.checkpoint} holds {what}: leave out {', '.join(flags)}")


THRESHOLD = 0.5
"""Least score of what is printed or drawn, unless the user gives another one."""


def _detector(detector: DetectorProgram, options: Options) -> Predictor:
    _refuse_flags(options, {"--top": options.top}, "a detector")
    own = detector.described.score_threshold
    usual = max(THRESHOLD, own)
    least = (own if options.format == "coco" else usual) if options.threshold is None else options.threshold
    if least < own:
        raise UserError(f"{options.checkpoint} leaves out scores below {own:g}: give --threshold from {own:g} to 1")

    def results(paths: Iterable[Path]) -> Iterator[Result | BrokenImage]:
        if options.draw is None and options.format != "coco":
            return found_in(paths)
        paths = list(paths)
        drawn = None if options.draw is None else DrawnPictures(options.draw, paths, overwrite=options.overwrite)
        numbers, meaning = image_ids(paths)
        if options.format == "coco":
            say(f"image_id: {meaning}", file=sys.stderr)
        return numbered(paths, numbers, drawn)

    def found_in(paths: Iterable[Path]) -> Iterator[DetectedImage | BrokenImage]:
        return predict_boxes(
            detector,
            paths,
            threshold=least,
            batch_size=options.batch_size or 4,
            max_megapixels=options.max_megapixels,
        )

    def numbered(paths: list[Path], numbers: list[int], drawn: DrawnPictures | None) -> Iterator[Result | BrokenImage]:
        """Yield results with their numbers, once they are drawn."""
        shown = usual if options.threshold is None else least
        for path, number, found in zip(paths, numbers, found_in(paths), strict=True):
            if isinstance(found, BrokenImage):
                yield found
                continue
            if drawn is not None:
                drawn.write(path, found.objects, threshold=shown, max_megapixels=options.max_megapixels)
            yield dataclasses.replace(found, image_id=number)

    described = detector.described
    about = f"objects of {len(described.classes.names):,} classes that score {least:g} or more"
    return Predictor(results, DetectedImage.COLUMNS, f"{about}; {_placed(described)}")


def _placed(described: DescribedDetector) -> str:
    if described.canvas is not None:
        return "resized to fit {1} × {0} px".format(*described.canvas)
    return f"resized to {described.preparation.short_side} px, {described.preparation.long_side} px at most"


NO_NAMES = "no class names (give --class-names FILE)"


def _prepared(preparation: ImagePreparation) -> str:
    crop = "centre crop" if preparation.resize == "centre" else "whole image"
    return f"{preparation.size} px, {crop}, {preparation.interpolation}"
