"""The verb `export`: write a network to a file that runs without this package."""

import dataclasses
from pathlib import Path

from cdnv2_jax.commands.arguments import print_chosen, print_taken, read_class_names
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.classifier import FORMATS, check_target, export_classifier
from cdnv2_jax.export.detector import export_detector
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.terminal import say
from cdnv2_jax.training.workdir import TO_CONDENSE, TO_USE, network_of_run
from cdnv2_jax.weights.open import OpenedDetector, OpenedNetwork, open_weights
from cdnv2_jax.weights.state_dicts import Weights


@dataclasses.dataclass(frozen=True)
class Source:
    """The network to export, as given by the flags.

    Attributes:
      checkpoint: any checkpoint or file that `open_weights` reads, or the directory of a run.
      model: name of the network in an official file.
      weights: which weights of an official file to use.
      num_classes: number of classes of an official file.
      condense: whether to condense the network first.
      halve_classifier: as for `pruning.condense.condense`.
      image_size: image size of a classifier in pixels; None for its usual one.
      class_names: file of a classifier's class names; None for its own.
      canvas: height and width of a detector's input in pixels; None for its usual canvas.
    """

    checkpoint: Path
    model: str | None = None
    weights: Weights = "auto"
    num_classes: int | None = None
    condense: bool = False
    halve_classifier: bool = False
    image_size: int | None = None
    class_names: Path | None = None
    canvas: tuple[int, int] | None = None


def export_checkpoint(source: Source, output: Path, *, format: str, overwrite: bool) -> None:
    """Load, optionally condense, write and verify a network; no file is left unless all of it succeeds."""
    if source.halve_classifier and not source.condense:
        raise UserError("--halve-classifier is an option of condensing: add --condense")
    check_target(output, format, overwrite)
    checkpoint = network_of_run(source.checkpoint, TO_CONDENSE if source.condense else TO_USE)
    opened = open_weights(checkpoint, model=source.model, weights=source.weights, num_classes=source.num_classes)
    print_chosen(source.checkpoint, checkpoint)
    if isinstance(opened, OpenedDetector):
        what, found = _export_detector(source, opened, output, format, overwrite)
    else:
        what, found = _export_classifier(source, opened, output, format, overwrite)
    say(f"{what} as {FORMATS[format].title}: {output}, {output.stat().st_size:,} bytes")
    say(f"run from the file {found}")


def _export_classifier(
    source: Source, opened: OpenedNetwork, output: Path, format: str, overwrite: bool
) -> tuple[str, object]:
    """Return (what was written, how well it agrees with the network)."""
    if source.canvas is not None:
        raise UserError(f"--canvas is for detectors, {source.checkpoint} holds a classifier: use --image-size")
    network = opened.network
    print_taken(opened.taken)
    network.usage = _usage(source, opened.usage, network.architecture.num_classes)
    if source.condense:
        network = condense(network, halve_classifier=source.halve_classifier)
    found = export_classifier(network, output, format=format, overwrite=overwrite)
    return f"{network.name} ({network.form_name})", found


def _usage(source: Source, usual: Usage, num_classes: int) -> Usage:
    """Return the network's preprocessing and class names, with those that the flags give instead."""
    if names := read_class_names(source.class_names):
        usual = usual.with_names(names, num_classes)
    if source.image_size is None:
        return usual
    try:
        return dataclasses.replace(usual, preparation=usual.preparation.at_size(source.image_size))
    except ValueError as error:
        raise UserError(f"--image-size {source.image_size}: must be from 1 to 4096 pixels") from error


def _export_detector(
    source: Source, opened: OpenedDetector, output: Path, format: str, overwrite: bool
) -> tuple[str, object]:
    """Return (what was written, how well it agrees with the network)."""
    if source.image_size is not None or source.class_names is not None or source.halve_classifier:
        raise UserError(
            f"{source.checkpoint} holds a detector: --image-size, --class-names and --halve-classifier are for "
            f"classifiers; use --canvas"
        )
    detector = condense(opened.detector) if source.condense else opened.detector
    found = export_detector(
        detector,
        opened.classes,
        opened.preparation,
        output,
        format=format,
        canvas=source.canvas,
        overwrite=overwrite,
    )
    return f"{detector.settings.kind} on {detector.backbone.name} ({detector.backbone.form_name})", found
