"""Opening a network to classify with: our checkpoint, an official file, or an exported one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cdnv2_jax.classification.evaluation import compiled_forward
from cdnv2_jax.export.classifier import PROGRAMS, Classifier, open_exported
from cdnv2_jax.export.metadata import Described
from cdnv2_jax.weights.open import open_checkpoint
from cdnv2_jax.weights.usage import usage_of


def open_classifier(path: Path, *, model: str | None = None, class_names: Sequence[str] = ()) -> Classifier:
    """The classifier at `path`.

    Args:
      path: what `main.py export` wrote, or a checkpoint of any kind, as for `open_checkpoint`.
      model: what a file holds that does not say it.
      class_names: instead of those that it knows itself.

    Raises:
      UserError: nothing there, damaged, of a detector, or another number of names than of classes.
    """
    if path.suffix in PROGRAMS and not path.is_dir():
        found = open_exported(path)
    else:
        network = open_checkpoint(path, model=model)
        usage = usage_of(path, network)
        described = Described(network.name, network.form_name, network.architecture.num_classes, usage)
        found = Classifier(described, compiled_forward(network))
    if not class_names:
        return found
    usage = found.described.usage.with_names(class_names, found.described.num_classes)
    return dataclasses.replace(found, described=dataclasses.replace(found.described, usage=usage))
