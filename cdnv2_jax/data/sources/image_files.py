"""Image files with labels, read on access."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.decode import MOST_BYTES
from cdnv2_jax.data.source import Sample, Source, fingerprint
from cdnv2_jax.data.sources.class_folders import printable
from cdnv2_jax.data.storage import read_file
from cdnv2_jax.errors import UserError
from cdnv2_jax.paths import is_remote


class ImageFolderSource(Source[Sample]):
    """Image files in a folder per class, or in a folder for all; an image is read on access.

    Attributes:
      class_names: names of the classes.
      remarks: files that were skipped, and which folders are used.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        folders: Sequence[str],
        labels: np.ndarray,
        names: Sequence[bytes],
        sizes: np.ndarray,
        remarks: Sequence[str] = (),
    ):
        """Create a source of the files FOLDER/FOLDERS[label]/NAME.

        Args:
          folder: the folder of all.
          class_names: names of the classes.
          folders: for each class its folder in `folder`, "" for `folder` itself.
          labels: integers [n].
          names: path of each image in its class's folder.
          sizes: integers [n], in bytes; only for the fingerprint.
          remarks: what was skipped or decided.
        """
        self.class_names, self.remarks = list(class_names), list(remarks)
        self._folder, self._folders, self.in_bucket = str(folder), list(folders), is_remote(folder)
        self._labels = labels.astype(np.int32)
        # One string and the end of each name: a tenth of the memory and of the pickled size of a list.
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)])
        self._fingerprint = fingerprint(self.class_names, self._labels, self._names, self._ends, sizes)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if its file cannot be read."""
        label = int(self._labels[index])
        # There is one more end than there are images: a negative index would select another file.
        index = range(len(self))[index]
        file = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        path = os.path.join(self._folder, self._folders[label], file)
        return Sample(read_image_file(path), label, printable(path))

    def fingerprint(self) -> str:
        return self._fingerprint


def read_image_file(path: str) -> bytes:
    """Return the bytes of a file; raise UserError if it cannot be read."""
    try:
        return read_file(path, MOST_BYTES)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{printable(path)} cannot be read ({error}): fix or remove it") from error
