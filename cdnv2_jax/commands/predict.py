"""The verb `predict`: print what a network finds in images."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from cdnv2_jax.classification.predict import Prediction, predict
from cdnv2_jax.commands.arguments import print_chosen, print_taken, read_class_names
from cdnv2_jax.commands.result_formats import FORMATS, Result, csv_line
from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.image_paths import counts, image_files, listed_paths
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.terminal import Terminal, say
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.open import open_classifier
from cdnv2_jax.weights.state_dicts import Weights

STANDARD_INPUT = "-"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to predict with and how, as given by the flags.

    Attributes:
      checkpoint: anything that `open_classifier` opens, or the directory of a run.
      model: name of the network in an official file.
      weights: which weights of an official file to use.
      class_names: file of the names of the classes; None for the network's own.
      format: one of `FORMATS`.
      top: number of classes per image.
      batch_size: number of images to compute at once.
      max_megapixels: limit of the images' size, in million pixels.
    """

    checkpoint: Path
    model: str | None = None
    weights: Weights = "auto"
    class_names: Path | None = None
    format: str = "text"
    top: int = 5
    batch_size: int = 32
    max_megapixels: float = 89


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network that is ready to predict, of any kind.

    Attributes:
      results: paths of images → a result for each, in order, or the error if it cannot be read.
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
    predictor = _classifier(dataclasses.replace(options, checkpoint=checkpoint), names)
    skipped: Counter[str] = Counter()
    refused: list[UserError] = []
    paths: Iterable[Path] = image_files(_given(images, refused), skipped, refused)
    if STANDARD_INPUT not in images:
        paths = list(paths)  # so that the progress bar knows their number
    if options.format == "csv":
        say(csv_line(predictor.columns))
    read, unreadable = 0, 0
    with _progress_bar() as bar:
        task = bar.add_task("", total=len(paths) if isinstance(paths, list) else None)
        for result in predictor.results(paths):
            bar.advance(task)
            if isinstance(result, BrokenImage):
                refused.append(result)
                unreadable += 1
            else:
                FORMATS[options.format](result)
                read += 1
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
                yield Path(os.path.expanduser(path))
        except UserError as error:  # the other images are not lost
            refused.append(error)


def _classifier(options: Options, names: Sequence[str]) -> Predictor:
    classifier = open_classifier(options.checkpoint, model=options.model, weights=options.weights, class_names=names)
    print_taken(classifier.taken, sys.stderr)
    usage = classifier.described.usage
    origin = "ImageNet" if usage.class_names == tuple(imagenet_classes().values()) else options.checkpoint
    known = f"class names from {options.class_names or origin}" if usage.class_names else NO_NAMES

    def results(paths: Iterable[Path]) -> Iterator[Result | BrokenImage]:
        return predict(
            classifier,
            paths,
            top=options.top,
            batch_size=options.batch_size,
            max_megapixels=options.max_megapixels,
        )

    return Predictor(results, Prediction.COLUMNS, f"{known}; {_prepared(usage.preparation)}")


NO_NAMES = "no class names (give --class-names FILE)"


def _prepared(preparation: ImagePreparation) -> str:
    crop = "centre crop" if preparation.resize == "centre" else "whole image"
    return f"{preparation.size} px, {crop}, {preparation.interpolation}"
