"""Arrays in the files that Orbax writes, read by themselves: Orbax's own reading allocates whatever the files ask for,
and prints a traceback for every array that it cannot read.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdnv2_jax.errors import one_line, shorten
from cdnv2_jax.files import bytes_under
from cdnv2_jax.paths import is_remote

MOST_BYTES, MOST_COMPRESSED = 2**29, 16
"""Arrays may take so many bytes together, or so many for each byte of their files; masked networks take seven."""

DRIVERS = {"gs": "gcs", "s3": "s3"}
RETRIES = {"max_retries": 6}  # for a minute; by default it is half an hour
CONTEXT = {"gcs_request_retries": RETRIES, "s3_request_retries": RETRIES}

METADATA = "/.zarray"
"""End of the key under which Zarr stores an array's shape, dtype and chunks."""


def read_stored(directory: Path, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Return the arrays under `directory` by name.

    Args:
      directory: where Orbax has saved a flat mapping of arrays.
      targets: the expected names, shapes and dtypes, which are compared before any memory is allocated.

    Raises:
      ValueError: the files are damaged, or hold other arrays; the message is the reason, without the path.
      RunFailure: the bucket does not answer.
    """
    import tensorstore

    _check_size(directory, targets)
    database = {"driver": "ocdbt", "base": _files_in(directory)}
    context = tensorstore.Context(CONTEXT)
    try:
        keys = tensorstore.KvStore.open(database, context=context).result().list().result()
        names = {key.decode().removesuffix(METADATA) for key in keys if key.endswith(METADATA.encode())}
        if others := sorted(names ^ targets.keys()):
            raise ValueError(f"{shorten(others)} are missing or unknown")
        opening = {
            name: tensorstore.open(
                {"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}, "fill_missing_data_reads": False},
                open=True,
                context=context,
            )
            for name in targets
        }
        opened = {name: future.result() for name, future in opening.items()}
        if misfits := [name for name, target in targets.items() if not _fits(opened[name], target)]:
            raise ValueError(f"{shorten(misfits)} have another shape or dtype")
        reading = {name: array.read() for name, array in opened.items()}
        return {name: future.result() for name, future in reading.items()}
    except Exception as error:  # TensorStore's are of many types
        if is_remote(directory):
            directory.exists()  # which raises, if it is the bucket that fails
        raise ValueError(one_line(error)) from error


def _files_in(directory: Path) -> dict[str, str]:
    """Return TensorStore's specification of the files in a directory."""
    if is_remote(directory):
        place = {"driver": DRIVERS[directory.scheme], "bucket": directory.bucket, "path": f"{directory.key}/"}
        if directory.scheme == "s3" and "AWS_ENDPOINT_URL" in os.environ:  # which s3fs uses, but not TensorStore
            place["endpoint"] = os.environ["AWS_ENDPOINT_URL"]
        return place
    return {"driver": "file", "path": f"{directory.absolute()}/"}


def _fits(stored: Any, target: jax.ShapeDtypeStruct) -> bool:
    """Whether an opened array has the target's shape and dtype, in chunks that are no larger than it."""
    if stored.shape != target.shape or stored.dtype.numpy_dtype != target.dtype:
        return False
    chunk = stored.chunk_layout.read_chunk.shape or ()  # None for a single number
    return all(part <= max(side, 1) for part, side in zip(chunk, target.shape, strict=True))


def _check_size(directory: Path, targets: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    size = sum(math.prod(target.shape) * np.dtype(target.dtype).itemsize for target in targets.values())
    stored = bytes_under(directory)
    if size > max(MOST_BYTES, MOST_COMPRESSED * stored):
        raise ValueError(f"{size / 2**30:.1f} GiB in files of {stored / 2**20:.1f} MiB, as if made to fill the memory")
