"""Writing one file of any format: checked by running it before it is put in its place."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cdnv2_jax.checkpoint.usage import Usage
from cdnv2_jax.errors import UserError
from cdnv2_jax.evaluation import compiled_forward
from cdnv2_jax.export.formats import FORMATS, Format
from cdnv2_jax.export.metadata import classifier_metadata
from cdnv2_jax.export.stablehlo import metadata_file, write_metadata
from cdnv2_jax.export.verify import Agreement, agreement, prepared_photographs, refuse_difference
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.models.families import AnyNetwork
from cdnv2_jax.optional import import_optional

Verified = TypeVar("Verified")
"""What there is to say about a file that passed."""


def export_classifier(
    network: AnyNetwork, usage: Usage, output: Path, *, format: str, overwrite: bool = False
) -> Agreement:
    """Writes a classifier as the file `output` and says how near the file's own results are to the network's.

    Args:
      network: in evaluation mode, masked, condensed or plain.
      usage: how it is used; images are exported for at the size that its preparation says.
      output: of StableHLO, FILE.json with the metadata is written beside it.
      format: a key of FORMATS. overwrite: replace what is there.

    Raises:
      UserError: no such format, a package is missing, the path exists or cannot be written, images of that size are too
        small, the format does not know such networks, or the results differ; nothing is written then.
    """
    kind = check_target(output, format, overwrite)
    size = usage.preparation.size
    metadata = classifier_metadata(network, usage)

    def verify(path: Path) -> Agreement:
        images = prepared_photographs(usage.preparation)
        found = agreement(np.asarray(kind.run(path)(images)), np.asarray(compiled_forward(network)(images)))
        refuse_difference(found, f"{output} ({kind.title})")
        return found

    return write_verified(output, kind, metadata, lambda path: kind.write(path, network, size, metadata), verify)


def check_target(output: Path, format: str, overwrite: bool) -> Format:
    """The format, once it is known that nothing but the work itself stands in the way; UserError otherwise."""
    if format not in FORMATS:
        raise UserError(f"no format is called {format!r}: there are {', '.join(FORMATS)}")
    kind = FORMATS[format]
    if output.suffix != kind.suffix:
        raise UserError(f"{output}: files of {kind.title} are told by their ending, call it {output.stem}{kind.suffix}")
    for package in kind.packages:
        import_optional(package, "export")
    for path in (output, metadata_file(output)) if kind.metadata_beside else (output,):
        refuse_existing(path, overwrite, file=True)
    return kind


def write_verified(
    output: Path,
    kind: Format,
    metadata: Mapping[str, Any],
    write: Callable[[Path], None],
    verify: Callable[[Path], Verified],
) -> Verified:
    """Writes to a temporary path, verifies what is there, and only then moves it to `output`."""
    with contextlib.ExitStack() as stack:
        if kind.metadata_beside:
            write_metadata(stack.enter_context(replacing(metadata_file(output))), metadata)
        temporary = stack.enter_context(replacing(output))
        write(temporary)
        return verify(temporary)
